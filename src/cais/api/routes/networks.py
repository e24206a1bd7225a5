"""Routes of networks: the predefined ones can be looked at."""

from aiohttp import web

from cais.api.call import Call
from cais.api.filters import Filters, check_filters, has_labels
from cais.api.replies import json_reply
from cais.api.router import Route
from cais.api.services import Services
from cais.api.wire.networks import NetworkReply, network_reply
from cais.errors import Denied, Invalid, Unsupported
from cais.network.base import NetworkInfo

_FILTERS = frozenset(("dangling", "driver", "id", "label", "name", "scope", "type"))
_PREDEFINED = frozenset(("bridge", "host", "none"))


class NetworkRoutes:
    """``/networks``."""

    def __init__(self, services: Services) -> None:
        self._networks = services.networks
        self._containers = services.containers

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("GET", "/networks", self.list),
            Route("GET", "/networks/*", self.inspect),
            Route("POST", "/networks/create", self.create),
            Route("DELETE", "/networks/*", self.remove),
            Route("POST", "/networks/prune", self.prune),
        ]

    async def list(self, call: Call) -> web.Response:
        """All that pass the filters."""
        filters = call.filters()
        check_filters(filters, _FILTERS)
        return json_reply([self._reply(info) for info in self._networks.list() if _is_wanted(info, filters)])

    async def inspect(self, call: Call) -> web.Response:
        """One, with the containers in it."""
        return json_reply(self._reply(self._networks.inspect(call.name), containers=True))

    async def create(self, call: Call) -> web.Response:
        """Not yet."""
        raise Unsupported("networks of your own are not supported yet: use bridge, host or none")

    async def remove(self, call: Call) -> web.Response:
        """The predefined networks stay."""
        info = self._networks.inspect(call.name)
        raise Denied(f"{info.name} is a pre-defined network and cannot be removed")

    async def prune(self, call: Call) -> web.Response:
        """Nothing to remove: predefined networks stay."""
        return json_reply({"NetworksDeleted": None})

    def _reply(self, info: NetworkInfo, *, containers: bool = False) -> NetworkReply:
        names = {record.id: record.name for record in self._containers.records()} if containers else {}
        return network_reply(info, names, containers=containers)


def _is_wanted(info: NetworkInfo, filters: Filters) -> bool:
    kinds = filters.get("type", [])
    for kind in kinds:
        if kind not in ("builtin", "custom"):
            raise Invalid(f"invalid filter: 'type'='{kind}'")
    tests = (
        ("name", lambda value: value in info.name),
        ("id", lambda value: info.id.startswith(value)),
        ("driver", lambda value: info.driver == value),
        ("scope", lambda value: info.scope == value),
        ("type", lambda value: (value == "builtin") == (info.name in _PREDEFINED)),
    )
    matches = all(any(test(value) for value in filters[key]) for key, test in tests if filters.get(key))
    # The predefined networks are never dangling: they cannot be removed.
    dangling = any(value in ("1", "true") for value in filters.get("dangling", []))
    return matches and not dangling and has_labels({}, filters.get("label", []))
