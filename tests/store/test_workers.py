"""The pool of worker processes: results, exceptions, deaths, idleness, cancellation."""

import asyncio
import contextlib
import importlib
import math
import operator
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType

import pytest

from cais.errors import Conflict, Unavailable
from cais.spec.digest import digest_bytes
from cais.store.layers.layers import unpack_layer
from cais.store.workers import Workers


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    """A pool of two."""
    pool = Workers(2)
    yield pool
    await pool.close()


WORK = """
import os, time
from pathlib import Path
from cais.errors import Conflict, TaskFailed

def raise_unpicklable():
    raise TaskFailed("message", 1)

def raise_conflict():
    raise Conflict("x")

def sleep_and_tell(seconds):
    time.sleep(seconds)
    return os.getpid()

def hold(mark):
    try:
        Path(mark).touch()
        time.sleep(60)
    finally:
        Path(mark).unlink()

def clear_up_slowly(mark):
    try:
        Path(mark).touch()
        time.sleep(60)
    finally:
        Path(mark + ".ending").touch()
        time.sleep(0.3)
        Path(mark).unlink()
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that the worker can import too, which test modules are not."""
    (tmp_path / "cais_test_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cais_test_work", raising=False)
    return importlib.import_module("cais_test_work")


async def wait_until(check: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 - what is waited for is in the kernel
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_function_runs_in_another_process(workers: Workers) -> None:
    """Arguments go out, the result comes back, and the process is used again."""
    pid = await workers.run(os.getpid)
    assert pid != os.getpid() and await workers.run(os.getpid) == pid
    assert await workers.run(operator.mul, 6, 7) == 42
    assert len(await workers.run(operator.mul, b"x", 5 << 20)) == 5 << 20


async def test_exceptions_come_back_as_themselves(workers: Workers) -> None:
    """Type and message; the worker lives on, unless files may be open in it that nobody wants any more."""
    pid = await workers.run(os.getpid)
    with pytest.raises(ValueError, match="math domain error"):
        await workers.run(math.sqrt, -1)
    assert await workers.run(os.getpid) == pid
    with pytest.raises(FileNotFoundError, match="/no/such/file"):
        await workers.run(os.stat, "/no/such/file")
    assert await workers.run(os.getpid) != pid


async def test_what_cannot_be_pickled_is_an_error_not_a_death(workers: Workers, work: ModuleType) -> None:
    """A result, or an exception with a constructor of its own, that does not survive the way back."""
    with pytest.raises(RuntimeError, match="cannot pickle"):
        await workers.run(threading.Lock)
    with pytest.raises(RuntimeError, match="TypeError"):
        await workers.run(work.raise_unpicklable)
    with pytest.raises(Conflict):
        await workers.run(work.raise_conflict)


async def test_no_more_than_count_run_at_once(workers: Workers, work: ModuleType) -> None:
    """Five pieces of work, two processes, nothing started before the first."""
    assert workers.pids() == []
    pids = await asyncio.gather(*(workers.run(work.sleep_and_tell, 0.05) for _ in range(5)))
    assert len(set(pids)) == len(workers.pids()) == 2


async def test_a_killed_worker_is_unavailable_and_replaced(workers: Workers) -> None:
    """In the middle of work, and while idle."""
    pid = await workers.run(os.getpid)
    task = asyncio.create_task(workers.run(time.sleep, 60))
    await wait_until(lambda: bool(workers.pids()))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="the worker for sleep died"):
        await task
    assert await workers.run(os.getpid) != pid
    await wait_until(lambda: not Path(f"/proc/{pid}").exists())


async def test_a_worker_can_be_had_ready(workers: Workers) -> None:
    """One is started before there is work, which it then gets; with one there, no more come."""
    workers.warm()
    workers.warm()
    (pid,) = workers.pids()
    assert await workers.run(os.getpid) == pid
    await workers.close()
    workers.warm()
    assert workers.pids() == []


async def test_idle_workers_end() -> None:
    """An engine at rest has none; the next work starts one anew."""
    pool = Workers(1, idle=0.05)
    pid = await pool.run(os.getpid)
    await wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert pool.pids() == []
    assert await pool.run(os.getpid) != pid
    await pool.close()


async def test_close_ends_and_reaps_all(workers: Workers, work: ModuleType) -> None:
    """Busy ones too; work after that is refused."""
    await asyncio.gather(workers.run(work.sleep_and_tell, 0.05), workers.run(work.sleep_and_tell, 0.05))
    pids = workers.pids()
    task = asyncio.create_task(workers.run(time.sleep, 60))
    await asyncio.sleep(0)
    await workers.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(Unavailable):
        await task
    with pytest.raises(Unavailable, match="closed"):
        await workers.run(os.getpid)


@pytest.mark.slow
async def test_the_worker_goes_when_its_engine_is_killed(tmp_path: Path) -> None:
    """Even in the middle of a long piece of work, because the socket closes."""
    code = (
        "import asyncio, os, time\n"
        "from cais.store.workers import Workers\n"
        "async def main():\n"
        "    pool = Workers(1)\n"
        "    print(await pool.run(os.getpid), flush=True)\n"
        "    await pool.run(time.sleep, 60)\n"
        "asyncio.run(main())\n"
    )
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(  # noqa: ASYNC220 - starting is quick, and nothing else runs
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    ) as engine:
        assert engine.stdout is not None
        pid = int(await asyncio.to_thread(engine.stdout.readline))
        engine.kill()
    await wait_until(lambda: not is_alive(pid))


async def test_cancelled_work_cleans_up(workers: Workers, tmp_path: Path, work: ModuleType) -> None:
    """The function's own finally blocks run before the process ends."""
    task = asyncio.create_task(workers.run(work.hold, str(tmp_path / "mark")))
    await wait_until((tmp_path / "mark").exists)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await wait_until(lambda: not (tmp_path / "mark").exists())


@pytest.mark.kernel
async def test_a_second_signal_does_not_break_off_the_clean_up(
    workers: Workers, tmp_path: Path, work: ModuleType
) -> None:
    """The engine ends a worker by a signal and by closing its socket, which is a signal too."""
    mark = tmp_path / "mark"
    task = asyncio.create_task(workers.run(work.clear_up_slowly, str(mark)))
    await wait_until(mark.exists)
    (pid,) = workers.pids()
    os.kill(pid, signal.SIGTERM)
    await wait_until((tmp_path / "mark.ending").exists)
    os.kill(pid, signal.SIGTERM)
    with pytest.raises(Unavailable):
        await task
    await wait_until(lambda: not mark.exists(), 5)


async def test_layers_unpack_in_it(workers: Workers, tmp_path: Path) -> None:
    """What it is for."""
    (tmp_path / "blob").write_bytes(bytes(1024))
    await workers.run(unpack_layer, tmp_path, tmp_path / "blob", digest_bytes(bytes(1024)))
    assert (tmp_path / "layers").is_dir()
