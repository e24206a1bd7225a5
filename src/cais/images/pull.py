"""Pulling an image: what its name means, which platform, its layers side by side, its name last."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import zip_longest

import msgspec

from cais.errors import CaisError, Corrupt, Invalid, NotFound, Unsupported
from cais.images.catalog import Catalog
from cais.images.image import PlatformImage, PullEvent
from cais.images.layerpull import LayerPull, LayerPulls
from cais.images.tree import (
    DOCUMENT_LIMIT,
    MAX_DEPTH,
    MAX_LAYERS,
    MAX_MANIFESTS,
    check_complete,
    is_foreign,
    list_platforms,
)
from cais.images.unpack import Unpacker
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.remotes.client import Remotes, Repository
from cais.spec.descriptor import (
    CONFIG_TYPES,
    DOCKER_FOREIGN_LAYER_GZIP,
    INDEX_TYPES,
    LAYER_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    Index,
    Manifest,
    parse_manifest,
)
from cais.spec.digest import Digest
from cais.spec.image import ImageConfig, parse_image_config
from cais.spec.platform import Platform, choose_platform, format_platform, matches
from cais.spec.reference import Reference
from cais.store.content import Content
from cais.store.gc import Lease

_TICK = 0.1
"""Seconds between two looks at how far the layers are."""
_REFERENCE_TYPE = "vnd.docker.reference.type"


class PullRequest(msgspec.Struct, frozen=True):
    """What to pull, for which platform (None: the host's), as whom. ``all_platforms``: everything else that the index
    names is fetched too, and kept as it is."""

    reference: Reference
    platform: Platform | None = None
    credentials: Credentials = ANONYMOUS
    all_platforms: bool = False

    @property
    def name(self) -> str:
        """The name the image gets: one by digest has no tag, for a tag might move on."""
        reference = self.reference
        return f"{reference.name}@{reference.digest}" if reference.digest else reference.canonical()


class Puller:
    """Pulls of one engine; several may run side by side. ``downloads``: layers at once; 0: no limit."""

    def __init__(
        self, content: Content, catalog: Catalog, unpacker: Unpacker, remotes: Remotes, *, downloads: int
    ) -> None:
        self._content = content
        self._catalog = catalog
        self._unpacker = unpacker
        self._remotes = remotes
        self._layers = LayerPulls(content, unpacker, downloads=downloads)

    async def pull(self, request: PullRequest, lease: Lease) -> AsyncGenerator[PullEvent]:
        """Everything of one platform, or nothing: the name is written once all layers are verified.

        Raises NotFound, Corrupt, Invalid, Unsupported, Unauthenticated, Unavailable. What was stored until then stays
        under ``lease``, and waits for the next try of the same name.
        """
        reference = request.reference
        async with self._remotes.open(reference, request.credentials) as repository, _naming(reference):
            target, document = await self._fetch_target(repository, lease)
            yield PullEvent(f"Pulling from {reference.path}", str(reference.digest or reference.tag))
            chosen, manifest = await self._descend(repository, target, document, request, lease)
            config = await self._fetch_config(repository, manifest, lease)
            check_plan(request, manifest, config)
            layers = list_layers(manifest, config)
            if request.all_platforms:
                known = {blob.digest for blob, _ in layers}
                others = await self._list_all(repository, document, lease)
                layers += [(blob, None) for blob in others if blob.digest not in known]
            leased = (digest for blob, diff_id in layers for digest in (blob.digest, diff_id) if digest)
            await asyncio.to_thread(lease.add, *leased)
            is_new = not all(self._layers.is_here(*layer) for layer in layers)
            if is_new:
                await asyncio.to_thread(self._content.ingest.note, request.name, lease.digests)
            async with aclosing(self._pull_layers(repository, layers)) as events:
                async for event in events:
                    yield event
        image = await asyncio.to_thread(self._check, target, chosen.digest, layers)
        async for _ in self._unpacker.unpack([image], lease):
            pass
        for event in self._name(request, target, config, is_new=is_new):
            yield event

    async def _fetch_target(
        self, repository: Repository, lease: Lease
    ) -> tuple[Descriptor, Manifest | Index]:
        """The manifest or index of the name. One that is here already is not sent again."""
        digest = await repository.find_digest()
        data = await self._find(digest, lease) if digest else None
        if digest and data:
            return _describe(digest, data, "")
        return await self._fetch_manifest(repository, digest, lease)

    async def _find(self, digest: Digest, lease: Lease) -> bytes | None:
        """The document that is here already, leased; None if it is not, or damaged and so to be fetched again."""
        await asyncio.to_thread(lease.add, digest)
        try:
            return await asyncio.to_thread(self._content.read, digest, limit=DOCUMENT_LIMIT)
        except (NotFound, Corrupt):
            return None

    async def _fetch_manifest(
        self, repository: Repository, digest: Digest | None, lease: Lease
    ) -> tuple[Descriptor, Manifest | Index]:
        self._unpacker.workers.warm()  # what is new has layers to unpack
        found = await repository.fetch_manifest(digest)
        described = _describe(found.digest, found.data, found.media_type)
        await self._store(found.digest, found.data, lease)
        return described

    async def _descend(
        self,
        repository: Repository,
        target: Descriptor,
        document: Manifest | Index,
        request: PullRequest,
        lease: Lease,
    ) -> tuple[Descriptor, Manifest]:
        """From an index down to the one manifest to pull. Raises NotFound if there is none for the platform."""
        for _ in range(MAX_DEPTH + 1):
            if isinstance(document, Manifest):
                return target, document
            any_is_good = request.all_platforms and not request.platform
            target = choose_child(document, self._catalog.host, request.platform, any_is_good=any_is_good)
            document = await self._fetch_child(repository, target, lease)
        raise Invalid(f"index {target.digest} is nested too deeply")

    async def _fetch_child(self, repository: Repository, child: Descriptor, lease: Lease) -> Manifest | Index:
        """The manifest or index that an index names. Raises Corrupt if it has another size than that says."""
        data = await self._find(child.digest, lease)
        if data:
            found, document = _describe(child.digest, data, child.media_type)
        else:
            found, document = await self._fetch_manifest(repository, child.digest, lease)
        if found.size != child.size:
            raise Corrupt(f"manifest {child.digest} has {found.size} bytes, announced were {child.size}")
        return document

    async def _list_all(
        self, repository: Repository, document: Manifest | Index, lease: Lease
    ) -> list[Descriptor]:
        """Every blob that ``document`` leads to, once: configurations and layers of images and of what is none.

        Manifests and indexes are fetched on the way. Layers that a registry may not hand out are left out.
        """
        blobs: dict[Digest, Descriptor] = {}
        waiting, count = [(document, 0)], 0
        while waiting:
            document, depth = waiting.pop()
            count += 1
            if count > MAX_MANIFESTS:
                raise Invalid(f"{repository.reference.familiar()} has more than {MAX_MANIFESTS} manifests")
            if isinstance(document, Manifest):
                found = (document.config, *document.layers)
                blobs.update((blob.digest, blob) for blob in found if not is_foreign(blob))
            elif depth > MAX_DEPTH:
                raise Invalid(f"an index of {repository.reference.familiar()} is nested too deeply")
            else:
                for child in document.manifests:
                    if child.media_type in MANIFEST_TYPES | INDEX_TYPES:
                        waiting.append((await self._fetch_child(repository, child, lease), depth + 1))
        if broken := next((blob for blob in blobs.values() if blob.size < 0), None):
            raise Invalid(f"blob {broken.digest} has a size of {broken.size}")
        return [*blobs.values()]

    async def _fetch_config(self, repository: Repository, manifest: Manifest, lease: Lease) -> ImageConfig:
        descriptor = manifest.config
        if descriptor.media_type not in CONFIG_TYPES:
            raise Unsupported(
                f"{repository.reference.familiar()} is not an image but an artifact: its config is "
                f"{descriptor.media_type!r}"
            )
        data = await self._find(descriptor.digest, lease)
        if data is None:
            data = await repository.fetch_document(descriptor)
            await self._store(descriptor.digest, data, lease)
        return parse_image_config(data)

    async def _store(self, digest: Digest, data: bytes, lease: Lease) -> None:
        """Put a verified document into the content store."""

        def store() -> None:
            with self._content.writer(digest.algorithm) as writer:
                writer.write(data)
                lease.commit(writer, digest)

        await asyncio.to_thread(store)

    async def _pull_layers(
        self, repository: Repository, layers: Sequence[tuple[Descriptor, Digest | None]]
    ) -> AsyncGenerator[PullEvent]:
        """All layers side by side, and how far they are; the first error ends it."""
        async with AsyncExitStack() as stack:
            running: list[LayerPull] = []
            for blob, diff_id in layers:
                if self._layers.is_here(blob, diff_id):
                    yield PullEvent("Already exists", blob.digest.hex[:12], is_layer=True)
                else:
                    yield PullEvent("Pulling fs layer", blob.digest.hex[:12], is_layer=True)
                    running.append(
                        await stack.enter_async_context(self._layers.join(repository, blob, diff_id))
                    )
            told: list[PullEvent] = []
            waiting = {layer.task for layer in running if layer.task}
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
                now = [_event(layer) for layer in running]
                for old, new in zip_longest(told, now):
                    if new != old:
                        yield new
                told = now

    def _check(
        self, target: Descriptor, chosen: Digest, blobs: Sequence[tuple[Descriptor, Digest | None]]
    ) -> PlatformImage:
        """The platform that was pulled, as the store has it. Raises Corrupt for sizes that were lies."""
        for blob, _ in blobs:
            if self._content.size(blob.digest) != blob.size:
                raise Corrupt(f"blob {blob.digest} does not have the {blob.size} bytes its manifest says")
        found = next(one for one in list_platforms(self._content, target) if one.descriptor.digest == chosen)
        check_complete(self._content, found)
        return found

    def _name(
        self, request: PullRequest, target: Descriptor, config: ImageConfig, *, is_new: bool
    ) -> list[PullEvent]:
        reference = request.reference
        names = self._catalog.targets().get(target.digest, [])
        is_new = is_new or request.name not in {row.name for row in names}
        self._catalog.forget()
        self._catalog.set_names(target, [request.name])
        self._content.ingest.forget(request.name)
        self._catalog.publish("pull", reference.familiar(), reference.familiar_name, config.config.labels)
        what = "Downloaded newer image" if is_new else "Image is up to date"
        return [
            PullEvent(f"Digest: {target.digest}"),
            PullEvent(f"Status: {what} for {reference.familiar()}"),
        ]


@asynccontextmanager
async def _naming(reference: Reference) -> AsyncIterator[None]:
    """What a registry says when it refuses often does not tell of what: then the name is added behind its words."""
    try:
        yield
    except CaisError as error:
        text = str(error)
        if not any(word in text for word in (reference.path, "sha256:", "sha512:")):
            error.args = (f"{text}: {reference.familiar()}",)
        raise


def choose_child(
    index: Index, host: Platform, wanted: Platform | None, *, any_is_good: bool = False
) -> Descriptor:
    """The entry of ``index`` to pull for ``wanted``, or the best for ``host``; or the first, if ``any_is_good``.

    Raises NotFound in Docker's words.
    """
    children = [
        child
        for child in index.manifests
        if child.media_type in MANIFEST_TYPES | INDEX_TYPES
        and _REFERENCE_TYPE not in child.annotations
        and not child.artifact_type
    ]
    told = [(child, child.platform) for child in children if child.platform]
    if wanted:
        told = [(child, platform) for child, platform in told if matches(wanted, platform)]
    best = choose_platform(wanted or host, [platform for _, platform in told])
    if best is not None:
        return told[best][0]
    if (wanted or any_is_good) and told:
        return told[0][0]
    # An entry that does not say what it is for may be for us; its configuration tells.
    silent = [child for child in children if not child.platform]
    if silent and not told:
        return silent[0]
    raise NotFound(f"no matching manifest for {format_platform(wanted or host)} in the manifest list entries")


def list_layers(manifest: Manifest, config: ImageConfig) -> list[tuple[Descriptor, Digest | None]]:
    """Every layer with its diff_id, bottom first; one that the image has twice comes once."""
    pairs = zip(manifest.layers, config.rootfs.diff_ids, strict=True)
    return [*{(blob.digest, diff_id): (blob, diff_id) for blob, diff_id in pairs}.values()]


def check_plan(request: PullRequest, manifest: Manifest, config: ImageConfig) -> None:
    """Raise for an image that cannot be, before its layers are fetched: Invalid, Unsupported, NotFound."""
    name = request.reference.familiar()
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise Invalid(
            f"invalid image {name}: {len(manifest.layers)} layers but {len(config.rootfs.diff_ids)} diff_ids"
        )
    if len(manifest.layers) > MAX_LAYERS:
        raise Invalid(f"max depth exceeded: {len(manifest.layers)} layers, {MAX_LAYERS} are possible")
    for layer in manifest.layers:
        if layer.size < 0:
            raise Invalid(f"invalid image {name}: layer {layer.digest} has a size of {layer.size}")
        if layer.media_type not in LAYER_TYPES | {DOCKER_FOREIGN_LAYER_GZIP}:
            raise Unsupported(f"layer {layer.digest} of {name} is of unknown type {layer.media_type!r}")
    if request.platform and not matches(request.platform, config.platform):
        raise NotFound(
            f"image with reference {name} was found but its platform ({config.platform}) does not match the "
            f"specified platform ({request.platform})"
        )


def _describe(digest: Digest, data: bytes, media_type: str) -> tuple[Descriptor, Manifest | Index]:
    document = parse_manifest(data, media_type)
    return Descriptor(media_type=document.media_type, digest=digest, size=len(data)), document


def _event(layer: LayerPull) -> PullEvent:
    return PullEvent(layer.status, layer.blob.digest.hex[:12], layer.current, layer.total, is_layer=True)
