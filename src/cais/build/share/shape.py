"""Caches that travel: what is written of records, and how it is read again. Pure.

A cache is an OCI image manifest, so that every registry takes it:

    config   application/vnd.cais.buildcache.v1+json, a JSON object:
             version   1
             records   [{key, created, title?, parent?, layer?}]: ``created`` nanoseconds since the epoch, ``layer`` an
                       index into the manifest's layers; without one the step changed no file
             diff_ids  one for each of the manifest's layers
             mounts    [{name, layer}]: the folders of cache mounts; their layers are plain trees
    layers   the blobs, with the media types of image layers

An inline cache is the same object in an image's own configuration, under ``INLINE``; its indexes count the image's
layers, whose diff_ids the configuration has already.

Who names a cache trusts what it says of steps; nothing else of it is trusted. A record leads to bytes by digest, and
the diff_id is compared when they are unpacked.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from cais.build.cache import CacheRecord, Layer, layer_of
from cais.errors import Invalid, Unsupported
from cais.spec.descriptor import LAYER_TYPES, Descriptor, Manifest
from cais.spec.digest import Digest, parse_digest

CONFIG_TYPE = "application/vnd.cais.buildcache.v1+json"
INLINE = "cais.buildcache.v1"
CONFIG_LIMIT = 32 << 20
"""Bytes of the configuration of a cache."""
_VERSION = 1
_MAX_RECORDS = 100_000
_MAX_MOUNTS = 1000
_MAX_TITLE = 4096
_KEY = re.compile(r"[0-9a-f]{64}")


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    key: str
    created: int
    title: str = ""
    parent: str = ""
    layer: int = -1


class _Mount(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    layer: int


class _Shared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    version: int
    records: tuple[_Record, ...] = ()
    diff_ids: tuple[str, ...] = ()
    mounts: tuple[_Mount, ...] = ()


class SharedCache(msgspec.Struct, frozen=True):
    """What a cache holds: records by key, and the folders of cache mounts by name."""

    records: Mapping[str, CacheRecord] = msgspec.field(default_factory=dict)
    mounts: Mapping[str, Layer] = msgspec.field(default_factory=dict)


def list_layers(cache: SharedCache) -> list[Layer]:
    """Every layer once, in an order that depends on nothing else."""
    found: dict[Digest, Layer] = {}
    for key in sorted(cache.records):
        layer = layer_of(cache.records[key])
        if layer:
            found.setdefault(layer.diff_id, layer)
    for name in sorted(cache.mounts):
        layer = cache.mounts[name]
        found.setdefault(layer.diff_id, layer)
    return list(found.values())


def format_shared(cache: SharedCache, diff_ids: Sequence[Digest], *, inline: bool = False) -> bytes:
    """The JSON object; equal values give equal bytes. ``diff_ids`` of the manifest's layers: records whose layer is not
    among them are left out."""
    places = {diff_id: index for index, diff_id in enumerate(diff_ids)}
    records = []
    for key, record in sorted(cache.records.items()):
        place = places.get(Digest(record.diff_id), -1) if record.diff_id else -1
        if record.diff_id and place < 0:
            continue
        records.append(
            _Record(
                key=key,
                created=record.created_ns,
                title=record.title[:_MAX_TITLE],
                parent=record.parent,
                layer=place,
            )
        )
    mounts = [_Mount(name=name, layer=places[layer.diff_id]) for name, layer in sorted(cache.mounts.items())]
    shared = _Shared(
        version=_VERSION,
        records=tuple(records),
        diff_ids=() if inline else tuple(map(str, diff_ids)),
        mounts=tuple(mounts),
    )
    return msgspec.json.encode(shared)


def parse_shared(data: bytes, layers: Sequence[Descriptor]) -> SharedCache:
    """The inverse of ``format_shared``; ``layers``: the manifest's. Raises Invalid, Unsupported (of a later
    version)."""
    shared = _decode(data)
    if len(shared.diff_ids) != len(layers):
        raise Invalid(f"invalid build cache: {len(layers)} layers but {len(shared.diff_ids)} diff_ids")
    pairs = [
        Layer(parse_digest(diff_id), _check_blob(blob))
        for diff_id, blob in zip(shared.diff_ids, layers, strict=True)
    ]
    return _link(shared, pairs)


def parse_inline(raw: Any, layers: Sequence[Layer]) -> SharedCache:
    """The cache in an image's configuration, decoded JSON; ``layers``: the image's. Raises Invalid, Unsupported."""
    shared = _decode(msgspec.json.encode(raw))
    if shared.mounts:
        raise Invalid("invalid build cache: an image has no cache mounts")
    return _link(shared, layers)


def _decode(data: bytes) -> _Shared:
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("version")
        if version != _VERSION:
            raise Unsupported(f"build cache of version {version!r} is unknown: this engine reads {_VERSION}")
        shared = msgspec.json.decode(data, type=_Shared)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Invalid(f"invalid build cache: {error}") from error
    if len(shared.records) > _MAX_RECORDS or len(shared.mounts) > _MAX_MOUNTS:
        raise Invalid(f"invalid build cache: more than {_MAX_RECORDS} records or {_MAX_MOUNTS} mounts")
    return shared


def _check_blob(blob: Descriptor) -> Descriptor:
    if blob.media_type not in LAYER_TYPES or blob.size < 0 or blob.urls:
        raise Invalid(f"invalid build cache: {blob.digest} is no layer")
    return Descriptor(media_type=blob.media_type, digest=blob.digest, size=blob.size)


def _link(shared: _Shared, layers: Sequence[Layer]) -> SharedCache:
    records = {}
    for record in shared.records:
        if not _KEY.fullmatch(record.key) or (record.parent and not _KEY.fullmatch(record.parent)):
            raise Invalid(f"invalid build cache: no key: {record.key[:80]!r}")
        if not 0 <= record.created < 1 << 63 or len(record.title) > _MAX_TITLE:
            raise Invalid(f"invalid build cache: record {record.key} is out of range")
        layer = _at(layers, record.layer) if record.layer != -1 else None
        records[record.key] = CacheRecord(
            created_ns=record.created,
            title=record.title,
            parent=record.parent,
            diff_id=str(layer.diff_id) if layer else "",
            digest=str(layer.blob.digest) if layer else "",
            media_type=layer.blob.media_type if layer else "",
            size=layer.blob.size if layer else 0,
        )
    mounts = {mount.name: _at(layers, mount.layer) for mount in shared.mounts}
    return SharedCache(records, mounts)


def _at(layers: Sequence[Layer], index: int) -> Layer:
    if not 0 <= index < len(layers):
        raise Invalid(f"invalid build cache: there is no layer {index}")
    return layers[index]


def describe_foreign(document: Manifest, config: bytes) -> str:
    """Whose cache it is, if it is not ours; empty if it is no cache that we know of."""
    types = {document.config.media_type, *(layer.media_type for layer in document.layers)}
    if any(".buildkit.cacheconfig." in kind for kind in types):
        return "BuildKit"
    try:
        raw = msgspec.json.decode(config)
    except (msgspec.MsgspecError, RecursionError):
        return ""
    return "BuildKit" if isinstance(raw, dict) and "moby.buildkit.cache.v0" in raw else ""


def merge(caches: Iterable[SharedCache]) -> SharedCache:
    """Several as one; the first that has something counts."""
    records: dict[str, CacheRecord] = {}
    mounts: dict[str, Layer] = {}
    for cache in caches:
        records = {**cache.records, **records}
        mounts = {**cache.mounts, **mounts}
    return SharedCache(records, mounts)
