"""Routes that only Cais has: explain, and the check for leaks."""

from aiohttp import web

from cais.api.call import Call
from cais.api.replies import json_reply
from cais.api.router import Route
from cais.api.services import Services


class CaisRoutes:
    """``/cais/…``"""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("GET", "/cais/containers/*/explain", self.explain),
            Route("GET", "/cais/system/check", self.check),
        ]

    async def explain(self, call: Call) -> web.Response:
        """What isolates a container."""
        return json_reply(await self._services.containers.explain(call.name, self._services.cgroups))

    async def check(self, call: Call) -> web.Response:
        """What was left behind, and how much is there."""
        services = self._services
        return json_reply(await services.containers.check(services.cgroups, services.networks))
