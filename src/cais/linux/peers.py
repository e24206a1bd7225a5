"""Descriptors that the process at the other end of a unix socket holds: taken by number, without a message, and what is
below them opened so that nothing leads out.

The C library's calls are made without the interpreter's lock: what a stranger's folder is on may answer late or never.
"""

import ctypes
import errno
import os
import socket
import struct

from cais.linux.syscalls import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, SYS_OPENAT2

SYS_PIDFD_GETFD = 438
SO_PEERPIDFD = 77
"""Linux 6.5 (include/uapi/asm-generic/socket.h); before that a process is known by its number alone."""
_OLD_KERNEL = (errno.ENOPROTOOPT, errno.EINVAL, errno.EOPNOTSUPP)

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_LONG = ctypes.c_long
_HOW = struct.pack(
    "=3Q",
    os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY,
    0,
    RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
)
_HOW_SIZE = _LONG(len(_HOW))
_OPENAT2 = _LONG(SYS_OPENAT2)
_NO_FLAGS = ctypes.c_uint(0)


def open_peer(connection: int) -> int:
    """A pidfd of the process that connected the unix socket ``connection``; the caller closes it. Raises OSError: it is
    another kind of socket, or the process has gone."""
    with socket.socket(fileno=os.dup(connection)) as sock:
        if sock.family != socket.AF_UNIX:
            raise OSError(errno.EAFNOSUPPORT, "not a unix socket")
        try:
            return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        except OSError as error:
            if error.errno not in _OLD_KERNEL:
                raise
        (pid, _, _) = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if pid <= 0:
        raise ProcessLookupError(errno.ESRCH, "the peer's process is in no namespace of ours")
    # The number may be another process's by now: whoever takes a descriptor compares what it is.
    return os.pidfd_open(pid)


def take_descriptor(pidfd: int, number: int) -> int:
    """A copy of descriptor ``number`` of the process, close-on-exec; the caller closes it (pidfd_getfd(2), Linux 5.6).
    Raises OSError: it has none of this number, it has gone, or may not be looked into."""
    found: int = _syscall(_LONG(SYS_PIDFD_GETFD), ctypes.c_int(pidfd), ctypes.c_int(number), _NO_FLAGS)
    return _check(found, f"descriptor {number}")


def open_beneath(folder: int, path: bytes) -> int:
    """Open ``path`` (relative, not empty) below ``folder`` for reading, whatever it is; no link is followed, whatever
    is renamed meanwhile. The caller closes it. Raises OSError: ELOOP for a link on the way."""
    found: int = _syscall(_OPENAT2, ctypes.c_int(folder), path, _HOW, _HOW_SIZE)
    return _check(found, os.fsdecode(path))


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
