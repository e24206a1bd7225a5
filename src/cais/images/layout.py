"""What images an archive holds: OCI layouts and docker-archives, read from their index files."""

import posixpath
from collections.abc import Callable, Iterable

import msgspec

from cais.errors import CaisError, Invalid, Unsupported
from cais.images.spool import Blob, Files
from cais.spec.descriptor import (
    IMAGE_NAME,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    REF_NAME,
    Descriptor,
    Index,
    Manifest,
    format_manifest,
    parse_manifest,
)
from cais.spec.digest import digest_bytes
from cais.spec.reference import is_tag, parse_reference

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class FoundImage(msgspec.Struct, frozen=True):
    """One image of an archive: its manifest or index, the document itself if we had to write it, and the
    canonical names (with tag) that the archive gives it."""

    target: Descriptor
    document: bytes
    names: tuple[str, ...]


class DockerEntry(msgspec.Struct, frozen=True, rename="pascal"):
    """One image in a docker-archive's ``manifest.json``."""

    config: str
    layers: tuple[str, ...] | None = None
    repo_tags: tuple[str, ...] | None = None


def find_images(files: Files, store: Callable[[str], Blob]) -> list[FoundImage]:
    """The images in ``files``. ``store`` turns a file into a blob of the content store.
    Raises Invalid if this is no image archive.

    The OCI layout wins when both are there (as in what Docker 25 and newer save): it has the true digests.
    """
    prefix = _layout_prefix(files)
    if prefix is not None:
        found = _oci_images(files, prefix)
        if found:
            return found
    prefix = _docker_prefix(files)
    if prefix is None:
        raise Invalid("archive holds no image: neither manifest.json nor an OCI layout with index.json")
    return _docker_images(files, prefix, store)


def _layout_prefix(files: Files) -> str | None:
    """The folder of the outermost OCI layout: empty, or ``name/`` when a folder was packed as a whole."""
    return _outermost(files, "index.json", lambda folder: files.has(folder + "oci-layout"))


def _docker_prefix(files: Files) -> str | None:
    return _outermost(files, "manifest.json", lambda _: True)


def _outermost(files: Files, name: str, accept: Callable[[str], bool]) -> str | None:
    names: Iterable[str] = (*files.small, *files.links)
    folders = {entry.removesuffix(name) for entry in names if posixpath.basename(entry) == name}
    good = [folder for folder in folders if folder.count("/") <= 1 and accept(folder)]
    return min(good, key=lambda folder: (folder.count("/"), folder), default=None)


def _oci_images(files: Files, prefix: str) -> list[FoundImage]:
    _check_version(files.read(prefix + "oci-layout"))
    index = parse_manifest(files.read(prefix + "index.json"))
    if not isinstance(index, Index):
        raise Invalid("invalid index.json: it is no index")
    targets: dict[str, Descriptor] = {}
    names: dict[str, list[str]] = {}
    for descriptor in index.manifests:
        if descriptor.media_type not in MANIFEST_TYPES | INDEX_TYPES or descriptor.artifact_type:
            continue
        targets.setdefault(descriptor.digest, descriptor)
        name = oci_name(descriptor.annotations, prefix.rstrip("/"))
        if name and name not in names.setdefault(descriptor.digest, []):
            names[descriptor.digest].append(name)
    return [
        FoundImage(_bare(target), b"", tuple(names.get(digest, ()))) for digest, target in targets.items()
    ]


def _bare(descriptor: Descriptor) -> Descriptor:
    """Names belong to the archive, not to the image."""
    return msgspec.structs.replace(descriptor, annotations={})


def _check_version(data: bytes) -> None:
    try:
        version = msgspec.json.decode(data, type=dict[str, str]).get("imageLayoutVersion")
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Invalid(f"invalid oci-layout: {error}") from error
    if version is None or not version.startswith("1."):
        raise Unsupported(f"OCI layout version {version!r} is unknown: this engine reads 1.x")


def oci_name(annotations: dict[str, str], folder: str) -> str | None:
    """The canonical name that an ``index.json`` entry gives its image, if any.

    containerd's annotation is a full name. ``ref.name`` is one with podman and skopeo, but only a tag with
    umoci; then the packed folder's name, if there is one, is the repository.
    """
    texts = [annotations.get(IMAGE_NAME, "")]
    reference = annotations.get(REF_NAME, "")
    if not is_tag(reference):
        texts.append(reference)
    elif folder:
        texts.append(f"{folder}:{reference}")
    for text in filter(None, texts):
        try:
            return parse_reference(text).tagged().canonical()
        except CaisError:
            continue
    return None


def _docker_images(files: Files, prefix: str, store: Callable[[str], Blob]) -> list[FoundImage]:
    try:
        entries = msgspec.json.decode(files.read(prefix + "manifest.json"), type=list[DockerEntry])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Invalid(f"invalid manifest.json: {error}") from error
    found = []
    for entry in entries:
        config = store(prefix + posixpath.normpath(entry.config))
        layers = [store(prefix + posixpath.normpath(layer)) for layer in entry.layers or ()]
        manifest = Manifest(
            media_type=OCI_MANIFEST,
            config=Descriptor(media_type=OCI_CONFIG, digest=config.digest, size=config.size),
            layers=tuple(
                Descriptor(media_type=layer_type(layer.head), digest=layer.digest, size=layer.size)
                for layer in layers
            ),
        )
        document = format_manifest(manifest)
        target = Descriptor(media_type=OCI_MANIFEST, digest=digest_bytes(document), size=len(document))
        names = [parse_reference(tag).tagged().canonical() for tag in entry.repo_tags or ()]
        found.append(FoundImage(target, document, tuple(dict.fromkeys(names))))
    return found


def layer_type(head: bytes) -> str:
    """The media type of a layer by its first bytes."""
    if head.startswith(GZIP):
        return OCI_LAYER_GZIP
    return OCI_LAYER_ZSTD if head.startswith(ZSTD) else OCI_LAYER
