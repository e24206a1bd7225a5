"""The container's view of the file system: root, mounts, devices, masks; runs in the init, in its own mount
namespace.

Order of work, which is the protection: everything that comes from the host is opened as a detached mount
*before* the root is changed; afterwards the host's paths do not exist for this process, so no symbolic link
of an image can lead to them. Targets are found by openat2 without magic links (our own /proc/self/fd would be
a way out) and mounts are put on descriptors, not on paths."""

import os
import stat
from typing import Any

from cais.linux import mounts
from cais.linux.cgroups.base import ContainerView
from cais.linux.overlay import make_overlay
from cais.linux.syscalls import (
    CLONE_NEWNS,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    file_system_type,
    openat2,
    pivot_root,
    setns,
)

FLAGS = {
    "ro": mounts.ATTR_RDONLY,
    "rro": mounts.ATTR_RDONLY,
    "nosuid": mounts.ATTR_NOSUID,
    "nodev": mounts.ATTR_NODEV,
    "noexec": mounts.ATTR_NOEXEC,
    "noatime": mounts.ATTR_NOATIME,
    "strictatime": mounts.ATTR_STRICTATIME,
    "nodiratime": mounts.ATTR_NODIRATIME,
    "nosymfollow": mounts.ATTR_NOSYMFOLLOW,
    "relatime": 0,
}
CLEARS = {
    "rw": mounts.ATTR_RDONLY,
    "suid": mounts.ATTR_NOSUID,
    "dev": mounts.ATTR_NODEV,
    "exec": mounts.ATTR_NOEXEC,
    "diratime": mounts.ATTR_NODIRATIME,
}
PROPAGATIONS = {
    "private": mounts.MS_PRIVATE,
    "slave": mounts.MS_SLAVE,
    "shared": mounts.MS_SHARED,
    "unbindable": mounts.MS_UNBINDABLE,
}
# The only files of procfs that a mount may cover (what lxcfs provides); anything else could fake what
# security tools read there.
PROC_FILES = frozenset(
    "/proc/" + name
    for name in (
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "sys/kernel/ns_last_pid",
    )
)
PROC_MAGIC = 0x9FA0
DEFAULT_DEVICES = (
    {"type": "c", "path": "/dev/null", "major": 1, "minor": 3},
    {"type": "c", "path": "/dev/zero", "major": 1, "minor": 5},
    {"type": "c", "path": "/dev/full", "major": 1, "minor": 7},
    {"type": "c", "path": "/dev/random", "major": 1, "minor": 8},
    {"type": "c", "path": "/dev/urandom", "major": 1, "minor": 9},
    {"type": "c", "path": "/dev/tty", "major": 5, "minor": 0},
)
DEVICE_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
)


class MountOptions:
    """fstab words, sorted into what the kernel calls take."""

    __slots__ = ("add", "clear", "data", "propagation", "recursive_bind", "recursive_readonly")

    def __init__(self, words: list[str]) -> None:
        self.add = self.clear = self.propagation = 0
        self.data: tuple[str, ...] = ()
        self.recursive_bind = "rbind" in words
        self.recursive_readonly = "rro" in words
        for word in words:
            if word in FLAGS:
                self.add |= FLAGS[word]
            elif word in CLEARS:
                self.clear |= CLEARS[word]
            elif word.removeprefix("r") in PROPAGATIONS:
                self.propagation = PROPAGATIONS[word.removeprefix("r")]
            elif word not in ("bind", "rbind", "defaults"):
                self.data += (word,)


def open_root(rootfs: dict[str, Any]) -> int:
    """A detached mount of the container's root file system, from the snapshotter's ``RootMount``."""
    if rootfs["type"] == "overlay":
        return make_overlay(list(rootfs["lower"]), rootfs.get("upper", ""), rootfs.get("work", ""))
    fd = mounts.clone_tree(rootfs["lower"][0], recursive=False)
    mounts.set_attributes(fd, propagation=mounts.MS_PRIVATE)
    return fd


def clone_source(source: str, *, recursive: bool) -> int:
    """A detached copy of what is at ``source``; ``/proc/<pid>/root/…`` is a path in that process's mount namespace
    (another container's /dev/shm). open_tree(2) clones only mounts of the caller's own namespace (EINVAL), so it is
    visited for the moment; there, all paths are the other container's, whatever links it has made."""
    head, found, path = source.partition("/root/")
    if not (found and head.startswith("/proc/") and head.removeprefix("/proc/").isdecimal()):
        return mounts.clone_tree(source, recursive=recursive)
    other = os.open(f"{head}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(other, CLONE_NEWNS, f"mount namespace of {head}")
        try:
            return mounts.clone_tree("/" + path, recursive=recursive)
        finally:
            setns(own, CLONE_NEWNS, "mount namespace")
    finally:
        os.close(other)
        os.close(own)


def open_bind(mount: dict[str, Any]) -> int:
    """A detached copy of a bind mount's source.

    Taken while the host's propagation still holds, so that a slave or shared bind stays connected to its
    peers; a private one (the default) is cut off here."""
    options = MountOptions(mount.get("options", []))
    fd = clone_source(mount["source"], recursive=options.recursive_bind)
    mounts.set_attributes(fd, propagation=options.propagation or mounts.MS_PRIVATE, recursive=True)
    if options.add or options.clear:
        readonly = options.add & mounts.ATTR_RDONLY
        mounts.set_attributes(fd, add=options.add, clear=options.clear)
        if readonly and options.recursive_readonly:
            mounts.set_attributes(fd, add=mounts.ATTR_RDONLY, recursive=True)
    return fd


class _Root:
    """A descriptor of the container's root, opened once: forty paths of a start are resolved below it."""

    fd = -1


def hold_root() -> None:
    """From here on "/" is the container's."""
    _Root.fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def enter_root(root: int, place: str) -> None:
    """Make the detached mount ``root`` this namespace's root; ``place`` is any empty folder, used for a
    moment.

    The old root is stacked over the new one and then dropped, which needs no folder inside the image
    (pivot_root(2))."""
    target = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.attach(root, target)
    os.close(target)
    old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(root)
    pivot_root(".", ".")
    os.fchdir(old)
    mounts.detach(".")
    os.close(old)
    os.chdir("/")
    hold_root()


def open_inside(path: str, flags: int = 0, *, follow: bool = True) -> int:
    """An O_PATH descriptor of ``path`` below the container's root, through ordinary links only (or none)."""
    rules = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | (0 if follow else RESOLVE_NO_SYMLINKS)
    return openat2(_Root.fd, path, flags | os.O_PATH, rules)


def ensure_folder(path: str, mode: int = 0o755, *, follow: bool = True, links: int = 40) -> int:
    """A descriptor of the folder ``path``, made with its parents where missing. A dangling link of the image
    is followed inside the root, as Docker does, ``links`` of them at most."""
    try:
        return open_inside(path, os.O_DIRECTORY, follow=follow)
    except FileNotFoundError:
        folder, name = os.path.split(path.rstrip("/"))
        parent = ensure_folder(folder or "/", follow=follow, links=links)
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        if not follow or not links:
            raise
        target = os.readlink(name, dir_fd=parent)
        os.close(ensure_folder(os.path.join(folder, target), mode, links=links - 1))
    finally:
        os.close(parent)
    return open_inside(path, os.O_DIRECTORY, follow=follow)


def ensure_file(path: str, *, links: int = 40) -> int:
    """A descriptor of the file ``path``, made empty where missing: the target of a file's bind mount. A dangling link
    (/etc/resolv.conf is one in many images) is followed inside the root, as Docker does, ``links`` of them at most."""
    try:
        return open_inside(path)
    except FileNotFoundError:
        folder, name = os.path.split(path)
        parent = ensure_folder(folder or "/")
    try:
        # O_EXCL: the open itself follows no link
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))
    except FileExistsError:
        if not links:
            raise
        target = os.readlink(name, dir_fd=parent)
        os.close(ensure_file(os.path.join(folder, target), links=links - 1))
    finally:
        os.close(parent)
    return open_inside(path)


def refuse_proc(target: int, destination: str, source: int = -1) -> None:
    """Raise when the mount ``source`` would cover part of procfs, or stand for it without being one (CVE-2019-16884,
    CVE-2023-27561)."""
    try:
        proc = os.stat("/proc")
    except FileNotFoundError:
        return
    place = os.fstat(target)
    if source >= 0 and (place.st_dev, place.st_ino) == (proc.st_dev, proc.st_ino):
        if file_system_type(source) != PROC_MAGIC:
            raise PermissionError(1, "cannot be mounted because it is not of type proc", destination)
    elif place.st_dev == proc.st_dev != os.stat("/").st_dev and destination not in PROC_FILES:
        raise PermissionError(1, "cannot be mounted because it is inside /proc", destination)


def place_bind(fd: int, destination: str) -> None:
    """Attach the detached bind ``fd`` at ``destination``."""
    folder = stat.S_ISDIR(os.fstat(fd).st_mode)
    target = ensure_folder(destination) if folder else ensure_file(destination)
    try:
        refuse_proc(target, destination, fd)
        mounts.attach(fd, target)
    finally:
        os.close(target)


def place_file_system(mount: dict[str, Any]) -> int:
    """Make and attach a new file system; a descriptor of its root. Its target may not be reached through links: an
    image whose /proc is a link would have its procfs somewhere else than where masks are put (CVE-2019-19921)."""
    options = MountOptions(mount.get("options", []))
    kind, destination = mount["type"], mount["destination"]
    strict = destination in ("/proc", "/sys", "/dev") or destination.startswith(("/sys/", "/dev/"))
    target = ensure_folder(destination, follow=not strict)
    try:
        if destination != "/proc":
            refuse_proc(target, destination)
        fd = mounts.make_file_system(kind, options.data, options.add, mount.get("source", "") or kind)
        mounts.attach(fd, target)
        return fd
    finally:
        os.close(target)


def open_cgroups(view: ContainerView) -> list[int]:
    """Detached copies of the container's own groups on the host, -1 for what is a new file system."""
    return [mounts.clone_tree(m.source, recursive=False) if m.type == "bind" else -1 for m in view.mounts]


def place_cgroups(view: ContainerView, opened: list[int], *, readonly: bool) -> None:
    """The container's own view of its control groups at /sys/fs/cgroup."""
    for mount, fd in zip(view.mounts, opened, strict=True):
        if fd < 0:
            data = tuple(part for part in mount.data.split(",") if part)
            fd = mounts.make_file_system(mount.type, data, 0, mount.source)
            target = ensure_folder(mount.destination, follow=False)
        else:  # in the folder that was mounted first, where nobody else has been yet
            os.mkdir(mount.destination, 0o755)
            target = os.open(mount.destination, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        mounts.attach(fd, target)
        os.close(fd)
        os.close(target)
    for link in view.links:
        os.symlink(link.target, link.path)
    first = os.open(view.mounts[0].destination, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    attributes = mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC
    attributes |= mounts.ATTR_RDONLY if readonly else 0
    mounts.set_attributes(first, add=attributes, propagation=mounts.MS_PRIVATE, recursive=True)
    os.close(first)


def make_devices(devices: list[dict[str, Any]]) -> None:
    """Device nodes and the usual links in a fresh /dev."""
    for device in (*DEFAULT_DEVICES, *devices):
        path = device["path"]
        if os.path.dirname(path) != "/dev":
            os.close(ensure_folder(os.path.dirname(path), follow=False))
        kind = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}[device["type"]]
        number = os.makedev(device.get("major", 0), device.get("minor", 0))
        try:
            os.mknod(path, kind | device.get("fileMode", 0o666), number)
        except FileExistsError:
            # -v of a device, or --device naming a default one: what is there stays
            continue
        if device.get("uid") or device.get("gid"):
            os.chown(path, device.get("uid", 0), device.get("gid", 0))
    for source, name in DEVICE_LINKS:
        try:
            os.symlink(source, name)
        except FileExistsError:
            continue


def bind_console(slave: int) -> None:
    """The terminal at /dev/console too, which is where init systems look for it. Neither of the two is reached by a
    link: one would put the terminal over, or show there, whatever another container that shares /dev chose
    (CVE-2025-52565)."""
    fd = mounts.clone_tree("", recursive=False, dirfd=slave)
    try:
        target = open_inside("/dev/console", follow=False)
    except FileNotFoundError:
        folder = ensure_folder("/dev", follow=False)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open("console", flags, 0o644, dir_fd=folder))
        os.close(folder)
        target = open_inside("/dev/console", follow=False)
    mounts.attach(fd, target)
    os.close(target)
    os.close(fd)


class Masks:
    """Covers paths with nothing: folders with a read-only empty one, files with /dev/null.

    Both covers are opened on the host: the container's own /dev/null may be anything (CVE-2025-31133). All
    masks of all containers share two mounts' super blocks; one tmpfs each would serialise starts on the
    kernel's shrinker list."""

    __slots__ = ("_covers",)

    def __init__(self, empty: str) -> None:
        null = mounts.clone_tree("/dev/null", recursive=False)
        status = os.fstat(null)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
            raise PermissionError(1, "is not the null device", "/dev/null")
        folder = mounts.clone_tree(empty, recursive=False)
        mounts.set_attributes(folder, add=mounts.ATTR_RDONLY, propagation=mounts.MS_PRIVATE)
        mounts.set_attributes(null, add=mounts.ATTR_RDONLY, propagation=mounts.MS_PRIVATE)
        self._covers = {True: (folder, ""), False: (null, "")}

    def cover(self, path: str) -> None:
        """Mask ``path`` if it exists."""
        try:
            target = open_inside(path, follow=False)
        except (FileNotFoundError, NotADirectoryError):
            return
        folder = stat.S_ISDIR(os.fstat(target).st_mode)
        fd, first = self._covers[folder]
        if first:  # the detached mount is spent: a copy of it from where it was put
            fd = mounts.clone_tree(first, recursive=False)
        mounts.attach(fd, target)
        os.close(fd)
        os.close(target)
        self._covers[folder] = (-1, first or path)


def make_readonly(path: str) -> None:
    """A read-only bind of ``path`` over itself, if it exists."""
    try:
        target = open_inside(path, follow=False)
    except (FileNotFoundError, NotADirectoryError):
        return
    fd = mounts.clone_tree("", recursive=True, dirfd=target)
    mounts.set_attributes(fd, add=mounts.ATTR_RDONLY, recursive=True)
    mounts.attach(fd, target)
    os.close(fd)
    os.close(target)


def make_root_readonly() -> None:
    """The root mount itself, not what is mounted below it."""
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.set_attributes(fd, add=mounts.ATTR_RDONLY)
    os.close(fd)
