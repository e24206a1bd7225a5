"""Builds whose client goes away, whose engine is killed, or whose disk is full: nothing runs on, nothing is half-made,
and the same build comes out whole afterwards."""

import contextlib
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from harness.builds import (
    OpenBuild,
    cgroup_processes,
    check_clean,
    half_made,
    make_context,
    open_build,
    post_build,
)
from harness.live import LiveEngine, living_engine, load_busybox, wait_until

SOON = 1.0
"""Seconds in which steps have to end. Measured on two cores under eight busy processes: 0.06 at most, and 0.42 until
nothing is half-made."""
MANY = make_context(
    "FROM busybox\nCOPY . /c/\nRUN find /c | wc -l > /count\n",
    *((f"d{number // 100}/f{number % 100}", "file", f"{number}" * 40) for number in range(8_000)),
)
PACKED = make_context(
    "FROM busybox\nRUN dd if=/dev/urandom of=/r bs=1M count=8 2>/dev/null; n=0; while [ $n -lt 6 ]; do cat /r; "
    "n=$((n+1)); done > /big && mkdir /d && cd /d && seq 3000 | xargs touch && sha256sum < /big | wc -c > /ok\n"
)
FORKS = make_context(
    "FROM busybox\nRUN for n in 1 2 3; do (trap '' TERM INT HUP; setsid sleep 1000) & done; echo begun; sleep 1000\n"
)
STAGES = make_context(
    "FROM busybox AS a\nRUN echo begun; sleep 1000\nFROM busybox AS b\nRUN sleep 1001\n"
    "FROM busybox\nCOPY --from=a / /a\nCOPY --from=b / /b\n"
)


def temporaries(engine: LiveEngine) -> list[Path]:
    """Files and folders that a worker writes right now."""
    root = engine.folder / "root"
    return [*(root / "tmp").iterdir(), *(root / "content").glob(".tmp-*")]


def is_packing(engine: LiveEngine) -> bool:
    """Whether a worker is in the middle of a layer: some of its bytes are on the disk."""
    with contextlib.suppress(FileNotFoundError):
        return any(path.stat().st_size > 0 for path in temporaries(engine) if path.is_file())
    return False


@dataclass(frozen=True)
class Moment:
    """A build, and when to act: once ``told`` was told (if it is something) and ``reached`` holds."""

    name: str
    body: bytes
    told: bytes
    reached: Callable[[LiveEngine], object]
    sent: int | None = None
    succeeds: bool = True

    def wait(self, engine: LiveEngine, build: OpenBuild) -> None:
        """Until it has come."""
        if self.told:
            build.wait_for(self.told)
        wait_until(lambda: self.reached(engine))


MOMENTS = [
    Moment("RUN", FORKS, b"begun", lambda engine: len(cgroup_processes(engine)) >= 4, succeeds=False),
    Moment("two RUNs", STAGES, b"begun", lambda engine: len(cgroup_processes(engine)) >= 2, succeeds=False),
    Moment("COPY of many files", MANY, b"COPY", is_packing),
    Moment("packing", PACKED, b"Running in", is_packing),
    Moment(
        "the context",
        MANY,
        b"",
        lambda engine: any((engine.folder / "root/build/tmp").iterdir()),
        sent=4 << 20,
    ),
]
each_moment = pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name)


@each_moment
def test_a_client_that_goes_away_ends_its_build(engine: LiveEngine, moment: Moment) -> None:
    """No process, no file: whatever was under way."""
    with open_build(engine, moment.body, sent=moment.sent, nocache="1", t="gone") as build:
        moment.wait(engine, build)
    wait_until(lambda: not cgroup_processes(engine), SOON)
    wait_until(lambda: not half_made(engine), SOON)
    check_clean(engine)
    with contextlib.closing(engine.client()) as client, pytest.raises(docker.errors.ImageNotFound):
        client.images.get("gone")


def test_what_another_client_waits_for_goes_on(engine: LiveEngine) -> None:
    """Two builds share a step, one hangs up: the other gets its image."""
    body = make_context(
        "FROM busybox\nRUN --mount=type=cache,id=kills,target=/g echo begun; until [ -e /g/go ]; do usleep 9000; done\n"
    )
    gate = "FROM busybox\nRUN --mount=type=cache,id=kills,target=/g {0}\n"
    assert not post_build(engine, make_context(gate.format("rm -f /g/go")), nocache="1").error
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        leaving = first.enter_context(open_build(engine, body, t="shared"))
        leaving.wait_for(b"begun")
        staying = stack.enter_context(open_build(engine, body, t="shared"))
        staying.wait_for(b"begun")
        first.close()
        assert not post_build(engine, make_context(gate.format("touch /g/go")), nocache="1").error
        answer = staying.read_rest()
    assert not answer.error and "Successfully tagged shared:latest" in answer.text
    check_clean(engine)


def all_processes(engine: LiveEngine) -> list[object]:
    """Those in containers, and the engine's own."""
    return [*cgroup_processes(engine), *engine.processes()]


@each_moment
def test_a_killed_engine_leaves_nothing_and_builds_again(own_engine: LiveEngine, moment: Moment) -> None:
    """kill -9: the next engine starts, its check is clean, the same build comes out whole."""
    with open_build(own_engine, moment.body, sent=moment.sent, t="again") as build:
        moment.wait(own_engine, build)
        own_engine.stop(9)
    own_engine.start()
    check_clean(own_engine)
    with contextlib.closing(own_engine.client()) as client:
        assert [image.tags for image in client.images.list()] == [["busybox:latest"]]
        if moment.succeeds:
            answer = post_build(own_engine, moment.body, t="again")
            assert not answer.error, answer.error
            assert client.containers.run(
                "again", ["cat", "/count" if moment.body is MANY else "/ok"], remove=True
            )
        check_clean(own_engine)


def test_an_engine_that_is_stopped_ends_its_builds(own_engine: LiveEngine) -> None:
    """In an orderly way: containers live on over a restart, steps of builds do not."""
    with open_build(own_engine, FORKS, t="stopped") as build:
        build.wait_for(b"begun")
        wait_until(lambda: len(cgroup_processes(own_engine)) >= 4)
        assert own_engine.stop() == 0
        assert not cgroup_processes(own_engine)
    own_engine.start()
    check_clean(own_engine)


def test_a_killed_keeper_is_replaced_and_the_step_can_be_ended(own_engine: LiveEngine) -> None:
    """No process of a build is lost with it, and the next build works."""
    with open_build(own_engine, FORKS, t="kept") as build:
        build.wait_for(b"begun")
        os.kill(find_keeper(own_engine), 9)
        wait_until(lambda: find_keeper(own_engine))
    wait_until(lambda: not cgroup_processes(own_engine))
    assert not post_build(own_engine, make_context("FROM busybox\nRUN echo ok > /ok\n")).error
    check_clean(own_engine)


def find_keeper(engine: LiveEngine) -> int:
    """The process id of an engine's keeper; 0 if there is none."""
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (path / "cmdline").read_bytes() if path.name.isdecimal() else b""
            if b"cais.runtime.main" in line and str(engine.folder).encode() in line:
                return int(path.name)
    return 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[LiveEngine]:
    """An engine whose root is on a disk of 48 MiB."""
    disk, folder = tmp_path / "disk", tmp_path / "small"
    disk.mkdir()
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)], check=True)
    try:
        (disk / "root").mkdir()
        (folder / "root").symlink_to(disk / "root")
        with living_engine(folder) as engine:
            load_busybox(engine, tmp_path)
            yield engine
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def used_bytes(engine: LiveEngine) -> int:
    """What is taken of its disk, but for what waits to be unlinked."""
    root = engine.folder / "root"
    found = os.statvfs(root)
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    for folder, _, names in os.walk(root / "trash"):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                used -= Path(folder, name).lstat().st_blocks * 512
    return used


BIG = os.urandom(20 << 20)
FULL = [
    ("the layer of a RUN", make_context("FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=24\n")),
    ("COPY", make_context("FROM busybox\nCOPY big /big\n", ("big", "file", BIG))),
    (
        "the context",
        make_context("FROM busybox\nCOPY big* /\n", *((f"big{n}", "file", BIG) for n in range(3))),
    ),
    (
        "a cache mount",
        make_context("FROM busybox\nRUN --mount=type=cache,target=/c,id=full cat /dev/zero > /c/big\n"),
    ),
    (
        "ADD of an archive",
        make_context(
            "FROM busybox\nADD big.tar /x/\n", ("big.tar", "file", make_context("", ("b", "file", BIG)))
        ),
    ),
]


@pytest.mark.parametrize(("name", "body"), FULL, ids=[name for name, _ in FULL])
def test_a_full_disk_is_named_and_left_as_it_was(small_disk: LiveEngine, name: str, body: bytes) -> None:
    """The error says so; what the build took is given back; a small build works."""
    before = used_bytes(small_disk)
    answer = post_build(small_disk, body, t="full")
    assert "no space left on device" in f"{answer.error} {answer.text}".lower(), (
        answer.error,
        answer.text[-500:],
    )
    assert answer.error
    check_clean(small_disk)
    if name == "a cache mount":
        post_build(small_disk, b"", path="/build/prune")
    wait_until(lambda: used_bytes(small_disk) < before + (2 << 20))
    assert not post_build(small_disk, make_context("FROM busybox\nRUN echo ok > /ok\n"), t="small").error


def test_many_builds_that_are_given_up_leave_nothing(engine: LiveEngine) -> None:
    """Thirty, each a bit further than the one before."""
    body = make_context(
        "FROM busybox\nRUN echo one > /1\nCOPY f /2\nRUN sleep 0.02; cat /2 > /3\n", ("f", "file", "f")
    )
    heads = itertools.cycle([b"Step 1", b"Step 2", b"Running in", b"Step 3", b"Step 4"])
    for _ in range(30):
        with open_build(engine, body, nocache="1", t="given-up") as build:
            build.wait_for(next(heads))
    check_clean(engine)
