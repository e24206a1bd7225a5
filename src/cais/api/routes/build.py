"""The routes of builds: Docker's classic ``POST /build``, and the build cache."""

import base64
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from cais.api.buildkit.attrs import FRONTEND, format_attrs
from cais.api.buildkit.messages import CacheOptions, Option, SolveRequest
from cais.api.buildkit.posted import PostedBuild
from cais.api.call import Call
from cais.api.filters import check_filters
from cais.api.replies import cancelled_when_gone, empty_reply, json_reply, stream_json
from cais.api.router import Route
from cais.api.services import Services
from cais.api.wire.build import Teller, build_error_line, finding_reply, posted_error_line
from cais.build.cache import parse_usage_filter
from cais.build.request import BuildRequest
from cais.errors import Invalid, Unsupported
from cais.images.changes import parse_duration_ns
from cais.remotes.auth import ANONYMOUS, Credentials, parse_registry_auth
from cais.spec.container import HostConfig, Ulimit
from cais.spec.platform import parse_platform
from cais.spec.reference import parse_reference
from cais.spec.registryauth import find_entry, make_key

T = TypeVar("T")

_HEADER_LIMIT = 1 << 20
SESSION, UPLOAD = "client-session", "upload-request"
"""Where BuildKit's builds of older clients have their context: in the session, or in a request of its own."""
_PRUNE_FILTERS = frozenset(("until", "unused-for", "all", "id", "parent", "type", "description", "inuse"))


class BuildRoutes:
    """``/build``."""

    def __init__(self, services: Services) -> None:
        self._builder = services.builder
        self._posted = services.buildkit.posted

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("POST", "/build", self.build),
            Route("POST", "/build/prune", self.prune),
            Route("POST", "/build/cancel", self.cancel),
            Route("POST", "/cais/build/check", self.check),
        ]

    async def build(self, call: Call) -> web.StreamResponse:
        """An image from the context in the body."""
        if call.text("version", "1") == "2":
            return await self._by_buildkit(call)
        request = parse_request(call)
        teller = Teller(quiet=call.flag("q"))

        async def lines() -> AsyncIterator[dict[str, Any]]:
            context, remote = call.stream.iter_any(), call.text("remote")
            async with aclosing(self._builder.build(request, context, remote)) as events:
                try:
                    async for event in events:
                        for line in teller.lines(event):
                            yield line
                except Exception:
                    # Who was to hear nothing hears all of it when it fails, as under dockerd.
                    for line in teller.held():
                        yield line
                    raise

        # A client that goes away ends its build, even while nothing is to be told.
        with cancelled_when_gone(call):
            return await stream_json(call, lines(), build_error_line)

    async def _by_buildkit(self, call: Call) -> web.StreamResponse:
        """A build of an older docker's BuildKit; or only the context for one."""
        id = call.text("buildid")
        with cancelled_when_gone(call):
            if id.startswith(f"{UPLOAD}:"):
                await self._posted.upload(id.removeprefix(f"{UPLOAD}:"), call.stream.iter_any())
                reply = empty_reply(200)
                if not call.stream.is_eof():
                    reply.force_close()  # the build failed before it had read all
                return reply
            return await stream_json(call, self._posted.lines(parse_posted(call)), posted_error_line)

    async def cancel(self, call: Call) -> web.Response:
        """End a build that was asked for with this ``buildid``. Idempotent."""
        if not call.text("id"):
            raise Invalid("build ID not provided")
        self._posted.cancel(call.text("id"))
        return empty_reply(200)

    async def check(self, call: Call) -> web.Response:
        """What the checks find in a Dockerfile, with the lines they are about."""
        with cancelled_when_gone(call):
            file, findings = await self._builder.check(parse_request(call), call.stream.iter_any())
        return json_reply([finding_reply(file, finding) for finding in findings])

    async def prune(self, call: Call) -> web.Response:
        """Forget what the cache holds: all of it, or down to a size, or what was not used for so long."""
        filters = call.filters()
        check_filters(filters, _PRUNE_FILTERS)
        unused: list[str] = [*filters.get("until", ()), *filters.get("unused-for", ())]
        since = time.time_ns() - parse_duration_ns(unused[0]) if unused else 0
        keep = call.number("keep-storage") or call.number("reserved-space") or 0
        tests = [
            f"{name}=={value}"
            for name in ("id", "parent", "type", "description")
            for value in filters.get(name, ())
        ]
        tests += ["inuse"] if filters.get("inuse") else []
        wanted = parse_usage_filter(tests) if tests else None
        ids, freed = await self._builder.prune(unused_since_ns=since, keep_bytes=max(keep, 0), wanted=wanted)
        return json_reply({"CachesDeleted": ids or None, "SpaceReclaimed": freed})


def parse_request(call: Call) -> BuildRequest:
    """The query of ``POST /build`` (Engine API, "Build an image"). Raises Invalid, Unsupported."""
    if call.flag("squash"):
        raise Unsupported("squash is not supported")
    platform = call.text("platform")
    return BuildRequest(
        dockerfile=call.text("dockerfile") or "Dockerfile",
        names=tuple(dict.fromkeys(parse_name(text) for text in call.texts("t") if text)),
        args=_texts(_parse(call, "buildargs", dict[str, str | None])),
        labels=_texts(_parse(call, "labels", dict[str, str | None])),
        target=call.text("target"),
        platforms=tuple(parse_platform(text) for text in platform.split(",") if text),
        no_cache=call.flag("nocache"),
        pull=call.flag("pull"),
        host=_parse_host(call),
        credentials=parse_credentials(call.request.headers.get("X-Registry-Config", "")),
    )


def parse_posted(call: Call) -> PostedBuild:
    """The query of ``POST /build?version=2``. Raises Invalid, Unsupported."""
    request, remote = parse_request(call), call.text("remote")
    attrs = format_attrs(request)
    if remote and remote not in (SESSION, UPLOAD):
        attrs["context"] = remote
    attrs["cache-from"] = ",".join(_parse(call, "cachefrom", tuple[str, ...], ()))
    inline = (Option(type="inline"),) if request.args.get("BUILDKIT_INLINE_CACHE") in ("1", "true") else ()
    order = SolveRequest(
        ref=uuid.uuid4().hex,
        session=call.text("session"),
        frontend=FRONTEND,
        frontend_attrs=attrs,
        cache=CacheOptions(exports=inline),
        entitlements=("network.host",) if request.host.network_mode == "host" else (),
        exporters=_parse_outputs(call, request.names),
    )
    body = None if remote else call.stream.iter_any()
    return PostedBuild(order, call.text("buildid"), body, remote == UPLOAD, call.flag("q"))


class _Output(msgspec.Struct, frozen=True, rename="pascal"):
    type: str = ""
    attrs: dict[str, str] | None = None


def _parse_outputs(call: Call, names: tuple[str, ...]) -> tuple[Option, ...]:
    outputs = _parse(call, "outputs", tuple[_Output, ...], ()) or (_Output("moby"),)
    found = []
    for output in outputs:
        named = {"name": ",".join(names)} if names and output.type in ("moby", "image") else {}
        found.append(Option(type=output.type, attrs={**(output.attrs or {}), **named}))
    return tuple(found)


def parse_name(text: str) -> str:
    """The canonical name to give. Raises Invalid."""
    reference = parse_reference(text)
    if reference.digest:
        raise Invalid(f"cannot tag an image that is to be built by digest: {text}")
    return reference.tagged().canonical()


def _parse_host(call: Call) -> HostConfig:
    return HostConfig(
        memory=call.number("memory") or 0,
        memory_swap=call.number("memswap") or 0,
        cpu_shares=call.number("cpushares") or 0,
        cpu_period=call.number("cpuperiod") or 0,
        cpu_quota=call.number("cpuquota") or 0,
        cpuset_cpus=call.text("cpusetcpus"),
        cpuset_mems=call.text("cpusetmems"),
        cgroup_parent=call.text("cgroupparent"),
        shm_size=call.number("shmsize") or 0,
        network_mode=_parse_network(call.text("networkmode")),
        ulimits=_parse(call, "ulimits", tuple[Ulimit, ...], ()),
        extra_hosts=_parse_hosts(call),
    )


def _parse_network(text: str) -> str:
    if text.startswith("container:"):
        raise Unsupported("a build cannot share another container's network: use bridge, host or none")
    return text or "default"


def _parse_hosts(call: Call) -> tuple[str, ...]:
    """A JSON list, as the command line sends it, or names with commas between, as docker-py does."""
    texts = call.texts("extrahosts")
    if len(texts) == 1 and texts[0].startswith("["):
        return _parse(call, "extrahosts", tuple[str, ...], ())
    return tuple(filter(None, texts))


def _parse(call: Call, key: str, kind: type[T], default: T | None = None) -> T:
    text = call.text(key)
    try:
        value = msgspec.json.decode(text, type=kind | None) if text else None
    except msgspec.DecodeError as error:
        raise Invalid(f"invalid {key}: {error}") from error
    if value is not None:
        return value
    return kind() if default is None else default


def _texts(values: dict[str, str | None]) -> dict[str, str]:
    """An argument without value is one that the client has not either."""
    return {name: value for name, value in values.items() if value is not None}


def parse_credentials(header: str) -> Callable[[str], Awaitable[Credentials]]:
    """``X-Registry-Config``: base64url of credentials by registry. Raises Invalid, without a word of what it held."""
    if len(header) > _HEADER_LIMIT:
        raise Invalid("invalid X-Registry-Config header: it is too long")
    try:
        plain = header.strip().rstrip("=").replace("+", "-").replace("/", "_")
        data = base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
        auths = msgspec.json.decode(data, type=dict[str, Any] | None) if data else None
    except (ValueError, RecursionError):
        raise Invalid("invalid X-Registry-Config header: want base64url of a JSON object") from None

    async def find(domain: str) -> Credentials:
        entry = find_entry(auths or {}, make_key(domain))
        if not entry:
            return ANONYMOUS
        return parse_registry_auth(base64.urlsafe_b64encode(msgspec.json.encode(entry)).decode())

    return find
