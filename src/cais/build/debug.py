"""Steps that failed and are kept for a while, so that somebody can look around in them.

Until it is let go, the failed RUN stands where it stood: its container has ended, its files and mounts are there. A
shell is the same container once more, with another program. Nothing of this is on a record: it ends with the build.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cais.build.dockerfile.evaluate import RunAct
from cais.build.run import Box, Program, Runner
from cais.errors import Conflict, NotFound

PATIENCE = 60.0
"""Seconds in which somebody has to begin."""
LONGEST = 4 * 3600.0
"""Seconds that a shell may stay open."""
_SHELL = "/bin/sh"


@dataclass(frozen=True, slots=True)
class StepHeld:
    """A step failed, and waits under ``token`` for somebody to look."""

    token: str
    key: str
    message: str
    at_ns: int


@dataclass(slots=True)
class Held:
    """One failed step."""

    runner: Runner
    box: Box
    act: RunAct
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def open(
        self, command: str, *, tty: bool, stdin: bool, size: tuple[int, int]
    ) -> AsyncIterator[socket.socket]:
        """Have a shell, or ``command`` in one, for the time of the block; then the step is let go. The socket is its
        streams', for the caller to close; it runs once it is started. Raises NotFound, Conflict if it was opened
        before."""
        if self.begun.is_set():
            raise Conflict("somebody has looked at this step already")
        self.begun.set()
        try:
            args = shell_of(self.act, command)
            async with self.runner.resume(self.box, Program(args, tty, stdin, size)) as stream:
                yield stream
        finally:
            self.over.set()

    async def start(self) -> None:
        """Start what was opened. Raises Conflict if nothing was, NotFound, NotModified, TaskFailed."""
        if not self.begun.is_set():
            raise Conflict("attach to the step first")
        await self.runner.start(self.box)


def shell_of(act: RunAct, command: str) -> tuple[str, ...]:
    """The shell that the step ran in, with ``command`` if there is one."""
    is_shell = len(act.args) == 3 and act.args[1] == "-c" and act.args[0].startswith("/")
    shell = act.args[0] if is_shell else _SHELL
    return (shell, "-c", command) if command else (shell,)


class Holds:
    """The steps of all builds that wait, by their tokens, which nobody can guess."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    def find(self, token: str) -> Held:
        """Raises NotFound."""
        held = self._held.get(token)
        if held is None:
            raise NotFound("no failed step waits under this name: its build is over")
        return held

    def add(self, held: Held) -> str:
        """Its token."""
        token = secrets.token_hex(16)
        self._held[token] = held
        return token

    def remove(self, token: str) -> None:
        """Idempotent."""
        self._held.pop(token, None)


@dataclass(slots=True)
class Debugger:
    """One build's: keeps the first step that fails. ``tell`` is told when it waits."""

    holds: Holds
    tell: Callable[[StepHeld], None]
    patience: float = PATIENCE
    _was_used: bool = False

    async def hold(self, key: str, held: Held, message: str) -> None:
        """Wait until somebody has looked, or nobody came. Cancelling ends it."""
        if self._was_used:
            return
        self._was_used = True
        token = self.holds.add(held)
        try:
            self.tell(StepHeld(token, key, message, time.time_ns()))
            await _wait(held.begun, self.patience)
            if held.begun.is_set():
                await _wait(held.over, LONGEST)
        finally:
            self.holds.remove(token)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((waiting,), timeout=seconds)
    finally:
        waiting.cancel()
