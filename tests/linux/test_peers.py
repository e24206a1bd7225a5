"""Descriptors of the process at the other end of a socket, and what is below them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cais.linux.peers import open_beneath, open_peer, take_descriptor


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection of this process with itself: the server's end, the client's end."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client.connect(str(tmp_path / "s"))
        server, _ = listener.accept()
        with server:
            yield server, client


@pytest.mark.kernel
def test_a_descriptor_of_the_peer_is_taken_by_its_number(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """It is another one for the same file, and does not survive an exec."""
    (tmp_path / "f").write_text("x")
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    peer = open_peer(pair[0].fileno())
    taken = take_descriptor(peer, fd)
    assert taken != fd and os.path.sameopenfile(taken, fd) and not os.get_inheritable(taken)
    for wrong in (99_999, -1):
        with pytest.raises(OSError, match="descriptor"):
            take_descriptor(peer, wrong)
    for each in (fd, peer, taken):
        os.close(each)


@pytest.mark.kernel
def test_a_peer_that_has_gone_gives_nothing(tmp_path: Path) -> None:
    """Also if somebody else holds its end of the connection by then."""
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")]) as process:
            server, _ = listener.accept()
            with server:
                peer = open_peer(server.fileno())
                server.sendall(b"x")
                process.wait(20)
                with pytest.raises(ProcessLookupError):
                    take_descriptor(peer, 0)
                os.close(peer)


def test_other_sockets_have_no_peer() -> None:
    """The engine says so, and the client sends a tar."""
    with socket.socket() as sock, pytest.raises(OSError, match="not a unix socket"):
        open_peer(sock.fileno())


@pytest.mark.parametrize(
    "path", ["..", "../x", "/etc/passwd", "out", "out/x", "in", "a/../..", "proc/self/root"]
)
def test_nothing_leads_out(path: str, tmp_path: Path) -> None:
    """No dots, no link of any kind, nothing absolute."""
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "f").write_text("mine")
    (tmp_path / "x").write_text("theirs")
    (folder / "out").symlink_to("..")
    (folder / "in").symlink_to("f")
    fd = os.open(folder, os.O_RDONLY)
    with pytest.raises(OSError):
        open_beneath(fd, path.encode())
    found = open_beneath(fd, b"a/../f")
    assert os.read(found, 10) == b"mine" and not os.get_inheritable(found)
    os.close(found)
    os.close(fd)
