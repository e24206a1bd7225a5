"""`cais … prune`: removes what nobody uses, after asking."""

from __future__ import annotations

import sys

from cais.cli.filters import LONG_FILTER_ROW, format_filters
from cais.cli.flags import Command
from cais.cli.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session

_KEYS = {
    "containers": "ContainersDeleted",
    "networks": "NetworksDeleted",
    "volumes": "VolumesDeleted",
    "images": "ImagesDeleted",
}


def confirm(flags: Flags, warning: str) -> bool:
    """Whether to go on: --force, or a yes on the terminal."""
    if flags.on("force"):
        return True
    sys.stdout.write(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def prune_one(
    session: Session, what: str, filters: list[str], *, dry_run: bool = False
) -> tuple[list[str], int]:
    """Prune one kind: lines that say what went, or would go, and the bytes that came free."""
    query = (("filters", format_filters(filters)), ("dry-run", dry_run))
    answer: dict[str, Any] = session.call("POST", f"/{what}/prune", query) or {}
    lines = []
    for item in answer.get(_KEYS[what]) or ():
        lines += (
            [f"{kind.lower()}: {name}" for kind, name in item.items()] if isinstance(item, dict) else [item]
        )
    return lines, answer.get("SpaceReclaimed") or 0


def _prune(session: Session, flags: Flags, warning: str, kinds: dict[str, list[str]]) -> int:
    dry = flags.on("dry-run")
    if not dry and not confirm(flags, warning):
        return 0
    freed = 0
    for what, filters in kinds.items():
        lines, size = prune_one(session, what, [*filters, *flags.many("filter")], dry_run=dry)
        freed += size
        if lines:
            head = f"Would delete {what}" if dry else f"Deleted {what.capitalize()}"
            sys.stdout.write(f"{head}:\n" + "".join(f"{line}\n" for line in lines) + "\n")
    _print_total(freed, dry=dry)
    return 0


def _print_total(freed: int, *, dry: bool) -> None:
    words = "Total space that would be reclaimed" if dry else "Total reclaimed space"
    sys.stdout.write(f"{words}: {format_size(freed, 4)}\n")


def prune_budget(session: Session, flags: Flags) -> int:
    """Remove the images that go beyond the engine's budget."""
    dry = flags.on("dry-run")
    if not dry and not confirm(flags, "This will remove the images that are beyond the engine's budget."):
        return 0
    answer = session.call("POST", "/cais/images/budget", (("dry-run", dry),))
    for item in answer["Images"]:
        name = item["Name"] or item["Id"]
        sys.stdout.write(f"{'Would delete' if dry else 'Deleted'} {name}: {item['Reason']}\n")
    _print_total(answer["SpaceReclaimed"], dry=dry)
    return 0


def prune_containers(session: Session, flags: Flags) -> int:
    """Remove all stopped containers."""
    return _prune(session, flags, "This will remove all stopped containers.", {"containers": []})


def prune_images(session: Session, flags: Flags) -> int:
    """Remove images without a name, or with --all those without a container."""
    whole = flags.on("all")
    what = "all images without at least one container associated to them" if whole else "all dangling images"
    return _prune(
        session, flags, f"This will remove {what}.", {"images": [f"dangling={'false' if whole else 'true'}"]}
    )


def prune_networks(session: Session, flags: Flags) -> int:
    """Remove networks that no container is in."""
    warning = "This will remove all custom networks not used by at least one container."
    return _prune(session, flags, warning, {"networks": []})


def prune_volumes(session: Session, flags: Flags) -> int:
    """Remove anonymous volumes nobody uses, or with --all also named ones."""
    what = "all local volumes" if flags.on("all") else "anonymous local volumes"
    filters = ["all=true"] if flags.on("all") else []
    return _prune(
        session, flags, f"This will remove {what} not used by at least one container.", {"volumes": filters}
    )


def prune_system(session: Session, flags: Flags) -> int:
    """Remove stopped containers, unused images and, if asked for, volumes."""
    if flags.on("budget"):
        return prune_budget(session, flags)
    kinds: dict[str, list[str]] = {"containers": [], "networks": []}
    if flags.on("volumes"):
        kinds["volumes"] = []
    kinds["images"] = [f"dangling={'false' if flags.on('all') else 'true'}"]
    return _prune(session, flags, f"This will remove unused {', '.join(kinds)}.", kinds)


_DRY_ROW = ("dry-run", "", "bool", "Only show what would go")
_FORCE_ROW = ("force", "f", "bool", "Do not ask")

CONTAINER_PRUNE = Command(
    "container prune [OPTIONS]",
    "Remove all stopped containers",
    prune_containers,
    flags=(_DRY_ROW, LONG_FILTER_ROW, _FORCE_ROW),
    most=0,
    example="cais container prune -f",
)
IMAGE_PRUNE = Command(
    "image prune [OPTIONS]",
    "Remove unused images",
    prune_images,
    flags=(("all", "a", "bool", "All that no container uses"), _DRY_ROW, LONG_FILTER_ROW, _FORCE_ROW),
    most=0,
    example="cais image prune --all --dry-run",
)
NETWORK_PRUNE = Command(
    "network prune [OPTIONS]",
    "Remove unused networks",
    prune_networks,
    flags=(_DRY_ROW, LONG_FILTER_ROW, _FORCE_ROW),
    most=0,
    example="cais network prune -f",
)
VOLUME_PRUNE = Command(
    "volume prune [OPTIONS]",
    "Remove unused volumes",
    prune_volumes,
    flags=(("all", "a", "bool", "Named ones too"), _DRY_ROW, LONG_FILTER_ROW, _FORCE_ROW),
    most=0,
    example="cais volume prune",
)
SYSTEM_PRUNE = Command(
    "system prune [OPTIONS]",
    "Remove unused containers, images and volumes",
    prune_system,
    flags=(
        ("all", "a", "bool", "All images no container uses"),
        ("budget", "", "bool", "Instead: the images beyond the engine's budget"),
        _DRY_ROW,
        LONG_FILTER_ROW,
        _FORCE_ROW,
        ("volumes", "", "bool", "Anonymous volumes too"),
    ),
    most=0,
    example="cais system prune -f",
)
