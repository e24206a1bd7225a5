"""Routes about the engine itself: ping, version, info, disk usage."""

import asyncio
import os
import platform
import time
from pathlib import Path

from aiohttp import web

from cais.api import version as api
from cais.api.call import Call
from cais.api.replies import COMMON_HEADERS, json_reply
from cais.api.router import Route
from cais.api.services import Services
from cais.api.wire import system as wire
from cais.api.wire.base import format_time

_PING_HEADERS = {
    **COMMON_HEADERS,
    # 1: the classic builder; BuildKit ("2") comes with the build room.
    "Builder-Version": "2",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Swarm": "inactive",
    "Content-Type": "text/plain; charset=utf-8",
}


class SystemRoutes:
    """``/_ping``, ``/version``, ``/info``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("GET", "/_ping", self.ping),
            Route("HEAD", "/_ping", self.ping),
            Route("GET", "/version", self.version),
            Route("GET", "/info", self.info),
        ]

    async def ping(self, call: Call) -> web.Response:
        """``OK``, and the versions in the headers; the CLI begins every command with it."""
        return web.Response(body=b"" if call.request.method == "HEAD" else b"OK", headers=_PING_HEADERS)

    async def version(self, call: Call) -> web.Response:
        """What runs here."""
        facts = self._services.facts
        details = {
            "ApiVersion": api.format_version(api.MAX_VERSION),
            "Arch": facts.go_architecture,
            "Experimental": "false",
            "KernelVersion": facts.kernel,
            "MinAPIVersion": api.format_version(api.MIN_VERSION),
            "Os": "linux",
            "Python": platform.python_version(),
        }
        reply = wire.VersionReply(
            platform=wire.Platform(name="Cais"),
            components=(wire.Component(name="Engine", version=api.ENGINE_VERSION, details=details),),
            version=api.ENGINE_VERSION,
            api_version=details["ApiVersion"],
            min_api_version=details["MinAPIVersion"],
            go_version=f"python{platform.python_version()}",
            arch=facts.go_architecture,
            kernel_version=facts.kernel,
        )
        return json_reply(reply)

    async def info(self, call: Call) -> web.Response:
        """Everything about the engine and its machine."""
        states = [summary.state.status for summary in self._services.containers.records()]
        images = len(await self._services.images.list())
        return json_reply(wire.legacy_info(make_info(self._services, states, images), call.version))


def make_info(services: Services, states: list[str], images: int) -> wire.InfoReply:
    """``/info`` from the services; ``states`` are the containers' statuses."""
    facts, config = services.facts, services.config
    running = sum(state in ("running", "restarting") for state in states)
    paused = states.count("paused")
    warnings = (*facts.warnings, *(f"WARNING: {line}" for line in services.networks.warnings))
    return wire.InfoReply(
        id=facts.engine_id,
        containers=len(states),
        containers_running=running,
        containers_paused=paused,
        containers_stopped=len(states) - running - paused,
        images=images,
        driver=facts.storage_driver,
        driver_status=(("Backing Filesystem", facts.backing_filesystem), ("Supports d_type", "true")),
        memory_limit="memory" not in facts.missing,
        swap_limit="swap" not in facts.missing,
        cpu_cfs_period="cpu-quota" not in facts.missing,
        cpu_cfs_quota="cpu-quota" not in facts.missing,
        cpu_shares="cpu-shares" not in facts.missing,
        cpu_set="cpuset" not in facts.missing,
        pids_limit="pids" not in facts.missing,
        ipv4_forwarding=_is_forwarding(),
        debug=config.debug,
        n_fd=len(os.listdir("/proc/self/fd")),
        oom_kill_disable="oom-kill-disable" not in facts.missing,
        n_goroutines=len(asyncio.all_tasks()),
        system_time=format_time(time.time_ns()),
        logging_driver=config.log_driver,
        cgroup_version=facts.cgroup_version,
        n_events_listener=services.bus.subscribers,
        kernel_version=facts.kernel,
        operating_system=facts.operating_system,
        os_version=facts.os_version,
        architecture=facts.architecture,
        registry_config=_registries(services),
        n_cpu=facts.cpus,
        mem_total=facts.memory,
        docker_root_dir=str(config.root),
        name=facts.hostname,
        labels=config.labels,
        server_version=api.ENGINE_VERSION,
        runtimes={"cais": wire.Runtime(path="cais")},
        default_runtime=config.default_runtime,
        live_restore_enabled=config.live_restore,
        security_options=facts.security_options,
        warnings=warnings or None,
    )


def _registries(services: Services) -> wire.RegistryConfig:
    config = services.config
    hub = wire.IndexConfig(name="docker.io", mirrors=config.registry_mirrors, official=True)
    named = {
        name: wire.IndexConfig(name=name, secure=False)
        for name in config.insecure_registries
        if "/" not in name
    }
    cidrs = tuple(name for name in config.insecure_registries if "/" in name)
    return wire.RegistryConfig(
        index_configs={"docker.io": hub, **named},
        insecure_registry_cidrs=("::1/128", "127.0.0.0/8", *cidrs),
        mirrors=config.registry_mirrors or None,
    )


def _is_forwarding() -> bool:
    try:
        with Path("/proc/sys/net/ipv4/ip_forward").open("rb") as file:
            return file.read(1) == b"1"
    except OSError:
        return False
