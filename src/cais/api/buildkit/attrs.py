"""What BuildKit's clients say of a build, as attributes of the frontend ``dockerfile.v0``, and what we make of it.

Names: moby/buildkit frontend/dockerui/config.go and frontend/dockerfile/builder; docker/buildx build/opt.go.
"""

from collections.abc import Iterator, Mapping

import msgspec
from msgspec.structs import replace

from cais.api.buildkit.messages import CacheOptions
from cais.api.buildkit.messages import Option as WireOption
from cais.build.request import BuildRequest, Option
from cais.errors import Invalid, Unsupported
from cais.spec.container import HostConfig, Ulimit
from cais.spec.platform import Platform, format_platform, parse_platform

FRONTEND = "dockerfile.v0"
GATEWAY = "gateway.v0"
_OWN_FRONTENDS = ("docker/dockerfile", "docker.io/docker/dockerfile", "docker/dockerfile-upstream")


class Asked(msgspec.Struct, frozen=True):
    """A build as asked for. ``context``: a URL or git reference instead of the client's folder; ``call``: not a build
    but a question about the Dockerfile (``outline``, ``targets``, ``lint``, ``subrequests.describe``)."""

    request: BuildRequest
    context: str = ""
    call: str = ""


def check_frontend(frontend: str, attrs: Mapping[str, str]) -> None:
    """Raises Unsupported for any frontend that is not Docker's."""
    if frontend == FRONTEND:
        return
    source = attrs.get("source", "")
    name = source.partition("@")[0].partition(":")[0]
    if frontend == GATEWAY and name in _OWN_FRONTENDS:
        return  # the newest Dockerfile syntax is built in
    shown = source or frontend or "none"
    raise Unsupported(f"frontend {shown} is not supported: this engine builds Dockerfiles by itself")


def parse_attrs(attrs: Mapping[str, str], entitlements: tuple[str, ...] = ()) -> Asked:
    """Raises Invalid, Unsupported."""
    call = attrs.get("requestid", "")
    request = BuildRequest(
        dockerfile=attrs.get("filename") or "Dockerfile",
        args=_prefixed(attrs, "build-arg:"),
        labels=_prefixed(attrs, "label:"),
        target=attrs.get("target", ""),
        platforms=parse_platforms(attrs.get("platform", "")),
        no_cache="no-cache" in attrs and not attrs["no-cache"],
        no_cache_filter=frozenset(filter(None, attrs.get("no-cache", "").split(","))),
        pull=attrs.get("image-resolve-mode") == "pull",
        host=_host(attrs),
        contexts=_prefixed(attrs, "context:"),
        attests=tuple(_attests(attrs)),
        entitlements=frozenset(entitlements),
    )
    return Asked(request, attrs.get("context", ""), call.removeprefix("frontend."))


def format_attrs(request: BuildRequest) -> dict[str, str]:
    """The attributes that say what a request of the classic API says; limits that BuildKit has not are left out."""
    host = request.host
    hosts = (pair.partition(":") for pair in host.extra_hosts)
    found = {
        "filename": request.dockerfile,
        "target": request.target,
        "platform": ",".join(map(format_platform, request.platforms)),
        "image-resolve-mode": "pull" if request.pull else "",
        "force-network-mode": "" if host.network_mode == "default" else host.network_mode,
        "add-hosts": ",".join(f"{name}={address}" for name, _, address in hosts),
        "shm-size": str(host.shm_size) if host.shm_size > 0 else "",
        "cgroup-parent": host.cgroup_parent,
        "ulimit": ",".join(f"{each.name}={each.soft}:{each.hard}" for each in host.ulimits),
    }
    found = {name: value for name, value in found.items() if value}
    found |= {f"build-arg:{name}": value for name, value in request.args.items()}
    found |= {f"label:{name}": value for name, value in request.labels.items()}
    return found | ({"no-cache": ""} if request.no_cache else {})


def _attests(attrs: Mapping[str, str]) -> Iterator[Option]:
    """What is to be attested. What buildx asks for by itself (``inline-only``) is left out: with it, an image would be
    another one after every build that changes nothing."""
    for kind, text in _prefixed(attrs, "attest:").items():
        fields = parse_fields(text)
        if fields.pop("inline-only", "") != "true" and fields.get("disabled", "") != "true":
            yield Option(kind, fields)


def _prefixed(attrs: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in attrs.items() if key.startswith(prefix)}


def parse_platforms(text: str) -> tuple[Platform, ...]:
    """Platforms with commas between. Raises Invalid."""
    found = (parse_platform(part.strip()) for part in text.split(",") if part.strip())
    return tuple(dict.fromkeys(found))


def parse_fields(text: str) -> dict[str, str]:
    """``name=value,…`` with CSV's quotes; a bare name is ``name=true``."""
    found: dict[str, str] = {}
    for part in split_csv(text):
        name, equals, value = part.partition("=")
        if name:
            found[name.strip()] = value if equals else "true"
    return found


def split_csv(text: str) -> list[str]:
    """One line of CSV."""
    parts, part, quoted = [], "", False
    for char in text:
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            parts.append(part)
            part = ""
        else:
            part += char
    return [*parts, part]


def _host(attrs: Mapping[str, str]) -> HostConfig:
    host = HostConfig(
        network_mode=attrs.get("force-network-mode", "") or "default",
        extra_hosts=tuple(_hosts(attrs.get("add-hosts", ""))),
        shm_size=_number(attrs, "shm-size"),
        cgroup_parent=attrs.get("cgroup-parent", ""),
    )
    return replace(host, ulimits=tuple(map(_ulimit, filter(None, attrs.get("ulimit", "").split(",")))))


def _hosts(text: str) -> list[str]:
    found = []
    for part in filter(None, text.split(",")):
        name, equals, address = part.partition("=")
        if not equals:
            raise Invalid(f"invalid add-hosts {part!r}: want NAME=ADDRESS")
        found.append(f"{name}:{address}")
    return found


def _number(attrs: Mapping[str, str], name: str) -> int:
    text = attrs.get(name, "") or "0"
    if not text.isascii() or not text.isdecimal():
        raise Invalid(f"invalid {name} {text!r}: want a number of bytes")
    return int(text)


def _ulimit(text: str) -> Ulimit:
    name, equals, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    if not equals:
        raise Invalid(f"invalid ulimit {text!r}: want NAME=SOFT[:HARD]")
    try:
        return Ulimit(name=name, soft=int(soft), hard=int(hard if colon else soft))
    except ValueError:
        raise Invalid(f"invalid ulimit {text!r}: want NAME=SOFT[:HARD]") from None


def parse_imports(cache: CacheOptions | None, attrs: Mapping[str, str]) -> tuple[Option, ...]:
    """Caches to read: of the call, and as clients repeat them in the attributes. Raises Invalid."""
    found = list(parse_options(cache.imports)) if cache else []
    found += [Option("registry", {"ref": ref}) for ref in (cache.import_refs if cache else ())]
    text = attrs.get("cache-imports", "")
    try:
        listed = msgspec.json.decode(text, type=list[_Import]) if text else []
    except msgspec.DecodeError as error:
        raise Invalid(f"invalid cache-imports: {error}") from error
    found += [Option(each.type, each.attrs) for each in listed]
    found += [Option("registry", {"ref": ref}) for ref in attrs.get("cache-from", "").split(",") if ref]
    unique: list[Option] = []
    for option in found:
        if option not in unique:
            unique.append(option)
    return tuple(unique)


class _Import(msgspec.Struct, frozen=True):
    type: str = msgspec.field(name="Type", default="")
    attrs: dict[str, str] = msgspec.field(name="Attrs", default_factory=dict)


def parse_options(options: tuple[WireOption, ...]) -> tuple[Option, ...]:
    """As the build has them."""
    return tuple(Option(option.type, dict(option.attrs)) for option in options)
