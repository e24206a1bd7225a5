"""How a build's events are shown when nothing moves: plain lines as people know them, BuildKit's JSON, or nothing."""

from __future__ import annotations

import sys
from binascii import a2b_base64

from cais.cli.units import format_size
from cais.cli.wirejson import format_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class View(Protocol):
        """Shows a build. ``show`` gets each line of the answer, ``end`` comes last whatever happened."""

        def show(self, event: dict[str, Any]) -> None: ...

        def end(self) -> None: ...


NANOSECOND = 1e-9


def clean(text: str) -> str:
    """A name for people: what a terminal would obey is shown as a question mark."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in text)


def seconds(start: int, end: int) -> str:
    """``1.2s`` between two times in nanoseconds."""
    return f"{max(end - start, 0) * NANOSECOND:.1f}s"


class Quiet:
    """Shows nothing."""

    __slots__ = ()

    def show(self, event: dict[str, Any]) -> None:
        """View.show."""

    def end(self) -> None:
        """View.end."""


class _Vertex:
    """One vertex as the plain view knows it."""

    __slots__ = ("at", "halves", "is_done", "items", "name", "number")

    def __init__(self, number: int, name: str, at: int) -> None:
        self.number = number
        self.name = name
        self.at = at
        self.is_done = False
        self.halves: dict[int, bytes] = {}
        self.items: set[str] = set()


class Plain:
    """Lines as BuildKit's plain progress has them: ``#5 [2/3] RUN …``, ``#5 0.123 text``, ``#5 DONE 0.3s``."""

    __slots__ = ("_current", "_out", "_seen", "_vertices")

    def __init__(self) -> None:
        self._out = sys.stderr
        self._vertices: dict[str, _Vertex] = {}
        self._current = ""
        self._seen: set[str] = set()

    def show(self, event: dict[str, Any]) -> None:
        """View.show."""
        kind, id = event["type"], event.get("id", "")
        if kind == "started":
            self._start(id, event)
            return
        vertex = self._vertices.get(id)
        if kind == "warning":
            self._write(f"\nWARNING: {clean(event['text'])}\n")
            self._current = ""
        elif vertex is None or vertex.is_done:
            return  # what several stages stand on is told for each
        elif kind == "output":
            self._output(id, vertex, event)
        elif kind == "progress":
            self._progress(id, vertex, event)
        elif kind == "done":
            self._done(id, vertex, event)

    def _start(self, id: str, event: dict[str, Any]) -> None:
        if id not in self._vertices:
            self._vertices[id] = _Vertex(len(self._vertices) + 1, clean(event["name"]), event["at"])
            self._turn(id)

    def _turn(self, id: str) -> None:
        """Lines of ``id`` follow: its name stands above them if others were in between."""
        if self._current != id:
            vertex = self._vertices[id]
            self._write(f"\n#{vertex.number} {vertex.name}\n")
            self._current = id

    def _output(self, id: str, vertex: _Vertex, event: dict[str, Any]) -> None:
        *lines, half = (vertex.halves.get(event["stream"], b"") + a2b_base64(event["data"])).split(b"\n")
        vertex.halves[event["stream"]] = half
        if lines:
            self._turn(id)
            self._lines(vertex, lines, event["at"])

    def _lines(self, vertex: _Vertex, lines: list[bytes], at: int) -> None:
        start = f"#{vertex.number} {max(at - vertex.at, 0) * NANOSECOND:.3f} "
        # What a program writes goes out as it is, as under Docker; a carriage return at the end is a line's.
        self._write("".join(f"{start}{line.decode('utf-8', 'replace').rstrip(chr(13))}\n" for line in lines))

    def _progress(self, id: str, vertex: _Vertex, event: dict[str, Any]) -> None:
        item = clean(event["item"])
        if not event["done"] or item in vertex.items:
            return
        vertex.items.add(item)
        self._turn(id)
        size = f" {format_size(event['current'])}" if event["current"] else ""
        self._write(f"#{vertex.number} {item}{size} {seconds(event['started'], event['at'])} done\n")

    def _done(self, id: str, vertex: _Vertex, event: dict[str, Any]) -> None:
        for half in vertex.halves.values():
            if half:
                self._turn(id)
                self._lines(vertex, [half], event["at"])
        vertex.halves.clear()
        vertex.is_done = True
        self._turn(id)
        if error := event["error"]:
            word = "CANCELED" if error == "canceled" else f"ERROR: {clean(error.partition(chr(10))[0])}"
        else:
            word = "CACHED" if event["cached"] else f"DONE {seconds(vertex.at, event['at'])}"
        self._write(f"#{vertex.number} {word}\n")
        if self._current == id:
            self._current = ""

    def _write(self, text: str) -> None:
        self._out.write(text)

    def end(self) -> None:
        """View.end."""
        self._out.flush()


class RawJson:
    """BuildKit's status messages (moby/buildkit, client.SolveStatus), one a line."""

    __slots__ = ("_out", "_vertices")

    def __init__(self) -> None:
        self._out = sys.stderr
        self._vertices: dict[str, dict[str, Any]] = {}

    def show(self, event: dict[str, Any]) -> None:
        """View.show."""
        message = self._message(event)
        if message:
            self._out.write(format_json(message) + "\n")

    def _message(self, event: dict[str, Any]) -> dict[str, Any]:
        kind, id = event["type"], event.get("id", "")
        if kind in ("started", "done"):
            vertex = self._vertices.setdefault(id, {"digest": id})
            if kind == "started":
                vertex |= {"name": event["name"], "started": format_stamp(event["at"])}
                vertex |= {"inputs": event["inputs"]} if "inputs" in event else {}
            else:
                vertex["completed"] = format_stamp(event["at"])
                vertex |= {"cached": True} if event["cached"] else {}
                vertex |= {"error": event["error"]} if event["error"] else {}
            return {"vertexes": [vertex]}
        if kind == "output":
            stamp = format_stamp(event["at"])
            log = {"vertex": id, "stream": event["stream"], "data": event["data"], "timestamp": stamp}
            return {"logs": [log]}
        if kind == "progress":
            status = {"id": event["item"], "vertex": id, "name": event["item"], "current": event["current"]}
            status |= {"total": event["total"]} if event["total"] else {}
            status |= {"timestamp": format_stamp(event["at"]), "started": format_stamp(event["started"])}
            status |= {"completed": format_stamp(event["at"])} if event["done"] else {}
            return {"statuses": [status]}
        if kind == "warning":
            warning: dict[str, Any] = {"vertex": id, "level": event["level"], "short": event["text"]}
            warning |= {"url": event["url"]} if "url" in event else {}
            return {"warnings": [warning]}
        return {}

    def end(self) -> None:
        """View.end."""
        self._out.flush()


def format_stamp(at: int) -> str:
    """Nanoseconds since the epoch as RFC 3339, in UTC."""
    days, rest = divmod(at, 86_400_000_000_000)
    hour, rest = divmod(rest, 3_600_000_000_000)
    minute, rest = divmod(rest, 60_000_000_000)
    second, fraction = divmod(rest, 1_000_000_000)
    year, month, day = _civil(days)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z"


def _civil(days: int) -> tuple[int, int, int]:
    """The date of so many days since 1970-01-01 (years of the calendar begin in March here)."""
    days += 719_468
    era, day = divmod(days, 146_097)
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    shifted = (5 * day + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return era * 400 + year + (month <= 2), month, day - (153 * shifted + 2) // 5 + 1
