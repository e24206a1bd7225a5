"""The messages of BuildKit's control API, as far as this engine reads and writes them.

Field numbers are those of moby/buildkit (api/services/control/control.proto, api/types/worker.proto,
solver/pb/ops.proto, util/apicaps/pb/caps.proto, solver/errdefs/errdefs.proto); names are ours.
"""

from typing import Annotated

from cais.grpc.protobuf import Message

SECOND = 1_000_000_000


class Timestamp(Message, frozen=True, kw_only=True):
    """``google.protobuf.Timestamp``."""

    seconds: Annotated[int, 1] = 0
    nanos: Annotated[int, 2] = 0


def to_timestamp(time_ns: int) -> Timestamp:
    """From nanoseconds since the epoch."""
    return Timestamp(seconds=time_ns // SECOND, nanos=time_ns % SECOND)


class Definition(Message, frozen=True, kw_only=True):
    """``pb.Definition``: operations in BuildKit's low-level form, each encoded."""

    operations: Annotated[tuple[bytes, ...], 1] = ()
    metadata: Annotated[dict[str, bytes], 2] = {}


class Option(Message, frozen=True, kw_only=True):
    """``CacheOptionsEntry`` and ``Exporter``: a type with attributes."""

    type: Annotated[str, 1] = ""
    attrs: Annotated[dict[str, str], 2] = {}


class CacheOptions(Message, frozen=True, kw_only=True):
    """What caches to read and write."""

    export_ref: Annotated[str, 1] = ""
    import_refs: Annotated[tuple[str, ...], 2] = ()
    exports: Annotated[tuple[Option, ...], 4] = ()
    imports: Annotated[tuple[Option, ...], 5] = ()


class SolveRequest(Message, frozen=True, kw_only=True):
    """``Control.Solve``."""

    ref: Annotated[str, 1] = ""
    definition: Annotated[Definition | None, 2] = None
    exporter: Annotated[str, 3] = ""
    exporter_attrs: Annotated[dict[str, str], 4] = {}
    session: Annotated[str, 5] = ""
    frontend: Annotated[str, 6] = ""
    frontend_attrs: Annotated[dict[str, str], 7] = {}
    cache: Annotated[CacheOptions | None, 8] = None
    entitlements: Annotated[tuple[str, ...], 9] = ()
    frontend_inputs: Annotated[dict[str, Definition], 10] = {}
    internal: Annotated[bool, 11] = False
    exporters: Annotated[tuple[Option, ...], 13] = ()


class SolveResponse(Message, frozen=True, kw_only=True):
    """What exporters say."""

    exporter_response: Annotated[dict[str, str], 1] = {}


class StatusRequest(Message, frozen=True, kw_only=True):
    """``Control.Status``."""

    ref: Annotated[str, 1] = ""


class Vertex(Message, frozen=True, kw_only=True):
    """One vertex, as it is now."""

    digest: Annotated[str, 1] = ""
    inputs: Annotated[tuple[str, ...], 2] = ()
    name: Annotated[str, 3] = ""
    cached: Annotated[bool, 4] = False
    started: Annotated[Timestamp | None, 5] = None
    completed: Annotated[Timestamp | None, 6] = None
    error: Annotated[str, 7] = ""


class VertexStatus(Message, frozen=True, kw_only=True):
    """One of the things a vertex does."""

    id: Annotated[str, 1] = ""
    vertex: Annotated[str, 2] = ""
    name: Annotated[str, 3] = ""
    current: Annotated[int, 4] = 0
    total: Annotated[int, 5] = 0
    timestamp: Annotated[Timestamp | None, 6] = None
    started: Annotated[Timestamp | None, 7] = None
    completed: Annotated[Timestamp | None, 8] = None


class VertexLog(Message, frozen=True, kw_only=True):
    """Output of a vertex's program."""

    vertex: Annotated[str, 1] = ""
    timestamp: Annotated[Timestamp | None, 2] = None
    stream: Annotated[int, 3] = 0
    message: Annotated[bytes, 4] = b""


class Position(Message, frozen=True, kw_only=True):
    """A place in a text; lines from 1."""

    line: Annotated[int, 1] = 0
    character: Annotated[int, 2] = 0


class Range(Message, frozen=True, kw_only=True):
    """From one place to another."""

    start: Annotated[Position | None, 1] = None
    end: Annotated[Position | None, 2] = None


class SourceInfo(Message, frozen=True, kw_only=True):
    """The text that a range is about."""

    filename: Annotated[str, 1] = ""
    data: Annotated[bytes, 2] = b""
    definition: Annotated[Definition | None, 3] = None
    language: Annotated[str, 4] = ""


class VertexWarning(Message, frozen=True, kw_only=True):
    """A finding."""

    vertex: Annotated[str, 1] = ""
    level: Annotated[int, 2] = 0
    short: Annotated[bytes, 3] = b""
    detail: Annotated[tuple[bytes, ...], 4] = ()
    url: Annotated[str, 5] = ""
    info: Annotated[SourceInfo | None, 6] = None
    ranges: Annotated[tuple[Range, ...], 7] = ()


class StatusResponse(Message, frozen=True, kw_only=True):
    """What has changed."""

    vertexes: Annotated[tuple[Vertex, ...], 1] = ()
    statuses: Annotated[tuple[VertexStatus, ...], 2] = ()
    logs: Annotated[tuple[VertexLog, ...], 3] = ()
    warnings: Annotated[tuple[VertexWarning, ...], 4] = ()


class BytesMessage(Message, frozen=True, kw_only=True):
    """A piece of a stream of bytes."""

    data: Annotated[bytes, 1] = b""


class Empty(Message, frozen=True, kw_only=True):
    """No field, or none that matters."""


class PlatformMessage(Message, frozen=True, kw_only=True):
    """``pb.Platform``."""

    architecture: Annotated[str, 1] = ""
    os: Annotated[str, 2] = ""
    variant: Annotated[str, 3] = ""
    os_version: Annotated[str, 4] = ""
    os_features: Annotated[tuple[str, ...], 5] = ()


class Version(Message, frozen=True, kw_only=True):
    """``BuildkitVersion``."""

    package: Annotated[str, 1] = ""
    version: Annotated[str, 2] = ""
    revision: Annotated[str, 3] = ""


class GCPolicy(Message, frozen=True, kw_only=True):
    """A rule of what the cache keeps; durations in nanoseconds, sizes in bytes."""

    all: Annotated[bool, 1] = False
    keep_duration: Annotated[int, 2] = 0
    reserved_space: Annotated[int, 3] = 0
    filters: Annotated[tuple[str, ...], 4] = ()
    max_used_space: Annotated[int, 5] = 0
    min_free_space: Annotated[int, 6] = 0


class WorkerRecord(Message, frozen=True, kw_only=True):
    """Who builds."""

    id: Annotated[str, 1] = ""
    labels: Annotated[dict[str, str], 2] = {}
    platforms: Annotated[tuple[PlatformMessage, ...], 3] = ()
    gc_policy: Annotated[tuple[GCPolicy, ...], 4] = ()
    version: Annotated[Version | None, 5] = None


class ListWorkersResponse(Message, frozen=True, kw_only=True):
    """All workers."""

    record: Annotated[tuple[WorkerRecord, ...], 1] = ()


class InfoResponse(Message, frozen=True, kw_only=True):
    """``Control.Info``."""

    version: Annotated[Version | None, 1] = None


class PruneRequest(Message, frozen=True, kw_only=True):
    """``Control.Prune``."""

    filter: Annotated[tuple[str, ...], 1] = ()
    all: Annotated[bool, 2] = False
    keep_duration: Annotated[int, 3] = 0
    reserved_space: Annotated[int, 4] = 0
    max_used_space: Annotated[int, 5] = 0
    min_free_space: Annotated[int, 6] = 0


class DiskUsageRequest(Message, frozen=True, kw_only=True):
    """``Control.DiskUsage``."""

    filter: Annotated[tuple[str, ...], 1] = ()
    age_limit: Annotated[int, 2] = 0


class UsageRecord(Message, frozen=True, kw_only=True):
    """One record of the cache."""

    id: Annotated[str, 1] = ""
    mutable: Annotated[bool, 2] = False
    in_use: Annotated[bool, 3] = False
    size: Annotated[int, 4] = 0
    created: Annotated[Timestamp | None, 6] = None
    last_used: Annotated[Timestamp | None, 7] = None
    usage_count: Annotated[int, 8] = 0
    description: Annotated[str, 9] = ""
    record_type: Annotated[str, 10] = ""
    shared: Annotated[bool, 11] = False
    parents: Annotated[tuple[str, ...], 12] = ()


class DiskUsageResponse(Message, frozen=True, kw_only=True):
    """All of them."""

    record: Annotated[tuple[UsageRecord, ...], 1] = ()


class Capability(Message, frozen=True, kw_only=True):
    """``APICap``."""

    id: Annotated[str, 1] = ""
    enabled: Annotated[bool, 2] = False
