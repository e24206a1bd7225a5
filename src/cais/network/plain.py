"""The networks ``host`` and ``none``: endpoints without a namespace of the engine's making."""

import secrets
from collections.abc import Iterable

from cais.errors import Invalid
from cais.network.base import Endpoint, EndpointRequest, Identity, NetworkInfo


class Plain:
    """A network that only remembers who is in it: the runtime shares the host's namespace, or makes an empty one."""

    def __init__(self, name: str, driver: str, identity: Identity) -> None:
        self._name = name
        self._driver = driver
        self._identity = identity
        self._live: dict[str, Endpoint] = {}

    async def attach(self, request: EndpointRequest) -> tuple[Endpoint, int]:
        """See ``Driver.attach``; the descriptor is always -1. Docker too ignores ports on these networks."""
        if request.address or request.mac:
            raise Invalid(f"conflicting options: the network {self._name} has no addresses of its own")
        endpoint = Endpoint(self._name, self._identity.id, secrets.token_hex(32), request.container_id)
        self._live[endpoint.endpoint_id] = endpoint
        return endpoint, -1

    async def detach(self, endpoint: Endpoint) -> None:
        """See ``Driver.detach``."""
        self._live.pop(endpoint.endpoint_id, None)

    async def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """See ``Driver.restore``."""
        self._live = {endpoint.endpoint_id: endpoint for endpoint in endpoints}

    async def stop(self) -> None:
        """See ``Driver.stop``: there is nothing to let go of."""
        self._live.clear()

    def info(self) -> NetworkInfo:
        """See ``Driver.info``."""
        return NetworkInfo(
            name=self._name,
            id=self._identity.id,
            created=self._identity.created,
            driver=self._driver,
            endpoints=tuple(self._live.values()),
        )
