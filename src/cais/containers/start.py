"""Starting a container: network, files, specification, task; and undoing all of it when one fails."""

import asyncio
import os
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import msgspec
from msgspec.structs import replace

from cais.containers import labels, machine, ports, runspec, sources
from cais.containers.adapt import donors
from cais.containers.fleet import Fleet, Live
from cais.containers.netfiles import DnsWishes, make_hosts, make_resolv
from cais.containers.options import parse_security, parse_size, shared_with
from cais.containers.record import RUNNING, Record, State
from cais.containers.services import Rooms
from cais.errors import Conflict, Invalid, TaskFailed
from cais.network.base import Endpoint, EndpointRequest
from cais.runtime.base import LogOptions, TaskStart
from cais.spec.container import EndpointSettings

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class Joined(msgspec.Struct, frozen=True):
    """Containers whose namespaces are shared: id → host pid, and the folder whose etc files hold."""

    pids: dict[str, int]
    directory: str


class Starter:
    """Starts containers; the caller holds the container's lock."""

    def __init__(self, rooms: Rooms, fleet: Fleet) -> None:
        self._rooms = rooms
        self._fleet = fleet

    def directory(self, id: str) -> Path:
        """The container's own folder."""
        return self._rooms.config.root / "containers" / id

    async def start(self, live: Live) -> None:
        """Run the container's first process. Raises TaskFailed, Conflict, Invalid, NotFound; then the record says
        why and nothing runs."""
        if live.teardown:
            await asyncio.wait((live.teardown,))
        if live.copies:
            await asyncio.wait(live.copies)
        before = live.record
        try:
            async with AsyncExitStack() as undo:
                await self._start(live, undo)
                undo.pop_all()
        except Exception as error:
            self._note_failure(live, before, error)
            raise
        self._fleet.publish(live, "start")

    def _note_failure(self, live: Live, before: Record, error: Exception) -> None:
        code = error.exit_code if isinstance(error, TaskFailed) else before.state.exit_code or 128
        state = replace(before.state, error=str(error), exit_code=code, pid=0)
        if state.running:
            state = replace(state, status="exited", finished_ns=time.time_ns())
        self._fleet.save(live, replace(before, state=state, endpoints=()))

    async def _start(self, live: Live, undo: AsyncExitStack) -> None:
        rooms = self._rooms
        profile = await self._choose_profile(live.record)
        live.record = replace(live.record, apparmor=profile)
        joined = self._join(live.record)
        # ``undo`` unwinds on failure only; descriptors go in any case, hence the second stack.
        with ExitStack() as after:
            endpoints, netns = await self._attach(live.record)
            if netns >= 0:
                after.callback(os.close, netns)
            for endpoint in endpoints:
                undo.push_async_callback(rooms.networks.detach, endpoint)
            if joined.directory == str(self.directory(live.id)):
                self._write_files(live.record, endpoints)
            start = self._make_start(live.record, joined, netns)
            # On disk before anything runs: a new engine must know the addresses of what an old one started.
            self._fleet.save(live, _running(live.record, endpoints))
            task = await rooms.driver.start(start)
            rooms.images.note_used(live.record.image_id)
            live.record = replace(
                live.record, state=replace(live.state, pid=task.pid, started_ns=task.started_ns)
            )
            self._fleet.save_soon(live)

    async def _choose_profile(self, record: Record) -> str:
        """The AppArmor profile it is to run under, which is loaded now. Chosen anew at each start, as in dockerd: the
        machine may have been booted with other modules since. Raises Unsupported, Invalid."""
        rooms = self._rooms
        security = parse_security(record.host.security_opt)
        labels.check_label(security.selinux, rooms.machine)
        profile = labels.choose_profile(
            security.apparmor, privileged=record.host.privileged, machine=rooms.machine
        )
        await rooms.profiles.ensure(profile)
        return profile

    def _join(self, record: Record) -> Joined:
        host = record.host
        pids: dict[str, int] = {}
        directory = str(self.directory(record.id))
        for field, donor_id in donors(host).items():
            donor = self._fleet.find(donor_id)
            if not donor.state.live:
                raise Conflict(
                    f"cannot join namespace of a non running container: container {donor.id} is not running"
                )
            if field == "ipc_mode" and donor.record.host.ipc_mode != "shareable":
                raise Invalid(
                    f"failed to join IPC namespace: container {donor.id}: non-shareable IPC (hint: use "
                    "IpcMode:shareable for the donor container)"
                )
            pids[donor_id] = donor.state.pid
            if field == "network_mode":
                directory = str(self.directory(donor.id))
        return Joined(pids, directory)

    async def _attach(self, record: Record) -> tuple[tuple[Endpoint, ...], int]:
        """A place in the network, unless it is another container's."""
        host, config = record.host, record.config
        if shared_with(host.network_mode):
            return (), -1
        network = "none" if config.network_disabled else host.network_mode
        wish = record.networking.endpoints_config.get(network, EndpointSettings())
        mapped = ports.plan_ports(host.port_bindings, config.exposed_ports, host.publish_all_ports)
        request = EndpointRequest(
            container_id=record.id,
            ports=() if network in ("host", "none") else mapped,
            address=wish.ipam_config.ipv4_address if wish.ipam_config else "",
            mac=wish.mac_address or config.mac_address,
            network=network,
            container_name=record.name,
        )
        endpoint, netns = await self._rooms.networks.attach(request)
        return (endpoint,), netns

    def _write_files(self, record: Record, endpoints: tuple[Endpoint, ...]) -> None:
        host, config = record.host, record.config
        folder = self.directory(record.id)
        endpoint = endpoints[0] if endpoints else None
        address = endpoint.address if endpoint else ""
        gateway = endpoint.gateway if endpoint else ""
        own = host.network_mode != "host"
        names = [config.hostname]
        if config.domainname:
            names.insert(0, f"{config.hostname}.{config.domainname}")
        hosts = make_hosts(names, address, host.extra_hosts, gateway or self._gateway())
        if not own:
            hosts = _read("/etc/hosts") + hosts.partition("ff02::2\tip6-allrouters\n")[2]
        defaults = self._rooms.config
        wishes = DnsWishes(
            servers=host.dns or (defaults.dns if own else ()),
            search=host.dns_search or (defaults.dns_search if own else ()),
            options=host.dns_options or (defaults.dns_options if own else ()),
        )
        _write(folder / "hosts", hosts)
        _write(folder / "hostname", config.hostname + "\n")
        _write(folder / "resolv.conf", make_resolv(_read("/etc/resolv.conf"), wishes, own_network=own))

    def _gateway(self) -> str:
        """What ``host-gateway`` means without a gateway of one's own: the bridge's address."""
        subnets = self._rooms.networks.inspect("bridge").subnets
        return subnets[0][1] if subnets else "127.0.0.1"

    def _make_start(self, record: Record, joined: Joined, netns: int) -> TaskStart:
        rooms = self._rooms
        if record.host.privileged:
            devices = machine.all_devices()
            extra = [m for m in record.host.devices if m.path_on_host != m.path_in_container]
        else:
            devices, extra = [], list(record.host.devices)
        devices += [device for mapping in extra for device in machine.find_devices(mapping)]
        around = runspec.Surroundings(
            config=rooms.config,
            machine=rooms.machine,
            directory=joined.directory,
            pids=joined.pids,
            devices=tuple(devices),
        )
        for point in record.mounts:
            sources.ensure_source(point)
        spec = runspec.make_spec(record, around)
        return TaskStart(
            id=record.id,
            spec=spec,
            rootfs=rooms.snapshots.mounts(record.id),
            netns=netns,
            seccomp=rooms.filters.program(record.seccomp, spec.process.capabilities.bounding),
            open_stdin=record.config.open_stdin,
            stdin_once=record.config.stdin_once,
            log=log_options(record, self.directory(record.id)),
        )


def log_options(record: Record, directory: Path) -> LogOptions:
    """Where the keeper writes; sizes by Docker's defaults: json-file without end, local 5 files of 20 MB."""
    driver, options = record.host.log_config.type, record.host.log_config.config
    local = driver == "local"
    size = parse_size(options["max-size"]) if "max-size" in options else (20 << 20 if local else 0)
    return LogOptions(
        driver=driver,
        path=str(log_path(record, directory)) if driver != "none" else "",
        max_size=max(size, 0),
        max_files=int(options.get("max-file", 5 if local else 1)),
    )


def log_path(record: Record, directory: Path) -> Path:
    """The newest log file; older ones have ``.1``, ``.2`` … behind the name."""
    return directory / ("local.log" if record.host.log_config.type == "local" else f"{record.id}-json.log")


def _running(record: Record, endpoints: tuple[Endpoint, ...]) -> Record:
    state = State(status=RUNNING, started_ns=time.time_ns(), finished_ns=record.state.finished_ns)
    return replace(record, state=state, endpoints=endpoints, manually_stopped=False)


def _write(path: Path, text: str) -> None:
    fd = os.open(path, _NEW_FILE, 0o644)
    try:
        os.fchmod(fd, 0o644)  # whatever our umask: every user of the container reads it
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
