"""`cais hub files` and `compare`: what is inside of images that a hub has."""

from __future__ import annotations

import sys
from stat import filemode

from cais.cli.buildshow import clean
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.hubclient import FORMAT_ROW, HUB_ROWS, choose_image
from cais.cli.hubshow import say, show_rows, size
from cais.cli.session import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from cais.cli.flags import Flags, Row
    from cais.cli.session import Session
    from cais.cli.table import Columns

PLATFORM_ROW: Row = ("platform", "", "string", "Of several, the image for this platform")
_PAGE = 1000
_TYPES = {"file": "-", "folder": "d", "link": "l", "hard link": "h", "device": "c", "pipe": "p"}
"""As `ls` and `tar` write them; which of the two kinds a device is, the hub does not say."""
_LETTERS = {"added": "A", "removed": "D", "changed": "C"}
"""As `docker diff` writes them."""


def files(session: Session, flags: Flags) -> int:
    """A folder or file of an image, or of one of its layers."""
    hub, repository, ref = choose_image(flags, flags.args[0])
    query = {
        "layer": flags.number("layer"),
        "path": flags.args[1] if flags.args[1:] else "",
        "platform": flags.text("platform"),
        "n": _PAGE,
    }
    columns: Columns = {
        "Mode": ("MODE", _format_mode),
        "Owner": ("OWNER", lambda file: f"{file['uid']}:{file['gid']}"),
        "Size": ("SIZE", lambda file: size(file["size"])),
        "Modified": ("MODIFIED", lambda file: (file["mtime"] or "-")[:16].replace("T", " ")),
        "Name": ("NAME", lambda file: file["name"] + (f" -> {file['link']}" if file["link"] else "")),
        "Path": ("PATH", lambda file: file["path"]),
        "Layer": ("LAYER", lambda file: str(file["layer"])),
    }
    pages = hub.answers(f"{repository}/files/{escape(ref)}", query)
    show_rows(_entries(pages, "files"), columns, flags, ("Mode", "Owner", "Size", "Modified", "Name"))
    return 0


def compare(session: Session, flags: Flags) -> int:
    """What must happen to one image to become the other."""
    hub, repository, old = choose_image(flags, flags.args[0])
    path = f"{repository}/compare/{escape(old)}/{escape(flags.args[1])}"
    pages = hub.answers(path, {"platform": flags.text("platform"), "n": _PAGE})
    if flags.text("format"):
        show_rows(_entries(pages, "changes"), CHANGES, flags)
        return 0
    for number, page in enumerate(pages):
        if not number:
            _warn_broken(page)
            _show_sums(page)
        for change in page["changes"]:
            say(_format_change(change))
    return 0


def _entries(pages: Iterable[Any], key: str) -> Iterator[Any]:
    """Those of all pages, of which the first tells whether something may be absent."""
    for number, page in enumerate(pages):
        if not number:
            _warn_broken(page)
        yield from page[key]


def _warn_broken(page: Any) -> None:
    if page["broken"]:
        warn(f"WARNING: not all is shown: {clean(page['broken'])}")


def _format_mode(file: Any) -> str:
    return _TYPES.get(file["kind"], "?") + filemode(file["mode"] & 0o7777)[1:]


def _show_sums(page: Any) -> None:
    """What holds for all changes; a blank line is between this and them."""
    more = page["bytes"]
    say(
        f"{page['added']} added, {page['removed']} removed, {page['changed']} changed: {_format_growth(more)}"
    )
    say(f"Layers at the bottom that are the same: {page['shared_layers']}")
    for setting in page["settings"]:
        say(f"{setting['name']}: {setting['before'] or '(none)'} -> {setting['after'] or '(none)'}")
    if page["changes"]:
        sys.stdout.write("\n")


def _format_growth(more: int) -> str:
    return f"{size(abs(more))} {'less' if more < 0 else 'more'}" if more else "as large as before"


def _format_change(change: Any) -> str:
    slash = "/" if change["kind"] == "folder" else ""
    notes = [_format_sizes(change), *change["details"]]
    return f"{_LETTERS.get(change['how'], '?')} /{change['path']}{slash}  {', '.join(filter(None, notes))}".rstrip()


def _format_sizes(change: Any) -> str:
    """Nothing for a change that is none of bytes."""
    how, before, after = change["how"], change["before"], change["after"]
    if how == "changed":
        return f"{size(before)} -> {size(after)}" if before != after else ""
    text = size(before if how == "removed" else after)
    return f"{text} in {change['count']} files and folders" if change["count"] > 1 else text


CHANGES: Columns = {
    "How": ("HOW", lambda change: change["how"]),
    "Path": ("PATH", lambda change: change["path"]),
    "Kind": ("KIND", lambda change: change["kind"]),
    "Before": ("BEFORE", lambda change: size(change["before"])),
    "After": ("AFTER", lambda change: size(change["after"])),
    "Details": ("DETAILS", lambda change: ", ".join(change["details"])),
}

HUB_FILES = Command(
    "hub files [OPTIONS] [HUB/]REPOSITORY:TAG|@DIGEST [PATH]",
    "List files of an image in a hub, or of one of its layers",
    files,
    flags=(
        *HUB_ROWS,
        FORMAT_ROW,
        ("layer", "", "int", "Number of one layer, from the bottom, beginning with 1"),
        PLATFORM_ROW,
    ),
    least=1,
    most=2,
    example="cais hub files team/app:1 /etc\ncais hub files --layer 2 team/app:1",
)
HUB_COMPARE = Command(
    "hub compare [OPTIONS] [HUB/]REPOSITORY:TAG|@DIGEST TAG|DIGEST",
    "Show what two images of a repository differ in",
    compare,
    flags=(*HUB_ROWS, FORMAT_ROW, PLATFORM_ROW),
    least=2,
    most=2,
    example="cais hub compare team/app:1 2\ncais hub compare --format json team/app:1 2",
)
