"""Results of builds without a build: layers put into an empty store by hand, and a client that keeps what it gets."""

import asyncio
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cais.build.cache import BuildCache, CacheRecord, Layer
from cais.build.export.result import Result, Tools
from cais.build.export.rootfs import tar_members
from cais.build.share.blobs import FolderPlace
from cais.build.tree import Tree
from cais.events import Bus
from cais.images.images import Images
from cais.images.unpack import Unpacker
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.remotes.client import Patience, Remotes
from cais.remotes.hosts import Hosts
from cais.spec.descriptor import OCI_LAYER_GZIP, Descriptor
from cais.spec.digest import digest_bytes
from cais.spec.image import ContainerDefaults, History, ImageConfig, RootFs
from cais.spec.platform import Platform
from cais.store.content import Content
from cais.store.gc import Lease
from cais.store.layers.compress import make_compressor
from cais.store.layers.layers import Layers, ensure_layers
from cais.store.metadata import Metadata
from cais.store.workers import Workers

AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64")
CREATED = "2020-01-02T03:04:05Z"

Files = Mapping[str, str | bytes]
"""Contents by path: text that starts with ``-> `` is a symlink's target, with ``= `` a hard link's, a slash at the end
of a name a folder."""


def pack(files: Files, *, mtime: int = 5, uid: int = 0, mode: int = 0o644) -> bytes:
    """A tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.mtime = mode, uid, mtime
            data = b""
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str) and content.startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, content[3:]
            elif isinstance(content, str) and content.startswith("= "):
                info.type, info.linkname = tarfile.LNKTYPE, content[2:]
            else:
                data = content if isinstance(content, bytes) else content.encode()
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def unpack(data: bytes) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """The members of a tar, in their order."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for info in archive:
            file = archive.extractfile(info) if info.isreg() else None
            found[info.name] = info, file.read() if file else b""
    return found


@dataclass(slots=True)
class Received:
    """A client's end: the stream, the tree (as a tar) and the folder that it got."""

    folder: Path
    stream: bytes = b""
    is_closed: bool = False
    response: dict[str, str] = field(default_factory=dict)
    tree: bytes = b""

    async def open_stream(self, response: Mapping[str, str]) -> "Received":
        """Sink.open_stream."""
        self.response = dict(response)
        return self

    async def write(self, data: bytes) -> None:
        """StreamWriter.write."""
        self.stream += data

    async def close(self) -> None:
        """StreamWriter.close."""
        self.is_closed = True

    async def send_tree(self, tree: Tree) -> None:
        """Sink.send_tree."""
        self.tree = b"".join(tar_members(tree)) + bytes(1024)

    async def open_blobs(self) -> FolderPlace:
        """Sink.open_blobs."""
        return FolderPlace(self.folder)


@dataclass(slots=True)
class Yard:
    """One engine's images and build cache, with no engine."""

    root: Path
    content: Content
    layers: Layers
    images: Images
    unpacker: Unpacker
    cache: BuildCache
    remotes: Remotes
    lease: Lease

    def layer(self, data: bytes, codec: str = "gzip") -> Layer:
        """A layer of this tar in the content store."""
        compressor = make_compressor(codec)
        packed = compressor.compress(data) + compressor.flush()
        diff_id = digest_bytes(data)
        self.lease.add(diff_id, digest_bytes(packed))
        kind = OCI_LAYER_GZIP if codec == "gzip" else OCI_LAYER_GZIP.replace("gzip", codec)
        kind = kind.removesuffix("+none")
        blob = Descriptor(media_type=kind, digest=self.content.put(packed), size=len(packed))
        return Layer(diff_id, blob)

    def result(self, *tars: bytes, platform: Platform = AMD64, codec: str = "gzip") -> Result:
        """A result with these layers."""
        layers = [self.layer(data, codec) for data in tars]
        return Result(platform, config_of(layers, platform), layers)

    async def lowers(self, layers: Sequence[Layer], lease: Lease) -> tuple[str, ...]:
        """As the workshop does it."""
        diff_ids = [layer.diff_id for layer in layers]
        blobs = [self.content.path(layer.blob.digest) for layer in layers]
        await self.unpacker.workers.run(ensure_layers, self.root, blobs, diff_ids, self.layers.limits)
        return self.unpacker.lowers(diff_ids)

    def tools(self, names: Sequence[str] = (), epoch_ns: int | None = None) -> Tools:
        """What exporters need."""
        return Tools(self.images, self.unpacker, self.lease, self.lowers, names=names, epoch_ns=epoch_ns)

    def forget(self, layer: Layer) -> None:
        """As if the layer had never been here."""
        self.content.remove(layer.blob.digest)
        self.layers.remove(layer.diff_id)

    async def leftovers(self) -> list[str]:
        """Temporary files of the stores."""
        places = (self.root / "content", self.root / "layers", self.root / "build" / "tmp")
        return [path.name for place in places for path in place.iterdir() if path.name.startswith(".tmp")]


def config_of(layers: Sequence[Layer], platform: Platform = AMD64) -> ImageConfig:
    """A configuration with one step for each layer."""
    return ImageConfig(
        created=CREATED,
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        config=ContainerDefaults(cmd=("sh",), env=("PATH=/bin",)),
        rootfs=RootFs(diff_ids=tuple(layer.diff_id for layer in layers)),
        history=tuple(History(created=CREATED, created_by=f"step {n}") for n, _ in enumerate(layers)),
    )


@asynccontextmanager
async def open_yard(root: Path) -> AsyncIterator[Yard]:
    """Stores in ``root``, for the time of the block."""
    (root / "tmp").mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        content, layers, workers = Content(root / "content"), Layers(root), Workers(2)
        metadata = Metadata(root / "cais.db")
        stack.callback(metadata.close)
        stack.push_async_callback(workers.close)
        remotes = Remotes(Hosts(), Patience(3, 0.001))
        images = Images(content, layers, metadata, workers, Bus(), root=root, remotes=remotes)
        stack.push_async_callback(images.close)
        cache = BuildCache(root)
        images.keep_also(cache.digests)
        unpacker = Unpacker(content, layers, workers, root)
        lease = await stack.enter_async_context(images.working())
        yield Yard(root, content, layers, images, unpacker, cache, remotes, lease)
        await asyncio.sleep(0)


def sha256(data: bytes) -> str:
    """A digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def record(layer: Layer | None, **fields: Any) -> CacheRecord:
    """A record with this layer."""
    if layer:
        blob = layer.blob
        fields |= {"diff_id": str(layer.diff_id), "digest": str(blob.digest)}
        fields |= {"media_type": blob.media_type, "size": blob.size}
    return CacheRecord(**{"created_ns": 5, "title": "RUN x", **fields})


async def anonymous(domain: str) -> Credentials:
    """Nobody's."""
    return ANONYMOUS
