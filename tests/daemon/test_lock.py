"""One engine per folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cais.daemon.lock import locked, pid_file
from cais.errors import Conflict

HOLD = """
import pathlib, sys
from cais.daemon.lock import locked
with locked(pathlib.Path(sys.argv[1]), "root folder"):"""


def test_second_is_refused(tmp_path: Path) -> None:
    """The message names the folder and the holder's process id."""
    with locked(tmp_path, "root folder"):
        code = f"{HOLD} pass"
        run = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
        )
    assert f"root folder {tmp_path} is in use by the engine with process id {os.getpid()}" in run.stderr


def test_dies_with_its_process(tmp_path: Path) -> None:
    """A killed engine leaves no lock behind."""
    code = f"{HOLD} import os; os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 9
    with locked(tmp_path, "root folder"):
        assert (tmp_path / "engine.lock").read_text() == f"{os.getpid()}\n"


def test_children_do_not_hold_it(tmp_path: Path) -> None:
    """A process we started (the keeper outlives us) does not keep the folder locked."""
    with locked(tmp_path, "x"):
        command = [sys.executable, "-c", "print(flush=True); input()"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False)
        assert child.stdout is not None
        child.stdout.read(1)
    try:
        with locked(tmp_path, "x"):
            pass
    finally:
        child.communicate(b"\n")


def test_pid_file(tmp_path: Path) -> None:
    """It holds our id and goes with us; one of a process that has ended is replaced."""
    path = tmp_path / "sub" / "x.pid"
    path.parent.mkdir()
    path.write_text("999999999\n")
    with pid_file(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_pid_file_of_the_living(tmp_path: Path) -> None:
    """dockerd's words when the process is still there."""
    path = tmp_path / "x.pid"
    path.write_text(str(os.getppid()))
    with pytest.raises(Conflict, match=f"process with PID {os.getppid()} is still running"), pid_file(path):
        pass
    assert path.exists()
