"""Prometheus' numbers at ``/metrics``: for this machine, and for the hub's administrators."""

import ipaddress

from aiohttp import web

from cais.errors import CaisError, Unauthenticated
from cais.hub.rights import need_hub_admin
from cais.hub.server import Measures
from cais.registry.base import Gate
from cais.registry.refusal import as_refusal


class Metrics:
    """``open``: for everybody. How much a hub is used, and what fails on it, is a help to who means it ill."""

    def __init__(self, measures: Measures, gate: Gate, *, open: bool) -> None:
        self._measures = measures
        self._gate = gate
        self._open = open

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The text that Prometheus reads, or 401, 403 or 429."""
        try:
            if not (self._open or _is_loopback(request.remote or "")):
                await self._need_admin(request)
        except CaisError as error:
            refusal = as_refusal(error)
            headers = dict(refusal.headers)
            if refusal.status == 401:
                headers["WWW-Authenticate"] = 'Basic realm="cais"'
            return web.Response(status=refusal.status, text=f"{refusal}\n", headers=headers)
        return web.Response(body=self._measures.format(), content_type="text/plain", charset="utf-8")

    async def _need_admin(self, request: web.BaseRequest) -> None:
        authorization = request.headers.get("Authorization", "")
        caller = await self._gate.identify(authorization, request.remote or "")
        if caller.kind == "bearer":
            raise Unauthenticated("want a password or a kept token: a registry token is for the registry")
        if not (caller.account or caller.admin):
            raise Unauthenticated("from elsewhere the numbers are for administrators of the hub: log in")
        need_hub_admin(caller)


def _is_loopback(address: str) -> bool:
    """As the server found it out: who came through a proxy has the address that a listed one named."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # an unlisted proxy
        return False
