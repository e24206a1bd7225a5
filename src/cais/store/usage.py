"""What the engine's root folder takes on disk, as du counts: allocated blocks, folders too, hard links once."""

import os
import stat
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512
_DEPTHS = {"content/blobs": 4, "containers": 3, "volumes": 2, "layers": 2, "content": 2}
"""How many names of a path tell whose it is, by its beginning."""

Blocks = dict[str, int]
"""Bytes by place: the beginning of a path below the root that says whose it is; empty for the root itself."""


def measure_root(root: Path) -> Blocks:
    """Every byte below ``root``, once. What comes or goes meanwhile may be counted or not. Slow: looks at every file.

    Walked by descriptors with one folder open at a time: a container may have nested folders deeper than paths go.
    """
    return _Walk(root).run()


class _Walk:
    def __init__(self, root: Path) -> None:
        self._here = os.open(root, _FOLDER)
        self._seen: set[tuple[int, int]] = set()
        self._blocks: Blocks = {}

    def run(self) -> Blocks:
        try:
            own = os.fstat(self._here)
            self._count("", own)
            levels = [("", self._list(""), _identity(own))]
            while levels:
                path, waiting, _ = levels[-1]
                if waiting:
                    name = waiting.pop()
                    if self._descend(name):
                        # Below its place a path says nothing more, and may be long.
                        below = path if _is_place(path) else f"{path}/{name}" if path else name
                        levels.append((below, self._list(below), _identity(os.fstat(self._here))))
                    continue
                levels.pop()
                if levels and not self._leave(levels[-1][2]):
                    break
        finally:
            os.close(self._here)
        return self._blocks

    def _list(self, path: str) -> list[str]:
        """Count everything in the current folder; the names of its folders."""
        inside = _is_place(path)
        folders = []
        with os.scandir(self._here) as entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                self._count(path if inside else f"{path}/{entry.name}" if path else entry.name, found)
                if stat.S_ISDIR(found.st_mode):
                    folders.append(entry.name)
        return folders

    def _count(self, place: str, found: os.stat_result) -> None:
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            if _identity(found) in self._seen:
                return
            self._seen.add(_identity(found))
        self._blocks[place] = self._blocks.get(place, 0) + found.st_blocks * _BLOCK

    def _descend(self, name: str) -> bool:
        try:
            child = os.open(name, _FOLDER, dir_fd=self._here)
        except OSError:
            return False  # gone, or no folder any more
        os.close(self._here)
        self._here = child
        return True

    def _leave(self, parent: tuple[int, int]) -> bool:
        above = os.open("..", _FOLDER, dir_fd=self._here)
        os.close(self._here)
        self._here = above
        # A container that moves a folder while we are in it ends the count; nothing outside is ever walked.
        return _identity(os.fstat(above)) == parent


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _is_place(path: str) -> bool:
    """Whether everything below ``path`` is counted with it."""
    first, _, rest = path.partition("/")
    depth = _DEPTHS.get(f"{first}/{rest.partition('/')[0]}") or _DEPTHS.get(first, 1)
    return bool(path) and path.count("/") + 1 >= depth
