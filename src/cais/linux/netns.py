"""Network namespaces: making, entering and naming them by descriptor (network_namespaces(7))."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from cais.linux.syscalls import CLONE_NEWNET, fail

# Not syscalls' own: that one keeps the interpreter lock, and making a namespace waits for the kernel's rtnl lock,
# which others hold for 20 ms and more.
_libc = ctypes.CDLL(None, use_errno=True)


def open_current() -> int:
    """A descriptor of the calling thread's network namespace; the caller closes it."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def unshare() -> None:
    """Move the calling thread into a new, empty network namespace."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise fail("network namespace")


def enter(fd: int) -> None:
    """Move the calling thread into the network namespace ``fd``."""
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise fail(f"network namespace {fd}")


@contextmanager
def entered(fd: int) -> Iterator[None]:
    """The calling thread is inside ``fd`` for the block; /proc/sys/net and new sockets follow the thread."""
    home = open_current()
    try:
        enter(fd)
        try:
            yield
        finally:
            enter(home)
    finally:
        os.close(home)


@contextmanager
def created() -> Iterator[int]:
    """A new network namespace which the calling thread is in for the block; yields its descriptor.

    The descriptor stays open after the block when it ended well (the caller closes it, and the namespace ends with
    its last descriptor and process); it is closed when the block raised.
    """
    home = open_current()
    try:
        unshare()
        try:
            fd = open_current()
            try:
                yield fd
            except BaseException:
                os.close(fd)
                raise
        finally:
            enter(home)
    finally:
        os.close(home)


def write_sysctl(name: str, value: str) -> None:
    """Set ``net.…`` of the calling thread's network namespace; ``name`` has slashes: ``ipv4/ip_forward``."""
    fd = os.open(f"/proc/sys/net/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read_sysctl(name: str) -> str:
    """The value of ``net.…`` in the calling thread's network namespace, without the line end."""
    fd = os.open(f"/proc/sys/net/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode().strip()
    finally:
        os.close(fd)
