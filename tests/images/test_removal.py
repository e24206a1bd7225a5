"""Docker's rules for rmi, as a table."""

import pytest

from cais.errors import Conflict
from cais.images.removal import Removal, Situation, User, plan_removal
from cais.spec.digest import digest_bytes

ID = digest_bytes(b"image")
SHORT = ID.hex[:12]
LIBRARY = "docker.io/library/"
ONE = (LIBRARY + "a:1",)
TWO = (LIBRARY + "a:1", LIBRARY + "a:2")
STOPPED = (User("c" * 64, False),)
RUNNING = (User("d" * 64, True),)


def plan(text: str, names: tuple[str, ...], *, force: bool = False, **situation: object) -> Removal:
    """The plan for removing ``text``."""
    return plan_removal(text, Situation(ID, names, **situation), force=force)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "names", "situation", "force", "want"),
    [
        ("a:1", ONE, {}, False, Removal(ONE, True)),
        ("a:1", TWO, {}, False, Removal(ONE, False)),
        ("a:1", TWO, {"users": RUNNING}, False, Removal(ONE, False)),
        ("a:1", ONE, {"users": STOPPED}, True, Removal(ONE, True)),
        ("a:1", ONE, {"users": RUNNING}, True, Removal(ONE, False)),
        ("a:1", ONE, {"has_children": True}, False, Removal(ONE, False)),
        (SHORT, ONE, {}, False, Removal(ONE, True)),
        (ID, ONE, {"users": STOPPED}, True, Removal(ONE, True)),
        (ID, (), {}, False, Removal((), True)),
        (ID, TWO, {}, True, Removal(TWO, True)),
        ("a:1", (*ONE, f"{LIBRARY}a@{ID}"), {}, False, Removal((*ONE, f"{LIBRARY}a@{ID}"), True)),
        (f"a@{ID}", ONE, {}, False, Removal(ONE, True)),
    ],
)
def test_what_goes(
    text: str, names: tuple[str, ...], situation: dict[str, object], force: bool, want: Removal
) -> None:
    """Names, image or both, as dockerd does it."""
    assert plan(text, names, force=force, **situation) == want


@pytest.mark.parametrize(
    ("text", "names", "situation", "force", "message"),
    [
        (
            "a:1",
            ONE,
            {"users": STOPPED},
            False,
            f'unable to remove repository reference "a:1" (must force) - container {"c" * 12} '
            f"is using its referenced image {SHORT}",
        ),
        (
            ID,
            TWO,
            {},
            False,
            f"unable to delete {SHORT} (must be forced) - image is referenced in multiple repositories",
        ),
        (
            SHORT,
            ONE,
            {"users": STOPPED},
            False,
            f"unable to delete {SHORT} (must be forced) - image is being used by stopped container {'c' * 12}",
        ),
        (
            SHORT,
            ONE,
            {"users": RUNNING},
            True,
            f"unable to delete {SHORT} (cannot be forced) - image is being used by running container {'d' * 12}",
        ),
        (
            ID,
            ONE,
            {"has_children": True},
            True,
            f"unable to delete {SHORT} (cannot be forced) - image has dependent child images",
        ),
    ],
)
def test_what_is_refused(
    text: str, names: tuple[str, ...], situation: dict[str, object], force: bool, message: str
) -> None:
    """The message is dockerd's, word by word."""
    with pytest.raises(Conflict) as caught:
        plan(text, names, force=force, **situation)
    assert str(caught.value) == f"conflict: {message}"
