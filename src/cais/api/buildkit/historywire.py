"""The messages of the history of builds, and of reading blobs that its records name.

Field numbers: moby/buildkit api/services/control/control.proto; containerd api/services/content/v1/content.proto.
"""

from typing import Annotated

from cais.api.buildkit.messages import Option, Timestamp
from cais.grpc.protobuf import Message
from cais.grpc.status import Status

STARTED, COMPLETE, DELETED = range(3)


class BlobDescriptor(Message, frozen=True, kw_only=True):
    """A blob that can be read."""

    media_type: Annotated[str, 1] = ""
    digest: Annotated[str, 2] = ""
    size: Annotated[int, 3] = 0
    annotations: Annotated[dict[str, str], 5] = {}


class BuildResult(Message, frozen=True, kw_only=True):
    """What a build made for one platform."""

    attestations: Annotated[tuple[BlobDescriptor, ...], 2] = ()
    results: Annotated[dict[int, BlobDescriptor], 3] = {}


class BuildRecord(Message, frozen=True, kw_only=True):
    """``BuildHistoryRecord``."""

    ref: Annotated[str, 1] = ""
    frontend: Annotated[str, 2] = ""
    frontend_attrs: Annotated[dict[str, str], 3] = {}
    exporters: Annotated[tuple[Option, ...], 4] = ()
    error: Annotated[Status | None, 5] = None
    created: Annotated[Timestamp | None, 6] = None
    completed: Annotated[Timestamp | None, 7] = None
    logs: Annotated[BlobDescriptor | None, 8] = None
    exporter_response: Annotated[dict[str, str], 9] = {}
    result: Annotated[BuildResult | None, 10] = None
    results: Annotated[dict[str, BuildResult], 11] = {}
    generation: Annotated[int, 12] = 0
    pinned: Annotated[bool, 14] = False
    cached_steps: Annotated[int, 15] = 0
    total_steps: Annotated[int, 16] = 0
    completed_steps: Annotated[int, 17] = 0
    external_error: Annotated[BlobDescriptor | None, 18] = None
    warnings: Annotated[int, 19] = 0


class HistoryEvent(Message, frozen=True, kw_only=True):
    """``BuildHistoryEvent``."""

    type: Annotated[int, 1] = 0
    record: Annotated[BuildRecord | None, 2] = None


class HistoryRequest(Message, frozen=True, kw_only=True):
    """``ListenBuildHistory``."""

    active_only: Annotated[bool, 1] = False
    ref: Annotated[str, 2] = ""
    early_exit: Annotated[bool, 3] = False
    filter: Annotated[tuple[str, ...], 4] = ()
    limit: Annotated[int, 5] = 0


class HistoryUpdate(Message, frozen=True, kw_only=True):
    """``UpdateBuildHistory``."""

    ref: Annotated[str, 1] = ""
    pinned: Annotated[bool, 2] = False
    delete: Annotated[bool, 3] = False
    finalize: Annotated[bool, 4] = False


class BlobRequest(Message, frozen=True, kw_only=True):
    """``Content.Info`` and ``Content.Read``."""

    digest: Annotated[str, 1] = ""
    offset: Annotated[int, 2] = 0
    size: Annotated[int, 3] = 0


class BlobInfo(Message, frozen=True, kw_only=True):
    """What is known of a blob."""

    digest: Annotated[str, 1] = ""
    size: Annotated[int, 2] = 0
    created: Annotated[Timestamp | None, 3] = None
    updated: Annotated[Timestamp | None, 4] = None


class BlobInfoResponse(Message, frozen=True, kw_only=True):
    """``Content.Info``'s answer."""

    info: Annotated[BlobInfo | None, 1] = None


class BlobPart(Message, frozen=True, kw_only=True):
    """A piece of a blob."""

    offset: Annotated[int, 1] = 0
    data: Annotated[bytes, 2] = b""
