"""`cais build --graph`: the steps of a build as an SVG picture, a lane for each stage, left to right, with times.

The picture holds no script and names nothing outside itself; all text in it comes from a Dockerfile, and is escaped.
"""

from __future__ import annotations

import os

from cais.cli.buildshow import NANOSECOND, clean
from cais.cli.failure import Failure, wrong_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from cais.cli.buildshow import View

_WIDTH, _HEIGHT = 208, 56
_GAP_X, _GAP_Y = 44, 30
_LEFT, _TOP = 132, 84
_CHARS = 27
"""Characters of a name in one line of a box."""
_LABEL_CHARS = 16
_AROUND = "around it"
"""The lane of what is no step of a stage."""
_STYLE = """
svg{--bg:#fff;--fg:#1f2328;--dim:#59636e;--line:#b6bec6;--hot:#c2410c;
--made:#dbeafe;--hit:#e6f4ea;--bad:#ffdfdc;--off:#eceff2}
@media (prefers-color-scheme:dark){
svg{--bg:#0d1117;--fg:#e6edf3;--dim:#9198a1;--line:#4a525b;--hot:#ff9b52;
--made:#123a63;--hit:#12351f;--bad:#5b1a16;--off:#262c33}}
.page{fill:var(--bg)}
text{fill:var(--fg);font:12px ui-sans-serif,system-ui,sans-serif}
.dim{fill:var(--dim)}
.head{font-size:16px;font-weight:600}
.lane{font-weight:600}
.edge{fill:none;stroke:var(--line);stroke-width:1.5}
.step{stroke:var(--line)}
.made{fill:var(--made)}.hit{fill:var(--hit)}.bad{fill:var(--bad)}.off{fill:var(--off)}
.bar{fill:var(--dim)}
.hot{stroke:var(--hot);stroke-width:3}
"""


class Node:
    """One vertex: times in nanoseconds since the epoch (``done`` 0: it did not end), ``inputs`` ids."""

    __slots__ = ("cached", "column", "done", "error", "id", "inputs", "lane", "name", "row", "started")

    def __init__(self, id: str, name: str, started: int, inputs: Iterable[str]) -> None:
        self.id = id
        self.name = name
        self.started = started
        self.inputs = tuple(inputs)
        self.done = 0
        self.cached = False
        self.error = ""
        self.lane = ""
        self.column = 0
        self.row = 0

    @property
    def duration(self) -> int:
        """Nanoseconds."""
        return max(self.done - self.started, 0) if self.done else 0

    @property
    def place(self) -> tuple[int, int]:
        """The left upper corner of its box."""
        return _LEFT + self.column * (_WIDTH + _GAP_X), _TOP + self.row * (_HEIGHT + _GAP_Y)


class Picturing:
    """A view that draws the build at its end, and has everything shown by another."""

    __slots__ = ("_events", "_path", "_view")

    def __init__(self, view: View, path: str) -> None:
        """Raises Failure if nothing can be written there."""
        if not path:
            raise wrong_option("--graph needs the name of a file")
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise Failure(f"--graph {path}: {folder} is no folder")
        self._view = view
        self._path = path
        self._events: list[dict[str, Any]] = []

    def show(self, event: dict[str, Any]) -> None:
        """View.show."""
        if event["type"] in ("started", "done"):
            self._events.append(event)
        self._view.show(event)

    def end(self) -> None:
        """View.end. Raises Failure if the picture cannot be written."""
        self._view.end()
        events, self._events = self._events, []
        if not events:
            return
        half = f"{self._path}.{os.urandom(4).hex()}"
        try:
            with open(half, "x", encoding="utf-8") as file:
                file.write(draw(events))
            os.replace(half, self._path)
        except OSError as error:
            raise Failure(f"--graph {self._path}: {(error.strerror or '').lower()}") from None


def draw(events: Iterable[dict[str, Any]]) -> str:
    """The picture of a build's events (types ``started`` and ``done``). The same for the same events."""
    nodes = read_nodes(events)
    _place(nodes)
    hot = find_critical(nodes)
    known = {node.id: node for node in nodes}
    longest = max((node.duration for node in nodes), default=0)
    columns = max((node.column for node in nodes), default=0) + 1
    rows = max((node.row for node in nodes), default=0) + 1
    width = max(_LEFT + columns * (_WIDTH + _GAP_X), 640)
    height = _TOP + rows * (_HEIGHT + _GAP_Y) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="Steps of a build">',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        *_head(nodes, hot),
        *_lanes(nodes),
    ]
    for node in nodes:
        for source in dict.fromkeys(node.inputs):
            if source in known and source != node.id:
                parts.append(_edge(known[source], node, is_hot=node.id in hot and source in hot))
    parts += [_box(node, longest, is_hot=node.id in hot) for node in nodes]
    return "\n".join([*parts, "</svg>", ""])


def read_nodes(events: Iterable[dict[str, Any]]) -> list[Node]:
    """The vertices in the order in which they began."""
    found: dict[str, Node] = {}
    for event in events:
        id = event["id"]
        if event["type"] == "started":
            if id not in found:
                found[id] = Node(id, clean(event["name"]), event["at"], event.get("inputs", ()))
        elif id in found and not found[id].done:
            node = found[id]
            node.done, node.cached, node.error = event["at"], event["cached"], clean(event["error"])
    return list(found.values())


def split_name(name: str) -> tuple[str, str]:
    """``[build 2/5] RUN x`` as lane and text; what is no step of a stage is around it."""
    head, bracket, text = name.partition("] ")
    words = head[1:].split(" ")
    if not bracket or not name.startswith("["):
        return _AROUND, name
    before, slash, after = words[-1].partition("/")
    if slash and before.isdigit() and after.isdigit():
        return " ".join(words[:-1]) or "steps", text
    return _AROUND, f"{text} [{head[1:]}]"


def _place(nodes: list[Node]) -> None:
    """Give each its lane's row, and a column right of all that it stands on."""
    known = {node.id: node for node in nodes}
    lanes: dict[str, int] = {}
    for node in nodes:
        node.lane = split_name(node.name)[0]
    # Lanes of stages in the order of their first steps; what is around comes last.
    for node in sorted(nodes, key=lambda node: node.lane == _AROUND):
        node.row = lanes.setdefault(node.lane, len(lanes))
    taken: set[tuple[int, int]] = set()
    ordered = order(nodes)
    steps = [node for node in ordered if node.lane != _AROUND]
    for node in (*steps, *(node for node in ordered if node.lane == _AROUND)):
        inputs = [known[id].column + 1 for id in node.inputs if id in known and id != node.id]
        if node.lane == _AROUND:
            # It stands on nothing, but has its time.
            inputs += [each.column + 1 for each in steps if each.done <= node.started]
        node.column = max(inputs, default=0)
        while (node.row, node.column) in taken:
            node.column += 1
        taken.add((node.row, node.column))


def order(nodes: list[Node]) -> list[Node]:
    """Each after what it stands on; else as they came. What goes round in circles comes at last, as it came."""
    left = {node.id: node for node in nodes}
    found: list[Node] = []
    while ready := [
        node for node in left.values() if not any(id in left and id != node.id for id in node.inputs)
    ]:
        found += ready
        for node in ready:
            del left[node.id]
    return [*found, *left.values()]


def find_critical(nodes: list[Node]) -> set[str]:
    """The ids of the chain of steps that took longest together; empty if none took any time."""
    best: dict[str, int] = {}
    before: dict[str, str] = {}
    for node in order(nodes):
        sources = [id for id in node.inputs if id in best]
        longest = max(sources, key=lambda id: best[id], default="")
        best[node.id] = node.duration + (best[longest] if longest else 0)
        if longest and best[longest]:
            before[node.id] = longest
    last = max(best, key=lambda id: best[id], default="")
    found: set[str] = set()
    while last and best[last] and last not in found:
        found.add(last)
        last = before.get(last, "")
    return found


def _head(nodes: list[Node], hot: set[str]) -> list[str]:
    began = min((node.started for node in nodes), default=0)
    ended = max((node.done for node in nodes), default=0)
    steps = [node for node in nodes if node.lane != _AROUND]
    hits = sum(node.cached for node in steps)
    critical = sum(node.duration for node in nodes if node.id in hot)
    failed = any(node.error and node.error != "canceled" for node in nodes)
    words = f"{len(steps)} steps, {hits} from the cache, {format_time(max(ended - began, 0))} in all"
    words += f", {format_time(critical)} on the longest way" if hot else ""
    title = "Build that failed" if failed else "Build"
    shown = [("made", "made"), ("hit", "from the cache"), ("bad", "failed"), ("off", "canceled")]
    parts = [_text(16, 28, title, "head"), _text(16, 50, words, "dim")]
    for index, (kind, word) in enumerate(shown):
        x = 400 + index * 120
        parts.append(f'<rect class="step {kind}" x="{x}" y="16" width="14" height="14" rx="3"/>')
        parts.append(_text(x + 20, 28, word, "dim"))
    return parts


def _lanes(nodes: list[Node]) -> list[str]:
    rows = {node.row: node.lane for node in nodes}
    return [
        _text(16, _TOP + row * (_HEIGHT + _GAP_Y) + _HEIGHT // 2 + 4, cut(lane, _LABEL_CHARS), "lane")
        for row, lane in sorted(rows.items())
    ]


def _edge(source: Node, node: Node, *, is_hot: bool) -> str:
    x1, y1 = source.place
    x2, y2 = node.place
    x1, y1, y2 = x1 + _WIDTH, y1 + _HEIGHT // 2, y2 + _HEIGHT // 2
    bend = max((x2 - x1) // 2, _GAP_X // 2)
    kind = "edge hot" if is_hot else "edge"
    return f'<path class="{kind}" d="M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"/>'


def _box(node: Node, longest: int, *, is_hot: bool) -> str:
    x, y = node.place
    if node.error:
        kind, word = ("off", "canceled") if node.error == "canceled" else ("bad", "failed")
    elif node.cached:
        kind, word = "hit", "from the cache"
    else:
        kind, word = ("made", format_time(node.duration)) if node.done else ("off", "did not end")
    text = split_name(node.name)[1]
    about = [node.name, f"failed: {node.error}" if kind == "bad" else word]
    if kind == "bad":
        word = f"failed after {format_time(node.duration)}"
    bar = node.duration * (_WIDTH - 2) // longest if longest else 0
    parts = [
        "<g>",
        f"<title>{escape(chr(10).join(about))}</title>",
        f'<rect class="step {kind}{" hot" if is_hot else ""}" x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" '
        'rx="6"/>',
        _text(x + 10, y + 22, cut(text, _CHARS), ""),
        _text(x + 10, y + 41, word, "dim"),
    ]
    if bar:
        parts.append(f'<rect class="bar" x="{x + 1}" y="{y + _HEIGHT - 5}" width="{bar}" height="4" rx="2"/>')
    return "".join([*parts, "</g>"])


def _text(x: int, y: int, text: str, kind: str) -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{style}>{escape(text)}</text>'


def escape(text: str) -> str:
    """Text as XML 1.0 may hold it, in an element."""
    text = "".join(char if char == "\n" or char.isprintable() else "\ufffd" for char in text)
    for char, name in (("&", "amp"), ("<", "lt"), (">", "gt"), ('"', "quot"), ("'", "#39")):
        text = text.replace(char, f"&{name};")
    return text


def cut(text: str, length: int) -> str:
    """At most so many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def format_time(nanoseconds: int) -> str:
    """``0.12 s``, ``12.3 s``, ``2 min 5 s``."""
    spent = nanoseconds * NANOSECOND
    if spent >= 60:
        return f"{int(spent) // 60} min {int(spent) % 60} s"
    return f"{spent:.1f} s" if spent >= 10 else f"{spent:.2f} s"
