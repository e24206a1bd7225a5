"""Images on an empty store, and archives of every kind in memory."""

import asyncio
import gzip
import hashlib
import io
import json
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from cais.events import Bus
from cais.images.image import LoadEvent
from cais.images.images import Images
from cais.remotes.client import Patience, Remotes
from cais.remotes.hosts import Hosts
from cais.store.content import Content
from cais.store.layers.layers import Layers
from cais.store.metadata import Metadata
from cais.store.workers import Workers
from harness.pulling import Pulling
from harness.registry import Proxy, Registry, running_registry, start_proxy

OCI = "application/vnd.oci.image."


@dataclass(slots=True)
class Store:
    """One engine's images, and what lies under them."""

    root: Path
    content: Content
    layers: Layers
    metadata: Metadata
    bus: Bus
    images: Images

    async def load(self, archive: bytes, step: int = 70_001) -> list[LoadEvent]:
        """Load ``archive`` in pieces of ``step`` bytes; what it said."""
        return [event async for event in self.images.load(pieces(archive, step))]

    async def texts(self, archive: bytes) -> list[str]:
        """The lines for people of a load."""
        return [event.text for event in await self.load(archive) if event.text]

    async def wait_until_clean(self) -> None:
        """Fail unless the store is empty soon: an interrupted worker cleans up after the answer."""
        deadline = time.monotonic() + 10
        while found := self.leftovers():
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.01)

    def leftovers(self) -> list[str]:
        """Everything that lies in the store and is no document of it."""
        folders = [self.root / name for name in ("content", "content/ingest", "layers", "tmp")]
        names = [path.name for folder in folders if folder.exists() for path in folder.iterdir()]
        blobs = [path.name for path in (self.root / "content/blobs/sha256").iterdir()]
        own = ("blobs", "ingest", "oci-layout", "index.json", ".settled")
        return [*blobs, *(name for name in names if name not in own)]


async def pieces(data: bytes, step: int = 70_001) -> AsyncIterator[bytes]:
    """``data`` as a client would send it."""
    for start in range(0, len(data), step):
        yield data[start : start + step]


@pytest.fixture
async def make_store() -> AsyncIterator[Callable[[Path], Store]]:
    """Opens a store in a folder, as an engine does at its start."""
    stack = AsyncExitStack()

    def open_store(root: Path) -> Store:
        (root / "tmp").mkdir(exist_ok=True)
        content, layers = Content(root / "content"), Layers(root)
        metadata, workers, bus = Metadata(root / "cais.db"), Workers(2), Bus()
        stack.callback(metadata.close)
        stack.push_async_callback(workers.close)
        remotes = Remotes(Hosts(), Patience(3, 0.001))
        images = Images(content, layers, metadata, workers, bus, root=root, remotes=remotes)
        stack.push_async_callback(images.close)
        return Store(root, content, layers, metadata, bus, images)

    async with stack:
        yield open_store


@pytest.fixture
async def store(make_store: Callable[[Path], Store], tmp_path: Path) -> Store:
    """An empty store with its own workers."""
    return make_store(tmp_path)


def pack(files: Iterable[tuple[str, bytes | str]], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar: text is a symlink's target, bytes a file's content, a name with a slash at its end a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
            else:
                info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return out.getvalue()


def sha256(data: bytes) -> str:
    """A digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    "+gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "+zstd": lambda data: zstandard.compress(data, 1),
}


@dataclass(slots=True)
class Archives:
    """Makes images: each is one or more layers with a file ``etc/name``, and big enough not to stay in memory."""

    blobs: dict[str, bytes] = field(default_factory=dict)

    def layer(self, name: str, size: int = 10) -> bytes:
        """A layer's tar."""
        body = (name.encode() * (size // len(name) + 1))[:size]
        return pack([("etc/", b""), ("etc/name", name.encode()), (f"etc/{name}", body)])

    def config(self, layers: Iterable[bytes], **fields: object) -> bytes:
        """A configuration for uncompressed ``layers``."""
        value = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-05-06T07:08:09Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
            "history": [{"created_by": "step", "created": "2024-05-06T07:08:09Z"} for _ in layers],
            **fields,
        }
        return json.dumps(value).encode()

    def put(self, data: bytes, media_type: str) -> dict[str, object]:
        """Remember a blob; its descriptor."""
        self.blobs[sha256(data)] = data
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}

    def manifest(self, *names: str, codec: str = "", size: int = 10, **fields: object) -> dict[str, object]:
        """An image with one layer a name; its manifest's descriptor."""
        layers = [self.layer(name, size) for name in names]
        document = {
            "schemaVersion": 2,
            "mediaType": OCI + "manifest.v1+json",
            "config": self.put(self.config(layers, **fields), OCI + "config.v1+json"),
            "layers": [self.put(CODECS[codec](layer), OCI + "layer.v1.tar" + codec) for layer in layers],
        }
        return self.put(json.dumps(document).encode(), OCI + "manifest.v1+json")

    def index(self, *descriptors: dict[str, object]) -> dict[str, object]:
        """Several platforms under one digest; the index's descriptor."""
        document = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": list(descriptors)}
        return self.put(json.dumps(document).encode(), OCI + "index.v1+json")

    def oci_files(self, *named: tuple[dict[str, object], str]) -> list[tuple[str, bytes | str]]:
        """The entries of an OCI layout; a name is containerd's annotation, empty for none."""
        manifests = [
            {**target, **({"annotations": {"io.containerd.image.name": name}} if name else {})}
            for target, name in named
        ]
        index = {"schemaVersion": 2, "manifests": manifests}
        blobs = [(f"blobs/{digest.replace(':', '/')}", data) for digest, data in sorted(self.blobs.items())]
        documents = [
            ("index.json", json.dumps(index).encode()),
            ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        ]
        return [*blobs, *documents]

    def oci(self, *named: tuple[dict[str, object], str]) -> bytes:
        """An OCI archive of the images."""
        return pack(self.oci_files(*named))

    def docker_files(self, tags: dict[str, list[str]], size: int = 10) -> list[tuple[str, bytes | str]]:
        """What docker 20.10 saves: a folder a layer, the second time a layer comes as a symlink to the first."""
        files: list[tuple[str, bytes | str]] = []
        manifest, seen = [], dict[str, str]()
        for number, (names, repo_tags) in enumerate(tags.items()):
            layers = [self.layer(name, size) for name in names.split("+")]
            config = self.config(layers)
            paths = []
            for layer in layers:
                folder = sha256(f"{number}{sha256(layer)}".encode())[7:]
                paths.append(f"{folder}/layer.tar")
                body: bytes | str = f"../{seen[sha256(layer)]}/layer.tar" if sha256(layer) in seen else layer
                seen.setdefault(sha256(layer), folder)
                files += [(f"{folder}/", b""), (f"{folder}/VERSION", b"1.0"), (f"{folder}/json", b"{}")]
                files.append((paths[-1], body))
            files.append((f"{sha256(config)[7:]}.json", config))
            manifest.append(
                {"Config": f"{sha256(config)[7:]}.json", "RepoTags": repo_tags or None, "Layers": paths}
            )
        return [*files, ("manifest.json", json.dumps(manifest).encode()), ("repositories", b"{}")]

    def docker(self, tags: dict[str, list[str]], size: int = 10) -> bytes:
        """A docker-archive: keys are ``layer+layer``, values the tags."""
        return pack(self.docker_files(tags, size))


@pytest.fixture
def archives() -> Iterator[Archives]:
    """A fresh maker of archives."""
    yield Archives()


@pytest.fixture
def make_tar() -> Callable[[Iterable[tuple[str, bytes | str]]], bytes]:
    """``pack``, for tests that change the entries."""
    return pack


@pytest.fixture
def stream() -> Callable[[bytes], AsyncIterator[bytes]]:
    """``pieces``: bytes as an asynchronous stream."""
    return pieces


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry for all tests here; each has its own repository."""
    with running_registry(tmp_path_factory.mktemp("registry") / "r") as registry:
        yield registry


@pytest.fixture
async def proxy(registry: Registry) -> AsyncIterator[Proxy]:
    """A proxy before it."""
    async with AsyncExitStack() as stack:
        yield await start_proxy(registry.address, stack.push_async_callback)


@pytest.fixture
def pulling(store: Store, registry: Registry, proxy: Proxy, tmp_path: Path) -> Pulling:
    """Everything for one test."""
    return Pulling(store, registry, proxy, f"t/{tmp_path.name.lower().replace('_', '-')}")
