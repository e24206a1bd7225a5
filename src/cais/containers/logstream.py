"""A container's log as a stream for a client: old files, the newest, and what is written meanwhile."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from cais.containers.fleet import Ended
from cais.containers.logs import (
    BLOCK,
    LogsWanted,
    Reader,
    Run,
    format_run,
    log_files,
    make_reader,
    tail_offset,
)
from cais.containers.watch import FolderWatch


class LogStream:
    """One reading of one log. ``ended``: done when no more will be written (``follow`` then ends after the rest)."""

    def __init__(self, path: Path, driver: str, wanted: LogsWanted) -> None:
        self._path = path
        self._driver = driver
        self._wanted = wanted
        self._skip = 0
        self._over = False

    async def read(self, ended: "asyncio.Future[Ended] | None" = None) -> AsyncIterator[bytes]:
        """Everything wanted, in pieces of at most some megabytes."""
        files = log_files(self._path)
        start, offset = self._find_start(files)
        last = -1
        for index, path in enumerate(files[start:]):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue
            with closing(file):
                file.seek(offset if index == 0 else 0)
                reader = self._make_reader()
                async for data in self._drain(file, reader):
                    yield data
                if self._over:
                    return
                last = os.fstat(file.fileno()).st_ino
                if path == self._path and self._wanted.follow and ended is not None:
                    async for data in self._follow(file, reader, ended):
                        yield data
                    return
        if self._wanted.follow and ended is not None and last < 0:
            async for data in self._await_first(ended):
                yield data

    def _make_reader(self) -> Reader:
        wanted = self._wanted
        return make_reader(self._driver, split=wanted.timestamps or wanted.details)

    # Where to begin

    def _find_start(self, files: list[Path]) -> tuple[int, int]:
        """Index of the first file to read and the offset in it."""
        count = self._wanted.tail
        if count < 0:
            return 0, 0
        if self._driver == "local":
            self._skip = self._count_entries(files) - count
            return 0, 0
        for index in range(len(files) - 1, -1, -1):
            try:
                with files[index].open("rb") as file:
                    offset, count = tail_offset(file, count)
            except FileNotFoundError:
                continue
            if count <= 0:
                return index, offset
        return 0, 0

    def _count_entries(self, files: list[Path]) -> int:
        """Lines in all files: records have no way back, so the log is read twice."""
        total = 0
        for path in files:
            try:
                file = path.open("rb")
            except FileNotFoundError:
                continue
            with closing(file):
                reader = make_reader(self._driver, split=False)
                while block := file.read(BLOCK):
                    total += sum(_lines(run.pieces[0]) for run in reader.feed(block))
        return total

    # Reading

    async def _drain(self, file: BinaryIO, reader: Reader) -> AsyncIterator[bytes]:
        """To the present end of the file."""
        while block := file.read(BLOCK):
            data = b"".join(self._format(reader.feed(block)))
            if data:
                yield data
            if self._over:
                return
            # A block takes milliseconds: others want their turn in between.
            await asyncio.sleep(0)

    def _format(self, runs: Iterator[Run]) -> Iterator[bytes]:
        wanted = self._wanted
        for run in runs:
            if self._skip > 0:
                kept = self._skip_entries(run)
                if kept is None:
                    continue
                run = kept
            if run.time_ns < wanted.since_ns:
                continue
            if wanted.until_ns and run.time_ns > wanted.until_ns:
                self._over = True
                return
            yield format_run(run, wanted)

    def _skip_entries(self, run: Run) -> Run | None:
        """What is left of the run when the entries before the tail are dropped."""
        pieces = run.pieces if len(run.pieces) > 1 else tuple(run.pieces[0].splitlines(keepends=True))
        dropped = min(self._skip, len(pieces))
        self._skip -= dropped
        return Run(run.stream, run.time_ns, pieces[dropped:]) if dropped < len(pieces) else None

    # Following

    async def _await_first(self, ended: "asyncio.Future[Ended]") -> AsyncIterator[bytes]:
        """The log is not there yet: the container is about to start."""
        with FolderWatch(self._path.parent) as watch:
            while not self._path.exists():
                if ended.done():
                    return
                await _either(watch, ended)
        with self._path.open("rb") as file:
            async for data in self._follow(file, self._make_reader(), ended):
                yield data

    async def _follow(
        self, file: BinaryIO, reader: Reader, ended: "asyncio.Future[Ended]"
    ) -> AsyncIterator[bytes]:
        """From where ``file`` stands until the container has ended and everything was read, across rotations."""
        current = file
        try:
            with FolderWatch(self._path.parent) as watch:
                while True:
                    # Before reading: what was written until the end is in the file when the end is known.
                    finished = ended.done()
                    async for data in self._drain(current, reader):
                        yield data
                    if self._over:
                        return
                    newer = self._next_file(current)
                    if newer:
                        # It may have grown between our last read and its renaming.
                        async for data in self._drain(current, reader):
                            yield data
                        if current is not file:
                            current.close()
                        current, reader = newer, self._make_reader()
                        continue
                    if finished:
                        return
                    await _either(watch, ended)
        finally:
            if current is not file:
                current.close()

    def _next_file(self, current: BinaryIO) -> BinaryIO | None:
        """The file after ``current`` when that was rotated away, else ``None``."""
        inode = os.fstat(current.fileno()).st_ino
        files = log_files(self._path)
        inodes = [_inode(path) for path in files]
        if inodes[-1] in (inode, 0):
            return None
        # Unknown: more rotations than files are kept came between; the oldest that is left is next.
        place = inodes.index(inode) + 1 if inode in inodes else 0
        try:
            return files[place].open("rb")
        except FileNotFoundError:
            return None


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _lines(text: bytes) -> int:
    return text.count(b"\n") + (not text.endswith(b"\n") and bool(text))


async def _either(watch: FolderWatch, ended: "asyncio.Future[Ended]") -> None:
    changed = asyncio.ensure_future(watch.wait())
    try:
        await asyncio.wait((changed, ended), return_when=asyncio.FIRST_COMPLETED)
    finally:
        changed.cancel()
