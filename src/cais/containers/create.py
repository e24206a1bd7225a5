"""Making a container: everything is checked first, then made, and its name is written last."""

import asyncio
import os
import time
from contextlib import ExitStack
from weakref import WeakValueDictionary

import msgspec
from msgspec.structs import replace

from cais.containers import adapt, labels, machine, mountspec, options, ports, runspec
from cais.containers.ahead import Ahead
from cais.containers.fleet import Fleet, Live
from cais.containers.names import check_name, new_id, random_name
from cais.containers.record import MountPoint, Record
from cais.containers.services import Rooms
from cais.errors import Invalid, NotFound, Unsupported
from cais.images.image import Image
from cais.spec.container import ContainerConfig, CreateRequest, HostConfig, NetworkingConfig
from cais.spec.platform import Platform
from cais.spec.runtimespec import RootMount
from cais.volumes.local import check_volume


class Wish(msgspec.Struct, frozen=True):
    """One create request, as far as it could be checked alone."""

    name: str
    request: CreateRequest
    platform: Platform | None = None


class Creator:
    """Makes containers."""

    def __init__(self, rooms: Rooms, fleet: Fleet, ahead: Ahead) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._ahead = ahead
        self._filling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def create(self, wish: Wish) -> tuple[Live, list[str]]:
        """The new container and warnings. Raises Invalid, NotFound, AlreadyExists; then nothing is left."""
        name = check_name(wish.name) if wish.name else ""
        config, host = wish.request.config, wish.request.host_config
        warnings = options.check_request(config, host, self._rooms.machine)
        options.check_endpoints(wish.request.networking_config)
        if host.links:
            raise Unsupported("links between containers are not supported: use a network")
        if not config.image:
            raise Invalid("config cannot be empty in order to create a container")
        image = await self._rooms.images.resolve(config.image, platform=wish.platform)
        try:
            record = self._plan(config, host, wish.request.networking_config, image)
            self._check_world(record)
        except NotFound as error:
            # Not found is the image alone: the docker CLI answers that by pulling it and trying again.
            raise Invalid(str(error)) from error
        warnings += labels.relabel_warnings(record.mounts, self._rooms.machine)
        # From here until the record names it, somebody could remove the image's last name.
        async with self._rooms.images.acquire(image):
            return await self._make(name, record, image), warnings

    def _plan(
        self, config: ContainerConfig, host: HostConfig, networking: NetworkingConfig, image: Image
    ) -> Record:
        """The record without a name, or raises: nothing has been made yet."""
        rooms = self._rooms
        id = new_id()
        host = adapt.fill_host(host, rooms.config, rooms.machine)
        if not options.shared_with(host.network_mode):
            host = replace(host, network_mode=rooms.networks.inspect(host.network_mode).name)
        for field, text in adapt.donors(host).items():
            host = replace(host, **{field: f"container:{self._fleet.find(text).id}"})
        config = adapt.fill_hostname(adapt.merge_config(config, image.config.config), host, id, rooms.machine)
        options.check_config(config)
        security = options.parse_security(host.security_opt)
        no_new = security.no_new_privileges
        unconfined = host.privileged and not security.seccomp
        return Record(
            id=id,
            name="",
            created_ns=time.time_ns(),
            config=config,
            host=host,
            networking=networking,
            image_id=str(image.id),
            platform=image.config.os or "linux",
            mounts=mountspec.plan_mounts(host, self._inherited(host), config.volumes),
            no_new_privileges=rooms.config.no_new_privileges if no_new is None else no_new,
            writable_cgroups=security.writable_cgroups,
            seccomp="unconfined" if unconfined else security.seccomp,
            apparmor=security.apparmor,
            selinux=security.selinux,
        )

    def _inherited(self, host: HostConfig) -> tuple[MountPoint, ...]:
        """The mounts of ``--volumes-from``."""
        points: list[MountPoint] = []
        for text in host.volumes_from:
            name, writable = mountspec.parse_volumes_from(text)
            try:
                donor = self._fleet.find(name)
            except NotFound as error:
                raise Invalid(str(error)) from error
            points += [
                replace(point, rw=point.rw and writable, copy_up=False) for point in donor.record.mounts
            ]
        return tuple(points)

    def _check_world(self, record: Record) -> None:
        """What depends on the host and the other rooms. Raises Invalid, NotFound."""
        host, rooms = record.host, self._rooms
        mountspec.check_sources(record.mounts, os.path.exists)
        for point in record.mounts:
            if point.type == "bind":
                machine.check_propagation(point.source, point.propagation)
            elif point.type == "volume":
                check_volume(point.name, point.driver, point.driver_options)
        for mapping in host.devices:
            machine.find_devices(mapping)
        capabilities = runspec.capability_sets(record, rooms.machine).bounding
        try:
            rooms.filters.program(record.seccomp, capabilities)
        except OSError as error:
            raise Invalid(f"seccomp profile cannot be used here: {error}") from error
        ports.plan_ports(host.port_bindings, record.config.exposed_ports, host.publish_all_ports)
        for network in record.networking.endpoints_config:
            if network not in ("default", "") and not options.shared_with(network):
                rooms.networks.inspect(network)

    async def _make(self, name: str, record: Record, image: Image) -> Live:
        name = self._reserve(name, record.id)
        with ExitStack() as undo:
            undo.callback(self._fleet.release, name, record.id)
            lowers = await self._rooms.images.root_lowers(image)
            root = self._rooms.snapshots.prepare(record.id, lowers)
            undo.callback(self._rooms.snapshots.remove, record.id)
            self._ahead.fill_later()
            mounts: list[MountPoint] = []
            for point in record.mounts:
                mounts.append(self._make_volume(point, record.id, undo))
            for point in mounts:
                await self._fill(point, root)
            live = self._fleet.add(replace(record, name=name, lowers=lowers, mounts=tuple(mounts)))
            undo.pop_all()
        self._fleet.publish(live, "create")
        return live

    async def _fill(self, point: MountPoint, root: RootMount) -> None:
        """Give an empty volume what the image has at its place; one filling of a volume at a time."""
        volumes = self._rooms.volumes
        if point.type != "volume" or not point.copy_up or not volumes.is_empty(point.name):
            return
        lock = self._filling.setdefault(point.name, asyncio.Lock())
        async with lock:
            if not self._fleet.volume_users(point.name):
                await asyncio.to_thread(volumes.prepare_fill, point.name, root, point.destination)
                # Who was made meanwhile may have it mounted by now: then its folder must stay.
                if not self._fleet.volume_users(point.name):
                    volumes.commit_fill(point.name)
                    return
            await asyncio.to_thread(volumes.fill_in_place, point.name, root, point.destination)

    def _reserve(self, name: str, id: str) -> str:
        if not name:
            name = next(
                found for attempt in range(64) if not self._fleet.has_name(found := random_name(attempt // 4))
            )
        self._fleet.reserve(name, id)
        return name

    def _make_volume(self, point: MountPoint, id: str, undo: ExitStack) -> MountPoint:
        """A volume of that name; a new one goes again when the container cannot be made."""
        if point.type != "volume":
            return point
        volumes = self._rooms.volumes
        known = bool(point.name) and volumes.find(point.name) is not None
        volume = volumes.create(
            point.name,
            driver=point.driver,
            labels=point.labels,
            options=point.driver_options,
            owner=id if point.anonymous else "",
        )
        if not known:
            undo.callback(volumes.remove, volume.name, (), force=True)
        source = volumes.path(volume.name)
        return replace(point, name=volume.name, driver=volume.driver, source=str(source))
