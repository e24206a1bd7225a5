"""Unpacking a layer, in a worker, from a file that somebody else is still writing."""

import io
import time
from pathlib import Path
from typing import BinaryIO, cast

from cais.errors import Unavailable
from cais.spec.digest import Digest
from cais.store.layers.layers import Layers
from cais.store.layers.limits import DEFAULT_LIMITS, Limits

PATIENCE = 5.0
"""Seconds without a new byte after which the worker is better used for others."""
_POLL = 0.002
_CHUNK = 1 << 20


class ArrivingFile(io.RawIOBase):
    """Reads ``path`` up to ``size`` bytes, waiting for those that are not here yet.

    The file may be renamed meanwhile. Raises Unavailable if it stops growing.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._left = size
        self._abandoned = False

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        super().close()

    def abandon(self) -> None:
        """End a ``read`` that waits in another thread: nobody wants its bytes any more."""
        self._abandoned = True

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, at least one until all have been read."""
        wanted = min(self._left, size if size > 0 else _CHUNK)
        deadline = time.monotonic() + PATIENCE
        while True:
            data = self._file.read(wanted)
            if data or not wanted:
                self._left -= len(data)
                return data
            if self._abandoned or time.monotonic() > deadline:
                raise Unavailable(f"{self._left} bytes of the layer do not arrive")
            time.sleep(_POLL)


def unpack_arriving(
    root: Path, path: Path, size: int, diff_id: Digest, limits: Limits = DEFAULT_LIMITS
) -> None:
    """``Layers(root).unpack`` of the ``size`` bytes that are or will be at ``path``."""
    with ArrivingFile(path, size) as file:
        Layers(root, limits=limits).unpack(cast(BinaryIO, file), diff_id)
