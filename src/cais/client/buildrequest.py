"""What can be said about a build, and the request made of it; folders are opened here, so that the engine can take
their descriptors, or read into tars for an engine elsewhere."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from cais.client.foldertar import pack_folder
from cais.client.models import RegistryAuth
from cais.client.options import parse_size
from cais.errors import Invalid
from cais.spec.registryauth import format_header, make_key

MAIN = "context"
_REMOTE = ("http://", "https://", "git://", "git@", "ssh://", "github.com/")
_ELSEWHERE = (*_REMOTE, "docker-image://", "oci-layout://", "target:")
PathText = str | os.PathLike[str]


class BuildOutput(msgspec.Struct, frozen=True):
    """Where results go: ``type`` image, tar, oci, docker, cacheonly, rootfs; its ``options``, as for ``cais build
    --output``; ``dest``: the path of a file here for tar, oci and docker."""

    type: str = "image"
    options: dict[str, str] = {}
    dest: str = ""


class BuildOptions(TypedDict, total=False):
    """Keywords of ``build``; each is the flag of ``cais build`` of that name. Sizes: bytes, or texts like ``64m``."""

    tag: str | Sequence[str]
    dockerfile: PathText
    """In the context or elsewhere; empty: ``Dockerfile`` in the context."""
    text: str | bytes
    """The Dockerfile itself; without a ``path`` the context is empty."""
    args: Mapping[str, str]
    labels: Mapping[str, str]
    target: str
    platforms: Sequence[str]
    no_cache: bool
    no_cache_filter: Sequence[str]
    pull: bool
    network: str
    memory: int | str
    shm_size: int | str
    cgroup_parent: str
    ulimits: Mapping[str, int | tuple[int, int]]
    extra_hosts: Mapping[str, str]
    secrets: Mapping[str, str | bytes]
    """Their bytes by id; they reach no layer, no cache and no log."""
    ssh: Mapping[str, PathText]
    """Sockets of agents by id: ``{"default": os.environ["SSH_AUTH_SOCK"]}``."""
    contexts: Mapping[str, PathText]
    """Further contexts by name: folders, or ``docker-image://…``, URLs, git references."""
    outputs: Sequence[BuildOutput]
    cache_to: Sequence[Mapping[str, str]]
    """``[{"type": "registry", "ref": "localhost:5000/cache", "mode": "max"}]``."""
    cache_from: Sequence[Mapping[str, str]]
    attests: Sequence[Mapping[str, str]]
    """``[{"type": "sbom"}, {"type": "provenance", "mode": "max"}]``."""
    allow: Sequence[str]
    explain: bool
    """Have events, and in the result ``explain``, say why each step is made or not."""
    auths: Mapping[str, RegistryAuth]
    """Credentials by registry (``localhost:5000``, ``docker.io``)."""


@dataclass(slots=True)
class Prepared:
    """A build's request without contexts, and what stands for them. ``opened`` holds descriptors until it is closed."""

    fields: dict[str, Any]
    headers: tuple[tuple[str, str], ...]
    folders: dict[str, str]
    agents: dict[str, str]
    dests: tuple[str, ...]
    ignore: bytes | None = None
    opened: ExitStack = field(default_factory=ExitStack)

    def with_descriptors(self) -> bytes:
        """The body for an engine on this machine. Raises Invalid."""
        body = dict(self.fields)
        given = {name: {"type": "folder", **self._open_folder(path)} for name, path in self.folders.items()}
        if MAIN in given:
            body["context"] = given.pop(MAIN)
        body["folders"] = given
        body["agents"] = {id: self._open(path, os.O_PATH) for id, path in self.agents.items()}
        return msgspec.json.encode(body)

    def _open_folder(self, path: str) -> dict[str, int]:
        return self._open(path, os.O_RDONLY | os.O_DIRECTORY)

    def _open(self, path: str, flags: int) -> dict[str, int]:
        try:
            fd = os.open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            raise Invalid(f"cannot open {path}: {(error.strerror or '').lower()}") from None
        self.opened.callback(os.close, fd)
        status = os.fstat(fd)
        return {"fd": fd, "device": status.st_dev, "inode": status.st_ino}

    def with_tars(self) -> Iterator[bytes]:
        """The body for any other engine. Raises Invalid, OSError."""
        if self.agents:
            raise Invalid(
                "ssh needs an engine on this machine, at a unix socket: agents are reached by descriptor"
            )
        body = dict(self.fields)
        names = sorted(self.folders, key=lambda name: name != MAIN)
        if MAIN in self.folders:
            body["context"] = {"type": "tar"}
        body["folders"] = {name: {"type": "tar"} for name in names if name != MAIN}
        yield msgspec.json.encode(body) + b"\n"
        for name in names:
            is_inside = name == MAIN and "text" not in body
            dockerfile = body.get("dockerfile", "Dockerfile") if is_inside else ""
            for piece in pack_folder(self.folders[name], dockerfile, self.ignore if name == MAIN else None):
                yield len(piece).to_bytes(4, "big") + piece
            yield bytes(4)

    def close(self) -> None:
        """Close what is open. Idempotent."""
        self.opened.close()


def prepare(path: PathText, options: BuildOptions) -> Prepared:
    """The request for a build of ``path`` (empty: no context). Raises Invalid."""
    tags = options.get("tag", ())
    fields: dict[str, Any] = {
        "names": [tags] if isinstance(tags, str) else list(tags),
        "host": _make_host(options),
        "secrets": {id: _bytes(value) for id, value in options.get("secrets", {}).items()},
        "cache_to": [_make_option(each) for each in options.get("cache_to", ())],
        "cache_from": [_make_option(each) for each in options.get("cache_from", ())],
        "attests": [_make_option(each) for each in options.get("attests", ())],
    }
    for name in (
        "args",
        "labels",
        "target",
        "platforms",
        "no_cache",
        "no_cache_filter",
        "pull",
        "allow",
        "explain",
    ):
        if name in options:
            fields[name] = options[name]
    outputs = options.get("outputs", ())
    fields["outputs"] = [_make_output(each) for each in outputs]
    others = {name: os.fspath(value) for name, value in options.get("contexts", {}).items()}
    fields["contexts"] = {name: text for name, text in others.items() if text.startswith(_ELSEWHERE)}
    folders = {name: text for name, text in others.items() if name not in fields["contexts"]}
    ignore = _add_context(fields, folders, os.fspath(path), options)
    headers: tuple[tuple[str, str], ...] = ()
    if auths := options.get("auths"):
        headers = (
            (
                "X-Registry-Config",
                format_header(msgspec.json.encode({make_key(name): auth for name, auth in auths.items()})),
            ),
        )
    agents = {id: os.fspath(socket) for id, socket in options.get("ssh", {}).items()}
    return Prepared(fields, headers, folders, agents, tuple(each.dest for each in outputs), ignore)


def _add_context(
    fields: dict[str, Any], folders: dict[str, str], path: str, options: BuildOptions
) -> bytes | None:
    """Put the context and the Dockerfile in; the ignore file of one from elsewhere. Raises Invalid."""
    dockerfile = os.fspath(options.get("dockerfile", ""))
    if "text" in options:
        fields["text"] = _bytes(options["text"])
    if path.startswith(_REMOTE):
        fields["context"] = {"type": "remote", "url": path}
        fields["dockerfile"] = dockerfile or "Dockerfile"
        return None
    if not path:
        if "text" not in options:
            raise Invalid("a build needs a path, or the text of a Dockerfile")
        fields["context"] = {"type": "empty"}
        return None
    if not Path(path).is_dir():
        raise Invalid(f"the context is no folder: {path}")
    folders[MAIN] = path
    if "text" in options:
        return None
    name = dockerfile or os.path.join(path, "Dockerfile")
    inside = os.path.relpath(os.path.realpath(name), os.path.realpath(path))
    if inside != ".." and not inside.startswith("../"):
        fields["dockerfile"] = inside
        return None
    fields["dockerfile"] = os.path.basename(name)
    fields["text"] = _read(name)
    try:
        fields["ignore"] = _read(f"{name}.dockerignore")
    except Invalid:
        return None
    ignore: bytes = fields["ignore"]
    return ignore


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Invalid(f"cannot read {path}: {(error.strerror or '').lower()}") from None


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _make_option(given: Mapping[str, str]) -> dict[str, Any]:
    attrs = dict(given)
    kind = attrs.pop("type", "")
    if not kind:
        raise Invalid(f"type is missing in {given!r}")
    return {"type": kind, "attrs": attrs}


def _make_output(output: BuildOutput) -> dict[str, Any]:
    if output.type == "local":
        raise Invalid("an output of type local is cais build's: use tar, and unpack that")
    if bool(output.dest) != (output.type in ("tar", "oci", "docker")):
        raise Invalid(f"an output of type {output.type} {'takes no' if output.dest else 'needs a'} dest")
    return {"type": output.type, "attrs": output.options}


def _make_host(options: BuildOptions) -> dict[str, Any]:
    limits = []
    for name, limit in options.get("ulimits", {}).items():
        soft, hard = limit if isinstance(limit, tuple) else (limit, limit)
        limits.append({"name": name, "soft": soft, "hard": hard})
    return {
        "memory": parse_size(options.get("memory", 0)),
        "shm_size": parse_size(options.get("shm_size", 0)),
        "cgroup_parent": options.get("cgroup_parent", ""),
        "network": options.get("network", ""),
        "ulimits": limits,
        "extra_hosts": [f"{name}:{address}" for name, address in options.get("extra_hosts", {}).items()],
    }
