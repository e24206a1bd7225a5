"""Docker's JSON for images."""

from collections.abc import Iterable
from typing import Any

import msgspec

from cais.api.version import Version
from cais.api.wire.base import Wire, format_time
from cais.images.image import Deleted, HistoryEntry, Image, LoadEvent, PullEvent, Untagged
from cais.images.sizes import PlatformSize
from cais.spec.image import ContainerDefaults
from cais.spec.reference import parse_reference

OMIT = msgspec.UNSET
_ABOUT = "vnd.docker.reference.digest"
MISSING = "<missing>"
"""Stands for the id of a history step that is no image of its own."""


class DescriptorReply(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The target of the image's name; since API 1.48. Names are the image-spec's."""

    media_type: str
    digest: str
    size: int


class PlatformReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A platform, in the image-spec's names."""

    architecture: str
    os: str
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")


class ManifestDescriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A manifest of an index, with its platform."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}
    platform: PlatformReply | None = None


class ManifestSize(Wire, frozen=True, kw_only=True):
    """Bytes: of the blobs that are here, and with the unpacked layers."""

    content: int
    total: int


class UnpackedSize(Wire, frozen=True, kw_only=True):
    """Bytes of the unpacked layers."""

    unpacked: int


class ImageData(Wire, frozen=True, kw_only=True):
    """What is said of a manifest that is an image."""

    platform: PlatformReply
    containers: tuple[str, ...]
    size: UnpackedSize


class AttestationData(Wire, frozen=True, kw_only=True):
    """Which manifest an attestation is about."""

    for_: str = msgspec.field(name="For")


class ManifestSummary(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """One platform of an image (API 1.47, ``manifests``): what ``docker images --tree`` shows."""

    id: str = msgspec.field(name="ID")
    descriptor: ManifestDescriptor
    available: bool
    size: ManifestSize
    kind: str
    image_data: ImageData | None = None
    attestation_data: AttestationData | None = None


class ImageSummary(Wire, frozen=True, kw_only=True):
    """One row of ``GET /images/json``."""

    containers: int
    created: int
    id: str
    labels: dict[str, str] | None
    parent_id: str
    descriptor: DescriptorReply | msgspec.UnsetType = OMIT
    repo_digests: tuple[str, ...]
    repo_tags: tuple[str, ...]
    shared_size: int = -1
    size: int
    virtual_size: int | msgspec.UnsetType = OMIT
    manifests: tuple[ManifestSummary, ...] | msgspec.UnsetType = OMIT
    last_used: int | msgspec.UnsetType = OMIT
    """Ours: Unix seconds, when it was last pulled or a container was made or started from it."""


class RootFsReply(Wire, frozen=True, kw_only=True):
    """The layers, by the digests of their uncompressed tars."""

    type: str = "layers"
    layers: tuple[str, ...]


class ImageInspect(Wire, frozen=True, kw_only=True):
    """``GET /images/{name}/json``."""

    id: str
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    parent: str
    comment: str
    created: str
    docker_version: str = ""
    author: str
    architecture: str
    variant: str | msgspec.UnsetType = OMIT
    os: str
    os_version: str | msgspec.UnsetType = OMIT
    size: int
    virtual_size: int | msgspec.UnsetType = OMIT
    graph_driver: dict[str, Any]
    root_fs: RootFsReply = msgspec.field(name="RootFS")
    metadata: dict[str, str]
    descriptor: DescriptorReply | msgspec.UnsetType = OMIT
    config: dict[str, Any]
    manifests: tuple[ManifestSummary, ...] | msgspec.UnsetType = OMIT


class HistoryReply(Wire, frozen=True, kw_only=True):
    """One step of ``GET /images/{name}/history``."""

    comment: str
    created: int
    created_by: str
    id: str
    size: int
    tags: tuple[str, ...] | None


class ProgressDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bytes done of all."""

    current: int = 0
    total: int = 0


def familiar(names: Iterable[str]) -> tuple[str, ...]:
    """Canonical names as people write them."""
    return tuple(parse_reference(name).familiar() for name in names)


def image_summary(
    image: Image,
    version: Version,
    containers: int,
    *,
    shared_size: int = -1,
    manifests: tuple[ManifestSummary, ...] | None = None,
) -> ImageSummary:
    """One row, for clients of ``version``; ``containers`` were made from the image; -1: not asked for."""
    tags, digests = familiar(image.names), familiar(image.digests)
    if version < (1, 43) and not tags and not digests:
        tags, digests = ("<none>:<none>",), ("<none>@<none>",)
    return ImageSummary(
        containers=containers,
        created=image.created_ns // 1_000_000_000,
        id=image.id,
        labels=image.config.config.labels or None,
        parent_id=image.parent,
        descriptor=_descriptor(image) if version >= (1, 48) else OMIT,
        repo_digests=digests,
        repo_tags=tags,
        shared_size=shared_size,
        size=image.size,
        virtual_size=image.size if version < (1, 44) else OMIT,
        manifests=OMIT if manifests is None else manifests,
        last_used=image.used_ns // 1_000_000_000 if image.used_ns else OMIT,
    )


def manifest_summary(size: PlatformSize, containers: tuple[str, ...]) -> ManifestSummary:
    """One platform; ``containers`` are the ids of those that were made from it."""
    platform, descriptor = size.image, size.image.descriptor
    about = descriptor.annotations.get(_ABOUT, "")
    shown = PlatformReply(
        architecture=platform.platform.architecture,
        os=platform.platform.os,
        variant=platform.platform.variant,
        os_version=platform.platform.os_version,
    )
    return ManifestSummary(
        id=descriptor.digest,
        descriptor=ManifestDescriptor(
            media_type=descriptor.media_type,
            digest=descriptor.digest,
            size=descriptor.size,
            annotations=descriptor.annotations,
            platform=shown,
        ),
        available=platform.is_complete,
        size=ManifestSize(content=size.content, total=size.total),
        kind="image" if platform.is_image else "attestation" if about else "unknown",
        image_data=ImageData(platform=shown, containers=containers, size=UnpackedSize(unpacked=size.unpacked))
        if platform.is_image
        else None,
        attestation_data=AttestationData(for_=about) if about and not platform.is_image else None,
    )


def image_inspect(
    image: Image,
    version: Version,
    storage_driver: str,
    manifests: tuple[ManifestSummary, ...] | None = None,
) -> ImageInspect:
    """All that is known of an image."""
    config = image.config
    last = config.history[-1] if config.history else None
    return ImageInspect(
        id=image.id,
        repo_tags=familiar(image.names),
        repo_digests=familiar(image.digests),
        parent=image.parent,
        comment=last.comment if last else "",
        created=config.created or format_time(0),
        author=config.author,
        architecture=config.architecture,
        variant=config.variant or OMIT,
        os=config.os,
        os_version=config.os_version or OMIT,
        size=image.size,
        virtual_size=image.size if version < (1, 44) else OMIT,
        graph_driver={"Data": None, "Name": storage_driver},
        root_fs=RootFsReply(layers=image.diff_ids),
        metadata={
            "LastTagTime": format_time(image.updated_ns),
            # Ours; Docker has no such thing.
            **({"LastUsedTime": format_time(image.used_ns)} if image.used_ns else {}),
        },
        descriptor=_descriptor(image) if version >= (1, 48) else OMIT,
        config=config_reply(config.config, version),
        manifests=OMIT if manifests is None else manifests,
    )


_LEGACY_CONFIG: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Image": "",
}
"""Fields of no meaning for an image that clients of before API 1.50 were given."""

_ALWAYS = ("Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir")


def config_reply(defaults: ContainerDefaults, version: Version) -> dict[str, Any]:
    """What a container made from the image starts with; absent lists are null, absent texts empty."""
    found: dict[str, Any] = msgspec.to_builtins(defaults)
    shown = dict(_LEGACY_CONFIG) if version < (1, 50) else {}
    for key in _ALWAYS:
        shown[key] = found.get(key) or ("" if key in ("User", "WorkingDir") else None)
    return shown | {key: value for key, value in found.items() if key not in shown}


def history_reply(entry: HistoryEntry) -> HistoryReply:
    """One step."""
    return HistoryReply(
        comment=entry.comment,
        created=entry.created_ns // 1_000_000_000,
        created_by=entry.created_by,
        id=entry.id or MISSING,
        size=entry.size,
        tags=entry.tags or None,
    )


def removal_replies(done: Iterable[Untagged | Deleted]) -> list[dict[str, str]]:
    """What ``rmi`` did, step by step."""
    return [
        {"Untagged": step.name} if isinstance(step, Untagged) else {"Deleted": step.digest} for step in done
    ]


def progress_line(event: LoadEvent) -> dict[str, Any]:
    """One line of the stream of ``load``."""
    if event.text:
        return {"stream": f"{event.text}\n"}
    detail = ProgressDetail(current=event.current, total=event.total)
    line: dict[str, Any] = {"status": event.status, "progressDetail": detail}
    if event.total:
        line["progress"] = progress_bar(event.current, event.total)
    return line | ({"id": event.id} if event.id else {})


def pull_line(event: PullEvent) -> dict[str, Any]:
    """One line of the stream of a pull. Clients keep a line of the terminal for each id with ``progressDetail``."""
    line: dict[str, Any] = {"status": event.status}
    if event.is_layer:
        line["progressDetail"] = ProgressDetail(current=event.current, total=event.total)
        if event.total:
            line["progress"] = progress_bar(event.current, event.total)
    return line | ({"id": event.id} if event.id else {})


def error_line(error: Exception) -> dict[str, Any]:
    """The last line of a stream that failed."""
    return {"errorDetail": {"message": str(error)}, "error": str(error)}


def progress_bar(current: int, total: int) -> str:
    """``[====>      ]  12.3MB/45.6MB``: the bar of old clients, which print it as it is."""
    filled = min(50, current * 50 // total)
    bar = "=" * filled + (">" if filled < 50 else "") + " " * (49 - filled)
    return f"[{bar}]  {_human(current)}/{_human(total)}"


def _human(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.4g}{unit}"
        value /= 1000
    raise AssertionError


def _descriptor(image: Image) -> DescriptorReply:
    target = image.descriptor
    return DescriptorReply(media_type=target.media_type, digest=target.digest, size=target.size)
