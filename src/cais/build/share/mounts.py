"""The folders of cache mounts as blobs, and back; for a worker."""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from cais.build.export.convert import ConvertedLayer
from cais.build.export.rootfs import gather, tar_members
from cais.build.tree import LayersTree, Node, join
from cais.spec.digest import Digest
from cais.store.layers.apply import apply_layer
from cais.store.layers.compress import make_compressor
from cais.store.layers.pack import END

_WHITEOUT = b".wh."


class _Folder:
    """A folder as a tree. Names that would delete something in a layer are left out."""

    def __init__(self, path: Path) -> None:
        self._tree = LayersTree((str(path),))

    def look(self, path: bytes) -> Node | None:
        """Tree.look."""
        return self._tree.look(path)

    def names(self, path: bytes) -> Sequence[bytes]:
        """Tree.names."""
        # The tree remembers only what it listed last: that is what is asked for next.
        return [
            name
            for name in self._tree.names(path)
            if not name.startswith(_WHITEOUT) and self._tree.look(join(path, name)) is not None
        ]

    def read(self, path: bytes) -> Iterator[bytes]:
        """Tree.read."""
        return self._tree.read(path)


def pack_mount(content: Path, folder: Path, codec: str) -> ConvertedLayer:
    """The folder as a blob in the store at ``content``, which has no name yet. A failure leaves nothing. Raises
    OSError."""
    target = content / f".tmp-{uuid.uuid4().hex}"
    plain, packed, size = hashlib.sha256(), hashlib.sha256(), 0
    compressor = make_compressor(codec)
    try:
        with target.open("xb", buffering=1 << 18) as out:
            for part in gather(chain(tar_members(_Folder(folder), with_root=True), (END,))):
                plain.update(part)
                data = compressor.compress(part)
                packed.update(data)
                size += out.write(data)
            data = compressor.flush()
            packed.update(data)
            size += out.write(data)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    digest, diff_id = Digest(f"sha256:{packed.hexdigest()}"), Digest(f"sha256:{plain.hexdigest()}")
    return ConvertedLayer(target, digest, size, diff_id)


def unpack_mount(blob: Path | BinaryIO, folder: Path, diff_id: Digest) -> None:
    """Unpack into the new folder ``folder``; nothing leads out of it. Raises Corrupt, Invalid, OSError."""
    folder.mkdir(mode=0o700)
    apply_layer(blob, folder, diff_id=diff_id)
