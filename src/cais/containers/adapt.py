"""Filling in what a create request leaves open: from the image, and with Docker's defaults (pure)."""

import posixpath

from msgspec.structs import replace

from cais.config import Config
from cais.containers.limits import Machine
from cais.containers.mountspec import clean
from cais.containers.options import shared_with
from cais.containers.runspec import MASKED_PATHS, READONLY_PATHS
from cais.errors import Invalid
from cais.spec.container import ContainerConfig, Healthcheck, HostConfig, LogConfig, RestartPolicy
from cais.spec.image import ContainerDefaults
from cais.spec.image import Healthcheck as ImageHealthcheck


def merge_config(config: ContainerConfig, image: ContainerDefaults) -> ContainerConfig:
    """The user's configuration over the image's, by Docker's rules. An entry point of the user's drops the image's
    command; an empty list of them too. Raises Invalid when nothing is left to run."""
    entrypoint, cmd = config.entrypoint, config.cmd
    if not entrypoint:
        if not cmd:
            cmd = image.cmd or None
        if entrypoint is None:
            entrypoint = image.entrypoint or None
    if entrypoint in ((), ("",)):
        entrypoint = None
    if not entrypoint and not cmd:
        raise Invalid("no command specified")
    working_dir = config.working_dir or image.working_dir
    return replace(
        config,
        user=config.user or image.user,
        exposed_ports={port: {} for port in (*image.exposed_ports, *config.exposed_ports)},
        env=config.env + _missing_env(image.env, config.env),
        cmd=cmd,
        entrypoint=entrypoint,
        volumes={path: {} for path in (*image.volumes, *config.volumes)},
        working_dir=clean(posixpath.join("/", working_dir)) if working_dir else "",
        labels=image.labels | config.labels,
        stop_signal=config.stop_signal or image.stop_signal,
        stop_timeout=image.stop_timeout if config.stop_timeout is None else config.stop_timeout,
        shell=config.shell or image.shell,
        healthcheck=_merge_health(config.healthcheck, image.healthcheck),
        on_build=config.on_build,
    )


def _missing_env(image: tuple[str, ...], user: tuple[str, ...]) -> tuple[str, ...]:
    names = {text.partition("=")[0] for text in user}
    return tuple(text for text in image if text.partition("=")[0] not in names)


def _merge_health(user: Healthcheck | None, image: ImageHealthcheck | None) -> Healthcheck | None:
    if image is None:
        return user
    mine = user or Healthcheck()
    return Healthcheck(
        test=mine.test or image.test,
        interval=mine.interval or image.interval,
        timeout=mine.timeout or image.timeout,
        start_period=mine.start_period or image.start_period,
        start_interval=mine.start_interval or image.start_interval,
        retries=mine.retries or image.retries,
    )


def fill_hostname(config: ContainerConfig, host: HostConfig, id: str, machine: Machine) -> ContainerConfig:
    """The short id, or the host's name where the network is the host's."""
    if config.hostname:
        return config
    shared = host.network_mode == "host" or host.uts_mode == "host"
    return replace(config, hostname=machine.hostname if shared else id[:12])


def fill_host(host: HostConfig, config: Config, machine: Machine) -> HostConfig:
    """Docker's defaults, and the engine's own where they are set."""
    policy = host.restart_policy
    cgroupns = host.cgroupns_mode or "private"
    driver = host.log_config.type or config.log_driver
    options = host.log_config.config
    if not host.log_config.type or host.log_config.type == config.log_driver:
        options = config.log_options | options
    return replace(
        host,
        restart_policy=policy if policy.name else RestartPolicy(name="no"),
        memory_swap=host.memory * 2 if host.memory > 0 and host.memory_swap == 0 else host.memory_swap,
        shm_size=host.shm_size or config.default_shm_size,
        ipc_mode=host.ipc_mode or "private",
        network_mode="bridge" if host.network_mode in ("", "default") else host.network_mode,
        cgroupns_mode=cgroupns,
        runtime=host.runtime or config.default_runtime,
        log_config=LogConfig(type=driver, config=dict(options)),
        pids_limit=None if host.pids_limit is not None and host.pids_limit <= 0 else host.pids_limit,
        oom_kill_disable=bool(host.oom_kill_disable),
        masked_paths=_paths(host.masked_paths, MASKED_PATHS + machine.masked, host.privileged),
        readonly_paths=_paths(host.readonly_paths, READONLY_PATHS, host.privileged),
    )


def _paths(
    asked: tuple[str, ...] | None, default: tuple[str, ...], privileged: bool
) -> tuple[str, ...] | None:
    return default if asked is None and not privileged else asked


def donors(host: HostConfig) -> dict[str, str]:
    """Field name → container whose namespace is shared."""
    modes = {"network_mode": host.network_mode, "ipc_mode": host.ipc_mode, "pid_mode": host.pid_mode}
    return {field: shared_with(mode) for field, mode in modes.items() if shared_with(mode)}
