"""A unix socket that leads each connection to an SSH agent of the client's, for as long as a step runs."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from cais.build.request import Agents
from cais.errors import CaisError

MOST = 32
"""Connections at once; who comes later waits."""
LINGER = 5.0
"""Seconds for an agent to answer a program that has said its last word."""
_BACKLOG = 16
_PART = 64 << 10


@asynccontextmanager
async def relay(
    path: Path, id: str, agents: Agents, owner: tuple[int, int], mode: int
) -> AsyncIterator[None]:
    """Serve at ``path`` in the block; after it no connection is left. The socket is removed with its folder.

    ``owner``: uid and gid of the socket. Raises OSError.
    """
    listener = _listen(path, owner, mode)
    serving = asyncio.create_task(_serve(listener, id, agents), name=f"agent {id}")
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        listener.close()


def _listen(path: Path, owner: tuple[int, int], mode: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # By a descriptor: a socket's address has no room for a long path.
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.chown(path, *owner, follow_symlinks=False)
        path.chmod(mode)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener


async def _serve(listener: socket.socket, id: str, agents: Agents) -> None:
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(MOST)
    tasks: set[asyncio.Task[None]] = set()
    try:
        while True:
            await room.acquire()
            connection, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(_join(connection, id, agents))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _: room.release())
    finally:
        left = list(tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _join(connection: socket.socket, id: str, agents: Agents) -> None:
    """One connection. A client that has no agent, or has gone, ends it: the program in the step sees that."""
    with connection, suppress(CaisError, OSError):
        connection.setblocking(False)
        with await agents.connect(id) as agent:
            there = asyncio.create_task(_pass_on(connection, agent))
            back = asyncio.create_task(_pass_on(agent, connection))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
                # Without the agent nothing more can come; after the program's last word it may still answer.
                await asyncio.wait((back,), timeout=LINGER)
            finally:
                there.cancel()
                back.cancel()
                await asyncio.gather(there, back, return_exceptions=True)


async def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """All that comes, at the pace of who takes it; then the end."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while data := await loop.sock_recv(source, _PART):
            await loop.sock_sendall(target, data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
