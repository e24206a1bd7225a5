"""What can be said about a container or a command to run in one, and the API's bodies made of it. Pure."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import msgspec

from cais.errors import Invalid
from cais.spec.container import (
    ContainerConfig,
    DeviceMapping,
    EndpointIpamConfig,
    EndpointSettings,
    ExecConfig,
    HostConfig,
    LogConfig,
    Mount,
    NetworkingConfig,
    PortBinding,
    RestartPolicy,
    Ulimit,
    format_create,
)

HostPort = int | str | tuple[str, int] | None
"""A port, ``first-last``, an address and a port; None or 0: the engine chooses."""


class ContainerOptions(TypedDict, total=False):
    """Keywords of ``create`` and ``run``; each is Docker's flag of that name. Sizes: bytes, or texts like ``64m``."""

    name: str
    env: Mapping[str, str]
    user: str
    workdir: str
    hostname: str
    entrypoint: str | Sequence[str]
    labels: Mapping[str, str]
    ports: Mapping[str | int, HostPort]
    """``{"80/tcp": 8080, 53: ("127.0.0.1", 5353)}``: container port → host port."""
    volumes: Sequence[str]
    """``["data:/var/lib/x", "/host:/inside:ro"]``."""
    mounts: Sequence[Mount]
    tmpfs: Mapping[str, str]
    memory: int | str
    memory_swap: int | str
    cpus: float
    cpu_shares: int
    cpuset_cpus: str
    pids_limit: int
    oom_score_adj: int
    shm_size: int | str
    network: str
    network_aliases: Sequence[str]
    ip: str
    dns: Sequence[str]
    extra_hosts: Mapping[str, str]
    privileged: bool
    read_only: bool
    init: bool
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    security_opt: Sequence[str]
    devices: Sequence[str]
    """``["/dev/fuse", "/dev/zero:/dev/null:r"]``."""
    ulimits: Mapping[str, int | tuple[int, int]]
    sysctls: Mapping[str, str]
    group_add: Sequence[str]
    pid: str
    ipc: str
    uts: str
    stop_signal: str
    stop_timeout: int
    restart: str
    """``no``, ``on-failure[:n]``, ``always``, ``unless-stopped``."""
    log_driver: str
    log_options: Mapping[str, str]
    remove: bool
    tty: bool
    stdin: bool
    """Keep stdin open, so that the process object can write to it."""
    platform: str


class ExecOptions(TypedDict, total=False):
    """Keywords of ``exec``."""

    env: Mapping[str, str]
    user: str
    workdir: str
    privileged: bool
    tty: bool
    stdin: bool


_SUFFIXES = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(size: int | str) -> int:
    """Bytes; ``64m`` is 64 MiB. Raises Invalid."""
    if isinstance(size, int):
        return size
    text = size.strip().lower().removesuffix("ib").removesuffix("b")
    number, power = (text[:-1], _SUFFIXES[text[-1]]) if text[-1:] in _SUFFIXES else (text, 0)
    try:
        value = float(number)
    except ValueError:
        raise Invalid(f"invalid size: {size!r}") from None
    if not 0 <= value < 1 << 63:
        raise Invalid(f"invalid size: {size!r}")
    return int(value * 1024**power)


def make_create(image: str, command: Sequence[str], options: ContainerOptions, *, attach: bool) -> bytes:
    """The body of a create request. ``attach``: a process object will hold its streams. Raises Invalid."""
    name = options.get("network", "default")
    ip = options.get("ip", "")
    ipam = EndpointIpamConfig(ipv4_address=ip) if ip else None
    endpoint = EndpointSettings(ipam_config=ipam, aliases=tuple(options.get("network_aliases", ())))
    wished = {name: endpoint} if endpoint != EndpointSettings() else {}
    return format_create(
        _make_config(image, command, options, attach=attach),
        _make_host(options),
        NetworkingConfig(endpoints_config=wished),
    )


def _make_config(
    image: str, command: Sequence[str], options: ContainerOptions, *, attach: bool
) -> ContainerConfig:
    if isinstance(command, str):
        raise Invalid(f"a command is a list of words, not one text: {command!r}")
    entrypoint = options.get("entrypoint")
    words = (entrypoint,) if isinstance(entrypoint, str) else entrypoint
    stdin = options.get("stdin", False)
    return ContainerConfig(
        image=image,
        cmd=tuple(command) or None,
        entrypoint=tuple(words) if words is not None else None,
        env=tuple(f"{name}={value}" for name, value in options.get("env", {}).items()),
        user=options.get("user", ""),
        working_dir=options.get("workdir", ""),
        hostname=options.get("hostname", ""),
        labels=dict(options.get("labels", {})),
        exposed_ports={format_port(port): {} for port in options.get("ports", {})},
        tty=options.get("tty", False),
        open_stdin=stdin,
        stdin_once=stdin and attach,
        attach_stdin=stdin and attach,
        attach_stdout=attach,
        attach_stderr=attach,
        stop_signal=options.get("stop_signal", ""),
        stop_timeout=options.get("stop_timeout"),
    )


def _make_host(options: ContainerOptions) -> HostConfig:
    return HostConfig(
        binds=tuple(options.get("volumes", ())),
        mounts=tuple(options.get("mounts", ())),
        tmpfs=dict(options.get("tmpfs", {})),
        port_bindings={format_port(port): _make_binding(at) for port, at in options.get("ports", {}).items()},
        memory=parse_size(options.get("memory", 0)),
        memory_swap=-1 if options.get("memory_swap") == -1 else parse_size(options.get("memory_swap", 0)),
        nano_cpus=round(options.get("cpus", 0) * 10**9),
        cpu_shares=options.get("cpu_shares", 0),
        cpuset_cpus=options.get("cpuset_cpus", ""),
        pids_limit=options.get("pids_limit"),
        oom_score_adj=options.get("oom_score_adj", 0),
        shm_size=parse_size(options.get("shm_size", 0)),
        network_mode=options.get("network", "default"),
        dns=tuple(options.get("dns", ())),
        extra_hosts=tuple(f"{name}:{address}" for name, address in options.get("extra_hosts", {}).items()),
        privileged=options.get("privileged", False),
        readonly_rootfs=options.get("read_only", False),
        init=options.get("init"),
        cap_add=tuple(options.get("cap_add", ())),
        cap_drop=tuple(options.get("cap_drop", ())),
        security_opt=tuple(options.get("security_opt", ())),
        devices=tuple(map(_make_device, options.get("devices", ()))),
        ulimits=tuple(_make_ulimit(name, limit) for name, limit in options.get("ulimits", {}).items()),
        sysctls=dict(options.get("sysctls", {})),
        group_add=tuple(options.get("group_add", ())),
        pid_mode=options.get("pid", ""),
        ipc_mode=options.get("ipc", ""),
        uts_mode=options.get("uts", ""),
        restart_policy=_make_restart(options.get("restart", "no")),
        log_config=LogConfig(type=options.get("log_driver", ""), config=dict(options.get("log_options", {}))),
        auto_remove=options.get("remove", False),
    )


def format_port(port: str | int) -> str:
    """``80`` and ``80/tcp`` as ``80/tcp``. Raises Invalid."""
    number, _, protocol = str(port).partition("/")
    if not number.isascii() or not number.isdigit() or not 0 < int(number) < 65536:
        raise Invalid(f"not a port: {port!r}")
    return f"{int(number)}/{protocol or 'tcp'}"


def _make_binding(at: HostPort) -> tuple[PortBinding, ...]:
    address, port = at if isinstance(at, tuple) else ("", at)
    return (PortBinding(host_ip=address, host_port=str(port or "")),)


def _make_device(text: str) -> DeviceMapping:
    host, _, rest = text.partition(":")
    inside, _, mode = rest.partition(":")
    return DeviceMapping(
        path_on_host=host, path_in_container=inside or host, cgroup_permissions=mode or "rwm"
    )


def _make_ulimit(name: str, limit: int | tuple[int, int]) -> Ulimit:
    soft, hard = limit if isinstance(limit, tuple) else (limit, limit)
    return Ulimit(name=name, soft=soft, hard=hard)


def _make_restart(text: str) -> RestartPolicy:
    name, _, count = text.partition(":")
    if count and not count.isdigit():
        raise Invalid(f"invalid restart policy: {text!r}")
    return RestartPolicy(name=name, maximum_retry_count=int(count or 0))


def make_exec(command: Sequence[str], options: ExecOptions) -> bytes:
    """The body of an exec request. Raises Invalid."""
    if isinstance(command, str) or not command:
        raise Invalid(f"a command is a list of words: {command!r}")
    return msgspec.json.encode(
        ExecConfig(
            cmd=tuple(command),
            env=tuple(f"{name}={value}" for name, value in options.get("env", {}).items()),
            user=options.get("user", ""),
            working_dir=options.get("workdir", ""),
            privileged=options.get("privileged", False),
            tty=options.get("tty", False),
            attach_stdin=options.get("stdin", False),
            attach_stdout=True,
            attach_stderr=True,
        )
    )
