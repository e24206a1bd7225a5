"""An attached container, from the request that hijacks the connection to the last byte."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure, Refused, Unreachable
from cais.cli.pump import Output, Pump
from cais.cli.session import is_terminal
from cais.cli.terminal import WINDOW_CHANGED, KeyWatch, RawMode, SignalPipe, get_size, parse_detach_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from signal import SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2
    from typing import Any

    from cais.cli.http import Connection, Response
    from cais.cli.session import Session
else:  # `signal` imports `enum`, which costs 3 ms
    from _signal import SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2

PROXIED: dict[int, str] = {
    SIGALRM: "ALRM",
    SIGCONT: "CONT",
    SIGHUP: "HUP",
    SIGINT: "INT",
    SIGQUIT: "QUIT",
    SIGTERM: "TERM",
    SIGUSR1: "USR1",
    SIGUSR2: "USR2",
}
"""Signals that are passed on to the container instead of ending this program."""

FATAL = (SIGHUP, SIGTERM)
"""In raw mode these must give the terminal back before they end the program."""

UPGRADE = (("Connection", "Upgrade"), ("Upgrade", "tcp"))
DEFAULT_KEYS = "ctrl-p,ctrl-q"


class Attachment:
    """A hijacked connection, not pumped yet: attach first, start then, so that no output is missed."""

    __slots__ = ("connection", "first", "multiplexed")

    def __init__(self, connection: Connection, target: str, body: Any = None, *, tty: bool) -> None:
        self.connection = connection
        response = connection.send("POST", target, body, UPGRADE)
        self.multiplexed = not tty
        self.first = b"" if response.status == 101 else self._unframed(response)

    def _unframed(self, response: Response) -> bytes:
        """An engine that does not speak of an upgrade answers 200; everything after the head is the stream."""
        if response.status != 200:
            raise Failure(f"unable to upgrade to tcp, received {response.status}")
        return b""


class Streams:
    """How this process's streams take part: set before the container starts, used by ``pump``."""

    __slots__ = ("keys", "proxy", "session", "stdin", "tty")

    def __init__(self, session: Session, *, stdin: bool, tty: bool, proxy: bool, keys: str = "") -> None:
        """Raises Failure when a terminal is wanted and stdin is none."""
        if tty and stdin and not is_terminal(0):
            raise Failure("the input device is not a TTY")
        self.session = session
        self.stdin = stdin
        self.tty = tty
        self.proxy = proxy and not tty
        try:
            self.keys = parse_detach_keys(keys or DEFAULT_KEYS)
        except ValueError as error:
            raise Failure(f"invalid detach keys: {error}", 1) from None

    def signals(self) -> SignalPipe:
        """Catch from now on what the container shall get (or what would leave the terminal raw)."""
        caught: Iterable[int] = PROXIED if self.proxy else (*FATAL, WINDOW_CHANGED) if self.tty else ()
        return SignalPipe(caught)

    def pump(self, attachment: Attachment, signals: SignalPipe, target: str) -> bool:
        """Move bytes to the end; True if the user detached. ``target`` is the path to resize and kill at."""
        output = Output(multiplexed=attachment.multiplexed)

        def on_signal(number: int) -> None:
            if number == WINDOW_CHANGED:
                resize(self.session, target)
            elif self.proxy and number in PROXIED:
                forward(self.session, target, PROXIED[number])
            elif number in FATAL:
                raise Failure("", 128 + number)

        pump = Pump(
            attachment.connection.sock,
            output,
            stdin=self.stdin,
            keys=KeyWatch(self.keys) if self.tty else None,
            signals=signals,
            on_signal=on_signal,
        )
        first = attachment.first + attachment.connection.take_rest()
        if not (self.tty and self.stdin):
            return pump.run(first)
        with RawMode(0):
            return pump.run(first)


def resize(session: Session, target: str) -> None:
    """Tell the engine the terminal's size. An engine that refuses (the process is gone) is no reason to end."""
    rows, columns = get_size()
    if not rows:
        return
    try:
        session.call("POST", f"{target}/resize", (("h", rows), ("w", columns)))
    except (Refused, Unreachable):
        return


def forward(session: Session, target: str, name: str) -> None:
    """Pass a signal on; a container that has just ended cannot take it, and that is all right."""
    try:
        session.call("POST", f"{target}/kill", (("signal", name),))
    except Refused as error:
        if error.status not in (404, 409):
            sys.stderr.write(f"{error}\n")
