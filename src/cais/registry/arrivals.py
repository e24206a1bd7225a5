"""A blob that is on its way here from another registry, read by many while one task writes it."""

import asyncio
import os
from typing import BinaryIO

from cais.registry.refusal import Refusal


class Arrival:
    """``begin``, ``note``, ``finish`` and ``fail`` are the writer's. Nobody is shown the last byte before all of them
    are known to be right: a client whose blob turns out wrong sees its connection cut, never a whole answer."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes of the whole blob; known when it has begun."""
        self._visible = 0
        self._file: BinaryIO | None = None
        self._has_ended = False
        self._failure: Refusal | None = None
        self._change = asyncio.Event()

    # The writer's

    def begin(self, file: BinaryIO, size: int) -> None:
        """The blob has ``size`` bytes, and those that have come can be read from ``file``, which is ours now."""
        self._file, self.size = file, size

    def note(self, have: int) -> None:
        """So many bytes are in the file."""
        self._visible = min(have, self.size - 1)
        self._tell()

    def finish(self, size: int) -> None:
        """The blob is whole, verified and on record."""
        self.size = self._visible = size
        self._end()

    def fail(self, failure: Refusal) -> None:
        """Nothing more comes. After ``finish`` without effect."""
        if not self._has_ended:
            self._failure = failure
            self._end()

    def _end(self) -> None:
        self._has_ended = True
        if self._file is not None:
            self._file.close()  # readers have descriptors of their own
            self._file = None
        self._tell()

    def _tell(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

    # Readers'

    def open(self) -> BinaryIO:
        """The bytes, for reading at offsets; the caller closes it. Only while it is under way."""
        assert self._file is not None
        return os.fdopen(os.dup(self._file.fileno()), "rb", buffering=0)

    async def wait_begun(self) -> int:
        """Wait until the first bytes are here; the blob's size. Raises Refusal: none will come."""
        while not self._visible and not self._has_ended:
            await self._change.wait()
        self._check()
        return self.size

    async def wait_beyond(self, start: int) -> int:
        """Wait until more than ``start`` bytes may be sent; how many may. Raises Refusal: no more will come."""
        while self._visible <= start and not self._has_ended:
            await self._change.wait()
        if self._visible <= start:
            self._check()
        return self._visible

    async def wait_whole(self) -> None:
        """Wait until all of it is here and right. Raises Refusal."""
        while not self._has_ended:
            await self._change.wait()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            failure = self._failure
            # One of its own for every reader: tracebacks grow with each raise.
            raise Refusal(failure.code, str(failure), detail=failure.detail, status=failure.status)
