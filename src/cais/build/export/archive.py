"""Images as archives and as folders: an OCI layout, with Docker's manifest.json beside it if it is for Docker."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from cais.build.share.blobs import BlobSink
from cais.errors import Corrupt, Invalid
from cais.images.tree import MAX_DEPTH, MAX_MANIFESTS, read_document
from cais.spec.descriptor import (
    IMAGE_NAME,
    INDEX_TYPES,
    MANIFEST_TYPES,
    REF_NAME,
    Descriptor,
    Index,
    Manifest,
    format_manifest,
)
from cais.spec.digest import Digest
from cais.spec.reference import parse_reference
from cais.store.content import Content
from cais.store.layers.pack import END, Member, format_member, padding
from cais.store.layers.tar import FOLDER, REGULAR

_CHUNK = 1 << 20
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class Shipment(msgspec.Struct, frozen=True):
    """What goes out: everything below ``target``, under canonical ``names``. ``docker``: the manifest that programs
    see which only know docker-archives; None: none is written for them."""

    target: Descriptor
    names: Sequence[str]
    docker: Manifest | None = None


def list_blobs(content: Content, target: Descriptor) -> list[Descriptor]:
    """Every blob below ``target`` that is here, each once, what is named before what names it. Blocks.

    Raises NotFound, Corrupt, Invalid."""
    found: dict[Digest, Descriptor] = {}
    _gather(content, target, found, 0)
    return list(found.values())


def _gather(content: Content, target: Descriptor, found: dict[Digest, Descriptor], depth: int) -> None:
    if target.digest in found:
        return
    if depth > MAX_DEPTH or len(found) > MAX_MANIFESTS * 8:
        raise Invalid(f"index {target.digest} is nested too deeply or too long")
    document = read_document(content, target)
    if isinstance(document, Index):
        for child in document.manifests:
            # Platforms that were left behind are no error.
            if child.media_type in MANIFEST_TYPES | INDEX_TYPES and content.has(child.digest):
                _gather(content, child, found, depth + 1)
    else:
        for blob in (document.config, *document.layers):
            if content.has(blob.digest):
                found[blob.digest] = blob
    found[target.digest] = target


async def stream_archive(content: Content, shipment: Shipment) -> AsyncIterator[bytes]:
    """The archive's bytes: the same image gives the same bytes. Raises Corrupt, OSError."""
    blobs = await asyncio.to_thread(list_blobs, content, shipment.target)
    yield format_member(Member(b"blobs", FOLDER, 0o755))
    algorithms = sorted({blob.digest.algorithm for blob in blobs})
    for algorithm in algorithms:
        yield format_member(Member(b"blobs/" + algorithm.encode(), FOLDER, 0o755))
    for blob in sorted(blobs, key=lambda one: one.digest):
        size = content.size(blob.digest)
        yield format_member(Member(_path(blob.digest).encode(), REGULAR, 0o644, size=size))
        with content.open(blob.digest) as file:
            left = size
            while left and (part := await asyncio.to_thread(file.read, min(_CHUNK, left))):
                left -= len(part)
                yield part
        if left:
            raise Corrupt(f"blob {blob.digest} changed its size")
        yield padding(size)
    for name, data in sorted(_documents(shipment).items()):
        yield format_member(Member(name.encode(), REGULAR, 0o644, size=len(data))) + data + padding(len(data))
    yield END


async def put_all(content: Content, target: Descriptor, sink: BlobSink) -> None:
    """Every blob and document below ``target`` into ``sink``, which stands for it in the end. Raises as the sink."""
    for blob in await asyncio.to_thread(list_blobs, content, target):
        if blob.digest == target.digest:
            data = await asyncio.to_thread(content.read, blob.digest)
            await sink.put_manifest(target, data)
        else:
            await sink.put(blob, content.path(blob.digest))


def _documents(shipment: Shipment) -> dict[str, bytes]:
    found = {"oci-layout": _LAYOUT, "index.json": format_manifest(Index(manifests=tuple(_entries(shipment))))}
    if shipment.docker is not None:
        entry = {
            "Config": _path(shipment.docker.config.digest),
            "RepoTags": [parse_reference(name).familiar() for name in shipment.names],
            "Layers": [_path(layer.digest) for layer in shipment.docker.layers],
        }
        found["manifest.json"] = msgspec.json.encode([entry])
    return found


def _entries(shipment: Shipment) -> list[Descriptor]:
    """One for each name; names are added to what the target's own entry says."""
    target = shipment.target
    if not shipment.names:
        return [target]
    return [
        msgspec.structs.replace(
            target,
            annotations={
                **target.annotations,
                IMAGE_NAME: name,
                REF_NAME: parse_reference(name).tag or "",
            },
        )
        for name in shipment.names
    ]


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"
