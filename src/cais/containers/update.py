"""Changing the limits and the restart policy of a container that is there already."""

import msgspec
from msgspec.structs import asdict, replace

from cais.containers.fleet import Fleet, Live
from cais.containers.limits import check_resources
from cais.containers.options import check_restart_policy
from cais.containers.runspec import make_resources
from cais.containers.services import Rooms
from cais.errors import Conflict, Invalid
from cais.spec.container import HostConfig, Resources, ResourceUpdate


def merge_update(host: HostConfig, update: ResourceUpdate) -> HostConfig:
    """``host`` with what ``update`` says; its zeros and ``None`` say nothing. Raises Invalid, in Docker's words, for
    what contradicts what is set already."""
    _check_cpu(host, update)
    given = {field.name for field in msgspec.structs.fields(Resources)}
    changes = {name: value for name, value in asdict(update).items() if name in given and value}
    if update.memory and not update.memory_swap and 0 < host.memory_swap < update.memory:
        raise Invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    if update.pids_limit is not None:
        changes["pids_limit"] = update.pids_limit if update.pids_limit > 0 else None
    if update.nano_cpus:
        changes |= {"cpu_period": 0, "cpu_quota": 0}
    if update.restart_policy.name:
        if host.auto_remove and update.restart_policy.name != "no":
            raise Invalid("Restart policy cannot be updated because AutoRemove is enabled for the container")
        changes["restart_policy"] = update.restart_policy
    return replace(host, **changes)


def _check_cpu(host: HostConfig, update: ResourceUpdate) -> None:
    for name, theirs, mine in (
        ("CPU Period", update.cpu_period, host.cpu_period),
        ("CPU Quota", update.cpu_quota, host.cpu_quota),
    ):
        if host.nano_cpus and theirs:
            raise Invalid(f"Conflicting options: {name} cannot be updated as NanoCPUs has already been set")
        if update.nano_cpus and mine:
            raise Invalid(f"Conflicting options: Nano CPUs cannot be updated as {name} has already been set")


class Updater:
    """Checks, tells the kernel, then writes the record."""

    def __init__(self, rooms: Rooms, fleet: Fleet) -> None:
        self._rooms = rooms
        self._fleet = fleet

    async def update(self, live: Live, update: ResourceUpdate) -> list[str]:
        """Warnings. Raises Invalid, Conflict."""
        check_restart_policy(update.restart_policy)
        warnings = check_resources(update, self._rooms.machine, update=True)
        async with live.lock:
            if live.removing:
                raise Conflict(
                    f'Cannot update container {live.id}: container is marked for removal and cannot be "update"'
                )
            try:
                host = merge_update(live.record.host, update)
            except Invalid as error:
                raise Invalid(f"Cannot update container {live.id}: {error}") from error
            if live.state.live:
                await self._rooms.driver.update(live.id, make_resources(update, self._rooms.machine))
            self._fleet.save(live, replace(live.record, host=host))
            self._fleet.publish(live, "update")
        return warnings
