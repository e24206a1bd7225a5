"""Mounts by descriptor (the mount API of Linux 5.2 and 5.12): made detached, then put in place in one step.

A detached mount has no entry in any mount table until ``attach``, is destroyed with its descriptor, and its
place is named by a descriptor too, so that no path is walked twice (CVE-2021-30465)."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from cais.linux.syscalls import (
    AT_FDCWD,
    CLONE_NEWNS,
    SYS_FSCONFIG,
    SYS_FSMOUNT,
    SYS_FSOPEN,
    SYS_MOUNT_SETATTR,
    SYS_MOVE_MOUNT,
    SYS_OPEN_TREE,
    check,
    prototype,
    setns,
    unshare,
)

ATTR_RDONLY = 0x01
ATTR_NOSUID = 0x02
ATTR_NODEV = 0x04
ATTR_NOEXEC = 0x08
ATTR_NOATIME = 0x10
ATTR_STRICTATIME = 0x20
ATTR_ATIME = 0x70
ATTR_NODIRATIME = 0x80
ATTR_NOSYMFOLLOW = 0x200000

MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

_MS_REC = 1 << 14
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_AT_SYMLINK_NOFOLLOW = 0x100
_OPEN_TREE_CLONE = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40


_call_open_tree = prototype("syscall", "lisi")
_call_setattr = prototype("syscall", "lisisl")
_call_fsopen = prototype("syscall", "lsi")
_call_fsconfig = prototype("syscall", "liissi")
_call_fsmount = prototype("syscall", "liii")
_call_move_mount = prototype("syscall", "lisisi")
_call_mount = prototype("mount", "sssus")
_call_umount = prototype("umount2", "si")


def clone_tree(path: str, *, recursive: bool, dirfd: int = AT_FDCWD) -> int:
    """A detached copy of the mount at ``path`` (a bind mount without a place yet): open_tree(2)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= _AT_EMPTY_PATH
    return check(
        _call_open_tree(SYS_OPEN_TREE, dirfd, os.fsencode(path), flags), path or f"descriptor {dirfd}"
    )


def set_attributes(
    fd: int, *, add: int = 0, clear: int = 0, propagation: int = 0, recursive: bool = False
) -> None:
    """Change a mount's attributes in one step (mount_setattr(2), Linux 5.12)."""
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    attributes = struct.pack("=4Q", add, clear, propagation, 0)
    check(_call_setattr(SYS_MOUNT_SETATTR, fd, b"", flags, attributes, len(attributes)), "mount_setattr")


def make_file_system(kind: str, options: tuple[str, ...], attributes: int = 0, source: str = "") -> int:
    """A detached mount of a new file system: fsopen(2), fsconfig(2) for each ``key`` or ``key=value``,
    fsmount(2)."""
    fd = check(_call_fsopen(SYS_FSOPEN, os.fsencode(kind), 1), kind)
    try:
        for option in ((f"source={source}",) if source else ()) + options:
            key, equals, value = option.partition("=")
            command = _FSCONFIG_SET_STRING if equals else _FSCONFIG_SET_FLAG
            text = os.fsencode(value) if equals else None
            check(_call_fsconfig(SYS_FSCONFIG, fd, command, os.fsencode(key), text, 0), f"{kind} {option}")
        check(_call_fsconfig(SYS_FSCONFIG, fd, _FSCONFIG_CMD_CREATE, None, None, 0), kind)
        return check(_call_fsmount(SYS_FSMOUNT, fd, 1, attributes), kind)
    finally:
        os.close(fd)


def mount_over(source: str, kind: str, target: str, data: str = "") -> None:
    """Mount a new file system at ``target``, in the old way (mount(2)): ``data`` may have a page."""
    check(
        _call_mount(os.fsencode(source), os.fsencode(target), os.fsencode(kind), 0, os.fsencode(data)),
        f"{kind} {data[:200]}",
    )


def attach(fd: int, target: int) -> None:
    """Put the detached mount ``fd`` over the file or folder that descriptor ``target`` names
    (move_mount(2))."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    check(_call_move_mount(SYS_MOVE_MOUNT, fd, b"", target, b"", flags), "move_mount")


def make_private(path: str, *, slave: bool) -> None:
    """Cut every mount below ``path`` off its peers, or keep receiving from them (``slave``)."""
    kind = (MS_SLAVE if slave else MS_PRIVATE) | _MS_REC
    check(_call_mount(None, os.fsencode(path), None, kind, None), path)


def detach(path: str) -> None:
    """Unmount lazily, without following a symbolic link (umount2(2): MNT_DETACH, UMOUNT_NOFOLLOW)."""
    check(_call_umount(os.fsencode(path), 2 | 8), path)


def make_shared(path: str) -> None:
    """Make every mount below ``path`` a peer of its copies in later namespaces."""
    check(_call_mount(None, os.fsencode(path), None, MS_SHARED | _MS_REC, None), path)


@contextmanager
def own_mounts() -> Iterator[None]:
    """A mount namespace of this thread's own for the time of the block: a copy of the caller's, in which nothing that
    is mounted reaches anybody else. It ends with the block unless somebody keeps a descriptor of it."""
    home, folder = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC), os.open(".", os.O_PATH)
    try:
        unshare(CLONE_NEWNS)  # also from the other threads' working folder: ours may change
        try:
            make_private("/", slave=False)
            yield
        finally:
            setns(home, CLONE_NEWNS, "mount namespace")
            os.fchdir(folder)
    finally:
        os.close(home)
        os.close(folder)
