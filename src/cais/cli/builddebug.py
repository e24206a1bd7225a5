"""`cais build --debug`: a shell in the step that failed, and then on with the build's end."""

from __future__ import annotations

import sys

from cais.cli.failure import Refused, wrong_option
from cais.cli.session import is_terminal
from cais.cli.streams import Attachment, Streams, resize
from cais.cli.terminal import get_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.buildshow import View
    from cais.cli.session import Session


_HINT = "This is the failed step, with its files, mounts and variables: exit to end the build."


class Debugging:
    """A view that opens a shell when a step failed and waits; all else is shown by another."""

    __slots__ = ("_command", "_session", "_tty", "_view")

    def __init__(self, view: View, session: Session, command: str) -> None:
        """``command``: what to run instead of a shell for people. Raises Failure where there is no terminal for one."""
        self._tty = not command
        if self._tty and not (is_terminal(0) and is_terminal(1)):
            raise wrong_option("--debug needs a terminal: give it a command to run instead: --debug=COMMAND")
        self._view = view
        self._session = session
        self._command = command

    def show(self, event: dict[str, Any]) -> None:
        """View.show."""
        if event["type"] != "held":
            self._view.show(event)
            return
        # The engine says so once somebody has looked; people want to see it before.
        done = {
            "type": "done",
            "id": event["id"],
            "at": event["at"],
            "cached": False,
            "error": event["message"],
        }
        self._view.show(done)
        self._view.end()
        if self._tty:
            sys.stderr.write(f"\n{_HINT}\n")
            sys.stderr.flush()
        try:
            self._open(event["token"])
        except Refused as refused:
            sys.stderr.write(f"no shell: {refused}\n")

    def _open(self, token: str) -> None:
        target = f"/cais/build/{token}"
        rows, columns = get_size() if self._tty else (0, 0)
        body = {
            "command": self._command,
            "tty": self._tty,
            "stdin": self._tty,
            "size": [rows or 0, columns or 0],
        }
        streams = Streams(self._session, stdin=self._tty, tty=self._tty, proxy=False)
        signals = streams.signals()
        try:
            attachment = Attachment(self._session.connect(), f"{target}/attach", body, tty=self._tty)
            self._session.call("POST", f"{target}/start")
            if self._tty:
                resize(self._session, target)
            streams.pump(attachment, signals, target)
        finally:
            signals.close()

    def end(self) -> None:
        """View.end."""
        self._view.end()
