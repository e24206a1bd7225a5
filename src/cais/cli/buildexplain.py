"""`cais build --explain`: why each step was made or not, as a table or as JSON, behind all else that is shown."""

from __future__ import annotations

import sys
import time

from cais.cli.buildshow import clean, format_stamp
from cais.cli.failure import wrong_option
from cais.cli.wirejson import format_pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.buildshow import View

_NAMED = 5
"""Files in a line."""
_DATED = ("files", "content", "base", "new")
"""Kinds of reasons that begin with when."""


def wants_json(text: str) -> bool:
    """The value of the flag. Raises Failure."""
    if text not in ("", "text", "json"):
        raise wrong_option(f'invalid value "{text}" for --explain: want text or json')
    return text == "json"


class Explaining:
    """A view that collects explanations for the end, and has everything else shown by another."""

    __slots__ = ("_as_json", "_numbers", "_steps", "_view")

    def __init__(self, view: View, *, as_json: bool) -> None:
        self._view = view
        self._as_json = as_json
        self._numbers: dict[str, int] = {}
        self._steps: list[dict[str, Any]] = []

    def show(self, event: dict[str, Any]) -> None:
        """View.show."""
        if event["type"] == "explained":
            self._steps.append(event)
            return
        if event["type"] == "started":
            self._numbers.setdefault(event["id"], len(self._numbers) + 1)
        self._view.show(event)

    def end(self) -> None:
        """View.end."""
        self._view.end()
        steps, self._steps = self._steps, []
        if self._as_json:
            rows = [format_json_step(step, self._numbers.get(step["id"], 0)) for step in steps]
            sys.stdout.write(format_pretty(rows, "  ") + "\n")
        elif steps:
            sys.stdout.write(
                "".join(f"{line}\n" for line in format_steps(steps, self._numbers, time.time_ns()))
            )
        sys.stdout.flush()


def format_steps(steps: list[dict[str, Any]], numbers: dict[str, int], now: int) -> list[str]:
    """The table's lines; ``numbers`` as the plain view counts, ``now`` nanoseconds since the epoch."""
    names = []
    for step in steps:
        number = numbers.get(step["id"], 0)
        names.append(f"{f'#{number}' if number else '-'} {clean(step['name'])}")
    width = min(max(map(len, names), default=0), 60)
    return [
        f"{name:<{width}}  {'HIT ' if step['hit'] else 'MISS'}  {format_reasons(step, now)}".rstrip()
        for name, step in zip(names, steps, strict=True)
    ]


def format_reasons(step: dict[str, Any], now: int) -> str:
    """All reasons of one step in a line."""
    words = []
    for reason in step["reasons"]:
        text = clean(reason["text"])
        if reason["kind"] in _DATED and step["since"]:
            text += f" since the build of {format_time(step['since'], now)}"
        if (count := reason.get("count", 0)) > 1:
            names = [clean(name) for name in reason["files"][:_NAMED]]
            names += ["…"] if count > len(names) else []
            text += f" ({count} files: {', '.join(names)})"
        words.append(text)
    return "; ".join(words)


def format_time(at: int, now: int) -> str:
    """``12:03`` today, with the date on other days; in this machine's zone."""
    then, today = time.localtime(at // 1_000_000_000), time.localtime(now // 1_000_000_000)
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def format_json_step(step: dict[str, Any], number: int) -> dict[str, Any]:
    """One step for programs."""
    found = {"name": step["name"], "digest": step["id"], "hit": step["hit"], "reasons": step["reasons"]}
    if number:
        found["number"] = number
    if step["since"]:
        found["since"] = format_stamp(step["since"])
    return found
