"""Known ways out of a container, tried on the keeper: what runc's advisories are about."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cais.errors import TaskFailed
from cais.linux.syscalls import AT_FDCWD, check, prototype
from cais.runtime.base import ExecStart
from cais.spec.runtimespec import Mount, Process
from harness.boxes import MOUNTS, Box, read_all

pytestmark = pytest.mark.kernel

ROUNDS = 12
RENAME_EXCHANGE = 2
rename = prototype("renameat2", "isisu")


@contextmanager
def exchanging(folder: Path, link: str) -> Iterator[None]:
    """``folder/a`` is a folder and, the next moment, a link to ``link``: what another container does that shares it."""
    over = threading.Event()
    (folder / "a").mkdir()
    (folder / "link").symlink_to(link)
    first, second = (os.fsencode(folder / name) for name in ("a", "link"))

    def exchange() -> None:
        while not over.is_set():
            check(rename(AT_FDCWD, first, AT_FDCWD, second, RENAME_EXCHANGE), "exchange")

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("climb", ["", "/.." * 12])
async def test_a_target_that_changes_while_it_is_made_stays_inside(box: Box, climb: str) -> None:
    """Mount points and their parents are made inside the root, whenever a part of the way becomes a link
    (CVE-2021-30465, CVE-2024-45310)."""
    shared, outside, source = (box.base / name for name in ("shared", "outside", "source"))
    for folder in (shared, outside, source):
        folder.mkdir()
    (source / "file").touch()
    mounts = (
        Mount("/shared", str(shared), "bind", ("rbind",)),
        Mount("/shared/a/b/c", str(source), "bind", ("rbind",)),
        Mount("/shared/a/d/file", str(source / "file"), "bind", ("rbind",)),
    )
    with exchanging(shared, climb + str(outside)):
        for number in range(ROUNDS):
            spec = box.spec(f"run{number}", "true", mounts=mounts)
            try:
                await box.driver.start(box.request(f"run{number}", spec))
                await box.ended()
            except TaskFailed:
                continue
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "/etc/passwd", "../../../outside"])
async def test_a_console_that_is_a_link_is_refused(box: Box, target: str) -> None:
    """In a /dev that others write to, the terminal is not put over what a link names (CVE-2025-52565)."""
    devices = box.base / "dev"
    (devices / "pts").mkdir(parents=True)
    (devices / "console").symlink_to(target)
    spec = box.spec("run", "true", terminal=True)
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
    mounts = (MOUNTS[0], Mount("/dev", str(devices), "bind", ("rbind",)), MOUNTS[2])
    with pytest.raises(TaskFailed, match="open terminal"):
        await box.driver.start(box.request("run", type(spec)(**fields | {"mounts": mounts})))
    assert os.readlink(devices / "console") == target


async def test_a_console_where_there_is_none_is_made(box: Box) -> None:
    """In a /dev from the host too."""
    devices = box.base / "dev"
    (devices / "pts").mkdir(parents=True)
    spec = box.spec("run", "sh", "-c", "stat -c %t:%T /dev/console; tty", terminal=True)
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
    mounts = (MOUNTS[0], Mount("/dev", str(devices), "bind", ("rbind",)), MOUNTS[2])
    code, text = await box.run_spec(box.request("run", type(spec)(**fields | {"mounts": mounts})))
    assert (code, text.split()) == (0, ["88:0", "/dev/pts/0"])


@pytest.mark.parametrize("fake", ["link", "file"])
async def test_a_faked_null_device_masks_nothing_else(box: Box, fake: str) -> None:
    """Masks come from the host's null device, whatever the container's /dev/null is (CVE-2025-31133)."""
    devices = box.base / "dev"
    devices.mkdir()
    secret = box.base / "secret"
    secret.write_text("the-hosts-secret")
    if fake == "link":
        (devices / "null").symlink_to("/proc/sys/kernel/core_pattern")
    else:
        (devices / "null").write_text("fake")
    spec = box.spec(
        "run", "sh", "-c", "stat -c %t:%T /proc/keys; cat /proc/keys; echo x > /proc/keys; cat /dev/null"
    )
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
    mounts = (MOUNTS[0], Mount("/dev", str(devices), "bind", ("rbind",)), MOUNTS[3])
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    _, text = await box.run_spec(box.request("run", type(spec)(**fields | {"mounts": mounts})))
    assert text.startswith("1:3\n")
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


async def test_no_capability_is_inheritable(box: Box) -> None:
    """Neither for the first process nor for an exec (CVE-2022-29162)."""
    _, text = await box.run("grep", "CapInh", "/proc/self/status")
    assert text.split() == ["CapInh:", "0" * 16]
    await box.start_loop()
    with await box.driver.attach("run", "e1", stdin=False, stdout=True, stderr=True) as sock:
        process = Process(args=("grep", "CapInh", "/proc/self/status"), env=("PATH=/bin",))
        await box.driver.exec(ExecStart("run", "e1", process))
        assert b"CapInh:\t" + b"0" * 16 in await read_all(sock)
    await box.ended()


async def test_who_waits_for_a_start_that_never_comes_is_told(box: Box) -> None:
    """An attach to a container that is removed instead of started ends, and leaves nothing in the keeper."""
    before = box.driver.count_descriptors()
    with await box.driver.attach("run", "", stdin=True, stdout=True, stderr=True) as sock:
        (await box.driver.attach("other", "", stdin=True, stdout=True, stderr=True)).close()
        await box.driver.forget("nobody")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read_all(sock), 0.05)
        await box.driver.forget("run")
        assert await read_all(sock) == b""
    await box.driver.forget("run")
    await box.driver.forget("other")
    assert box.driver.count_descriptors() == before


async def test_a_client_that_leaves_before_the_start_leaves_nothing(box: Box) -> None:
    """Its descriptor is closed in the keeper when it goes."""
    before = box.driver.count_descriptors()
    (await box.driver.attach("run", "", stdin=True, stdout=True, stderr=True)).close()
    await box.driver.list()
    async with asyncio.timeout(5):
        while box.driver.count_descriptors() != before:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    assert (await box.run("echo", "works"))[1] == "works\n"
