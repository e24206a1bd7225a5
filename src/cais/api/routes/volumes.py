"""Routes of volumes."""

import asyncio

from aiohttp import web

from cais.api.call import Call
from cais.api.filters import Filters, check_filters, has_any_label, has_labels, is_true
from cais.api.replies import empty_reply, json_reply
from cais.api.router import Route
from cais.api.services import Services
from cais.api.wire.volumes import VolumeCreate, VolumeList, VolumePrune, VolumeReply, volume_reply
from cais.containers.containers import Containers
from cais.errors import Unsupported
from cais.volumes.local import Volume, Volumes

_LIST_FILTERS = frozenset(("dangling", "driver", "label", "name"))
_PRUNE_FILTERS = frozenset(("label", "label!", "all"))


class VolumeRoutes:
    """``/volumes``."""

    def __init__(self, services: Services) -> None:
        self._volumes: Volumes = services.volumes
        self._containers: Containers = services.containers

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("GET", "/volumes", self.list),
            Route("POST", "/volumes/create", self.create),
            Route("POST", "/volumes/prune", self.prune),
            Route("GET", "/volumes/*", self.inspect),
            Route("DELETE", "/volumes/*", self.remove),
        ]

    async def list(self, call: Call) -> web.Response:
        """All that pass the filters."""
        filters = call.filters()
        check_filters(filters, _LIST_FILTERS)
        dangling = is_true(filters, "dangling") if "dangling" in filters else None
        found = [volume for volume in self._volumes.list() if _is_wanted(volume, filters)]
        if dangling is not None:
            found = [
                volume for volume in found if dangling is not bool(self._containers.volume_users(volume.name))
            ]
        return json_reply(VolumeList(volumes=tuple(map(self._reply, found))))

    async def inspect(self, call: Call) -> web.Response:
        """One."""
        return json_reply(self._reply(self._volumes.inspect(call.name)))

    async def create(self, call: Call) -> web.Response:
        """Make it, or find it when it is there."""
        body = await call.body(VolumeCreate)
        if body.cluster_volume_spec is not None:
            raise Unsupported("cluster volumes are not supported")
        volume = self._volumes.create(
            body.name, driver=body.driver, labels=body.labels, options=body.driver_opts
        )
        return json_reply(self._reply(volume), status=201)

    async def remove(self, call: Call) -> web.Response:
        """Remove it, unless a container mounts it."""
        users = self._containers.volume_users(call.name)
        self._volumes.remove(call.name, users, force=call.flag("force"))
        return empty_reply()

    async def prune(self, call: Call) -> web.Response:
        """Remove what no container mounts: anonymous volumes only, since API 1.42, unless ``all``. ``dry-run`` is ours:
        only tell which."""
        filters = call.filters()
        check_filters(filters, _PRUNE_FILTERS)
        everything = call.version < (1, 42) or is_true(filters, "all")
        names = self._volumes.find_unused(
            self._containers.volume_users,
            everything=everything,
            wanted=lambda volume: (
                has_labels(volume.labels, filters.get("label", []))
                and not has_any_label(volume.labels, filters.get("label!", []))
            ),
        )
        freed = await asyncio.to_thread(lambda: sum(map(self._volumes.usage, names)))
        for name in () if call.flag("dry-run") else names:
            self._volumes.remove(name, self._containers.volume_users(name), force=True)
        return json_reply(VolumePrune(volumes_deleted=tuple(names) or None, space_reclaimed=freed))

    def _reply(self, volume: Volume) -> VolumeReply:
        return volume_reply(volume, str(self._volumes.path(volume.name)))


def _is_wanted(volume: Volume, filters: Filters) -> bool:
    names, drivers = filters.get("name", []), filters.get("driver", [])
    return (
        (not names or any(name in volume.name for name in names))
        and (not drivers or volume.driver in drivers)
        and has_labels(volume.labels, filters.get("label", []))
    )
