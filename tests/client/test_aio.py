"""The asynchronous client against a real engine."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from cais import AsyncEngine, errors
from cais.client.aio import AsyncContainer
from cais.client.engine import Container, Engine

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
async def engine(host: str) -> AsyncIterator[AsyncEngine]:
    """The engine under test."""
    async with AsyncEngine(host) as found:
        yield found


@pytest.fixture
async def box(engine: AsyncEngine) -> AsyncIterator[AsyncContainer]:
    """A running container."""
    container = await engine.create("busybox", ["sh", "-c", "echo one; exec sleep 1000"])
    await container.start()
    yield container
    await container.remove(force=True)


async def test_run(engine: AsyncEngine) -> None:
    """A process object has streams and an exit code; input beyond every buffer comes back whole."""
    data = b"0123456789" * 300_000
    async with await engine.run("busybox", ["cat"], stdin=True, remove=True) as process:
        done = await process.communicate(data)
    assert (done.exit_code, done.stdout) == (0, data)


async def test_many_at_once(box: AsyncContainer) -> None:
    """Commands run side by side."""

    async def one(number: int) -> tuple[int, bytes]:
        async with await box.exec(["sh", "-c", f"echo {number}; exit {number}"]) as process:
            done = await process.communicate()
        return done.exit_code, done.stdout

    assert await asyncio.gather(*map(one, range(5))) == [(n, b"%d\n" % n) for n in range(5)]


async def test_both_streams_at_once(box: AsyncContainer) -> None:
    """Two tasks may read the two streams of one process."""
    async with await box.exec(["sh", "-c", "for i in 1 2 3; do echo o$i; echo e$i >&2; done"]) as process:
        out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
        assert (out, err) == (b"o1\no2\no3\n", b"e1\ne2\ne3\n") and await process.wait() == 0


async def test_lines_and_logs(box: AsyncContainer) -> None:
    """Output and logs are series of lines; following ends with the container."""
    async with await box.exec(["sh", "-c", "echo a; echo b"]) as process:
        assert [line async for line in process.stdout] == [b"a\n", b"b\n"]
    follower = box.logs(follow=True)
    assert await anext(follower) == b"one"
    await box.kill()
    assert [line async for line in follower] == [] and await box.wait() == 137


async def test_time_limit(box: AsyncContainer) -> None:
    """asyncio.timeout ends a wait, and leaves nothing open."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await box.wait()


async def test_errors(engine: AsyncEngine) -> None:
    """Refusals are errors of the tree."""
    with pytest.raises(errors.NotFound):
        await engine.container("no-such-container")
    with pytest.raises(errors.TaskFailed):
        await engine.run("busybox", ["no-such-program"], remove=True)


async def test_save_and_load(engine: AsyncEngine) -> None:
    """Archives stream both ways."""
    name = f"cais-test:aio{time.monotonic_ns()}"
    await engine.tag("busybox", name)
    pieces = [piece async for piece in engine.save(name)]
    assert await engine.load(pieces) == [f"Loaded image: {name}"]
    await engine.remove_image(name)


async def test_nobody_there() -> None:
    """No engine is Unavailable."""
    with pytest.raises(errors.Unavailable):
        await AsyncEngine("unix:///nonexistent").ping()


@pytest.mark.parametrize(("sync", "other"), [(Engine, AsyncEngine), (Container, AsyncContainer)])
def test_same_face(sync: type, other: type) -> None:
    """Both faces have the same methods."""
    names = {name for name in vars(sync) if not name.startswith("_")} - {"close"}
    assert names == {name for name in vars(other) if not name.startswith("_")}
