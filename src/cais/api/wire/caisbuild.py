"""The body of ``POST /cais/build`` and the lines of its answer: what Cais's own clients say and hear of a build.

The body is one line of JSON, a ``Request``. If it says that contexts follow, they come behind it, in the order in which
the request names them: each a tar in pieces of a four-byte length (big endian) and so many bytes, ended by a length of
zero.

The answer is lines of JSON with a ``type``; behind a line of type ``data`` stand ``size`` raw bytes of an output. The
last line is ``result`` or ``error``. Times are nanoseconds since the epoch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cais.build.debug import StepHeld
from cais.build.dockerfile.fault import DockerfileError, Lines, make_excerpt
from cais.build.explain.compare import Explained
from cais.build.export.compare import Differences
from cais.build.narrate import StepFailed, vertex_digest
from cais.build.request import BuildRequest, CommandFailed, Option
from cais.build.vertex import (
    VertexDone,
    VertexEvent,
    VertexOutput,
    VertexProgress,
    VertexStarted,
    VertexWarned,
)
from cais.errors import Invalid
from cais.spec.container import HostConfig, Int64, Ulimit
from cais.spec.platform import parse_platform
from cais.store.full import explain_full, is_full

ENTITLEMENTS = frozenset(("network.host", "security.insecure"))
MISDIRECTED = 421
"""The status for a descriptor that cannot be taken over this connection: the client is to send tars instead."""
Line = dict[str, Any]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the request."""


class Folder(_Strict, frozen=True, tag="folder"):
    """A context that the client has open as descriptor ``fd``; ``device`` and ``inode`` are what fstat says of it."""

    fd: int
    device: int
    inode: int


class Tar(_Strict, frozen=True, tag="tar"):
    """A context that follows the request."""


class Empty(_Strict, frozen=True, tag="empty"):
    """No files at all."""


class Remote(_Strict, frozen=True, tag="remote"):
    """A context that the engine fetches: a git reference or a URL."""

    url: str


Given = Folder | Tar | Empty | Remote


class Agent(_Strict, frozen=True):
    """An SSH agent's socket that the client has open (O_PATH) as descriptor ``fd``."""

    fd: int
    device: int
    inode: int


class OptionBody(_Strict, frozen=True):
    """One output, cache or attestation."""

    type: str
    attrs: dict[str, str] = {}


class LimitBody(_Strict, frozen=True):
    """A limit of RUN steps; -1 is none."""

    name: str
    soft: Int64
    hard: Int64


class HostBody(_Strict, frozen=True):
    """The circumstances of RUN steps."""

    memory: Int64 = 0
    memory_swap: Int64 = 0
    cpu_shares: Int64 = 0
    cpu_period: Int64 = 0
    cpu_quota: Int64 = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    shm_size: Int64 = 0
    cgroup_parent: str = ""
    network: str = ""
    ulimits: tuple[LimitBody, ...] = ()
    extra_hosts: tuple[str, ...] = ()


class DebugRequest(_Strict, frozen=True):
    """The body of ``POST /cais/build/{token}/attach``. ``command``: empty for a shell alone; ``size`` of the
    terminal: rows and columns."""

    command: str = ""
    tty: bool = False
    stdin: bool = False
    size: tuple[int, int] = (0, 0)


class Request(_Strict, frozen=True):
    """The whole request. ``text``: the Dockerfile, if it is not a file of the context, and ``ignore`` what goes with
    it; ``secrets`` by value; ``folders``: named contexts that are files of the client's; ``contexts``: all others.
    ``call``: ``build``, or what is to be told of the Dockerfile instead: ``check``, ``outline``, ``targets``;
    ``debug``: keep a step that fails until somebody has looked, see ``StepHeld``; ``explain``: tell why each step is
    made or not; ``verify``: make nothing, but compare with this image.
    """

    context: Given
    dockerfile: str = "Dockerfile"
    text: bytes | None = None
    ignore: bytes | None = None
    call: str = "build"
    names: tuple[str, ...] = ()
    args: dict[str, str] = {}
    labels: dict[str, str] = {}
    target: str = ""
    platforms: tuple[str, ...] = ()
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    pull: bool = False
    host: HostBody = HostBody()
    secrets: dict[str, bytes] = {}
    agents: dict[str, Agent] = {}
    folders: dict[str, Folder | Tar] = {}
    contexts: dict[str, str] = {}
    outputs: tuple[OptionBody, ...] = ()
    cache_to: tuple[OptionBody, ...] = ()
    cache_from: tuple[OptionBody, ...] = ()
    attests: tuple[OptionBody, ...] = ()
    allow: tuple[str, ...] = ()
    debug: bool = False
    explain: bool = False
    verify: str = ""


def parse_request(line: bytes) -> Request:
    """The request in the body's first line. Raises Invalid with the field's name, and without what it holds."""
    try:
        request = msgspec.json.decode(line, type=Request)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(f"invalid build request: {error}") from None
    if request.call not in ("build", "check", "outline", "targets"):
        raise Invalid(f"unknown call {request.call!r}: want build, check, outline or targets")
    for name in request.allow:
        if name not in ENTITLEMENTS:
            raise Invalid(f"unknown entitlement {name!r}: want one of {', '.join(sorted(ENTITLEMENTS))}")
    if request.host.network.startswith("container:"):
        raise Invalid("a build cannot share another container's network: use bridge, host or none")
    return request


def make_options(bodies: tuple[OptionBody, ...]) -> tuple[Option, ...]:
    """Outputs, caches, attestations."""
    return tuple(Option(body.type, body.attrs) for body in bodies)


def make_build_request(request: Request, names: Sequence[str]) -> BuildRequest:
    """What is wanted of the build; ``names`` are canonical. Secrets, agents and credentials are the caller's to add.
    Raises Invalid."""
    host = request.host
    allowed = {*request.allow, *(("network.host",) if host.network == "host" else ())}
    return BuildRequest(
        dockerfile=request.dockerfile,
        names=tuple(dict.fromkeys(names)),
        args=request.args,
        labels=request.labels,
        target=request.target,
        platforms=tuple(dict.fromkeys(map(parse_platform, request.platforms))),
        no_cache=request.no_cache,
        no_cache_filter=frozenset(request.no_cache_filter),
        pull=request.pull,
        host=make_host(host),
        contexts={**request.contexts, **{name: f"local:{name}" for name in request.folders}},
        outputs=make_options(request.outputs),
        cache_to=make_options(request.cache_to),
        cache_from=make_options(request.cache_from),
        attests=make_options(request.attests),
        entitlements=frozenset(allowed),
    )


def make_host(host: HostBody) -> HostConfig:
    """The limits and the network of RUN steps."""
    plain = msgspec.structs.asdict(host)
    ulimits = tuple(Ulimit(name=each.name, soft=each.soft, hard=each.hard) for each in plain.pop("ulimits"))
    network = plain.pop("network") or "default"
    return HostConfig(network_mode=network, ulimits=ulimits, **plain)


def explained_line(each: Explained) -> Line:
    """Why a step is made or not."""
    reasons = []
    for reason in each.reasons:
        line: Line = {"kind": reason.kind, "text": reason.text}
        if reason.files:
            line |= {"files": list(reason.files), "count": reason.count}
        reasons.append(line)
    return {
        "type": "explained",
        "id": vertex_digest(each.key),
        "name": each.title,
        "hit": each.is_hit,
        "reasons": reasons,
        "since": each.since_ns,
    }


def event_line(event: VertexEvent | Explained | StepHeld) -> Line:
    """One event of a vertex."""
    match event:
        case StepHeld():
            id = vertex_digest(event.key)
            return {
                "type": "held",
                "id": id,
                "token": event.token,
                "message": event.message,
                "at": event.at_ns,
            }
        case Explained():
            return explained_line(event)
        case VertexStarted():
            line: Line = {"type": "started", "id": event.digest, "name": event.name, "at": event.at_ns}
            return {**line, "inputs": list(event.inputs)} if event.inputs else line
        case VertexOutput():
            return {
                "type": "output",
                "id": event.digest,
                "stream": event.stream,
                "data": event.data,
                "at": event.at_ns,
            }
        case VertexProgress():
            return {
                "type": "progress",
                "id": event.digest,
                "item": event.id,
                "current": event.current,
                "total": event.total,
                "started": event.started_ns,
                "at": event.at_ns,
                "done": event.is_done,
            }
        case VertexDone():
            return {
                "type": "done",
                "id": event.digest,
                "at": event.at_ns,
                "cached": event.is_cached,
                "error": event.error,
            }
        case VertexWarned():
            return _warning_line(event)


def _warning_line(event: VertexWarned) -> Line:
    line: Line = {"type": "warning", "id": event.digest, "level": event.level, "text": event.short}
    if event.detail:
        line["detail"] = list(event.detail)
    if event.url:
        line["url"] = event.url
    if event.lines is not None:
        raw = event.text.decode("utf-8", "surrogateescape").split("\n")
        line |= _place(event.file, event.lines, make_excerpt(raw, event.lines))
    return line


def error_line(error: Exception) -> Line:
    """The last line of a build that failed: why, where in the Dockerfile, and the program's exit code."""
    cause: BaseException = error.error if isinstance(error, StepFailed) else error
    if isinstance(cause, DockerfileError) and isinstance(cause.__cause__, Exception):
        status = kind_of(cause.__cause__)
    else:
        status = kind_of(cause)
    message = explain_full(cause) if is_full(cause) else str(cause) or type(cause).__name__
    line: Line = {"type": "error", "message": message, "kind": status}
    if isinstance(cause, DockerfileError):
        line["message"] = cause.problem + (f" ({cause.hint})" if cause.hint else "")
        if cause.lines.start:
            line |= _place(cause.name, cause.lines, cause.excerpt)
    if isinstance(error, StepFailed):
        line["id"] = error.vertex
        if "lines" not in line:
            line |= _place(error.file, error.lines, make_excerpt(error.text, error.lines))
    if isinstance(cause, CommandFailed):
        line["exit_code"] = cause.code
    return line


def kind_of(error: BaseException) -> str:
    """The name of the error's class in the tree of ``cais.errors``; empty for what is not in there."""
    for kind in type(error).__mro__:
        if kind.__module__ == "cais.errors":
            return kind.__name__
    return ""


def _place(file: str, lines: Lines, excerpt: tuple[tuple[int, str, bool], ...]) -> Line:
    return {"file": file, "lines": [lines.start, lines.end], "excerpt": [list(row) for row in excerpt]}


def verdict_line(digest: str, count: int, found: Differences) -> Line:
    """The last line of a build that only compared an image with what it made: ``digest``, of ``count`` layers."""
    verdict: Line = {"same": found.is_same, "count": count, "more": found.more}
    verdict |= {"fields": found.fields, "layers": found.layers, "files": found.files}
    return {**result_line(digest, (), {}), "verify": verdict}


def result_line(digest: str, names: Sequence[str], response: Mapping[str, str]) -> Line:
    """The last line of a build that went well; ``digest`` is the image's, empty if none was made."""
    return {"type": "result", "digest": digest, "names": list(names), "response": dict(response)}
