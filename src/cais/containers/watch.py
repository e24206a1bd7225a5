"""Waiting for a folder's files to change: inotify(7) on the event loop."""

import asyncio
import ctypes
import os
from pathlib import Path
from types import TracebackType

_IN_MODIFY, _IN_MOVED_FROM, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_IN_DELETE_SELF, _IN_MOVE_SELF, _IN_ONLYDIR = 0x400, 0x800, 0x01000000
_MASK = _IN_MODIFY | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_DELETE_SELF | _IN_MOVE_SELF
_FALLBACK = 0.2
"""Seconds between looks when the kernel gives no watch (fs.inotify.max_user_watches)."""


class FolderWatch:
    """Tells when something in a folder has changed since the last ``wait``; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._event = asyncio.Event()
        self._fd = _open(folder)
        if self._fd >= 0:
            asyncio.get_running_loop().add_reader(self._fd, self._on_readable)

    def __enter__(self) -> "FolderWatch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _on_readable(self) -> None:
        try:
            os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        self._event.set()

    async def wait(self) -> None:
        """Return at the next change, or at once if there was one since the last call."""
        if self._fd < 0:
            await asyncio.sleep(_FALLBACK)
            return
        await self._event.wait()
        self._event.clear()


def _open(folder: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(folder), _MASK | _IN_ONLYDIR) < 0:
        os.close(fd)
        return -1
    return fd
