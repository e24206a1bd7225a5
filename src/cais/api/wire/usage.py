"""Our exact accounts of the disk: every allocated block of the root folder, once, and whose it is."""

from collections.abc import Iterable, Mapping, Sequence

from cais.api.wire.base import Wire, format_time
from cais.api.wire.images import familiar
from cais.containers.record import Record
from cais.images.image import Image
from cais.images.sizes import split
from cais.spec.digest import Digest


class ImageAccount(Wire, frozen=True, kw_only=True):
    """Bytes that go with the image (``Unique``), and those that stay for others (``Shared``)."""

    id: str
    names: tuple[str, ...]
    unique: int
    shared: int
    last_used: str
    """RFC 3339; empty: never."""


class ContainerAccount(Wire, frozen=True, kw_only=True):
    """The files it wrote, its logs, and the rest of its folder."""

    id: str
    name: str
    writable: int
    logs: int
    other: int


class VolumeAccount(Wire, frozen=True, kw_only=True):
    """All of a volume's folder."""

    name: str
    size: int


class Accounts(Wire, frozen=True, kw_only=True):
    """What adds up: ``Total`` is what ``du`` says of the root, and the sum of the images' ``Unique``, ``ImagesShared``
    (each shared byte once), ``ImagesLoose`` (what no image needs: arriving, or kept by containers whose image was
    removed), everything of containers and volumes, ``BuildCache`` and ``Other``."""

    total: int
    images: tuple[ImageAccount, ...]
    images_shared: int
    images_loose: int
    containers: tuple[ContainerAccount, ...]
    volumes: tuple[VolumeAccount, ...]
    build_cache: int = 0
    other: dict[str, int]


_WRITABLE = frozenset(("upper", "work", "rootfs", "rootfs.half"))
_OTHER = {
    "content/ingest": "partial downloads",
    "ahead": "made ahead of containers",
    "tmp": "temporary files",
    "trash": "being removed",
    "network": "networks",
    "seccomp": "compiled filters",
}


def make_accounts(
    blocks: Mapping[str, int],
    images: Sequence[Image],
    needs: Mapping[Digest, frozenset[str]],
    records: Iterable[Record],
    volumes: Iterable[str],
) -> Accounts:
    """The accounts of ``blocks``, which are ``store.usage.measure_root``'s; ``needs``: the places of each image."""
    rest = dict(blocks)
    shares, shared = split(needs, blocks)
    for place in {place for places in needs.values() for place in places}:
        rest.pop(place, None)
    loose = sum(rest.pop(place) for place in list(rest) if _is_loose(place))
    # Names first: popping changes what is left, and the order of fields is the order of evaluation.
    found = tuple(_container(rest, record) for record in records)
    sizes = tuple(VolumeAccount(name=name, size=rest.pop(f"volumes/{name}", 0)) for name in volumes)
    return Accounts(
        total=sum(blocks.values()),
        images=tuple(
            ImageAccount(
                id=image.id,
                names=familiar(image.names or image.digests),
                unique=shares[image.id].unique,
                shared=shares[image.id].shared,
                last_used=format_time(image.used_ns) if image.used_ns else "",
            )
            for image in images
        ),
        images_shared=shared,
        images_loose=loose,
        containers=found,
        volumes=sizes,
        other=_sum_up(rest),
    )


def _is_loose(place: str) -> bool:
    if place.startswith("layers/"):
        return not place.startswith("layers/.")
    return place.startswith("content/blobs/") and place.count("/") == 3


def _container(rest: dict[str, int], record: Record) -> ContainerAccount:
    start = f"containers/{record.id}"
    writable = logs = other = 0
    for place in [place for place in rest if place == start or place.startswith(f"{start}/")]:
        name, size = place.removeprefix(start).lstrip("/"), rest.pop(place)
        if name in _WRITABLE:
            writable += size
        elif ".log" in name or name == "logs":
            logs += size
        else:
            other += size
    return ContainerAccount(id=record.id, name=record.name, writable=writable, logs=logs, other=other)


def _sum_up(rest: Mapping[str, int]) -> dict[str, int]:
    """By kind, what belongs to no object."""
    found: dict[str, int] = {}
    for place, size in rest.items():
        if place.startswith(("content/.tmp", "layers/.tmp")):
            kind = "temporary files"
        elif place.startswith("layers/.trash"):
            kind = "being removed"
        else:
            kind = _OTHER.get(place) or _OTHER.get(place.partition("/")[0], "metadata")
        found[kind] = found.get(kind, 0) + size
    return dict(sorted(found.items()))
