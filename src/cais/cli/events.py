"""`cais events`."""

from __future__ import annotations

import sys
from time import time

from cais.cli.failure import Failure
from cais.cli.filters import FILTER_ROW, FORMAT_ROW, format_filters
from cais.cli.flags import Command
from cais.cli.late import load
from cais.cli.times import format_nano, parse_since
from cais.cli.wirejson import JsonLines, format_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session


def events(session: Session, flags: Flags) -> int:
    """Print what happens in the engine, as it happens."""
    now = time()
    try:
        since, until = (
            parse_since(text, now) if text else "" for text in map(flags.text, ("since", "until"))
        )
    except ValueError as error:
        raise Failure(str(error)) from None
    query = (("since", since), ("until", until), ("filters", format_filters(flags.many("filter"))))
    show = _make_show(flags.text("format"))
    lines = JsonLines()
    for piece in session.send("GET", "/events", query).pieces():
        for event in lines.feed(piece):
            sys.stdout.write(f"{show(event)}\n")
        sys.stdout.flush()
    return 0


def _make_show(template: str) -> Callable[[Any], str]:
    if not template:
        return format_event
    if template == "json":
        return format_json
    render: Callable[[Any], str] = load("cais.cli.template:Template")(template, strict=False).render
    return render


def format_event(event: dict[str, Any]) -> str:
    """``time kind action id (key=value, …)``."""
    actor = event.get("Actor") or {}
    pairs = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    nano = event.get("timeNano") or event.get("time", 0) * 10**9
    text = f"{format_nano(nano)} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    return f"{text} ({pairs})" if pairs else text


EVENTS = Command(
    "events [OPTIONS]",
    "Print what happens in the engine",
    events,
    flags=(
        FILTER_ROW,
        FORMAT_ROW,
        ("since", "", "string", "Begin with past events: a time, or a duration ago"),
        ("until", "", "string", "End at a time"),
    ),
    most=0,
    example="cais events --filter type=container --since 10m",
)
