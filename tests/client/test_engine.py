"""The synchronous client against a real engine."""

import time
from collections.abc import Iterator

import pytest

from cais import Engine, errors
from cais.client.engine import Container

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def engine(host: str) -> Iterator[Engine]:
    """The engine under test."""
    with Engine(host) as found:
        yield found


@pytest.fixture
def box(engine: Engine) -> Iterator[Container]:
    """A running container."""
    container = engine.create(
        "busybox", ["sh", "-c", "echo one; echo two >&2; exec sleep 1000"], labels={"t": "1"}
    )
    container.start()
    yield container
    container.remove(force=True, volumes=True)


def test_run(engine: Engine) -> None:
    """A process object has streams and an exit code."""
    with engine.run("busybox", ["sh", "-c", "cat; echo e >&2; exit 3"], stdin=True, remove=True) as process:
        done = process.communicate(b"hello")
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"hello", b"e\n")


def test_talk(engine: Engine) -> None:
    """Streams can be used line by line, as a conversation."""
    with engine.run("busybox", ["cat"], stdin=True, remove=True) as process:
        assert process.stdin is not None
        for word in (b"a\n", b"b\n"):
            process.stdin.write(word)
            assert process.stdout.readline() == word
        process.stdin.close()
        assert process.stdout.read() == b"" and process.wait() == 0


def test_much_input(box: Container) -> None:
    """Input beyond every buffer comes back whole."""
    data = b"0123456789" * 500_000
    assert box.exec(["cat"], stdin=True).communicate(data).stdout == data


def test_exec(box: Container) -> None:
    """A command has its own environment and code."""
    done = box.exec(["sh", "-c", "echo $A; pwd; exit 4"], env={"A": "b"}, workdir="/tmp").communicate()
    assert (done.exit_code, done.stdout) == (4, b"b\n/tmp\n")


def test_iteration(box: Container) -> None:
    """Output is a series of lines; the code follows."""
    with box.exec(["sh", "-c", "echo a; echo b; exit 1"]) as process:
        assert list(process.stdout) == [b"a\n", b"b\n"]
        assert process.wait() == 1 and process.exit_code == 1


def test_life(engine: Engine, box: Container) -> None:
    """Pause, unpause, rename, stop, wait, inspect."""
    name = f"renamed-{time.monotonic_ns()}"
    box.pause()
    assert box.inspect().state.status == "paused"
    box.unpause()
    box.rename(name)
    assert engine.container(name).id == box.id
    assert [c.name for c in engine.containers(filters={"name": name, "label": "t=1"})] == [name]
    box.stop(timeout=0)
    assert box.wait(timeout=10) == 137 and box.inspect().state.exit_code == 137


def test_logs(box: Container) -> None:
    """Lines of both streams; following ends with the container."""
    assert sorted(line for line in wait_for_logs(box)) == [b"one", b"two"]
    follower = box.logs(follow=True)
    assert len([next(follower), next(follower)]) == 2
    box.kill()
    assert list(follower) == []


def wait_for_logs(box: Container) -> list[bytes]:
    end = time.monotonic() + 10
    while len(lines := list(box.logs(tail=10))) < 2:
        assert time.monotonic() < end
    return lines


def test_errors(engine: Engine, box: Container) -> None:
    """Refusals are errors of the tree."""
    name = box.inspect().name.lstrip("/")
    with pytest.raises(errors.NotFound):
        engine.create("no-such-image-here")
    with pytest.raises(errors.AlreadyExists):
        engine.create("busybox", ["true"], name=name)
    with pytest.raises(errors.Conflict):
        box.remove()
    with pytest.raises(errors.TaskFailed) as failed:
        engine.run("busybox", ["no-such-program"], remove=True)
    assert failed.value.exit_code == 127


def test_timeouts(engine: Engine, box: Container) -> None:
    """Waiting can be limited; the engine can be used afterwards."""
    with pytest.raises(TimeoutError):
        box.wait(timeout=0.05)
    process = box.exec(["sleep", "1000"])
    with pytest.raises(TimeoutError):
        process.communicate(timeout=0.05)
    engine.ping()


def test_images(engine: Engine) -> None:
    """Tag, list, inspect, save, load, remove."""
    name = f"cais-test:{time.monotonic_ns()}"
    engine.tag("busybox", name)
    assert any(name in (image.repo_tags or ()) for image in engine.images())
    archive = b"".join(engine.save(name))
    engine.remove_image(name)
    with pytest.raises(errors.NotFound):
        engine.image(name)
    assert engine.load([archive[:1000], archive[1000:]]) == [f"Loaded image: {name}"]
    assert engine.image(name).id and engine.history(name)
    assert engine.remove_image(name)[0].untagged == name


def test_volumes(engine: Engine) -> None:
    """A volume outlives a container that used it."""
    volume = engine.create_volume(labels={"a": "b"})
    command = ["sh", "-c", "echo kept > /v/f"]
    with engine.run("busybox", command, volumes=[f"{volume.name}:/v"], remove=True) as process:
        assert process.wait() == 0
    with engine.run("busybox", ["cat", "/v/f"], volumes=[f"{volume.name}:/v"], remove=True) as process:
        assert process.communicate().stdout == b"kept\n"
    assert volume.name in [found.name for found in engine.volumes()]
    engine.remove_volume(volume.name)


def test_events(engine: Engine, box: Container) -> None:
    """Past events of a container, oldest first."""
    now = time.time()
    found = engine.events(since=f"{now - 60:.3f}", until=f"{now:.3f}", filters={"container": box.id})
    actions = [event.action for event in found]
    assert actions.index("create") < actions.index("start")


def test_predefined_networks(engine: Engine) -> None:
    """bridge, host and none are there."""
    assert {"bridge", "host", "none"} <= {network.name for network in engine.networks()}


def test_export(box: Container) -> None:
    """A root file system is a tar."""
    pieces = box.export()
    assert b"ustar" in next(pieces)[:512]
    pieces.close()  # type: ignore[attr-defined]


def test_nobody_there() -> None:
    """No engine is Unavailable."""
    with pytest.raises(errors.Unavailable, match="no engine answers at unix:///nonexistent"):
        Engine("unix:///nonexistent").ping()
