"""Which unused images can go, and what that frees (pure)."""

from collections.abc import Iterable, Mapping, Sequence

from cais.images.image import Image
from cais.spec.digest import Digest


def plan_prune(candidates: Iterable[Image], everything: Iterable[Image]) -> list[Image]:
    """Those of the ``candidates`` that no other image was committed from, or only such as go too; in their order.

    ``everything``: all images there are.
    """
    parents = {image.id: image.parent for image in everything}
    going = {image.id: image for image in candidates}
    while True:
        kept = {parent for image, parent in parents.items() if image not in going}
        needed = going.keys() & kept
        if not needed:
            return list(going.values())
        for image in needed:
            del going[image]


def order_for_removal(images: Sequence[Image]) -> list[Image]:
    """Children before the images they were committed from, otherwise as they come."""
    parents = {image.id: image.parent for image in images}
    return sorted(images, key=lambda image: -_depth(image.id, parents))


def _depth(image: str, parents: Mapping[Digest, str]) -> int:
    depth = 0
    found = {str(key): value for key, value in parents.items()}
    while (image := found.pop(image, "")) and image in found:
        depth += 1
    return depth


def freed_size(
    victims: Iterable[Digest], sizes: Mapping[Digest, Mapping[str, int]], others: Iterable[str] = ()
) -> int:
    """Bytes that only the ``victims`` need. ``sizes``: of all images, by place; ``others``: places that are needed by
    something else, such as a container whose image lost its name."""
    gone = set(victims)
    kept = {place for image, places in sizes.items() if image not in gone for place in places} | set(others)
    freed = {place: size for image in gone for place, size in sizes.get(image, {}).items()}
    return sum(size for place, size in freed.items() if place not in kept)
