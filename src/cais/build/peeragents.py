"""SSH agents whose sockets a client has open: reached through its descriptors, whatever names they have there."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Mapping

from cais.errors import NotFound, Unavailable


class PeerAgents:
    """``request.Agents`` over descriptors that were taken from the client; they are closed with this."""

    def __init__(self, sockets: Mapping[str, int]) -> None:
        self._sockets = dict(sockets)

    async def has(self, id: str) -> bool:
        """Agents.has."""
        return (id or "default") in self._sockets

    async def connect(self, id: str) -> socket.socket:
        """Agents.connect."""
        fd = self._sockets.get(id or "default", -1)
        if fd < 0:
            raise NotFound(
                f"no SSH agent {id or 'default'!r} is forwarded: build with --ssh {id or 'default'}"
            )
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        try:
            # The kernel follows the descriptor to the socket itself (unix(7): a path of a socket is what is named).
            await asyncio.get_running_loop().sock_connect(sock, f"/proc/self/fd/{fd}")
        except OSError as error:
            sock.close()
            raise Unavailable(
                f"the SSH agent {id or 'default'!r} does not answer: {error.strerror}"
            ) from None
        return sock

    def close(self) -> None:
        """Let go of the sockets. Idempotent."""
        for fd in self._sockets.values():
            os.close(fd)
        self._sockets.clear()


def check_socket(fd: int, device: int, inode: int) -> None:
    """Whether the descriptor is the socket that the client means. Raises OSError."""
    status = os.fstat(fd)
    if not stat.S_ISSOCK(status.st_mode) or (status.st_dev, status.st_ino) != (device, inode):
        raise OSError(errno.ESTALE, "the descriptor is not the agent's socket that the client means")
