"""Packing a container's changes into a blob and, in the same pass, unpacking the layer they make; for a worker."""

import hashlib
import uuid
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import BinaryIO, cast

import msgspec

from cais.spec.digest import Digest
from cais.store.layers.codec import CHUNK
from cais.store.layers.compress import make_compressor
from cais.store.layers.diff import DiffSource, NeedsMerged, diff_snapshot, diff_trees
from cais.store.layers.layers import Layers
from cais.store.layers.pack import END

_AHEAD = 4
"""Pieces that may wait for the compressor."""


class PackedLayer(msgspec.Struct, frozen=True):
    """A layer whose blob has no name yet: it lies at ``path`` in the content store's folder, ``size`` bytes long, and
    is to be renamed to ``digest`` once that is leased."""

    path: Path
    digest: Digest
    size: int
    diff_id: Digest


def pack_layer(root: Path, source: DiffSource, codec: str) -> PackedLayer | None:
    """Pack the changes below the engine's ``root``; None if there are none. A failure leaves nothing.

    Raises Conflict, Invalid (what the container made does not fit into a layer), OSError.
    """
    try:
        return _pack(root, diff_snapshot(source), codec)
    except NeedsMerged:
        return _pack(root, diff_trees(source), codec)


def pack_members(root: Path, members: Iterator[bytes], codec: str) -> PackedLayer | None:
    """Pack ``members`` (headers and contents, without the end blocks) as a layer; None if there are none. Raises as
    ``pack_layer``."""
    return _pack(root, members, codec)


def pack_blob(root: Path, members: Iterator[bytes], codec: str) -> PackedLayer | None:
    """As ``pack_members``, but the layer is not unpacked."""
    first = next(members, None)
    if first is None:
        return None
    path = root / "content" / f".tmp-{uuid.uuid4().hex}"
    plain = hashlib.sha256()
    try:
        parts = chain((first,), members, (END,))
        with path.open("xb", buffering=0) as file, _Packer(parts, file, codec) as packer:
            while data := packer.read():
                plain.update(data)
            digest, size = packer.finish()
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return PackedLayer(path, digest, size, Digest(f"sha256:{plain.hexdigest()}"))


def _pack(root: Path, members: Iterator[bytes], codec: str) -> PackedLayer | None:
    first = next(members, None)
    if first is None:
        return None
    # The name is one that the content store sweeps at the engine's start.
    path = root / "content" / f".tmp-{uuid.uuid4().hex}"
    try:
        parts = chain((first,), members, (END,))
        with path.open("xb", buffering=0) as file, _Packer(parts, file, codec) as packer:
            diff_id = Layers(root).unpack_new(cast(BinaryIO, packer))
            digest, size = packer.finish()
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return PackedLayer(path, digest, size, diff_id)


class _Packer:
    """A tar to read from, made on the way; what is read goes compressed into ``file``, too, by a thread of its own:
    compressing, hashing and writing all let go of the interpreter's lock, and the layer is unpacked meanwhile."""

    def __init__(self, parts: Iterator[bytes], file: BinaryIO, codec: str) -> None:
        self._parts = parts
        self._file = file
        self._compressor = make_compressor(codec)
        self._hash = hashlib.sha256()
        self._size = 0
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._room = Semaphore(_AHEAD)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, name="layer-pack", daemon=True)

    def __enter__(self) -> "_Packer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def read(self, size: int = -1) -> bytes:
        """About ``CHUNK`` bytes whatever ``size``, for members are not to be cut; empty at the end."""
        gathered: list[bytes] = []
        length = 0
        for part in self._parts:
            gathered.append(part)
            length += len(part)
            if length >= CHUNK:
                break
        data = b"".join(gathered)
        if data:
            self._room.acquire()
            self._check()
            self._queue.put(data)
        return data

    def finish(self) -> tuple[Digest, int]:
        """Digest and size of the blob, once everything has been read."""
        self._queue.put(None)
        self._thread.join()
        self._check()
        self._store(self._compressor.flush())
        return Digest(f"sha256:{self._hash.hexdigest()}"), self._size

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (data := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._store(self._compressor.compress(data))
                except BaseException as error:
                    self._error = error
            self._room.release()

    def _store(self, data: bytes) -> None:
        self._hash.update(data)
        self._size += len(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
