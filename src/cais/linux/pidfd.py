"""Processes by descriptor: immune to the reuse of numbers."""

import ctypes
import fcntl
import os
import signal
import struct

PIDFD_GET_INFO_SIZE = 64
_PIDFD_INFO_EXIT = 1 << 3
_IOWR_PIDFD_GET_INFO = 0xC0000000 | (PIDFD_GET_INFO_SIZE << 16) | (0xFF << 8) | 11


def open_pidfd(pid: int) -> int:
    """A pidfd of ``pid``, close-on-exec (pidfd_open(2), Linux 5.3)."""
    return os.pidfd_open(pid)


def send_signal(pidfd: int, number: int) -> None:
    """Signal the process; ProcessLookupError when it has ended."""
    signal.pidfd_send_signal(pidfd, number)


def decode_status(status: int) -> int:
    """A wait status as Docker's exit code: 0-255, or 128 plus the signal's number."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def reap(pidfd: int) -> int | None:
    """The exit code of an ended child, collecting it; None when it is not ours or was collected by someone
    else."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return int(result.si_status)
    return 128 + int(result.si_status)


def exit_code(pidfd: int) -> int | None:
    """The exit code of an ended process that another process collected (PIDFD_GET_INFO, Linux 6.15); None if
    unknown."""
    buffer = ctypes.create_string_buffer(struct.pack("=Q", _PIDFD_INFO_EXIT), PIDFD_GET_INFO_SIZE)
    try:
        fcntl.ioctl(pidfd, _IOWR_PIDFD_GET_INFO, buffer)
    except OSError:
        return None
    # struct pidfd_info: mask and cgroupid (u64), pid, tgid, ppid and eight ids (u32), then the wait status
    mask = struct.unpack_from("=Q", buffer, 0)[0]
    if not mask & _PIDFD_INFO_EXIT:
        return None
    return decode_status(struct.unpack_from("=i", buffer, 60)[0])
