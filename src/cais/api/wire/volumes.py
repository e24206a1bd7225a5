"""Docker's JSON for volumes."""

from typing import Any

import msgspec

from cais.api.wire.base import Wire, format_time_seconds
from cais.volumes.local import Volume


class VolumeCreate(Wire, frozen=True, kw_only=True):
    """The body of ``POST /volumes/create``."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    cluster_volume_spec: dict[str, Any] | None = None


class UsageData(Wire, frozen=True, kw_only=True):
    """Only in disk usage: bytes, and how many containers mount it."""

    ref_count: int
    size: int


class VolumeReply(Wire, frozen=True, kw_only=True):
    """One volume."""

    created_at: str
    driver: str
    labels: dict[str, str] | None
    mountpoint: str
    name: str
    options: dict[str, str] | None
    scope: str = "local"
    usage_data: UsageData | msgspec.UnsetType = msgspec.UNSET


class VolumeList(Wire, frozen=True, kw_only=True):
    """``GET /volumes``."""

    volumes: tuple[VolumeReply, ...]
    warnings: tuple[str, ...] | None = None


class VolumePrune(Wire, frozen=True, kw_only=True):
    """``POST /volumes/prune``."""

    volumes_deleted: tuple[str, ...] | None
    space_reclaimed: int


def volume_reply(volume: Volume, path: str, usage: UsageData | None = None) -> VolumeReply:
    """``volume``, whose folder is ``path``, for clients."""
    return VolumeReply(
        created_at=format_time_seconds(volume.created_ns),
        driver=volume.driver,
        labels=volume.labels or None,
        mountpoint=path,
        name=volume.name,
        options=volume.options or None,
        usage_data=usage or msgspec.UNSET,
    )
