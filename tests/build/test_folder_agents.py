"""SSH agents of a client, reached through its descriptors."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from cais.build.peeragents import PeerAgents, check_socket
from cais.errors import NotFound, Unavailable


async def test_an_agent_is_reached_whatever_its_path_is(tmp_path: Path) -> None:
    """Also when it has none any more; another name is not there, and one that has ended does not answer."""
    loop = asyncio.get_running_loop()
    path = tmp_path / "agent"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        fd = os.open(path, os.O_PATH)
        status = os.fstat(fd)
        check_socket(fd, status.st_dev, status.st_ino)
        path.unlink()
        agents = PeerAgents({"default": fd})
        assert await agents.has("default") and await agents.has("") and not await agents.has("other")
        with await agents.connect("default") as ours:
            theirs, _ = listener.accept()
            with theirs:
                theirs.sendall(b"hello")
                assert await loop.sock_recv(ours, 10) == b"hello"
        with pytest.raises(NotFound, match="--ssh other"):
            await agents.connect("other")
    with pytest.raises(Unavailable, match="does not answer"):
        await agents.connect("default")
    agents.close()
    agents.close()
    with pytest.raises(NotFound):
        await agents.connect("default")


def test_what_is_no_socket_is_refused(tmp_path: Path) -> None:
    """Behind a proxy the number is another program's."""
    fd = os.open(tmp_path, os.O_PATH)
    status = os.fstat(fd)
    with pytest.raises(OSError, match="not the agent's socket"):
        check_socket(fd, status.st_dev, status.st_ino)
    os.close(fd)
