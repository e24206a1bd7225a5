"""The mounts of a RUN, before any container: secrets, caches, targets."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from cais.build.cache import BuildCache
from cais.build.dockerfile.evaluate import InlineFile, RunAct
from cais.build.dockerfile.flags import parse_mount
from cais.build.mounts import MountMaker
from cais.build.refusals import check_act
from cais.build.request import BuildRequest, HeldSecrets
from cais.errors import CaisError, Invalid


def act_of(*mounts: str, cwd: str = "/", script: InlineFile | None = None) -> RunAct:
    """A RUN with these mounts."""
    return RunAct(("x",), (), (), cwd, "", tuple(map(parse_mount, mounts)), "", "", script)


@pytest.fixture
def maker(tmp_path: Path) -> MountMaker:
    """Mounts of an engine whose root is the test's folder."""
    return MountMaker(BuildCache(tmp_path))


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_secrets_are_files_for_root_alone_or_variables(maker: MountMaker, tmp_path: Path) -> None:
    """In a folder that goes with the step; modes and owners as asked."""
    act = act_of(
        "type=secret,id=a",
        "type=secret,id=b,target=/run/b,mode=0440,uid=5,gid=6",
        "type=secret,id=c,env=C",
        "type=secret,id=none",
    )
    secrets = {"a": b"A\0", "b": b"B", "c": b"C"}
    async with maker.mount(act, (), tmp_path, HeldSecrets(secrets), {}) as mounted:
        first, second = mounted.points
        assert (first.destination, second.destination) == ("/run/secrets/a", "/run/b") and not first.rw
        assert Path(first.source).read_bytes() == b"A\0" and mounted.env == ("C=C",)
        found = Path(second.source).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o440, 5, 6)
        assert stat.S_IMODE(Path(first.source).stat().st_mode) == 0o400
        assert {"run/secrets/a", "run/b"} <= mounted.stub_files and {
            "run",
            "run/secrets",
        } <= mounted.stub_folders


async def test_targets_are_absolute_and_stay_inside(maker: MountMaker, tmp_path: Path) -> None:
    """Relative ones begin at the working folder; the root itself cannot be one."""
    async with maker.mount(
        act_of("type=cache,target=../c/../../d", cwd="/a/b"), (), tmp_path, {}, {}
    ) as mounted:
        assert mounted.points[0].destination == "/d"
    with pytest.raises(Invalid, match="cannot be at /"):
        async with maker.mount(act_of("type=cache,target=a/..", cwd="/"), (), tmp_path, HeldSecrets(), {}):
            pass


async def test_a_locked_cache_is_one_steps_at_a_time(maker: MountMaker, tmp_path: Path) -> None:
    """The second waits for the first; a private one gets a folder of its own; shared ones share."""
    order: list[str] = []

    async def use(name: str, sharing: str, gate: asyncio.Event) -> str:
        act = act_of(f"type=cache,target=/c,id=x,sharing={sharing}")
        async with maker.mount(act, (), tmp_path, HeldSecrets(), {}) as mounted:
            order.append(f"{name} in")
            began.set()
            await gate.wait()
            order.append(f"{name} out")
            return mounted.points[0].source

    gate, began = asyncio.Event(), asyncio.Event()
    for sharing in ("locked", "private", "shared"):
        order.clear()
        gate.clear()
        began.clear()
        tasks = [asyncio.create_task(use(name, sharing, gate)) for name in "ab"]
        await began.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert order == (["a in"] if sharing == "locked" else ["a in", "b in"])
        gate.set()
        sources = await asyncio.gather(*tasks)
        assert (len(set(sources)) == 2) is (sharing == "private")


async def test_a_required_secret_that_nobody_has_is_named(maker: MountMaker, tmp_path: Path) -> None:
    """With what to do about it."""
    with pytest.raises(Invalid, match="secret a: not found: give it"):
        async with maker.mount(act_of("type=secret,id=a,required"), (), tmp_path, HeldSecrets(), {}):
            pass


async def test_a_script_is_shown_as_a_program(maker: MountMaker, tmp_path: Path) -> None:
    """Below /dev, of which nothing is in a layer."""
    async with maker.mount(act_of(script=InlineFile("E", b"#!x")), (), tmp_path, HeldSecrets(), {}) as mounted:
        (point,) = mounted.points
        assert point.destination == "/dev/pipes/E" and Path(point.source).stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ("type=ssh", "ssh"),
        ("type=cache,target=/c,from=x", "from or source"),
    ],
)
def test_what_cannot_be_is_refused_before(mount: str, message: str) -> None:
    """Nothing has run then."""
    with pytest.raises(CaisError, match=message):
        check_act(act_of(mount), BuildRequest())
