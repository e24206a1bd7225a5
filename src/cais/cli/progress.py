"""Progress of long acts: lines that move on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time

from cais.cli.failure import Failure
from cais.cli.session import is_terminal
from cais.cli.units import format_size
from cais.cli.wirejson import JsonLines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

BAR = 30
SETTLE = 0.5
"""Seconds after which a rate says something."""


class Progress:
    """Shows Docker's JSON progress messages: ``stream``, ``status`` with ``id`` and ``progressDetail``, ``error``.

    ``number``: 1 for stdout, 2 for stderr.
    """

    __slots__ = ("_begun", "_lines", "_live", "_out", "quiet")

    def __init__(self, *, quiet: bool = False, number: int = 1) -> None:
        self._out = sys.stdout if number == 1 else sys.stderr
        self._live = is_terminal(number)
        self._lines: list[str] = []
        self._begun: dict[tuple[str, str], tuple[float, int]] = {}
        """By thing and what is done with it: when that began, and how many bytes there were then."""
        self.quiet = quiet

    def show(self, message: dict[str, Any]) -> None:
        """Show one message. Raises Failure for an error message."""
        detail = message.get("errorDetail") or {}
        if error := message.get("error") or detail.get("message"):
            raise Failure(str(error), int(detail.get("code") or 1))
        if self.quiet:
            return
        if text := message.get("stream"):
            self._out.write(text)
        elif (identity := message.get("id")) and "progressDetail" in message:
            self._show_item(identity, message)
        elif identity:
            self._out.write(f"{identity}: {message.get('status', '')}\n")
        elif status := message.get("status"):
            self._out.write(f"{status}\n")
        if self._live:
            self._out.flush()

    def _show_item(self, identity: str, message: dict[str, Any]) -> None:
        """One of several things that go on at once; on a terminal each has a line of its own."""
        text = f"{identity}: {message.get('status', '')}"
        if not self._live:
            if not message.get("progressDetail"):
                self._out.write(f"{text}\n")
            return
        detail = message.get("progressDetail") or {}
        text += format_bar(detail) + self._pace(identity, message.get("status", ""), detail)
        if identity not in self._lines:
            self._lines.append(identity)
            self._out.write(f"{text}\n")
            return
        up = len(self._lines) - self._lines.index(identity)
        self._out.write(f"\x1b[{up}A\x1b[2K{text}\x1b[{up}B\r")

    def _pace(self, identity: str, status: str, detail: dict[str, Any]) -> str:
        """How fast it goes, since this came up first: what an earlier try had fetched came in no time."""
        current, total = detail.get("current") or 0, detail.get("total") or 0
        now = time.monotonic()
        since, had = self._begun.setdefault((identity, status), (now, current))
        return format_pace(current - had, total - current, now - since)

    def follow(self, pieces: Iterable[bytes]) -> None:
        """Show a stream of messages to its end. Raises Failure for an error message or one that is no JSON."""
        lines = JsonLines()
        try:
            for piece in pieces:
                for message in lines.feed(piece):
                    self.show(message)
            for message in lines.end():
                self.show(message)
        except ValueError as error:
            raise Failure(f"the engine's answer makes no sense: {error}") from None


def format_bar(detail: dict[str, Any]) -> str:
    """`` [=====>    ] 40%``, or nothing without numbers."""
    current, total = detail.get("current") or 0, detail.get("total") or 0
    if total <= 0:
        return ""
    share = min(current / total, 1.0)
    done = int(share * BAR)
    return f" [{'=' * done}{'>' if done < BAR else ''}{' ' * (BAR - done - 1)}] {share:.0%}"


def format_pace(done: int, left: int, seconds: float) -> str:
    """``  12.3MB/s  7s left`` after ``done`` bytes in so many seconds; nothing when it is too early, or over."""
    if seconds < SETTLE or done <= 0 or left <= 0:
        return ""
    rate = done / seconds
    return f"  {format_size(int(rate))}/s  {format_span(round(left / rate))} left"


def format_span(seconds: int) -> str:
    """``45s``, ``2m05s``, ``1h10m``."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
