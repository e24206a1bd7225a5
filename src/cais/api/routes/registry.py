"""Routes to other people's registries: push, login, search, distribution inspect."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from cais.api.call import Call
from cais.api.filters import check_filters, is_true
from cais.api.replies import cancelled_when_gone, json_reply, stream_json, wait_while_connected
from cais.api.router import Route
from cais.api.routes.images import parse_platform_json
from cais.api.services import Services
from cais.api.wire.images import error_line
from cais.api.wire.registry import AuthConfig, descriptor_json, found_json, platform_json, push_line
from cais.errors import Invalid
from cais.images.push import PushRequest
from cais.remotes.auth import ANONYMOUS, Credentials, parse_registry_auth
from cais.remotes.inspect import RemoteImage, inspect_remote
from cais.remotes.login import log_in
from cais.remotes.search import Found, parse_term, search
from cais.spec.reference import parse_reference
from cais.store.layers.compress import CODECS

_SEARCH_FILTERS = frozenset(("is-official", "is-automated", "stars"))
_DEFAULT_LIMIT = 25


class RegistryRoutes:
    """``/auth``, ``/distribution`` and what of ``/images`` goes out."""

    def __init__(self, services: Services) -> None:
        self._images = services.images
        self._remotes = services.images.remotes

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("POST", "/images/*/push", self.push),
            Route("GET", "/images/search", self.search),
            Route("POST", "/auth", self.log_in),
            Route("GET", "/distribution/*/json", self.inspect),
            Route("GET", "/cais/registry/*/manifest", self.show),
        ]

    async def push(self, call: Call) -> web.StreamResponse:
        """One tag of a repository, or all. ``compression`` is ours: what plain layers become."""
        reference = parse_reference(call.name)
        if call.text("tag"):
            reference = parse_reference(f"{reference.name}:{call.text('tag')}")
        compression = call.text("compression")
        if compression and compression not in CODECS:
            raise Invalid(f"unknown compression {compression!r}: use {', '.join(CODECS)}")
        platform = parse_platform_json(call.text("platform"))
        request = PushRequest(reference, platform, read_credentials(call), compression)

        async def lines() -> AsyncIterator[dict[str, Any]]:
            async with aclosing(self._images.push(request)) as events:
                async for event in events:
                    yield push_line(event)

        with cancelled_when_gone(call):
            return await stream_json(call, lines(), error_line)

    async def log_in(self, call: Call) -> web.Response:
        """Whether credentials are good, and what to keep in the place of the password."""
        given = await call.body(AuthConfig)
        credentials = Credentials(given.username, given.password, given.identitytoken, given.registrytoken)
        token = await wait_while_connected(call, log_in(self._remotes, given.serveraddress, credentials))
        return json_reply({"IdentityToken": token, "Status": "Login Succeeded"})

    async def search(self, call: Call) -> web.Response:
        """What a registry offers under a name."""
        filters = call.filters()
        check_filters(filters, _SEARCH_FILTERS)
        is_official = is_true(filters, "is-official") if filters.get("is-official") else None
        stars = max(map(_parse_stars, filters.get("stars", [])), default=0)
        limit = call.number("limit")
        query = parse_term(call.text("term"), _DEFAULT_LIMIT if limit is None or limit == 0 else limit)
        found: list[Found] = await wait_while_connected(
            call, search(self._remotes, query, read_credentials(call))
        )
        if is_official is not None:
            found = [one for one in found if one.is_official == is_official]
        return json_reply([found_json(one) for one in found if one.star_count >= stars])

    async def inspect(self, call: Call) -> web.Response:
        """What a name stands for in its registry, without pulling it."""
        return json_reply(_describe(await self._ask(call)))

    async def show(self, call: Call) -> web.Response:
        """The same with the manifest itself. Ours: the docker CLI asks registries by itself for that."""
        found = await self._ask(call)
        return json_reply({**_describe(found), "Manifest": msgspec.Raw(found.data)})

    async def _ask(self, call: Call) -> RemoteImage:
        reference = parse_reference(call.name).tagged()
        asking = inspect_remote(self._remotes, reference, read_credentials(call))
        found: RemoteImage = await wait_while_connected(call, asking)
        return found


def _describe(found: RemoteImage) -> dict[str, Any]:
    platforms = [platform_json(platform) for platform in found.platforms]
    return {"Descriptor": descriptor_json(found.descriptor), "Platforms": platforms}


def read_credentials(call: Call) -> Credentials:
    """Those of X-Registry-Auth; a header that means nothing is none, as with dockerd: old clients send such."""
    try:
        return parse_registry_auth(call.request.headers.get("X-Registry-Auth", ""))
    except Invalid:
        return ANONYMOUS


def _parse_stars(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise Invalid(f"invalid filter 'stars=[{text}]'")
    return int(text)
