"""Docker's rules for removing an image, as a decision about data."""

import msgspec

from cais.errors import Conflict
from cais.spec.digest import Digest
from cais.spec.reference import Reference, parse_reference


class User(msgspec.Struct, frozen=True):
    """A container that was made from the image."""

    container: str
    running: bool


class Situation(msgspec.Struct, frozen=True):
    """What stands in the way. ``names`` are canonical references, by tag or by digest, without the
    nameless one."""

    image_id: Digest
    names: tuple[str, ...]
    users: tuple[User, ...] = ()
    has_children: bool = False


class Removal(msgspec.Struct, frozen=True):
    """What is to be done: forget ``names``, then delete the image, or else keep it, nameless if need be."""

    names: tuple[str, ...]
    delete: bool


def plan_removal(text: str, situation: Situation, *, force: bool) -> Removal:
    """What removing the image that ``text`` was resolved to means. Raises Conflict with Docker's wording.

    By name: the name goes, the image follows its last name unless something needs it. By ID: the image goes,
    with its name if it has one; several repositories need force. Running containers and children always win.
    """
    if is_id(text, situation.image_id):
        return _plan_by_id(situation, force)
    return _plan_by_name(text, situation, force)


def is_id(text: str, image_id: Digest) -> bool:
    """Whether ``text`` names the image by (a prefix of) its ID."""
    return image_id.startswith(text) or image_id.hex.startswith(text)


def short_id(text: str) -> str:
    """The twelve characters by which people call an image or container."""
    return text.partition(":")[2][:12] if ":" in text else text[:12]


def _plan_by_name(text: str, situation: Situation, force: bool) -> Removal:
    names = situation.names
    if not force and _is_single(names) and situation.users:
        # Untagging would leave a nameless image behind; that has to be asked for.
        raise Conflict(
            f'conflict: unable to remove repository reference "{text}" (must force) - container '
            f"{short_id(situation.users[0].container)} is using its referenced image "
            f"{short_id(situation.image_id)}"
        )
    reference = parse_reference(text).tagged()
    gone = [name for name in names if _is_same(reference, name, situation.image_id)]
    rest = [name for name in names if name not in gone]
    repository = [name for name in rest if parse_reference(name).name == reference.name]
    if not reference.digest and not any(parse_reference(name).tag for name in repository):
        # The last tag of a repository takes its names by digest along.
        gone += repository
        rest = [name for name in rest if name not in repository]
    return Removal(tuple(gone), not rest and _find_conflict(situation, rest, force) is None)


def _plan_by_id(situation: Situation, force: bool) -> Removal:
    conflict = _find_conflict(situation, () if _is_single(situation.names) else situation.names, force)
    if conflict:
        message, hard = conflict
        raise Conflict(
            f"conflict: unable to delete {short_id(situation.image_id)} "
            f"({'cannot' if hard else 'must'} be forced) - {message}"
        )
    return Removal(situation.names, True)


def _find_conflict(
    situation: Situation, names: list[str] | tuple[str, ...], force: bool
) -> tuple[str, bool] | None:
    """What forbids deletion, and whether even force does not help."""
    if situation.has_children:
        return "image has dependent child images", True
    for user in situation.users:
        if user.running:
            return f"image is being used by running container {short_id(user.container)}", True
    if force:
        return None
    if names:
        return "image is referenced in multiple repositories", False
    for user in situation.users:
        return f"image is being used by stopped container {short_id(user.container)}", False
    return None


def _is_same(reference: Reference, name: str, image_id: Digest) -> bool:
    if reference.digest and not reference.tag:
        # A name by digest may be implied by a tag of the same repository; then it stands for all of those.
        return reference.digest == image_id and parse_reference(name).name == reference.name
    if reference.digest:
        return name == f"{reference.name}:{reference.tag}"
    return name == reference.canonical()


def _is_single(names: tuple[str, ...]) -> bool:
    """At most one tag, and everything within one repository."""
    references = [parse_reference(name) for name in names]
    tags = [reference for reference in references if not reference.digest]
    return len(tags) <= 1 and len({reference.name for reference in references}) <= 1
