"""Writing to procfs of what it would be dangerous to write elsewhere: kernel parameters and security labels.

A container's /proc may be anything its image or its volumes made of it; a label written to a fake is no label, and a
kernel parameter redirected to a file of the kernel's is an attack (CVE-2019-19921, CVE-2025-52881). So both go
through a descriptor of a true procfs, and no link or mount is crossed below it."""

import errno
import os

from cais.linux.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    file_system_type,
    openat2,
)
from cais.runtime.rootfs import PROC_MAGIC

ROOT_INODE = 1
Label = tuple[tuple[str, ...], str]
_RULES = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV


def check_proc(fd: int) -> None:
    """Raise PermissionError when ``fd`` is not the root folder of a procfs."""
    if file_system_type(fd) != PROC_MAGIC or os.fstat(fd).st_ino != ROOT_INODE:
        raise PermissionError(errno.EPERM, "is not procfs", "/proc")


def open_proc(path: str = "/proc") -> int:
    """A checked descriptor of the procfs at ``path``."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        check_proc(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_file(proc: int, name: str, text: str) -> None:
    """Write ``text`` to the file ``name`` of the procfs ``proc``, in one write(2), as the kernel wants it."""
    check_proc(proc)
    fd = openat2(proc, name, os.O_WRONLY, _RULES)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"/proc/{name}") from error
    finally:
        os.close(fd)


def write_sysctl(proc: int, key: str, value: str) -> None:
    """Set a kernel parameter; in ``key`` dots separate (sysctl(8))."""
    write_file(proc, "sys/" + key.replace(".", "/"), value)


def read_modules() -> frozenset[str]:
    """The label-giving security modules that are at work in this kernel: ``apparmor``, ``selinux``.

    AppArmor says so itself; SELinux registers its file system only when it was not disabled at boot. Until a policy is
    loaded it takes any label for "kernel", which all have then: that is not at work."""
    found = set()
    try:
        with open("/sys/module/apparmor/parameters/enabled", "rb") as file:
            if file.read(1) == b"Y":
                found.add("apparmor")
    except OSError:
        pass
    with open("/proc/filesystems", "rb") as file:
        registered = b"\tselinuxfs\n" in file.read()
    if registered and read_own_label() not in ("", "kernel"):
        found.add("selinux")
    return frozenset(found)


def read_own_label() -> str:
    """What the first of the kernel's security modules calls this process; empty where none gives labels."""
    try:
        with open("/proc/self/attr/current", "rb") as file:
            return file.read().rstrip(b"\0\n").decode("utf-8", "replace")
    except OSError:
        return ""


def asks_for_label(profile: str, label: str) -> bool:
    """Whether the process is to run under an AppArmor ``profile`` or an SELinux ``label`` at all."""
    return profile not in ("", "unconfined") or bool(label)


def plan_labels(profile: str, label: str, modules: frozenset[str]) -> list[Label]:
    """What to write before the execve: for each label the files to try in turn, below /proc/<pid>, and the text
    (apparmor's libraries write ``exec <profile>``; attributes of all modules: Linux Documentation/admin-guide/LSM).

    OSError EOPNOTSUPP when the kernel has no module for what was asked: a container that was to be confined must not
    run without. ValueError when the name would be cut short or read as something else."""
    plan: list[Label] = []
    for text in (profile, label):
        if "\0" in text or "\n" in text:
            raise ValueError(f"invalid security label: {text!r}")
    if profile not in ("", "unconfined"):
        if "apparmor" not in modules:
            raise OSError(
                errno.EOPNOTSUPP, f"apparmor profile {profile} was asked for, but this kernel has no apparmor"
            )
        # The common file is that of the first module only; AppArmor's own is younger.
        files = ("attr/apparmor/exec",) if "selinux" in modules else ("attr/apparmor/exec", "attr/exec")
        plan.append((files, f"exec {profile}"))
    if label:
        if "selinux" not in modules:
            raise OSError(
                errno.EOPNOTSUPP, f"selinux label {label} was asked for, but this kernel has no selinux"
            )
        plan.append((("attr/exec",), label))
    return plan


def write_labels(proc: int, plan: list[Label]) -> None:
    """Do what ``plan_labels`` says, for this process; the labels hold from its next execve on."""
    own = os.readlink("self", dir_fd=proc)
    for files, text in plan:
        for file in files:
            try:
                write_file(proc, f"{own}/{file}", text)
                break
            except FileNotFoundError:
                if file == files[-1]:
                    raise
