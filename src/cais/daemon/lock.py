"""One engine per folder: a lock that dies with its process, and the pid file that dockerd's scripts
expect."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cais.errors import Conflict


@contextmanager
def locked(folder: Path, purpose: str) -> Iterator[None]:
    """Hold ``folder`` for this process. Raises ``Conflict`` naming the process that holds it.

    The lock is flock(2)'s: it belongs to the open file, so a killed engine lets go of it at once, and no
    child has it (the descriptor is close-on-exec). The file itself stays, so that two engines can never lock
    two files of the same name.
    """
    path = folder / "engine.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            raise Conflict(f"{purpose} {folder} is in use by the engine with process id {owner}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


@contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """``path`` holds our process id while the block runs. Raises ``Conflict`` when it names another live
    process."""
    if path is None:
        yield
        return
    try:
        other = int(path.read_text().strip() or 0)
    except (FileNotFoundError, ValueError):
        other = 0
    if other and other != os.getpid() and _is_alive(other):
        raise Conflict(f"process with PID {other} is still running (pid file {path})")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(f"{os.getpid()}\n")
    temporary.rename(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    """A killed process stays in the table until its parent collects it, and is not alive (proc_pid_stat(5))."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")
