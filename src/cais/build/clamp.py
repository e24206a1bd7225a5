"""Times of what a RUN made, held down to one time, so that the same step gives the same layer on every day."""

import os
import stat

import msgspec

from cais.store.layers.diff import DiffSource
from cais.store.layers.lower import FOLDER_FLAGS, LowerView

_SECOND = 1_000_000_000


def clamp_times(source: DiffSource, newest: int) -> None:
    """Give what is newer than ``newest`` (seconds) that time, in the writable folder, which goes with the step. Where
    the snapshot is a whole copy, what is as it is in the layers stays. For a worker; nothing runs in there any more.

    Walked by descriptors with one folder open at a time: folders may be nested deeper than paths go.
    """
    copied = source.root.type != "overlay"
    top = source.root.lower[0] if copied else source.root.upper
    walk = _Walk(os.open(top, FOLDER_FLAGS), LowerView(source.lowers) if copied else None, newest * _SECOND)
    walk.run()


class _Walk(msgspec.Struct):
    here: int
    below: LowerView | None
    newest_ns: int

    def run(self) -> None:
        try:
            _set_time(self.here, os.fstat(self.here), self.newest_ns)
            levels = [(b"", self._folders(b""))]
            while levels:
                path, names = levels[-1]
                if names:
                    name = names.pop()
                    self._move(name)
                    path = path + b"/" + name if path else name
                    levels.append((path, self._folders(path)))
                    continue
                levels.pop()
                if levels:
                    self._move(b"..")
        finally:
            os.close(self.here)

    def _move(self, name: bytes) -> None:
        there = os.open(name, FOLDER_FLAGS, dir_fd=self.here)
        os.close(self.here)
        self.here = there

    def _folders(self, path: bytes) -> list[bytes]:
        """Set the times of what is in the open folder; the names of the folders in it."""
        found = []
        for name in map(os.fsencode, sorted(os.listdir(self.here))):
            status = os.stat(name, dir_fd=self.here, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                found.append(name)
            if status.st_mtime_ns <= self.newest_ns or self._is_old(path + b"/" + name, status):
                continue
            times = (status.st_atime_ns, self.newest_ns)
            os.utime(name, ns=times, dir_fd=self.here, follow_symlinks=False)
        return found

    def _is_old(self, path: bytes, status: os.stat_result) -> bool:
        found = self.below.find(path.lstrip(b"/")) if self.below else None
        return found is not None and found.stat.st_mtime_ns == status.st_mtime_ns


def _set_time(fd: int, status: os.stat_result, newest_ns: int) -> None:
    if status.st_mtime_ns > newest_ns:
        os.utime(fd, ns=(status.st_atime_ns, newest_ns))
