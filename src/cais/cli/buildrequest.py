"""What `cais build`'s flags ask of the engine: the request, and where outputs go. Pure but for the environment."""

from __future__ import annotations

import os

from cais.cli.failure import Failure, wrong_option
from cais.cli.session import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from cais.cli.flags import Flags

STDOUT = "-"
_STREAMS = ("tar", "oci", "docker")
_HERE = ("image", "docker", "registry", "cacheonly")
"""Types that need no place on this side."""
_TYPES = ("local", "tar", "oci", "docker", "image", "registry", "cacheonly", "rootfs")
_ENGINE_FILES = ("local", "rootfs")


class Output:
    """One ``--output``: what the engine is told of it, and ``dest``, a path here (empty: none; ``-``: stdout)."""

    __slots__ = ("attrs", "dest", "type")

    def __init__(self, type: str, attrs: dict[str, str], dest: str = "") -> None:
        self.type = type
        self.attrs = attrs
        self.dest = dest

    def body(self) -> dict[str, Any]:
        """For the request."""
        return {"type": self.type, "attrs": self.attrs}


def split_fields(text: str) -> list[str]:
    """The fields of one line of CSV (RFC 4180): commas between, quotes around what has commas. Raises ValueError."""
    fields: list[str] = []
    at = 0
    while True:
        if text.startswith('"', at):
            field, at = "", at + 1
            while True:
                end = text.find('"', at)
                if end < 0:
                    raise ValueError("a quote is not closed")
                field += text[at:end]
                at = end + 1
                if not text.startswith('"', at):
                    break
                field += '"'
                at += 1
            if at < len(text) and text[at] != ",":
                raise ValueError("a comma is missing behind a quoted field")
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            field, at = text[at:end], end
        fields.append(field)
        if at >= len(text):
            return fields
        at += 1


def split_option(text: str, flag: str) -> dict[str, str]:
    """``type=local,dest=out`` as pairs, keys in lower case. Raises Failure for a field without ``=``."""
    found: dict[str, str] = {}
    try:
        fields = split_fields(text)
    except ValueError as error:
        raise wrong_option(f'invalid value "{text}" for --{flag}: {error}') from None
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals or not name:
            raise wrong_option(f'invalid value "{text}" for --{flag}: {field!r} is not of the form key=value')
        found[name.strip().lower()] = value
    return found


def parse_outputs(flags: Flags) -> list[Output]:
    """All of ``--output``, ``--push`` and ``--load``; none: an image in the engine. Raises Failure."""
    outputs = [_parse_output(text) for text in flags.many("output")]
    if flags.on("push"):
        images = [each for each in outputs if each.type == "image"]
        if outputs and not images:
            raise wrong_option("--push needs an output of type image")
        outputs += [] if images else [Output("image", {})]
        for each in images or outputs[-1:]:
            each.attrs["push"] = "true"
    if flags.on("load") and not any(each.type == "image" for each in outputs):
        outputs.append(Output("image", {}))
    if sum(each.dest == STDOUT for each in outputs) > 1:
        raise wrong_option("only one output can go to standard output")
    for text in flags.many("annotation"):
        _annotate(outputs, text)
    return outputs


def _parse_output(text: str) -> Output:
    if text and "=" not in text and "," not in text:
        return Output("tar", {}, STDOUT) if text == STDOUT else Output("local", {}, text)
    attrs = split_option(text, "output")
    kind = attrs.pop("type", "")
    if kind not in _TYPES:
        raise wrong_option(f'unknown type {kind!r} in --output "{text}": want one of {", ".join(_TYPES)}')
    if kind == "registry":
        kind, attrs = "image", {"push": "true", **attrs}
    if kind in ("image", "cacheonly"):
        if "dest" in attrs:
            raise wrong_option(f"dest cannot be used with an output of type {kind}")
        return Output(kind, attrs)
    if kind == "rootfs":
        # A folder on the engine's machine.
        return Output(kind, {**attrs, "dest": os.path.abspath(attrs["dest"])} if "dest" in attrs else attrs)
    dest = attrs.pop("dest", "")
    if kind == "docker" and not dest:
        return Output("image", attrs)
    if kind == "local" and (not dest or dest == STDOUT):
        raise wrong_option("an output of type local needs dest=FOLDER")
    dest = dest or STDOUT
    if dest == STDOUT and is_terminal(1):
        raise wrong_option(f"dest is needed for an output of type {kind}: a terminal can do nothing with it")
    return Output(kind, attrs, dest)


def _annotate(outputs: list[Output], text: str) -> None:
    """``--annotation [type[,type]:]key=value`` on all outputs that are images."""
    name, equals, value = text.partition("=")
    if not equals:
        raise wrong_option(f'invalid value "{text}" for --annotation: want key=value')
    kinds, colon, rest = name.partition(":")
    levels = kinds.split(",") if colon and all(kind.isascii() for kind in kinds) else [""]
    key = rest if colon else name
    if not outputs:
        outputs.append(Output("image", {}))
    for output in outputs:
        if output.type in ("image", "oci", "docker"):
            for level in levels:
                output.attrs[f"annotation-{level}.{key}" if level else f"annotation.{key}"] = value


def parse_cache(texts: Iterable[str], flag: str) -> list[dict[str, Any]]:
    """``--cache-to`` and ``--cache-from``; a bare reference is a registry's. Raises Failure."""
    found = []
    for text in texts:
        if "=" not in text:
            found.append({"type": "registry", "attrs": {"ref": text}})
            continue
        attrs = split_option(text, flag)
        kind = attrs.pop("type", "")
        if not kind:
            raise wrong_option(f'type is missing in --{flag} "{text}"')
        for name in ("src", "dest"):
            if kind == "local" and name in attrs:
                attrs[name] = os.path.abspath(attrs[name])
        found.append({"type": kind, "attrs": attrs})
    return found


def parse_attests(flags: Flags) -> list[dict[str, Any]]:
    """``--attest``, ``--sbom`` and ``--provenance``; what is disabled is left out. Raises Failure."""
    found: dict[str, dict[str, str]] = {}
    for text in flags.many("attest"):
        attrs = split_option(text, "attest")
        kind = attrs.pop("type", "")
        if kind not in ("sbom", "provenance"):
            raise wrong_option(f'invalid value "{text}" for --attest: want type=sbom or type=provenance')
        found[kind] = attrs
    for kind in ("sbom", "provenance"):
        text = flags.text(kind)
        if flags.given(kind):
            plain = text.lower()
            if plain in ("true", "1", ""):
                found[kind] = {}
            elif plain in ("false", "0"):
                found[kind] = {"disabled": "true"}
            else:
                found[kind] = split_option(text, kind)
    return [
        {"type": kind, "attrs": {name: value for name, value in attrs.items() if name != "disabled"}}
        for kind, attrs in found.items()
        if attrs.get("disabled", "").lower() not in ("true", "1")
    ]


def read_secrets(texts: Sequence[str]) -> dict[str, bytes]:
    """``--secret id=ID[,src=FILE|,env=NAME]`` by id: their bytes. Raises Failure, without a word of what they hold."""
    found: dict[str, bytes] = {}
    for text in texts:
        attrs = split_option(text, "secret")
        kind, id = attrs.pop("type", ""), attrs.pop("id", "")
        source = attrs.pop("src", "") or attrs.pop("source", "")
        name = attrs.pop("env", "")
        if kind not in ("", "file", "env") or attrs:
            raise wrong_option(f"invalid --secret: unknown {', '.join(attrs) or f'type {kind}'}")
        if not id:
            raise wrong_option("invalid --secret: id is missing")
        if kind == "env" and not name:
            name, source = source or id, ""
        if not name and not source:
            # As Docker: a variable of that name, or else a file.
            name, source = (id, "") if id in os.environ and kind != "file" else ("", id)
        found[id] = _read_variable(id, name) if name else _read_secret(id, source)
    return found


def _read_variable(id: str, name: str) -> bytes:
    value = os.environ.get(name)
    if value is None:
        raise Failure(f"secret {id}: the environment has no variable {name}")
    return os.fsencode(value)


_SECRET_LIMIT = 500 << 10
"""As Docker's."""


def _read_secret(id: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_SECRET_LIMIT + 1)
    except OSError as error:
        raise Failure(f"secret {id}: cannot read {path}: {(error.strerror or '').lower()}") from None
    if len(data) > _SECRET_LIMIT:
        raise Failure(f"secret {id}: {path} is larger than {_SECRET_LIMIT} bytes")
    return data


def find_agents(texts: Sequence[str]) -> dict[str, str]:
    """``--ssh default|ID[=SOCKET]`` by id: paths of agents' sockets. Raises Failure."""
    found: dict[str, str] = {}
    for text in texts:
        id, _, path = text.partition("=")
        path = path or os.environ.get("SSH_AUTH_SOCK", "")
        id = id or "default"
        if id in found:
            raise wrong_option(f"--ssh {id} is given twice")
        if not path:
            raise Failure(
                f"--ssh {id}: SSH_AUTH_SOCK is not set: start an agent, or name its socket: --ssh {id}=PATH"
            )
        found[id] = path
    return found


def split_contexts(texts: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """``--build-context NAME=VALUE``: paths of folders here, and all that the engine finds itself. Raises Failure."""
    folders: dict[str, str] = {}
    others: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise wrong_option(f'invalid value "{text}" for --build-context: want name=value')
        if name == "context":
            raise wrong_option("the name 'context' of --build-context is taken: it is the build's own")
        if is_remote(value) or value.startswith(("docker-image://", "oci-layout://", "target:")):
            others[name] = value
        elif os.path.isdir(value):
            folders[name] = value
        else:
            raise Failure(
                f"failed to get build context {name}: {value} is no folder, and no reference that is known"
            )
    return folders, others


def is_remote(text: str) -> bool:
    """Whether a context is to be fetched by the engine."""
    if text.startswith(("http://", "https://", "git://", "git@", "ssh://", "github.com/")):
        return True
    return ".git#" in text or (text.endswith(".git") and not os.path.isdir(text) and ":" in text)


def pairs(texts: Iterable[str], *, environment: bool = False) -> dict[str, str]:
    """``name=value``; a bare name takes the value of this process's environment, or is left out."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals:
            found[name] = value
        elif not environment:
            found[name] = ""
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def make_fields(flags: Flags, outputs: Sequence[Output]) -> dict[str, Any]:
    """The request without contexts, secrets and agents; what is not asked for is left out."""
    fields: dict[str, Any] = {
        "names": flags.many("tag"),
        "args": pairs(flags.many("build-arg"), environment=True),
        "labels": pairs(flags.many("label")),
        "target": flags.text("target"),
        "platforms": [text for each in flags.many("platform") for text in each.split(",") if text],
        "no_cache": flags.on("no-cache"),
        "no_cache_filter": [
            text for each in flags.many("no-cache-filter") for text in each.split(",") if text
        ],
        "pull": flags.on("pull"),
        "host": _make_host(flags),
        "outputs": [output.body() for output in outputs],
        "cache_to": parse_cache(flags.many("cache-to"), "cache-to"),
        "cache_from": parse_cache(flags.many("cache-from"), "cache-from"),
        "attests": parse_attests(flags),
        "allow": [text for each in flags.many("allow") for text in each.split(",") if text],
    }
    return {name: value for name, value in fields.items() if value}


def _make_host(flags: Flags) -> dict[str, Any]:
    limits = {each["Name"]: each for each in flags.many("ulimit")}
    host: dict[str, Any] = {
        "memory": flags.number("memory"),
        "memory_swap": flags.number("memory-swap"),
        "cpu_shares": flags.number("cpu-shares"),
        "cpu_period": flags.number("cpu-period"),
        "cpu_quota": flags.number("cpu-quota"),
        "cpuset_cpus": flags.text("cpuset-cpus"),
        "cpuset_mems": flags.text("cpuset-mems"),
        "shm_size": flags.number("shm-size"),
        "cgroup_parent": flags.text("cgroup-parent"),
        "network": flags.text("network"),
        "ulimits": [
            {"name": each["Name"], "soft": each["Soft"], "hard": each["Hard"]}
            for _, each in sorted(limits.items())
        ],
        "extra_hosts": flags.many("add-host"),
    }
    return {name: value for name, value in host.items() if value}
