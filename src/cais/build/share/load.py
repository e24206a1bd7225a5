"""Taking part in what other machines have made: a cache's records are read at once, its bytes when they are needed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path

import msgspec

from cais.build.cache import BuildCache, CacheRecord, Layer, layer_of
from cais.build.share.blobs import BlobSource, read_blob
from cais.build.share.mounts import unpack_mount
from cais.build.share.options import CacheFrom, Places
from cais.build.share.shape import (
    CONFIG_LIMIT,
    CONFIG_TYPE,
    INLINE,
    SharedCache,
    describe_foreign,
    list_layers,
    parse_inline,
    parse_shared,
)
from cais.errors import CaisError, Corrupt, Invalid, NotFound
from cais.images.feed import feed
from cais.images.unpack import Unpacker
from cais.spec.descriptor import Descriptor, Index, Manifest, parse_manifest
from cais.spec.digest import Digest
from cais.spec.image import parse_image_config
from cais.store.content import Writer
from cais.store.gc import Lease

_MAX_IMAGES = 32
"""Manifests of an index that are looked through for inline caches."""
_AT_ONCE = 4
_IMAGE_CONFIGS = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)


class Receiving(msgspec.Struct, frozen=True):
    """What imports work with. ``folder`` is the build's own, on the file system of the cache mounts; it and ``lease``
    live as long as the build."""

    store: BuildCache
    unpacker: Unpacker
    folder: Path
    lease: Lease


class Imported(msgspec.Struct):
    """The caches that one build imports; made by ``open_imports``. ``warnings``: what people should know of them."""

    receiving: Receiving
    warnings: list[str] = msgspec.field(default_factory=list)
    _caches: list[tuple[SharedCache, BlobSource]] = msgspec.field(default_factory=list)
    _sources: dict[Digest, BlobSource] = msgspec.field(default_factory=dict)
    _used: dict[Digest, dict[str, CacheRecord]] = msgspec.field(default_factory=dict)
    _running: "dict[Digest, asyncio.Task[None]]" = msgspec.field(default_factory=dict)
    _slots: asyncio.Semaphore = msgspec.field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    def add(self, cache: SharedCache, source: BlobSource) -> None:
        """One more; earlier ones go first."""
        self._caches.append((cache, source))
        for layer in list_layers(cache):
            self._sources.setdefault(layer.diff_id, source)

    def find(self, key: str) -> CacheRecord | None:
        """The record of a key; its layer may not be here: call ``fetch`` before it is read."""
        for cache, _ in self._caches:
            record = cache.records.get(key)
            if record is None:
                continue
            layer = layer_of(record)
            if layer:
                self._used.setdefault(layer.diff_id, {})[key] = record
            return record
        return None

    async def fetch(self, layers: Sequence[Layer], lease: Lease) -> None:
        """Have the blobs of ``layers`` here, unpacked; those that no cache has are left to whoever reads them. Once for
        each, however many ask. Records that were found are the engine's own from then on.

        Raises Corrupt, Invalid, NotFound, Unavailable.
        """
        await asyncio.to_thread(
            lease.add, *(digest for layer in layers for digest in (layer.blob.digest, layer.diff_id))
        )
        missing = [
            layer
            for layer in {layer.diff_id: layer for layer in layers}.values()
            if layer.diff_id in self._sources and not self.receiving.unpacker.content.has(layer.blob.digest)
        ]
        for layer in missing:
            if layer.diff_id not in self._running:
                self._running[layer.diff_id] = asyncio.create_task(self._fetch(layer))
        # Shielded: what others wait for too is not ended by the end of one.
        await asyncio.gather(*(asyncio.shield(self._running[layer.diff_id]) for layer in missing))

    async def restore_mounts(self, names: Iterable[str]) -> list[str]:
        """Make those of the cache mounts ``names`` that are not there and that a cache has; the ones that were made.
        What is wrong with one is a warning: a step does without it."""
        made = []
        for name in dict.fromkeys(names):
            found = next((each for each in self._caches if name in each[0].mounts), None)
            if found is None or self.receiving.store.mount_path(name).exists():
                continue
            try:
                await self._restore(name, found[0].mounts[name], found[1])
            except (CaisError, OSError) as error:
                self.warnings.append(f"cache mount {name} was not imported: {error}")
            else:
                made.append(name)
        return made

    async def close(self) -> None:
        """End what is under way. Idempotent."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _fetch(self, layer: Layer) -> None:
        unpacker = self.receiving.unpacker
        try:
            async with self._slots:
                await self._receive(layer.blob, self._sources[layer.diff_id])
                # The diff_id is compared here, before anybody builds on it.
                await unpacker.unpack_blob(layer.diff_id, layer.blob.digest)
        except BaseException as error:
            # Whoever asks again has another try.
            self._running.pop(layer.diff_id, None)
            if isinstance(error, Corrupt | NotFound):
                raise type(error)(f"the build cache that was imported: {error}") from error
            raise
        for key, record in self._used.get(layer.diff_id, {}).items():
            self.receiving.store.put(key, record)

    async def _receive(self, blob: Descriptor, source: BlobSource) -> None:
        """Store a blob. Raises Corrupt if it is not what its descriptor says."""
        lease = self.receiving.lease
        await asyncio.to_thread(lease.add, blob.digest)
        with self.receiving.unpacker.content.writer(blob.digest.algorithm) as writer:
            async with aclosing(source.get(blob)) as parts:
                async for _ in feed(parts, _bounded(writer, blob)):
                    pass
            if writer.size != blob.size:
                raise Corrupt(f"blob {blob.digest} has {writer.size} bytes, announced were {blob.size}")
            await asyncio.to_thread(lease.commit, writer, blob.digest)

    async def _restore(self, name: str, layer: Layer, source: BlobSource) -> None:
        unpacker, store = self.receiving.unpacker, self.receiving.store
        if not unpacker.content.has(layer.blob.digest):
            await self._receive(layer.blob, source)
        half = self.receiving.folder / f"mount-{store.mount_path(name).name}"
        path = unpacker.content.path(layer.blob.digest)
        await unpacker.workers.run(unpack_mount, path, half, layer.diff_id)
        # Somebody may have made it meanwhile: his has been used already.
        if not store.mount_path(name).exists():
            half.rename(store.mount_path(name))


def _bounded(writer: Writer, blob: Descriptor) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        if writer.size + len(data) > blob.size:
            raise Corrupt(f"blob {blob.digest} has more than the {blob.size} bytes announced")
        writer.write(data)

    return write


@asynccontextmanager
async def open_imports(
    caches: Sequence[CacheFrom], places: Places, receiving: Receiving
) -> AsyncIterator[Imported]:
    """Read what ``caches`` hold, side by side, for the time of the block. One that is not there or is wrong is a
    warning: the build goes on without it."""
    async with AsyncExitStack() as stack:
        imported = Imported(receiving)
        sources = []
        for cache in caches:
            try:
                sources.append((cache, await stack.enter_async_context(places.source(cache))))
            except (CaisError, OSError) as error:
                imported.warnings.append(_explain(cache, error))
        reads = (_read(cache, source) for cache, source in sources)
        results = await asyncio.gather(*reads, return_exceptions=True)
        for (cache, source), result in zip(sources, results, strict=True):
            if isinstance(result, CaisError | OSError):
                imported.warnings.append(_explain(cache, result))
            elif isinstance(result, BaseException):
                raise result
            else:
                for one in result:
                    imported.add(one, source)
        try:
            yield imported
        finally:
            await imported.close()


def _explain(cache: CacheFrom, error: BaseException) -> str:
    return f"the build cache {cache.where} is not used: {error}"


async def _read(cache: CacheFrom, source: BlobSource) -> list[SharedCache]:
    """Raises NotFound, Corrupt, Invalid, Unsupported, Unavailable."""
    found = await source.get_manifest(cache.digest)
    document = parse_manifest(found.data, found.media_type)
    if isinstance(document, Manifest):
        return [await _read_manifest(document, source)]
    if any("buildkit.cacheconfig" in child.media_type for child in document.manifests):
        raise Invalid(
            "it is BuildKit's own cache, which this engine does not read: export it again from here"
        )
    return await _read_index(document, source)


async def _read_index(index: Index, source: BlobSource) -> list[SharedCache]:
    """The inline caches of an image for several platforms. Raises NotFound if no image has one."""
    caches, reason = [], "it is an image without an inline cache"
    for child in index.manifests[:_MAX_IMAGES]:
        if "vnd.docker.reference.type" in child.annotations:
            continue
        with suppress(NotFound):
            found = await source.get_manifest(child.digest)
            document = parse_manifest(found.data, child.media_type)
            try:
                if isinstance(document, Manifest):
                    caches.append(await _read_manifest(document, source))
            except Invalid as error:
                reason = str(error)
    if not caches:
        raise NotFound(reason)
    return caches


async def _read_manifest(document: Manifest, source: BlobSource) -> SharedCache:
    kind = document.config.media_type
    if kind == CONFIG_TYPE:
        data = await read_blob(source, document.config, CONFIG_LIMIT)
        return parse_shared(data, document.layers)
    data = await read_blob(source, document.config) if kind in _IMAGE_CONFIGS else b""
    if whose := describe_foreign(document, data):
        raise Invalid(
            f"it is {whose}'s own cache, which this engine does not read: export it again from here"
        )
    if kind not in _IMAGE_CONFIGS:
        raise Invalid(f"it is neither a build cache nor an image but {kind!r}")
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Invalid(f"invalid image config: {error}") from error
    if not isinstance(raw, dict) or INLINE not in raw:
        raise Invalid("it is an image without an inline cache: build it with --cache-to type=inline")
    diff_ids = parse_image_config(data).rootfs.diff_ids
    if len(diff_ids) != len(document.layers):
        raise Invalid(f"invalid image: {len(document.layers)} layers but {len(diff_ids)} diff_ids")
    pairs = zip(diff_ids, document.layers, strict=True)
    return parse_inline(raw[INLINE], [Layer(diff_id, blob) for diff_id, blob in pairs])


def find_record(
    key: str, store: BuildCache, is_here: Callable[[Layer], bool], imported: Imported | None
) -> CacheRecord | None:
    """The engine's own record if its layer is here, or else what a cache says. A record of ours whose layer has gone
    is forgotten."""
    record = store.find(key)
    if record is not None:
        layer = layer_of(record)
        if layer is None or is_here(layer):
            return record
        store.forget(key)
    return imported.find(key) if imported else None
