"""`cais images --tree`: every image with its platforms below it."""

from __future__ import annotations

import sys

from cais.cli.table import format_table
from cais.cli.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

HEADINGS = ("IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "IN USE")


def print_tree(images: Iterable[dict[str, Any]], *, whole: bool) -> None:
    """Print the rows of all ``images``; ``whole``: ids in full."""
    rows = [HEADINGS, *(row for image in images for row in make_rows(image, whole=whole))]
    sys.stdout.write(format_table(rows))


def make_rows(image: dict[str, Any], *, whole: bool) -> list[tuple[str, ...]]:
    """A row for the image, one for each further name, one for each platform that is here."""
    parts = [part for part in image.get("Manifests") or () if part.get("Kind") == "image"]
    content = sum(part["Size"]["Content"] for part in parts)
    total = sum(part["Size"]["Total"] for part in parts) or image["Size"]
    used = any(part["ImageData"]["Containers"] for part in parts) or (image.get("Containers") or 0) > 0
    names = image.get("RepoTags") or ["<untagged>"]
    rows: list[tuple[str, ...]] = [
        (names[0], _short(image["Id"], whole), format_size(total), format_size(content), _mark(used))
    ]
    rows += [(name, "", "", "", "") for name in names[1:]]
    for part in parts:
        branch = "└─ " if part is parts[-1] else "├─ "
        size, data = part["Size"], part["ImageData"]
        shown = "/".join(
            filter(None, (data["Platform"].get(key, "") for key in ("os", "architecture", "variant")))
        )
        rows.append(
            (
                branch + shown + ("" if part["Available"] else " (incomplete)"),
                _short(part["ID"], whole),
                format_size(size["Total"]),
                format_size(size["Content"]),
                _mark(bool(data["Containers"])),
            )
        )
    return rows


def _short(digest: str, whole: bool) -> str:
    return digest if whole else digest.rpartition(":")[2][:12]


def _mark(used: bool) -> str:
    return "yes" if used else ""
