"""A build on a terminal: what runs has a line that moves, its last output below it; what is over is collapsed."""

from __future__ import annotations

import os
import sys
import time
from _thread import allocate_lock, start_new_thread
from binascii import a2b_base64

from cais.cli.buildshow import clean, seconds
from cais.cli.terminal import get_size
from cais.cli.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PERIOD = 0.1
TAIL = 6
"""Lines of output shown of a vertex that runs."""
_BLUE, _CYAN, _RED, _YELLOW, _PLAIN = "\x1b[34m", "\x1b[36m", "\x1b[31m", "\x1b[33m", "\x1b[0m"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_LONGEST = 4096


class Row:
    """One vertex."""

    __slots__ = ("cached", "done", "error", "half", "items", "name", "started", "tail")

    def __init__(self, name: str, started: int) -> None:
        self.name = name
        self.started = started
        self.done = 0
        self.cached = False
        self.error = ""
        self.tail: list[str] = []
        self.half = ""
        self.items: dict[str, dict[str, Any]] = {}


class Screen:
    """What a terminal of some size is to show, as lines; without a terminal, and without a clock of its own."""

    __slots__ = ("begun", "rows", "warnings")

    def __init__(self, begun: int) -> None:
        """``begun``: nanoseconds since the epoch."""
        self.begun = begun
        self.rows: dict[str, Row] = {}
        self.warnings: list[str] = []

    def take(self, event: dict[str, Any]) -> None:
        """Note one event."""
        kind, id = event["type"], event.get("id", "")
        if kind == "started":
            self.rows.setdefault(id, Row(clean(event["name"]), event["at"]))
        elif kind == "warning":
            self.warnings.append(clean(event["text"]))
        row = self.rows.get(id)
        if row is None or row.done:
            return  # what several stages stand on is told for each
        if kind == "output":
            _add_output(row, a2b_base64(event["data"]).decode("utf-8", "replace"))
        elif kind == "progress":
            row.items[clean(event["item"])] = event
        elif kind == "done":
            row.done, row.cached, row.error = event["at"], event["cached"], event["error"]

    def lines(self, now: int, height: int, width: int, *, last: bool = False) -> list[str]:
        """What to show at ``now``, each at most ``width`` characters wide. ``last``: nothing follows, all is shown."""
        rows = list(self.rows.values())
        done = sum(bool(row.done) for row in rows)
        word = " FINISHED" if last else ""
        top = f"[+] Building {seconds(self.begun, now)} ({done}/{len(rows)}){word}"
        shown: list[str] = []
        for row in rows:
            shown += self._row(row, now, width)
        room = height - 2
        if not last and len(shown) > room:
            # What is over goes first, from the top.
            running = [line for row in rows if not row.done for line in self._row(row, now, width)]
            over = [line for row in rows if row.done for line in self._row(row, now, width)]
            running = running[-room:] if room > 0 else []
            left = max(room - len(running), 0)
            shown = (over[-left:] if left else []) + running
        return [cut(top, width), *shown]

    def _row(self, row: Row, now: int, width: int) -> list[str]:
        cached = "CACHED " if row.cached else "ERROR " if row.error and row.error != "canceled" else ""
        cached = "CANCELED " if row.error == "canceled" else cached
        color = _RED if row.error else _BLUE if row.done else ""
        lines = [_line(f" => {cached}{row.name}", seconds(row.started, row.done or now), width, color)]
        if row.done:
            return lines
        for name, item in list(row.items.items())[-TAIL:]:
            amount = format_size(item["current"])
            if item["total"]:
                amount += f" / {format_size(item['total'])}"
            spent = seconds(item["started"], item["at"] if item["done"] else now)
            lines.append(_line(f" => => {name} {amount}", spent, width, _BLUE if item["done"] else ""))
        lines += [cut(f" => => # {text}", width) for text in row.tail[-TAIL:]]
        return lines


def _add_output(row: Row, text: str) -> None:
    *lines, row.half = (row.half + text).split("\n")
    row.half = row.half[-_LONGEST:]
    row.tail = [*row.tail, *map(printable, lines[-TAIL:])][-TAIL:]


def printable(line: str) -> str:
    """A line of output that moves no cursor and paints nothing: of what was written over, the last; no control
    sequences (ECMA-48)."""
    line = line.rstrip("\r").rpartition("\r")[2].replace("\t", "        ")
    parts = line.split("\x1b")
    kept = parts[0]
    for part in parts[1:]:
        if part.startswith("["):
            end = next((i for i, char in enumerate(part[1:], 1) if "@" <= char <= "~"), len(part))
            kept += part[end + 1 :]
        elif part.startswith("]"):
            kept += part.partition("\x07")[2]
        else:
            kept += part[1:]
    return clean(kept)


def cut(text: str, width: int) -> str:
    """At most ``width`` characters."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def _line(text: str, spent: str, width: int, color: str) -> str:
    text = cut(text, max(width - len(spent) - 1, 8))
    line = f"{text}{' ' * max(width - len(text) - len(spent), 1)}{spent}"
    return f"{color}{line}{_PLAIN}" if color else line


class Live:
    """Draws on the terminal at stderr, ten times a second and from its own thread: engines are silent at times."""

    __slots__ = ("_drawn", "_ended", "_is_over", "_lock", "_out", "_plain", "_screen")

    def __init__(self) -> None:
        self._out = sys.stderr
        self._screen = Screen(time.time_ns())
        self._lock = allocate_lock()
        self._ended = allocate_lock()
        self._ended.acquire()
        self._is_over = False
        self._drawn = 0
        self._plain = bool(os.environ.get("NO_COLOR"))
        self._out.write(_HIDE)
        start_new_thread(self._tick, ())

    def show(self, event: dict[str, Any]) -> None:
        """View.show."""
        with self._lock:
            self._screen.take(event)

    def _tick(self) -> None:
        while not self._ended.acquire(timeout=PERIOD):
            with self._lock:
                if not self._is_over:
                    self._draw(last=False)

    def _draw(self, *, last: bool) -> None:
        rows, columns = get_size()
        lines = self._screen.lines(time.time_ns(), rows or 24, columns or 80, last=last)
        text = "\r" + (f"\x1b[{self._drawn}A" if self._drawn else "") + "\x1b[J"
        body = "".join(f"{line}\n" for line in lines)
        if self._plain:
            for code in (_BLUE, _RED, _PLAIN):
                body = body.replace(code, "")
        self._out.write(text + body)
        self._out.flush()
        self._drawn = len(lines)

    def end(self) -> None:
        """View.end: the last picture stays."""
        with self._lock:
            if not self._is_over:
                self._is_over = True
                self._draw(last=True)
                warnings = self._screen.warnings
                if warnings:
                    count = f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''} found:"
                    paint, plain = ("", "") if self._plain else (_YELLOW, _PLAIN)
                    self._out.write(
                        f"\n {paint}{count}{plain}\n" + "".join(f" - {text}\n" for text in warnings)
                    )
                self._out.write(_SHOW)
                self._out.flush()
                self._ended.release()
