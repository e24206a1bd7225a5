"""`cais build --verify`: what the engine found when it compared an image with what is built now."""

from __future__ import annotations

import sys

from cais.cli.buildshow import clean
from cais.cli.failure import wrong_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags

_MOST = 20
_REFUSED = ("tag", "output", "push", "load", "cache-to", "iidfile", "metadata-file", "attest", "annotation")
_SHOWN = 200
_HINT = "An image that is built with --build-arg SOURCE_DATE_EPOCH=SECONDS has the same ones each time."


def check_flags(flags: Flags) -> None:
    """Whether the other flags go with it. Raises Failure."""
    for name in _REFUSED:
        if flags.given(name):
            raise wrong_option(f"--verify makes no image, it only compares: leave out --{name}")


def show(result: dict[str, Any], name: str) -> int:
    """The verdict, in lines; the exit code: 0 if the images agree."""
    found = result["verify"]
    sys.stdout.write("".join(f"{line}\n" for line in format_verdict(found, name)))
    return 0 if found["same"] else 1


def format_verdict(found: dict[str, Any], name: str) -> list[str]:
    """What agrees or differs; ``name`` of the image that was there before."""
    if found["same"]:
        count = found["count"]
        return [
            f"{name} is what this builds: the configuration and {count} layer{'' if count == 1 else 's'} agree"
        ]
    lines = [f"{name} is not what this builds:"]
    rows = [f"{each['name']}: {_side(each['first'])} → {_side(each['second'])}" for each in found["fields"]]
    rows += [
        f"layer {each['index'] + 1}: {_side(each['first'])} → {_side(each['second'])}"
        for each in found["layers"]
    ]
    lines += _limited(rows)
    words = {"only in the first": f"only in {name}", "only in the second": "only in what is built now"}
    files = [f"{clean(each['path'])}: {words.get(each['what'], each['what'])}" for each in found["files"]]
    lines += [f"  {row}" for row in files[:_MOST]]
    if found["more"] or len(files) > _MOST:
        lines.append("  … and more files")
    if files and not found["fields"] and all(each["what"] == "time" for each in found["files"]):
        lines.append(f"Only times differ. {_HINT}")
    return lines


def _limited(rows: list[str]) -> list[str]:
    more = [f"  … and {len(rows) - _MOST} more"] if len(rows) > _MOST else []
    return [*(f"  {row}" for row in rows[:_MOST]), *more]


def _side(text: str) -> str:
    text = clean(text) or "nothing"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
