"""Pictures as numbers: where the bars of a plot and the crates of an image stand. Templates draw them as SVG. Pure."""

from collections.abc import Sequence

import msgspec

from cais.hub.images import Layer
from cais.hub.pages.words import format_day

WIDTH, HEIGHT = 480, 180
LEFT, BOTTOM, TOP = 40, 24, 10
STRIP = 1000
"""Units that an image's crates have together."""
LEAST = 6.0
WEEK = 7


class Bar(msgspec.Struct, frozen=True):
    """One column of the plot."""

    x: float
    y: float
    width: float
    height: float
    label: str
    count: int


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """Pulls over time. ``ticks``: height and number of the lines behind; ``marks``: place and day below."""

    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, int], ...]
    marks: tuple[tuple[float, str], ...]
    total: int
    unit: str


class Crate(msgspec.Struct, frozen=True):
    """A layer in the picture."""

    x: float
    width: float
    layer: Layer
    colour: int
    share: float


def plot_pulls(days: Sequence[tuple[int, int]]) -> Plot:
    """A bar a day; of more than a hundred days, a bar a week."""
    weekly = len(days) > 100
    groups = [days[at : at + WEEK] for at in range(len(days) % WEEK, len(days), WEEK)] if weekly else []
    series = [(group[0][0], sum(n for _, n in group)) for group in groups] if weekly else list(days)
    top = nice_top(max((count for _, count in series), default=0))
    room, height = WIDTH - LEFT, HEIGHT - BOTTOM - TOP
    step = room / max(len(series), 1)
    bars = []
    for index, (day, count) in enumerate(series):
        tall = count / top * height
        name = f"week of {format_day(day)}" if weekly else format_day(day)
        bars.append(Bar(LEFT + index * step + step * 0.1, TOP + height - tall, step * 0.8, tall, name, count))
    ticks = tuple((TOP + height - height * part / 2, top * part // 2) for part in range(3))
    places = range(0, len(series), max(1, len(series) // 4)) if series else ()
    marks = tuple((bars[at].x, format_day(series[at][0])[:-5]) for at in places if bars[at].x < WIDTH - 45)
    total = sum(count for _, count in series)
    return Plot(bars=tuple(bars), ticks=ticks, marks=marks, total=total, unit="week" if weekly else "day")


def nice_top(most: int) -> int:
    """An even number that reads well, not below ``most``."""
    scale = 1
    while True:
        for step in (2, 4, 6, 10):
            if most <= step * scale:
                return step * scale
        scale *= 10


def place_crates(layers: Sequence[Layer], colours: int = 6) -> tuple[Crate, ...]:
    """Side by side, as wide as they are large; the smallest are a little wider than that, to be seen."""
    total = sum(layer.size for layer in layers)
    if not layers:
        return ()
    least = min(LEAST, STRIP / len(layers) / 2)
    rest = STRIP - least * len(layers)
    crates, x = [], 0.0
    for layer in layers:
        share = layer.size / total if total else 1 / len(layers)
        width = least + rest * share
        crates.append(Crate(round(x, 2), round(width, 2), layer, (layer.number - 1) % colours, share))
        x += width
    return tuple(crates)
