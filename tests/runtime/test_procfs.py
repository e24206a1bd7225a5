"""What is written to procfs goes to a true one, and nowhere else."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cais.errors import TaskFailed
from cais.runtime import procfs
from cais.runtime.base import ExecStart
from cais.spec.runtimespec import Linux, Mount, Process
from harness.boxes import MOUNTS, Box

PING = "net.ipv4.ping_group_range"


@pytest.mark.parametrize(
    ("profile", "label", "modules", "plan"),
    [
        ("", "", {"apparmor", "selinux"}, []),
        ("unconfined", "", set(), []),
        ("mine", "", {"apparmor"}, [(("attr/apparmor/exec", "attr/exec"), "exec mine")]),
        ("mine", "", {"apparmor", "selinux"}, [(("attr/apparmor/exec",), "exec mine")]),
        ("unconfined", "u:r:t:s0", {"selinux"}, [(("attr/exec",), "u:r:t:s0")]),
    ],
)
def test_labels_are_planned_for_the_modules_there_are(profile, label, modules, plan) -> None:
    """The common file belongs to SELinux where there is SELinux, and unconfined asks for nothing."""
    assert procfs.plan_labels(profile, label, frozenset(modules)) == plan
    assert procfs.asks_for_label(profile, label) == bool(plan)


@pytest.mark.parametrize(
    ("profile", "label", "modules", "word"),
    [
        ("mine", "", set(), "no apparmor"),
        ("mine", "", {"selinux"}, "no apparmor"),
        ("", "u:r:t:s0", {"apparmor"}, "no selinux"),
    ],
)
def test_a_label_that_the_kernel_cannot_give_is_an_error(profile, label, modules, word) -> None:
    """Never silence: the container would run without."""
    with pytest.raises(OSError, match=word) as caught:
        procfs.plan_labels(profile, label, frozenset(modules))
    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize(("profile", "label"), [("a\nb", ""), ("", "a\0b")])
def test_a_label_of_several_lines_is_refused(profile, label) -> None:
    """The kernel would read another label than the one asked for."""
    with pytest.raises(ValueError, match="invalid security label"):
        procfs.plan_labels(profile, label, frozenset(("apparmor", "selinux")))


def test_the_second_file_is_taken_where_the_first_is_missing() -> None:
    """An older kernel has the common file only; with none at all it is an error."""
    name = Path("/proc/self/comm").read_text()
    proc = procfs.open_proc()
    try:
        procfs.write_labels(proc, [(("no-such", "comm"), "exec mine")])
        assert Path("/proc/self/comm").read_text() == "exec mine\n"
        with pytest.raises(FileNotFoundError):
            procfs.write_labels(proc, [(("no-such",), "exec mine")])
    finally:
        procfs.write_labels(proc, [(("comm",), name.strip())])
        os.close(proc)


@pytest.mark.parametrize("path", ["/tmp", "/proc/self", "/sys"])
def test_another_file_system_is_not_taken_for_procfs(path) -> None:
    """Nor is a folder of procfs taken for its root (CVE-2019-19921)."""
    with pytest.raises(PermissionError):
        procfs.open_proc(path)


def test_no_link_is_followed() -> None:
    """A link below the procfs cannot redirect a write (CVE-2025-52881)."""
    proc = procfs.open_proc()
    try:
        with pytest.raises(OSError, match="self/comm") as caught:
            procfs.write_file(proc, "self/comm", "x")
        assert caught.value.errno == errno.ELOOP
    finally:
        os.close(proc)


CROSSING = """
import sys
sys.path.insert(0, sys.argv[1])
from cais.linux import mounts, syscalls
from cais.runtime import procfs
import os
syscalls.unshare(syscalls.CLONE_NEWNS)
mounts.make_private("/", slave=False)
fd, target = mounts.clone_tree(sys.argv[2], recursive=False), os.open("/proc/sys/kernel/domainname", os.O_PATH)
mounts.attach(fd, target)
try:
    procfs.write_sysctl(procfs.open_proc(), "kernel.domainname", "redirected")
except OSError as error:
    print(error.errno)
"""


@pytest.mark.kernel
def test_no_mount_is_crossed(tmp_path) -> None:
    """A file bound over a kernel parameter does not get its value (CVE-2025-52881)."""
    bound = tmp_path / "bound"
    bound.write_text("untouched")
    source = Path(__file__).parents[2] / "src"
    output = subprocess.check_output([sys.executable, "-c", CROSSING, str(source), str(bound)], text=True)
    assert (int(output), bound.read_text()) == (errno.EXDEV, "untouched")


@pytest.mark.kernel
@pytest.mark.skipif(bool(procfs.read_modules()), reason="this kernel has a module that gives labels")
@pytest.mark.parametrize(
    ("label", "word"), [({"apparmor_profile": "mine"}, "mine"), ({"selinux_label": "u:r:t:s0"}, "u:r:t:s0")]
)
async def test_a_container_that_was_to_be_confined_does_not_run_without(box: Box, label, word) -> None:
    """Neither it nor an exec in it; unconfined asks for nothing."""
    with pytest.raises(TaskFailed, match=f"plan labels: .*{word} was asked for, but this kernel has no"):
        await box.start("other", "true", **label)
    await box.start("run", "sleep", "100", apparmor_profile="unconfined")
    with pytest.raises(TaskFailed, match=f"{word} was asked for"):
        await box.driver.exec(ExecStart("run", "e1", Process(args=("true",), **label)))


def with_sysctl(box: Box, *args: str, mounts: tuple[Mount, ...]):
    """A specification with a kernel parameter and exactly these mounts."""
    spec = box.spec("run", *args)
    values = {name: getattr(spec.linux, name) for name in spec.linux.__struct_fields__}
    linux = Linux(**values | {"sysctl": {PING: "5 7"}, "readonly_paths": (), "masked_paths": ()})
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return type(spec)(**fields | {"linux": linux, "mounts": mounts})


@pytest.mark.kernel
async def test_a_kernel_parameter_is_the_containers_own(box: Box) -> None:
    """It is set inside and nowhere else."""
    path = "/proc/sys/" + PING.replace(".", "/")
    before = Path(path).read_text()
    _, text = await box.run_spec(box.request("run", with_sysctl(box, "cat", path, mounts=MOUNTS)))
    assert text.split() == ["5", "7"]
    assert Path(path).read_text() == before


@pytest.mark.kernel
async def test_a_faked_proc_gets_no_kernel_parameter(box: Box) -> None:
    """What the image has there is no procfs, and is not written to (CVE-2025-52881)."""
    folder = box.base / "run" / "upper/proc/sys/net/ipv4"
    folder.mkdir(parents=True)
    (folder / "ping_group_range").write_text("fake")
    code, _ = await box.run_spec(box.request("run", with_sysctl(box, "true", mounts=MOUNTS[1:4])))
    assert (code, (folder / "ping_group_range").read_text()) == (0, "fake")


@pytest.mark.kernel
async def test_a_folder_does_not_stand_for_proc(box: Box) -> None:
    """Not even where nothing is mounted yet (CVE-2019-16884)."""
    folder = box.base / "fake"
    folder.mkdir()
    mounts = (Mount("/proc", str(folder), "bind", ("rbind",)), *MOUNTS[1:])
    with pytest.raises(TaskFailed, match="cannot be mounted because it is not of type proc"):
        await box.driver.start(box.request("run", with_sysctl(box, "true", mounts=mounts)))


@pytest.mark.kernel
async def test_the_hosts_procfs_may_be_shown(box: Box) -> None:
    """-v /proc:/proc works, and the parameter still goes to the container's network."""
    path = "/proc/sys/" + PING.replace(".", "/")
    before = Path(path).read_text()
    mounts = (Mount("/proc", "/proc", "bind", ("rbind", "ro")), *MOUNTS[1:])
    assert (await box.run_spec(box.request("run", with_sysctl(box, "true", mounts=mounts))))[0] == 0
    assert Path(path).read_text() == before
