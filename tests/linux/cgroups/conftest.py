"""Groups of this test run's own, and processes inside them; all are gone afterwards."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cais.linux.cgroups.base import Cgroups
from cais.linux.cgroups.detect import detect

Spawn = Callable[..., int]


@pytest.fixture
def cgroups() -> Cgroups:
    """What this machine has."""
    return detect()


@pytest.fixture
def root(cgroups: Cgroups) -> Iterator[str]:
    """A path of our own; everything below it is killed and removed at the end."""
    path = f"cais-test-{os.getpid()}"
    yield path
    cgroups.kill(path)
    cgroups.remove(path, timeout=5)


@pytest.fixture
def spawn(cgroups: Cgroups) -> Iterator[Spawn]:
    """``spawn(path, act)`` forks a process that joins the group and returns ``act()`` as its exit code;
    it has joined when spawn returns. Without ``act`` it waits for a signal."""
    pids: list[int] = []

    def start(path: str, act: Callable[[], Any] = signal.pause) -> int:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                cgroups.join(path, entered=False)
                os.write(writer, b"in")
                os.close(writer)
                code = int(act() or 0)
            finally:
                os._exit(code)
        pids.append(pid)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            assert pipe.read(2) == b"in"
        return pid

    yield start
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def wait_until(condition: Callable[[], Any], timeout: float = 10) -> None:
    """Return once the condition holds; fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.001)


@pytest.fixture
def until() -> Callable[..., None]:
    """``until(condition)`` waits for it."""
    return wait_until
