"""Compressing a layer that lies in the content store as a plain tar, to send it to a registry; for a worker."""

import hashlib
import uuid
from pathlib import Path

import msgspec

from cais.errors import Corrupt
from cais.spec.digest import Digest
from cais.store.layers.codec import CHUNK
from cais.store.layers.compress import make_compressor


class CompressedBlob(msgspec.Struct, frozen=True):
    """A blob without a name yet: it lies at ``path`` in the content store's folder and is to be renamed to ``digest``
    once that is leased. ``size`` is bytes."""

    path: Path
    digest: Digest
    size: int


def compress_blob(source: Path, digest: Digest, codec: str) -> CompressedBlob:
    """The blob at ``source`` in the content store, compressed; the same bytes give the same bytes. A failure leaves
    nothing.

    Raises Corrupt if the source is not what its ``digest`` says: nobody else would find out what was packed up.
    """
    # The folder of the content store, and a name that it sweeps at the engine's start.
    target = source.parents[2] / f".tmp-{uuid.uuid4().hex}"
    read, written, size = hashlib.new(digest.algorithm), hashlib.sha256(), 0
    compressor = make_compressor(codec)
    try:
        with source.open("rb", buffering=0) as plain, target.open("xb", buffering=CHUNK) as packed:
            while chunk := plain.read(CHUNK):
                read.update(chunk)
                data = compressor.compress(chunk)
                written.update(data)
                size += packed.write(data)
            data = compressor.flush()
            written.update(data)
            size += packed.write(data)
        if read.hexdigest() != digest.hex:
            raise Corrupt(f"blob {digest} is damaged")
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return CompressedBlob(target, Digest(f"sha256:{written.hexdigest()}"), size)
