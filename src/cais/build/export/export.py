"""Exporting what a build made: ``export`` is the one door to this folder.

Types: ``image`` (``registry``: and pushed; ``moby``: Docker's own word), ``docker``, ``oci``, ``local``, ``tar``,
``cacheonly``, and Cais's own ``rootfs``, a folder of the engine's machine.
"""

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, aclosing
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from msgspec.structs import replace

from cais.build.attest.statement import Blob, Subject, format_statement
from cais.build.copying import ChunkReader
from cais.build.export.archive import Shipment, put_all, stream_archive
from cais.build.export.documents import (
    Documents,
    FinishedLayer,
    ImagePart,
    file_name,
    folder_name,
    make_documents,
)
from cais.build.export.layers import finish_layers
from cais.build.export.options import ImageOptions, TreeOptions, parse_image_options, parse_tree_options
from cais.build.export.result import Result, Sink, Tools
from cais.build.export.rootfs import (
    Part,
    PartsTree,
    digest_files,
    make_layers_part,
    stream_tar,
    tar_members,
)
from cais.build.request import Option
from cais.build.tree import MemoryTree, Tree
from cais.errors import AlreadyExists, Invalid, NotFound, Unsupported
from cais.images.image import Image, Pushed
from cais.images.push import PushRequest
from cais.images.tree import read_document
from cais.spec.descriptor import Descriptor, Manifest
from cais.spec.platform import choose_platform, format_platform
from cais.spec.reference import parse_reference
from cais.store.layers.apply import apply_layer
from cais.store.layers.pack import END

TYPES = ("image", "registry", "docker", "oci", "local", "tar", "cacheonly", "rootfs")
_IMAGES = frozenset({"image", "registry", "moby"})
_TREES = frozenset({"local", "tar", "rootfs"})


def check_option(option: Option, names: Sequence[str] = (), epoch_ns: int | None = None) -> None:
    """Whether this output is possible at all; before anything is built. Raises Invalid, Unsupported."""
    if option.type in _IMAGES | {"docker", "oci"}:
        options = parse_image_options(option, tuple(names), epoch_ns)
        if options.push and not options.names:
            raise Invalid("nothing can be pushed without a name: add name=REPOSITORY[:TAG] to the output")
        if options.unpack and options.rewrite:
            raise Invalid('exporter option "rewrite-timestamp" conflicts with "unpack"')
    elif option.type in _TREES:
        tree = parse_tree_options(option, epoch_ns)
        if option.type == "rootfs" and not tree.dest.startswith("/"):
            raise Invalid("output type rootfs needs dest=FOLDER, an absolute path on the engine's machine")
    elif option.type != "cacheonly":
        raise Unsupported(f"unknown output type {option.type!r}: use {', '.join(TYPES)}")


async def export(results: Sequence[Result], option: Option, sink: Sink, tools: Tools) -> dict[str, str]:
    """Write, send or push ``results`` as ``option`` says; what BuildKit would answer, by its keys.

    A failure names nothing and leaves nothing but blobs that the lease keeps. Raises Invalid, Unsupported, NotFound,
    AlreadyExists, Unavailable, and what pushing raises.
    """
    check_option(option, tools.names, tools.epoch_ns)
    if not results:
        raise Invalid("there is nothing to export")
    if option.type in _IMAGES:
        return await _export_image(results, option, tools)
    if option.type in ("docker", "oci"):
        return await _export_archive(results, option, sink, tools)
    if option.type in _TREES:
        await _export_tree(results, option, sink, tools)
    return {}


# Images


async def _export_image(results: Sequence[Result], option: Option, tools: Tools) -> dict[str, str]:
    options = parse_image_options(option, tuple(tools.names), tools.epoch_ns)
    documents = await prepare_image(results, options, tools)
    target = documents.target
    if options.store:
        named = _stored_names(options, target)
        image = tools.images.add_built(_bare(target), named)
        if options.unpack and image.chosen.is_complete:
            await tools.images.root_lowers(image)
    if options.push:
        for name in options.names:
            target = await _push(name, target, options, tools)
    return replace(documents, target=target).response(options.names)


def _stored_names(options: ImageOptions, target: Descriptor) -> list[str]:
    names = [parse_reference(name).tagged().canonical() for name in options.names]
    if options.canonical:
        names += [f"{parse_reference(name).name}@{target.digest}" for name in options.names]
    return list(dict.fromkeys(names))


async def _push(name: str, target: Descriptor, options: ImageOptions, tools: Tools) -> Descriptor:
    """What is there now: of an unchanged image with plain layers its compressed form."""
    reference = parse_reference(name)
    if not options.by_digest:
        reference = reference.tagged()
    # Layers go as they are, but for those of an image that was not made here.
    kept = "none" if options.codec == "none" else ""
    request = PushRequest(reference, None, await tools.credentials(reference.domain), compression=kept)
    async with aclosing(tools.images.push_built(_bare(target), request, tools.lease)) as events:
        async for event in events:
            tools.tell(event)
            if isinstance(event.result, Pushed) and event.result.digest != target.digest:
                made = {"digest": event.result.digest, "size": event.result.size}
                target = replace(target, **made)
    return target


async def prepare_image(results: Sequence[Result], options: ImageOptions, tools: Tools) -> Documents:
    """All blobs of the image, written under the lease; nothing has a name yet. Raises Invalid, Corrupt, OSError."""
    if unchanged := _unchanged(results, options):
        return Documents((), unchanged.descriptor, unchanged.config_digest)
    parts = [await _prepare_part(result, options, tools) for result in results]
    documents = make_documents(parts, options)
    await asyncio.to_thread(_store, documents.blobs, tools)
    return documents


def _unchanged(results: Sequence[Result], options: ImageOptions) -> Image | None:
    """The image that comes out just as it went in."""
    result = results[0]
    asks = options.annotations.values or options.docker_types or options.force or result.attestations
    if len(results) > 1 or result.unchanged is None or asks or result.extra:
        return None
    return result.unchanged


async def _prepare_part(result: Result, options: ImageOptions, tools: Tools) -> ImagePart:
    image = result.unchanged
    if image is not None and not (
        options.annotations.values or options.docker_types or options.force or result.extra
    ):
        pairs = zip(image.diff_ids, image.manifest.layers, strict=True)
        kept = [FinishedLayer(diff_id, blob) for diff_id, blob in pairs]
        return ImagePart(result, kept, image.chosen.descriptor)
    return ImagePart(result, await finish_layers(result, options, tools))


def _store(blobs: Sequence[Blob], tools: Tools) -> None:
    for blob in blobs:
        tools.lease.add(blob.descriptor.digest)
        tools.unpacker.content.put(blob.data)


def _bare(target: Descriptor) -> Descriptor:
    """What an index would say of it belongs to that."""
    return Descriptor(media_type=target.media_type, digest=target.digest, size=target.size)


# Archives


async def _export_archive(
    results: Sequence[Result], option: Option, sink: Sink, tools: Tools
) -> dict[str, str]:
    options = parse_image_options(option, tuple(tools.names), tools.epoch_ns)
    documents = await prepare_image(results, options, tools)
    content, target = tools.unpacker.content, documents.target
    response = documents.response(options.names)
    if not options.tar:
        await put_all(content, target, await sink.open_blobs())
        return response
    manifest = await asyncio.to_thread(_for_docker, documents, tools) if option.type == "docker" else None
    shipment = Shipment(target, options.names, manifest)
    await _send(stream_archive(content, shipment), sink, response)
    return response


def _for_docker(documents: Documents, tools: Tools) -> Manifest:
    """The manifest for readers of docker-archives: of this machine's platform, or else of the first."""
    if not documents.manifests:
        return tools.images.preview(_bare(documents.target)).manifest
    entries = list(documents.manifests.values())
    platforms = [entry.platform for entry in entries if entry.platform]
    chosen = entries[choose_platform(tools.images.host, platforms) or 0]
    found = read_document(tools.unpacker.content, _bare(chosen))
    assert isinstance(found, Manifest)
    return found


async def _send(parts: AsyncIterator[bytes], sink: Sink, response: dict[str, str]) -> None:
    writer = await sink.open_stream(response)
    async for part in parts:
        await writer.write(part)
    await writer.close()


# Files


async def _export_tree(results: Sequence[Result], option: Option, sink: Sink, tools: Tools) -> None:
    options = parse_tree_options(option, tools.epoch_ns)
    tree = await make_tree(results, options, tools)
    if option.type == "local":
        await sink.send_tree(tree)
    elif option.type == "tar":
        await _send(stream_tar(tree), sink, {})
    else:
        await asyncio.to_thread(write_root, tree, Path(options.dest))


async def make_tree(results: Sequence[Result], options: TreeOptions, tools: Tools) -> Tree:
    """The files of all results, one folder for each platform if there are several. Raises NotFound, Corrupt."""
    split = len(results) > 1 if options.split is None else options.split
    parts: list[Part] = []
    for result in results:
        lowers = await tools.lowers(result.layers, tools.lease) if result.layers else ()
        folder = folder_name(result.platform)
        part = make_layers_part(lowers, folder if split else "", format_platform(result.platform))
        parts.append(part)
        said = [one for one in result.attestations if not one.inline]
        if said:
            files = await asyncio.to_thread(digest_files, part.tree)
            subjects = [Subject(name, {"sha256": digest}) for name, digest in files]
            mark = folder if len(results) > 1 and not split else ""
            tree = MemoryTree(
                {
                    file_name(one, options.prefix, mark).encode(): format_statement(
                        one.type, one.predicate, subjects
                    )
                    for one in said
                },
                mode=0o600,
                mtime=(options.epoch_ns or 0) // 1_000_000_000,
            )
            parts.append(Part(part.prefix, tree, "an attestation"))
    mtime = None if options.epoch_ns is None else options.epoch_ns // 1_000_000_000
    return PartsTree(parts, mtime)


def write_root(tree: Tree, target: Path) -> None:
    """The tree as the folder ``target``, which appears whole or not at all. Blocks.

    Raises AlreadyExists (there is something, and not just an empty folder), NotFound (what is to hold it), OSError.
    """
    parent = target.parent
    if not parent.is_dir():
        raise NotFound(f"no such folder on the engine's machine: {parent}")
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir() or any(target.iterdir())):
        raise AlreadyExists(f"{target} is there already: name another dest, or empty it")
    half = parent / f".{target.name}-{uuid.uuid4().hex}"
    with ExitStack() as stack:
        half.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, half, ignore_errors=True)
        members: Iterator[bytes] = chain(tar_members(tree, with_root=True), (END,))
        apply_layer(cast(BinaryIO, ChunkReader(members)), half)
        # An empty folder gives way.
        half.rename(target)
