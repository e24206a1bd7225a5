"""Every request the client can make, as a value: one function a request, shared by both faces. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from cais.client import models
from cais.client.buildreader import MISDIRECTED, Misdirected
from cais.client.options import ContainerOptions, ExecOptions, make_create, make_exec
from cais.client.protocol import Call, make_error, make_start_error, segment
from cais.errors import CaisError, Corrupt, Unavailable
from cais.spec.multiplex import Demultiplexer
from cais.spec.registryauth import format_header

T = TypeVar("T")
Filters = Mapping[str, Any]


def build(headers: tuple[tuple[str, str], ...], body: bytes | None = None) -> Call[None]:
    """Build an image; ``body`` None: the request and its contexts follow in pieces. The answer is lines of
    `client.buildmodels`."""
    return Call("POST", "/cais/build", as_nothing, body=body, fields=headers, failure=_make_build_error)


def _make_build_error(status: int, message: str) -> CaisError:
    return Misdirected(message) if status == MISDIRECTED else make_error(status, message)


def as_type(kind: type[T]) -> Callable[[bytes], T]:
    """A reader of JSON of that type; Corrupt for anything else."""

    def read(content: bytes) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            raise Corrupt(f"the engine's answer makes no sense: {error}") from error

    return read


def as_nothing(content: bytes) -> None:
    """The answer's content does not matter."""


def as_bytes(content: bytes) -> bytes:
    """The content itself."""
    return content


def _as_list(kind: type[T]) -> Callable[[bytes], list[T]]:
    read: Callable[[bytes], list[T] | None] = as_type(list[kind] | None)  # type: ignore[valid-type, arg-type]
    return lambda content: read(content) or []  # Go sends null for an empty list


def ping() -> Call[None]:
    """Whether an engine is there."""
    return Call("GET", "/_ping", as_nothing)


def version() -> Call[models.Version]:
    """Its version."""
    return Call("GET", "/version", as_type(models.Version))


def info() -> Call[dict[str, Any]]:
    """What it says about itself."""
    return Call("GET", "/info", as_type(dict[str, Any]))


def create(
    image: str, command: Sequence[str], options: ContainerOptions, *, attach: bool
) -> Call[models.Created]:
    """Make a container."""
    query = {"name": options.get("name"), "platform": options.get("platform")}
    body = make_create(image, command, options, attach=attach)
    return Call("POST", "/containers/create", as_type(models.Created), query, body)


def list_containers(*, all: bool, filters: Filters, size: bool) -> Call[list[models.ContainerSummary]]:
    """Containers, newest first."""
    query = {"all": all, "filters": filters, "size": size}
    return Call("GET", "/containers/json", _as_list(models.ContainerSummary), query)


def inspect_container(name: str) -> Call[models.ContainerDetails]:
    """Everything about one."""
    return Call("GET", f"/containers/{segment(name)}/json", as_type(models.ContainerDetails))


def start(name: str) -> Call[None]:
    """Start one; TaskFailed when its program cannot be run."""
    return Call("POST", f"/containers/{segment(name)}/start", as_nothing, failure=make_start_error)


def act(name: str, verb: str, query: Mapping[str, Any]) -> Call[None]:
    """stop, kill, restart, pause, unpause, rename, resize."""
    return Call("POST", f"/containers/{segment(name)}/{verb}", as_nothing, query)


def wait(name: str, condition: str) -> Call[models.Exit]:
    """Its exit: ``not-running``, ``next-exit`` or ``removed``."""
    return Call("POST", f"/containers/{segment(name)}/wait", as_type(models.Exit), {"condition": condition})


def remove(name: str, *, force: bool, volumes: bool) -> Call[None]:
    """Remove one."""
    return Call("DELETE", f"/containers/{segment(name)}", as_nothing, {"force": force, "v": volumes})


def top(name: str, arguments: str) -> Call[models.Processes]:
    """Its processes."""
    return Call("GET", f"/containers/{segment(name)}/top", as_type(models.Processes), {"ps_args": arguments})


def logs(name: str, query: Mapping[str, Any]) -> Call[bytes]:
    """Its output; the content is the multiplexed or the raw stream."""
    streams = {"stdout": True, "stderr": True}
    return Call("GET", f"/containers/{segment(name)}/logs", as_bytes, {**streams, **query})


def attach(name: str, *, stdin: bool, logs: bool = False) -> Call[None]:
    """Its streams."""
    query = {"stream": True, "stdin": stdin, "stdout": True, "stderr": True, "logs": logs}
    return Call("POST", f"/containers/{segment(name)}/attach", as_nothing, query, hijack=True)


def exec_create(name: str, command: Sequence[str], options: ExecOptions) -> Call[models.ExecCreated]:
    """Prepare a command in it."""
    body = make_exec(command, options)
    return Call("POST", f"/containers/{segment(name)}/exec", as_type(models.ExecCreated), body=body)


def exec_start(identity: str, *, tty: bool) -> Call[None]:
    """Run a prepared command and hold its streams."""
    body = msgspec.json.encode({"Detach": False, "Tty": tty})
    return Call("POST", f"/exec/{segment(identity)}/start", as_nothing, body=body, hijack=True)


def exec_inspect(identity: str) -> Call[models.ExecDetails]:
    """How a command is."""
    return Call("GET", f"/exec/{segment(identity)}/json", as_type(models.ExecDetails))


def resize(path: str, rows: int, columns: int) -> Call[None]:
    """The size of the terminal of ``/containers/ID`` or ``/exec/ID``."""
    return Call("POST", f"{path}/resize", as_nothing, {"h": rows, "w": columns})


def list_images(*, all: bool, filters: Filters) -> Call[list[models.ImageSummary]]:
    """Images."""
    return Call("GET", "/images/json", _as_list(models.ImageSummary), {"all": all, "filters": filters})


def inspect_image(name: str) -> Call[models.ImageDetails]:
    """Everything about one."""
    return Call("GET", f"/images/{segment(name)}/json", as_type(models.ImageDetails))


def history(name: str) -> Call[list[models.HistoryItem]]:
    """The steps it was made in, newest first."""
    return Call("GET", f"/images/{segment(name)}/history", _as_list(models.HistoryItem))


def tag(name: str, repository: str, label: str) -> Call[None]:
    """Give it a further name."""
    return Call("POST", f"/images/{segment(name)}/tag", as_nothing, {"repo": repository, "tag": label})


def remove_image(name: str, *, force: bool) -> Call[list[models.Deleted]]:
    """Remove a name and, with the last, the image."""
    return Call("DELETE", f"/images/{segment(name)}", _as_list(models.Deleted), {"force": force})


def save(names: Sequence[str]) -> Call[bytes]:
    """Images as an archive."""
    return Call("GET", "/images/get", as_bytes, {"names": list(names)})


def load() -> Call[list[str]]:
    """Take images in; the body is an archive."""
    return Call("POST", "/images/load", parse_progress, {"quiet": True})


def import_image(repository: str, label: str, changes: Sequence[str]) -> Call[list[str]]:
    """Make an image of a root file system's tar."""
    query = {"fromSrc": "-", "repo": repository, "tag": label, "changes": list(changes)}
    return Call("POST", "/images/create", parse_progress, query)


def commit(
    container: str, name: str, *, author: str, message: str, changes: Sequence[str], pause: bool
) -> Call[models.Created]:
    """Make an image of a container; an empty ``name`` leaves it without one."""
    repository, label = split_name(name) if name else ("", "")
    query = {
        "container": container,
        "repo": repository,
        "tag": label,
        "author": author,
        "comment": message,
        "changes": list(changes),
        "pause": "1" if pause else "0",
    }
    return Call("POST", "/commit", as_type(models.Created), query)


def pull(name: str, platform: str, auth: models.RegistryAuth | None) -> Call[None]:
    """Fetch an image; the content is a stream of progress messages."""
    repository, label = split_reference(name)
    query = {"fromImage": repository, "tag": label or "latest", "platform": platform}
    return Call("POST", "/images/create", _finish_quietly, query, fields=_auth_fields(auth))


def push(
    name: str, platform: str, compression: str, auth: models.RegistryAuth | None
) -> Call[models.PushResult]:
    """Send an image to its registry; the content is a stream of progress messages."""
    repository, label = split_name(name)
    parts = (
        dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False)) if platform else {}
    )
    query = {
        "tag": label or "latest",
        "platform": msgspec.json.encode(parts).decode() if parts else "",
        "compression": compression,
    }
    path = f"/images/{segment(repository)}/push"
    return Call("POST", path, parse_push, query, fields=_auth_fields(auth))


def login(auth: models.RegistryAuth) -> Call[models.LoggedIn]:
    """Try credentials at a registry."""
    return Call("POST", "/auth", as_type(models.LoggedIn), body=msgspec.json.encode(auth))


def _auth_fields(auth: models.RegistryAuth | None) -> tuple[tuple[str, str], ...]:
    return (("X-Registry-Auth", format_header(msgspec.json.encode(auth))),) if auth else ()


def _finish_quietly(content: bytes) -> None:
    parse_progress(content)


def parse_push(content: bytes) -> models.PushResult:
    """What the tag stands for now, of a finished stream of progress messages. Raises as ``parse_progress``."""
    parse_progress(content)
    for line in reversed(content.splitlines()):
        aux = as_type(dict[str, Any])(line).get("aux") if line.strip() else None
        if isinstance(aux, dict) and "Digest" in aux:
            return msgspec.convert(aux, models.PushResult)
    raise Corrupt("the engine's answer to a push tells no digest")


def bootstrap(name: str) -> Call[list[str]]:
    """Make a base image from the machine's package mirror (Cais only)."""
    return Call("POST", "/cais/images/bootstrap", parse_progress, {"name": name})


def export(name: str) -> Call[bytes]:
    """A container's root file system as a tar."""
    return Call("GET", f"/containers/{segment(name)}/export", as_bytes)


def list_volumes(filters: Filters) -> Call[list[models.Volume]]:
    """Volumes."""
    read = as_type(models.VolumeList)
    return Call("GET", "/volumes", lambda content: read(content).volumes or [], {"filters": filters})


def create_volume(name: str, labels: Mapping[str, str]) -> Call[models.Volume]:
    """Make one; an empty name lets the engine choose."""
    body = msgspec.json.encode({"Name": name, "Labels": dict(labels)})
    return Call("POST", "/volumes/create", as_type(models.Volume), body=body)


def remove_volume(name: str, *, force: bool) -> Call[None]:
    """Remove one."""
    return Call("DELETE", f"/volumes/{segment(name)}", as_nothing, {"force": force})


def list_networks(filters: Filters) -> Call[list[models.Network]]:
    """Networks."""
    return Call("GET", "/networks", _as_list(models.Network), {"filters": filters})


def events(since: str, until: str, filters: Filters) -> Call[bytes]:
    """What happens; the content is a stream of JSON lines."""
    return Call("GET", "/events", as_bytes, {"since": since, "until": until, "filters": filters})


class LineReader:
    """Events out of a stream of JSON lines."""

    __slots__ = ("_buffer", "_read")

    def __init__(self) -> None:
        self._buffer = b""
        self._read = as_type(models.Event)

    def feed(self, data: bytes) -> list[models.Event]:
        """Events whose lines are complete now."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [self._read(line) for line in lines if line.strip()]


class LogLines:
    """Lines out of a stream of logs; each stream's own half lines are kept apart."""

    __slots__ = ("_demultiplexer", "_halves")

    def __init__(self, *, tty: bool) -> None:
        self._demultiplexer = None if tty else Demultiplexer()
        self._halves: dict[int, bytes] = {}

    def feed(self, data: bytes) -> list[bytes]:
        """Lines (without their ends) that are complete now. Unavailable for a stream out of step."""
        try:
            pieces = self._demultiplexer.feed(data) if self._demultiplexer else [(0, data)]
        except ValueError as error:
            raise Unavailable(str(error)) from error
        lines: list[bytes] = []
        for stream, piece in pieces:
            *whole, self._halves[stream] = (self._halves.get(stream, b"") + piece).split(b"\n")
            lines += whole
        return lines

    def end(self) -> list[bytes]:
        """What was written without a line's end."""
        return [half for half in self._halves.values() if half]


def parse_progress(content: bytes) -> list[str]:
    """The texts of a finished stream of progress messages; what it reports as error is raised (Unavailable)."""
    texts = []
    for line in content.splitlines():
        if not line.strip():
            continue
        message = as_type(dict[str, Any])(line)
        detail = message.get("errorDetail") or {}
        if error := message.get("error") or detail.get("message"):
            raise _progress_error(detail.get("code"), str(error))
        if text := message.get("stream") or message.get("status"):
            texts.append(str(text).rstrip("\n"))
    return texts


def _progress_error(code: Any, message: str) -> CaisError:
    return make_error(code if isinstance(code, int) and code >= 400 else 500, message)


def split_reference(name: str) -> tuple[str, str]:
    """Repository and tag or digest (empty without) of an image's name."""
    repository, at, digest = name.partition("@")
    return (split_name(repository)[0], digest) if at else split_name(name)


def split_name(name: str) -> tuple[str, str]:
    """Repository and tag (empty without) of an image's name."""
    repository, colon, label = name.rpartition(":")
    return (repository, label) if colon and "/" not in label else (name, "")
