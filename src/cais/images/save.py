"""Writing images as one tar: an OCI layout, with Docker's manifest.json beside it as Docker 25 and newer save."""

import asyncio
import tarfile
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec

from cais.images.image import Image
from cais.spec.descriptor import IMAGE_NAME, REF_NAME, Descriptor, Index, format_manifest
from cais.spec.digest import Digest
from cais.spec.reference import parse_reference
from cais.store.content import Content

CHUNK = 1 << 20
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class Selection(msgspec.Struct, frozen=True):
    """An image to save under ``names`` (canonical; none: by its ID only). ``alone``: the chosen platform without the
    index that it is from, so that the archive is whole with nothing but that."""

    image: Image
    names: tuple[str, ...]
    alone: bool = False

    @property
    def target(self) -> Descriptor:
        """What the archive's names stand for."""
        return _plain(self.image.chosen.descriptor) if self.alone else self.image.descriptor


async def write_archive(
    content: Content, selections: Sequence[Selection], *, docker: bool = True
) -> AsyncIterator[bytes]:
    """The archive's bytes: the same images give the same bytes, a blob that several share is in it once.

    ``docker``: with what Docker's older versions and other readers of a docker-archive look for.
    """
    yield _folder("blobs/") + _folder("blobs/sha256/")
    for digest, size in sorted(_blobs(content, selections).items()):
        yield _header(f"blobs/{digest.algorithm}/{digest.hex}", size)
        left = size
        with content.open(digest) as file:
            while chunk := await asyncio.to_thread(file.read, min(CHUNK, left) if left else 1):
                left -= len(chunk)
                yield chunk
        if left:
            # The announced size stands in the header already: the archive cannot be finished honestly.
            raise OSError(f"blob {digest} changed its size")
        yield bytes(-size % tarfile.BLOCKSIZE)
    documents = {
        "index.json": _format_index(selections),
        "oci-layout": LAYOUT,
    }
    if docker:
        documents["manifest.json"] = _format_docker_manifest(selections)
        documents["repositories"] = _format_repositories(selections)
    for name, data in sorted(documents.items()):
        yield _header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _blobs(content: Content, selections: Sequence[Selection]) -> dict[Digest, int]:
    """Every blob that the images need and that is here, with its size in bytes."""
    found: dict[Digest, int] = {}
    for selection in selections:
        image = selection.image
        wanted = [selection.target.digest]
        for platform in (image.chosen,) if selection.alone else image.platforms:
            manifest = platform.manifest
            wanted += [platform.descriptor.digest, manifest.config.digest]
            wanted += [layer.digest for layer in manifest.layers]
        found.update({digest: content.size(digest) for digest in wanted if content.has(digest)})
    return found


def _format_index(selections: Sequence[Selection]) -> bytes:
    return format_manifest(Index(manifests=tuple(_entries(selections))))


def _entries(selections: Sequence[Selection]) -> Iterator[Descriptor]:
    for selection in selections:
        target = selection.target
        if not selection.names:
            yield target
        for name in selection.names:
            tag = parse_reference(name).tag or ""
            yield msgspec.structs.replace(target, annotations={IMAGE_NAME: name, REF_NAME: tag})


def _format_docker_manifest(selections: Sequence[Selection]) -> bytes:
    return msgspec.json.encode(
        [
            {
                "Config": _path(selection.image.config_digest),
                "RepoTags": [parse_reference(name).familiar() for name in selection.names],
                "Layers": [_path(layer.digest) for layer in selection.image.manifest.layers],
            }
            for selection in selections
        ]
    )


def _format_repositories(selections: Sequence[Selection]) -> bytes:
    repositories: dict[str, dict[str, str]] = {}
    for selection in selections:
        layers = selection.image.manifest.layers
        for name in selection.names:
            reference = parse_reference(name)
            tags = repositories.setdefault(reference.familiar_name, {})
            tags[reference.tag or ""] = layers[-1].digest.hex if layers else selection.image.id.hex
    return msgspec.json.encode(repositories, order="sorted")


def _plain(descriptor: Descriptor) -> Descriptor:
    """Without what only makes sense in an index: two archives of one manifest are the same, wherever it is from."""
    return Descriptor(media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size)


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _folder(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info.tobuf(tarfile.PAX_FORMAT)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)
