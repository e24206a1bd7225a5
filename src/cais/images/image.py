"""What a name resolves to: an image as a value."""

import msgspec

from cais.spec.descriptor import Descriptor, Manifest
from cais.spec.digest import Digest
from cais.spec.image import ImageConfig
from cais.spec.platform import Platform


class PlatformImage(msgspec.Struct, frozen=True):
    """One platform's manifest of an image. ``config`` is None when its blob is not here; ``is_complete`` says
    that all of its blobs are."""

    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig | None
    platform: Platform
    is_complete: bool

    @property
    def is_image(self) -> bool:
        """A runnable image; not an attestation or another artifact that rides in the index."""
        return not self.manifest.artifact_type and self.platform.os not in ("", "unknown")


class Image(msgspec.Struct, frozen=True):
    """One image on this machine, seen from one platform (the host's, unless another was asked for).

    ``id`` is the digest of the manifest or index, Docker 29's meaning. ``names`` are canonical references
    with a tag, ``digests`` canonical references with the digest. ``size`` is bytes: unpacked layers where
    they are known, else what the layers' blobs take. Times are nanoseconds since the epoch.
    """

    id: Digest
    descriptor: Descriptor
    names: tuple[str, ...]
    digests: tuple[str, ...]
    chosen: PlatformImage
    config: ImageConfig
    platforms: tuple[PlatformImage, ...]
    size: int
    created_ns: int
    updated_ns: int
    parent: str = ""
    used_ns: int = 0
    """When it was last pulled, or a container was made or started from it; 0: never."""

    @property
    def manifest(self) -> Manifest:
        """The chosen platform's manifest."""
        return self.chosen.manifest

    @property
    def config_digest(self) -> Digest:
        """The digest of the chosen platform's configuration: the image ID of older Dockers."""
        return self.chosen.manifest.config.digest

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """The layers, bottom first, as digests of their uncompressed tars."""
        return self.config.rootfs.diff_ids

    @property
    def is_dangling(self) -> bool:
        """No tag leads to it."""
        return not self.names


class Untagged(msgspec.Struct, frozen=True):
    """A removed name, in its short form."""

    name: str


class Deleted(msgspec.Struct, frozen=True):
    """A removed image or layer."""

    digest: str


class HistoryEntry(msgspec.Struct, frozen=True):
    """One line of ``history``: ``size`` bytes the layer takes unpacked; ``id`` is empty for all but the
    newest."""

    id: str
    created_ns: int
    created_by: str
    tags: tuple[str, ...]
    size: int
    comment: str


class LoadEvent(msgspec.Struct, frozen=True):
    """Progress of a load or import. Either ``text`` (a line for people, e.g. ``Loaded image: a:latest``),
    or a
    ``status`` about the layer ``id`` with ``current`` of ``total`` bytes (0: unknown)."""

    text: str = ""
    status: str = ""
    id: str = ""
    current: int = 0
    total: int = 0


class PullEvent(msgspec.Struct, frozen=True):
    """Progress of a pull, in Docker's words: ``status`` about ``id`` (a tag, or the short form of a layer's digest),
    with ``current`` of ``total`` bytes (0: unknown). ``is_layer``: it replaces what was said of this layer before."""

    status: str
    id: str = ""
    current: int = 0
    total: int = 0
    is_layer: bool = False


class Pushed(msgspec.Struct, frozen=True):
    """What a tag stands for in the registry now; ``size`` is the manifest's or index's own, in bytes."""

    tag: str
    digest: Digest
    size: int


class PushedInstead(msgspec.Struct, frozen=True):
    """Not all of the ``index`` was here, so one ``manifest`` of it was pushed."""

    index: Descriptor
    manifest: Descriptor


class PushEvent(msgspec.Struct, frozen=True):
    """Progress of a push, in Docker's words, as in ``PullEvent``; ``result`` is for programs."""

    status: str = ""
    id: str = ""
    current: int = 0
    total: int = 0
    is_layer: bool = False
    result: Pushed | PushedInstead | None = None
