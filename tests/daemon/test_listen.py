"""The doors: mode, owner, stale sockets, inherited sockets, certificates."""

import os
import socket
import stat
from pathlib import Path

import pytest

from cais.config import Config
from cais.daemon.listen import find_group, open_doors
from cais.daemon.notify import notify
from cais.errors import Conflict, Invalid


def test_unix_socket(tmp_path: Path) -> None:
    """0660 and root's when the group is absent; the folder is made; the path goes when the door is closed."""
    path = tmp_path / "a" / "b.sock"
    (door,) = open_doors(Config(hosts=(f"unix://{path}",)), {})
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o660
    assert (found.st_uid, found.st_gid) == (os.getuid(), find_group("cais"))
    door.close()
    assert os.listdir(path.parent) == []


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed engine left is no obstacle, a live one is."""
    path = tmp_path / "s"
    config = Config(hosts=(f"unix://{path}",))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    (door,) = open_doors(config, {})
    with pytest.raises(Conflict, match="in use by another process"):
        open_doors(config, {})
    assert path.exists()
    door.close()


def test_successor_keeps_its_socket(tmp_path: Path) -> None:
    """Closing a door whose path was taken over removes nothing."""
    path = tmp_path / "s"
    (door,) = open_doors(Config(hosts=(f"unix://{path}",)), {})
    path.unlink()
    path.touch()
    door.close()
    assert path.exists()


def test_foreign_file_is_left_alone(tmp_path: Path) -> None:
    """A file of somebody else at the path is not overwritten."""
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(Conflict, match="not a socket"):
        open_doors(Config(hosts=(f"unix://{path}",)), {})
    assert path.read_text() == "mine"


def test_all_or_none(tmp_path: Path) -> None:
    """When one address is wrong the others are closed again."""
    hosts = (f"unix://{tmp_path}/a", f"unix://{tmp_path}/{'x' * 200}")
    with pytest.raises(Invalid, match="cannot listen"):
        open_doors(Config(hosts=hosts), {})
    assert os.listdir(tmp_path) == []


def test_unknown_group(tmp_path: Path) -> None:
    """A group that was asked for must exist."""
    with pytest.raises(Invalid, match="group no-such-group not found"):
        open_doors(Config(hosts=(f"unix://{tmp_path}/s",), group="no-such-group"), {})


def test_no_inherited_sockets() -> None:
    """fd:// without a service manager says what is missing."""
    with pytest.raises(Invalid, match="no sockets found via socket activation"):
        open_doors(Config(hosts=("fd://",)), {"LISTEN_PID": "1", "LISTEN_FDS": "1"})


def test_notify(tmp_path: Path) -> None:
    """The state arrives as one datagram; without a socket nothing happens."""
    path = str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        notify("READY=1", {"NOTIFY_SOCKET": path})
        assert manager.recv(100) == b"READY=1"
    notify("READY=1", {})
    notify("READY=1", {"NOTIFY_SOCKET": path})
