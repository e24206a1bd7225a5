"""Routes that only Cais has: explain, and the check for leaks."""

from typing import Any

from aiohttp import web

from cais.api.call import Call
from cais.api.replies import json_reply
from cais.api.router import Route
from cais.api.services import Services
from cais.images.check import Damage


class CaisRoutes:
    """``/cais/…``"""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("GET", "/cais/containers/*/explain", self.explain),
            Route("GET", "/cais/system/check", self.check),
            Route("POST", "/cais/system/repair", self.repair),
        ]

    async def explain(self, call: Call) -> web.Response:
        """What isolates a container."""
        return json_reply(await self._services.containers.explain(call.name, self._services.cgroups))

    async def check(self, call: Call) -> web.Response:
        """What was left behind, and how much is there; with ``content=1`` what is wrong in the store, with ``deep=1``
        by comparing every file of every layer."""
        services = self._services
        answer = await services.containers.check(
            services.cgroups, services.networks, services.builder.containers
        )
        if call.flag("content"):
            standing = services.containers.standing()
            found = await services.images.check(standing, deep=call.flag("deep"))
            answer["Damage"] = [damage_reply(damage) for damage in found]
        return json_reply(answer)

    async def repair(self, call: Call) -> web.Response:
        """As ``check``, and mend what can be mended."""
        services = self._services
        standing = services.containers.standing()
        found = [*await services.images.check(standing, deep=call.flag("deep"), repair=True)]
        found += await services.containers.repair(
            services.cgroups, services.networks, services.builder.containers
        )
        answer = await services.containers.check(
            services.cgroups, services.networks, services.builder.containers
        )
        return json_reply({**answer, "Damage": [damage_reply(damage) for damage in found]})


def damage_reply(damage: Damage) -> dict[str, Any]:
    """One thing that is or was wrong."""
    return {
        "Kind": damage.kind,
        "Name": damage.name,
        "Problem": damage.problem,
        "Images": list(damage.names),
        "Repair": damage.repair,
    }
