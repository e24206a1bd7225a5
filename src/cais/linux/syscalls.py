"""The kernel calls that Python 3.11 has no function for: one function, one act, ``OSError`` with the object
on failure.

Imports only what a process that must stay small can afford (no dataclasses, no typing machinery): the keeper
is built on it."""

import ctypes
import os
import struct
from collections.abc import Callable
from typing import Any, cast

# Since 5.1 all architectures share one numbering (include/uapi/asm-generic/unistd.h); the older ones differ.
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_CLONE3 = 435
SYS_CLOSE_RANGE = 436
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442
_OLDER = {"x86_64": (155, 250, 56), "aarch64": (41, 219, 220)}
SYS_PIVOT_ROOT, SYS_KEYCTL, SYS_CLONE = _OLDER.get(os.uname().machine, _OLDER["x86_64"])

CLONE_NEWTIME = 0x00000080
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47

AT_FDCWD = -100
CLOSE_RANGE_CLOEXEC = 4
_KEYCTL_JOIN_SESSION_KEYRING = 1
_CAPABILITY_VERSION_3 = 0x20080522

# PyDLL keeps the interpreter lock: after clone3 the child goes on as the only thread, holding it, with
# nothing to repair.
_libc = ctypes.PyDLL(None, use_errno=True)
_LETTERS: dict[str, Any] = {"i": ctypes.c_int, "l": ctypes.c_long, "u": ctypes.c_ulong, "s": ctypes.c_char_p}


def fail(what: str) -> OSError:
    """The OSError for the errno of the last call, naming the object ``what``."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


def prototype(name: str, letters: str) -> Callable[..., int]:
    """A C library function that takes i(nt), l(ong), u(nsigned long) and s(tring or buffer) arguments and
    returns an integer. Declared once: converting arguments by declaration costs a third of wrapping them at
    each call, and a start makes some two hundred calls."""
    function = _libc[name]
    function.argtypes = [_LETTERS[letter] for letter in letters]
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    return cast("Callable[..., int]", function)


def check(result: int, what: str) -> int:
    """``result``, or the OSError that -1 stands for. ``what`` names the object."""
    if result < 0:
        raise fail(what)
    return result


_call_clone3 = prototype("syscall", "lsl")
_call_clone = prototype("syscall", "llllll")
_call_close_range = prototype("syscall", "liii")
_call_fstatfs = prototype("fstatfs", "is")
_call_openat2 = prototype("syscall", "lissl")
_call_pivot_root = prototype("syscall", "lss")
_call_keyctl = prototype("syscall", "lis")
_call_prctl = prototype("prctl", "iuuuu")
_call_unshare = prototype("unshare", "i")
_call_setns = prototype("setns", "ii")
_call_sethostname = prototype("sethostname", "sl")
_call_setdomainname = prototype("setdomainname", "sl")
_call_capset = prototype("capset", "ss")
_call_capget = prototype("capget", "ss")


def clone3(flags: int, *, cgroup: int = -1) -> int:
    """Fork with namespaces: 0 in the child, its pid in the parent (clone(2)).

    ``cgroup`` is a descriptor of a v2 cgroup folder in which the child is born (Linux 5.7), -1 for the
    parent's. Only for a process with one thread: nothing of ``os.register_at_fork`` runs."""
    if cgroup >= 0:
        flags |= CLONE_INTO_CGROUP
    signal = (
        0 if flags & CLONE_PARENT else 17
    )  # CLONE_PARENT inherits the exit signal (SIGCHLD) and must not set one
    args = struct.pack("=11Q", flags, 0, 0, 0, signal, 0, 0, 0, 0, 0, max(cgroup, 0))
    return check(_call_clone3(SYS_CLONE3, args, len(args)), "clone3")


def clone_sibling() -> int:
    """A copy of this process as another child of its parent: 0 in the copy, its pid here.

    By the older clone(2), which a seccomp filter of Docker's kind lets through, for it can read the flags."""
    return check(_call_clone(SYS_CLONE, CLONE_PARENT, 0, 0, 0, 0), "clone")


def unshare(flags: int) -> None:
    """Leave the namespaces in ``flags`` for new ones (unshare(2))."""
    check(_call_unshare(flags), "unshare")


def setns(fd: int, flags: int, what: str = "setns") -> None:
    """Join the namespace that ``fd`` names, or several of the process of a pidfd (setns(2))."""
    check(_call_setns(fd, flags), what)


def prctl(option: int, *values: int) -> int:
    """prctl(2) with up to four integers."""
    first, second, third, fourth = (*values, 0, 0, 0, 0)[:4]
    return check(_call_prctl(option, first, second, third, fourth), f"prctl {option}")


def close_range(first: int, last: int, *, cloexec: bool = False) -> None:
    """Close descriptors first..last, or only mark them close-on-exec (close_range(2), Linux 5.9 and 5.11)."""
    flags = CLOSE_RANGE_CLOEXEC if cloexec else 0
    check(_call_close_range(SYS_CLOSE_RANGE, first, last, flags), "close_range")


def keep_only(fds: set[int]) -> None:
    """Close every descriptor above 2 that is not in ``fds``."""
    start = 3
    for fd in sorted(fd for fd in fds if fd > 2):
        if fd > start:
            close_range(start, fd - 1)
        start = fd + 1
    close_range(start, 0x7FFFFFFF)


def openat2(dirfd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open ``path`` below ``dirfd`` with RESOLVE_… rules (openat2(2), Linux 5.6)."""
    how = struct.pack("=3Q", flags | os.O_CLOEXEC, mode, resolve)
    return check(_call_openat2(SYS_OPENAT2, dirfd, os.fsencode(path), how, len(how)), path)


def file_system_type(fd: int) -> int:
    """The magic number of the file system that ``fd`` is on (fstatfs(2), linux/magic.h)."""
    buffer = ctypes.create_string_buffer(120)
    check(_call_fstatfs(fd, buffer), f"descriptor {fd}")
    return int(struct.unpack_from("=l" if ctypes.sizeof(ctypes.c_long) == 4 else "=q", buffer)[0])


def pivot_root(new: str, old: str) -> None:
    """Make ``new`` the root and put the old one at ``old`` (pivot_root(2))."""
    check(_call_pivot_root(SYS_PIVOT_ROOT, os.fsencode(new), os.fsencode(old)), new)


def sethostname(name: str) -> None:
    """Set the host name of this UTS namespace."""
    raw = os.fsencode(name)
    check(_call_sethostname(raw, len(raw)), f"hostname {name}")


def setdomainname(name: str) -> None:
    """Set the NIS domain name of this UTS namespace."""
    raw = os.fsencode(name)
    check(_call_setdomainname(raw, len(raw)), f"domain name {name}")


def join_session_keyring(name: str) -> None:
    """A new, empty session keyring, so that keys of whoever started the engine stay out (keyrings(7))."""
    check(_call_keyctl(SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, os.fsencode(name)), name)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's capability sets from bit masks (capset(2), version 3)."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    halves = [(m & 0xFFFFFFFF, m >> 32) for m in (effective, permitted, inheritable)]
    data = struct.pack("=6I", *(h[0] for h in halves), *(h[1] for h in halves))
    check(_call_capset(header, data), "capset")


def capget() -> int:
    """This thread's permitted capabilities, as a bit mask (capget(2))."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    check(_call_capget(header, data), "capget")
    low = struct.unpack_from("=3I", data, 0)
    high = struct.unpack_from("=3I", data, 12)
    return int(low[1] | high[1] << 32)
