"""Pseudo terminals that belong to a container's own devpts."""

import fcntl
import os
import stat
import struct
import termios

TIOCGPTPEER = 0x5441
TIOCSPTLCK = 0x40045431


def open_master(path: str) -> int:
    """Open ``path`` as a terminal multiplexer, unlocked.

    The path lies in a file system that a container controls, hence the check that it is the real multiplexer
    (character device 5:2, Documentation/admin-guide/devices.txt) before anything is asked of it."""
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(fd)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(5, 2):
        os.close(fd)
        raise OSError(0, "not a terminal multiplexer", path)
    fcntl.ioctl(fd, TIOCSPTLCK, struct.pack("=i", 0))
    return fd


def open_slave(master: int) -> int:
    """The slave of ``master``, by descriptor and not by its name in /dev/pts (TIOCGPTPEER, Linux 4.13)."""
    return int(fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))


def set_size(fd: int, height: int, width: int) -> None:
    """Set the window size in characters; the foreground process group gets SIGWINCH (ioctl_tty(2))."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("=4H", height & 0xFFFF, width & 0xFFFF, 0, 0))


def make_controlling(fd: int) -> None:
    """Make ``fd`` the controlling terminal of this session's leader."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
