"""Running one of the machine's tools while reading what it says; never on the way of run, exec or build."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from cais.errors import Unavailable, Unsupported

T = TypeVar("T")

_CHUNK = 1 << 18
_GRACE = 5.0
"""Seconds a tool has to clean up after itself when it is no longer wanted."""


def find_tool(name: str, package: str) -> str:
    """The path of a tool. Raises Unsupported saying which Debian package has it."""
    path = shutil.which(name)
    if path is None:
        raise Unsupported(f"{name} is not installed: apt-get install {package}")
    return path


class Tool:
    """A running process; its standard output is ``read``, its standard error ``lines``."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self._name = name
        self._process = process
        self.complaints: list[str] = []

    async def read(self) -> AsyncIterator[bytes]:
        """Standard output in pieces; raises Unavailable at its end if the tool failed."""
        assert self._process.stdout
        while chunk := await self._process.stdout.read(_CHUNK):
            yield chunk
        await self.check()

    async def lines(self) -> AsyncIterator[str]:
        """Standard error line by line; the last ones are kept for the error message."""
        assert self._process.stderr
        while line := await self._process.stderr.readline():
            text = line.decode(errors="replace").strip()
            if text:
                self.complaints = [*self.complaints[-4:], text]
                yield text

    async def check(self) -> None:
        """Wait for the end. Raises Unavailable, with what the tool said last, unless it succeeded."""
        code = await self._process.wait()
        if code != 0:
            said = "; ".join(self.complaints) or "it said nothing"
            raise Unavailable(f"{self._name} failed with exit code {code}: {said}")


@asynccontextmanager
async def run_tool(
    command: Sequence[str], *, env: Mapping[str, str], cwd: str | None = None
) -> AsyncIterator[Tool]:
    """Start ``command`` for the time of the block; leaving early ends it and all it started."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(env),
        cwd=cwd,
        start_new_session=True,
    )
    try:
        yield Tool(os.path.basename(command[0]), process)
    finally:
        if process.returncode is None:
            await _stop(process)


async def follow(lines: AsyncIterator[str], work: asyncio.Task[T]) -> AsyncIterator[str]:
    """The lines until ``work`` is done; then raises its error, if any. Leaving early cancels it."""
    said: asyncio.Queue[str | None] = asyncio.Queue()

    async def listen() -> None:
        async for line in lines:
            said.put_nowait(line)

    listening = asyncio.create_task(listen())
    work.add_done_callback(lambda _: said.put_nowait(None))
    try:
        while (line := await said.get()) is not None:
            yield line
        work.result()
    finally:
        for task in (listening, work):
            task.cancel()
        await asyncio.wait([listening, work])


async def _stop(process: asyncio.subprocess.Process) -> None:
    # The whole group: tools like mmdebstrap have children that hold mounts and folders.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _GRACE)
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
