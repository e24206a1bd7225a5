"""OCI layouts on the client that a build takes images from (``--build-context name=oci-layout://…``)."""

import asyncio
from contextlib import aclosing

from cais.api.buildkit.sessions import Session
from cais.api.buildkit.stores import ClientStore
from cais.build.share.blobs import read_blob
from cais.errors import Corrupt, Invalid, NotFound
from cais.images.feed import feed
from cais.spec.descriptor import Descriptor, Index, Manifest, parse_manifest
from cais.spec.digest import digest_bytes, parse_digest
from cais.spec.platform import Platform, choose_platform, format_platform
from cais.store.content import Content
from cais.store.gc import Lease

_CONFIG_LIMIT = 8 << 20
_DEPTH = 4


async def take_layout(
    session: Session, text: str, platform: Platform, content: Content, lease: Lease
) -> Descriptor:
    """Have the image ``STORE[:TAG]@DIGEST`` of the client's here, for one platform: its manifest's descriptor.
    Everything is verified, and kept by the lease. Raises Invalid, NotFound, Corrupt, Unavailable."""
    name, at, digest_text = text.rpartition("@")
    if not at:
        raise Invalid(f"invalid OCI layout {text!r}: want NAME@DIGEST")
    folder, slash, last = name.rpartition("/")
    store = ClientStore(session, f"oci:{folder}{slash}{last.partition(':')[0]}")
    digest = parse_digest(digest_text)
    for _ in range(_DEPTH):
        found = await store.get_manifest(digest)
        document = parse_manifest(found.data, found.media_type)
        if isinstance(document, Manifest):
            await _take_image(store, document, content, lease)
            await asyncio.to_thread(lease.add, digest)
            content.put(found.data)
            return Descriptor(
                media_type=document.media_type, digest=digest_bytes(found.data), size=len(found.data)
            )
        digest = _choose(document, platform, text).digest
    raise Invalid(f"{text}: indexes are nested too deep")


def _choose(index: Index, platform: Platform, text: str) -> Descriptor:
    entries = [entry for entry in index.manifests if entry.platform is not None]
    chosen = choose_platform(platform, [entry.platform for entry in entries if entry.platform])
    if chosen is not None:
        return entries[chosen]
    if not entries and len(index.manifests) == 1:
        return index.manifests[0]
    raise NotFound(f"{text} has no image for {format_platform(platform)}")


async def _take_image(store: ClientStore, manifest: Manifest, content: Content, lease: Lease) -> None:
    config = await read_blob(store, manifest.config, _CONFIG_LIMIT)
    await asyncio.to_thread(lease.add, manifest.config.digest)
    content.put(config)
    for layer in manifest.layers:
        await _take_blob(store, layer, content, lease)


async def _take_blob(store: ClientStore, blob: Descriptor, content: Content, lease: Lease) -> None:
    await asyncio.to_thread(lease.add, blob.digest)
    if content.has(blob.digest):
        return
    with content.writer(blob.digest.algorithm) as writer:

        def write(data: bytes) -> None:
            if writer.size + len(data) > blob.size:
                raise Corrupt(f"blob {blob.digest} has more than the {blob.size} bytes announced")
            writer.write(data)

        async with aclosing(store.get(blob)) as parts:
            async for _ in feed(parts, write):
                pass
        await asyncio.to_thread(lease.commit, writer, blob.digest)
