"""Checks of a create request: what is unknown or contradictory is refused, in Docker's words (pure)."""

import ipaddress
import re

import msgspec

from cais.containers import capabilities, labels, limits, ports
from cais.containers.limits import Machine
from cais.containers.mountspec import clean
from cais.containers.signals import parse_signal
from cais.errors import Invalid, Unsupported
from cais.spec.container import ContainerConfig, HostConfig, NetworkingConfig, RestartPolicy
from cais.spec.seccomp import parse_profile

LOG_DRIVERS = ("json-file", "local", "none")
RUNTIMES = ("cais", "runc", "io.containerd.runc.v2")
"""Names of the one built-in runtime; the last two are what Docker's clients are used to."""

PREDEFINED = ("bridge", "default", "host", "none")
"""Networks that are always there and offer no addresses or names of one's choice."""

PLAIN_SECCOMP = ("", "unconfined", "builtin", "default")
"""Words instead of a profile."""

_HOSTNAME_LIMIT = 64
_MILLISECOND = 1_000_000
_LOG_OPTIONS = ("max-size", "max-file")
_LOG_DEFAULTS = {"compress": "false", "mode": "blocking"}
"""Options of Docker's that may be said as long as they say what is so anyway."""

_LOG_FOREIGN = frozenset(
    ("compress", "labels", "labels-regex", "env", "env-regex", "tag", "mode", "max-buffer-size")
)
"""Options of Docker's that this engine does not have."""

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)i?b?", re.ASCII | re.IGNORECASE)
_IPC_SYSCTLS = frozenset(
    "kernel." + name
    for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split()  # noqa: SIM905
)
_SYSCTL_NAME = re.compile(r"[a-z0-9_][a-zA-Z0-9_:-]*([./][a-zA-Z0-9_:-]+)+", re.ASCII)


def shared_with(mode: str) -> str:
    """The container named by a mode ``container:NAME``, empty for all other modes."""
    kind, _, name = mode.partition(":")
    return name if kind == "container" else ""


def check_config(config: ContainerConfig) -> None:
    """The portable half. Raises Invalid."""
    if len(config.hostname) > _HOSTNAME_LIMIT:
        raise Invalid(f'hostname "{config.hostname}" is too long (maximum {_HOSTNAME_LIMIT} bytes)')
    for name in (config.hostname, config.domainname):
        # It becomes a line of /etc/hosts and /etc/hostname.
        if re.search(r"[\s\0/]", name):
            raise Invalid(f"invalid hostname: {name!r}")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise Invalid(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.stop_signal:
        parse_signal(config.stop_signal)
    for text in config.env:
        if not text or text.startswith("="):
            raise Invalid(f"invalid environment variable: {text}")
    for words in (config.env, config.cmd or (), config.entrypoint or (), (config.working_dir, config.user)):
        if any("\0" in word for word in words):
            raise Invalid("invalid create request: a text holds a null byte")
    for text in config.exposed_ports:
        ports.parse_port(text)
    _check_health(config)


def _check_health(config: ContainerConfig) -> None:
    health = config.healthcheck
    if health is None:
        return
    times = {"Interval": health.interval, "Timeout": health.timeout, "StartPeriod": health.start_period}
    for name, value in (times | {"StartInterval": health.start_interval}).items():
        if value != 0 and value < _MILLISECOND:
            raise Invalid(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise Invalid("Retries in Healthcheck cannot be negative")


def check_request(config: ContainerConfig, host: HostConfig, machine: Machine) -> list[str]:
    """Everything that can be said without looking at images, volumes and other containers. Returns warnings; raises
    Invalid."""
    _check_network_mode(config, host)
    check_config(config)
    if host.isolation not in ("", "default"):
        raise Invalid(f"invalid isolation ({host.isolation}): linux only supports 'default'")
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise Invalid("can't create 'AutoRemove' container with restart policy")
    check_restart_policy(host.restart_policy)
    for text in host.extra_hosts:
        check_extra_host(text)
    ports.plan_ports(host.port_bindings, config.exposed_ports, host.publish_all_ports)
    _check_capabilities(host, machine)
    if "" in host.annotations:
        raise Invalid("invalid Annotations: the empty string is not permitted as an annotation key")
    warnings = limits.check_resources(host, machine)
    _check_modes(host)
    _check_sysctls(host)
    check_dns(host)
    check_log(host.log_config.type, host.log_config.config)
    security = parse_security(host.security_opt)
    labels.choose_profile(security.apparmor, privileged=host.privileged, machine=machine)
    labels.check_label(security.selinux, machine)
    if host.network_mode == "host" and host.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    return warnings


def _check_network_mode(config: ContainerConfig, host: HostConfig) -> None:
    if host.network_mode.startswith("container:"):
        if not shared_with(host.network_mode):
            raise Invalid("Invalid network mode: invalid container format container:<name|id>")
        conflicts = (
            (config.hostname, "hostname and the network mode"),
            (
                host.links,
                "container type network can't be used with links. This would result in undefined behavior",
            ),
            (host.dns, "dns and the network mode"),
            (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
            (
                host.port_bindings or host.publish_all_ports,
                "port publishing and the container type network mode",
            ),
            (config.exposed_ports, "port exposing and the container type network mode"),
        )
        for present, words in conflicts:
            if present:
                raise Invalid(f"conflicting options: {words}")
    if host.uts_mode == "host" and config.hostname:
        raise Invalid("conflicting options: hostname and the UTS mode")
    if host.network_mode == "host" and host.links:
        raise Invalid(
            "conflicting options: host type networking can't be used with links. This would result in "
            "undefined behavior"
        )


def check_endpoints(networking: NetworkingConfig) -> None:
    """What only user networks offer. Raises Invalid in Docker's words."""
    for name, wish in networking.endpoints_config.items():
        if name not in PREDEFINED:
            continue
        ipam = wish.ipam_config
        if ipam and (ipam.ipv4_address or ipam.ipv6_address):
            raise Invalid(
                f"invalid config for network {name}: invalid endpoint settings: user specified IP address is "
                "supported on user defined networks only"
            )
        if wish.aliases:
            raise Invalid(
                f"invalid config for network {name}: invalid endpoint settings: network-scoped alias is supported "
                "only for containers in user defined networks"
            )


def check_restart_policy(policy: RestartPolicy) -> None:
    """Raises Invalid."""
    count = policy.maximum_retry_count
    if policy.name in ("always", "unless-stopped", "no") and count:
        negative = " and cannot be negative" if count < 0 else ""
        raise Invalid(
            f"invalid restart policy: maximum retry count can only be used with 'on-failure'{negative}"
        )
    if policy.name == "on-failure" and count < 0:
        raise Invalid("invalid restart policy: maximum retry count cannot be negative")
    if policy.name not in ("", "no", "always", "on-failure", "unless-stopped"):
        raise Invalid(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', 'on-failure', "
            "or 'unless-stopped'"
        )


def check_extra_host(text: str) -> None:
    """``name:address`` (or ``name=address``); ``host-gateway`` is an address. Raises Invalid."""
    name, separator, address = split_extra_host(text)
    if not separator or not name:
        raise Invalid(f'bad format for add-host: "{text}"')
    if address != "host-gateway" and not _is_address(address.strip("[]")):
        raise Invalid(f'invalid IP address in add-host: "{address}"')
    if not re.fullmatch(r"[^\s#]+", name):
        # It becomes a line of /etc/hosts: a blank or a newline would add names nobody checked.
        raise Invalid(f'bad format for add-host: "{text}"')


def split_extra_host(text: str) -> tuple[str, str, str]:
    """Name, separator, address."""
    colon, equals = text.find(":"), text.find("=")
    return text.partition("=" if equals != -1 and (colon == -1 or equals < colon) else ":")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def check_dns(host: HostConfig) -> None:
    """Raises Invalid for a name server that is no address and for texts that would break resolv.conf."""
    for server in host.dns:
        if not _is_address(server):
            raise Invalid(f"invalid DNS server: {server} is not an ip address")
    for text in (*host.dns_search, *host.dns_options):
        if not text or re.search(r"\s", text):
            raise Invalid(f"{text!r} is not a valid domain")


def _check_capabilities(host: HostConfig, machine: Machine) -> None:
    for field, names, available in (
        ("CapAdd", host.cap_add, machine.capabilities),
        ("CapDrop", host.cap_drop, capabilities.KNOWN),
    ):
        try:
            capabilities.normalize(names, available)
        except Invalid as error:
            raise Invalid(f"invalid {field}: {error}") from error


def _check_modes(host: HostConfig) -> None:
    if host.ipc_mode not in ("", "private", "shareable", "none", "host") and not shared_with(host.ipc_mode):
        raise Invalid(f"invalid IPC mode: {host.ipc_mode}")
    if host.pid_mode not in ("", "private", "host") and not shared_with(host.pid_mode):
        raise Invalid(f"invalid PID mode: {host.pid_mode}")
    if host.uts_mode not in ("", "private", "host"):
        raise Invalid(f"invalid UTS mode: {host.uts_mode}")
    if host.userns_mode not in ("", "host"):
        raise Invalid(f"invalid USER mode: {host.userns_mode}")
    if host.cgroupns_mode not in ("", "private", "host"):
        raise Invalid(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.shm_size < 0:
        raise Invalid("SHM size can not be less than 0")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise Invalid(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.runtime not in ("", *RUNTIMES):
        raise Invalid(f"unknown or invalid runtime name: {host.runtime}")
    if ".." in host.cgroup_parent.split("/"):
        raise Invalid(f"invalid cgroup parent: {host.cgroup_parent}")
    for destination in host.tmpfs:
        if not destination.startswith("/"):
            raise Invalid(f"invalid mount path: '{destination}' mount path must be absolute")
        if clean(destination) == "/":
            raise Invalid("invalid specification: destination can't be '/'")


def _check_sysctls(host: HostConfig) -> None:
    """Only what a namespace of the container's own has: a sysctl of the host would change the host."""
    for key, value in host.sysctls.items():
        name = key.replace("/", ".")
        if not _SYSCTL_NAME.fullmatch(key) or ("." in key and "/" in key) or "\n" in value or "\0" in value:
            raise Invalid(f'invalid sysctl: "{key}"')
        if name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
            if host.ipc_mode == "host":
                raise Invalid(f'sysctl "{key}" is not allowed in the hosts ipc namespace')
        elif name.startswith("net."):
            if host.network_mode == "host":
                raise Invalid(f'sysctl "{key}" not allowed in host network namespace')
        elif name == "kernel.domainname":
            if host.uts_mode == "host":
                raise Invalid(f'sysctl "{key}" is not allowed in the hosts uts namespace')
        elif name == "kernel.hostname":
            raise Invalid(f'sysctl "{key}" is not allowed as it conflicts with the OCI "hostname" field')
        else:
            raise Invalid(f'sysctl "{key}" is not in a separate kernel namespace')


def check_log(driver: str, options: dict[str, str]) -> None:
    """Raises Invalid; Unsupported for options of Docker's that would have no effect."""
    if driver and driver not in LOG_DRIVERS:
        raise Invalid(f"logger: no log driver named '{driver}' is registered")
    for key, value in options.items():
        if _LOG_DEFAULTS.get(key) == value or (key in _LOG_OPTIONS and driver != "none"):
            continue
        if key in _LOG_FOREIGN:
            raise Unsupported(f"log opt '{key}' is not supported")
        raise Invalid(f"unknown log opt '{key}' for {driver or 'json-file'} log driver")
    if "max-size" in options:
        parse_size(options["max-size"])
    files = options.get("max-file", "1")
    if not (files.isascii() and files.isdecimal()) or int(files) < 1:
        raise Invalid("max-file cannot be less than 1")
    if int(files) > 1 and "max-size" not in options and (driver or "json-file") == "json-file":
        raise Invalid("max-file cannot be set without max-size")


def parse_size(text: str) -> int:
    """Bytes of ``10m``, ``1.5g``, ``512``; -1 for ``-1``. Raises Invalid."""
    if text == "-1":
        return -1
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise Invalid(f"invalid size: '{text}'")
    return int(float(found[1]) * 1024 ** " kmgtp".index(found[2].lower() or " "))


class Security(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--security-opt`` says. ``None`` is not said; ``selinux`` is the whole label."""

    no_new_privileges: bool | None = None
    seccomp: str = ""
    apparmor: str = ""
    selinux: str = ""
    writable_cgroups: bool | None = None


def parse_security(texts: tuple[str, ...]) -> Security:
    """Read ``--security-opt``. Raises Invalid."""
    found: dict[str, object] = {}
    wanted: list[str] = []
    for text in texts:
        key, separator, value = text.partition("=" if "=" in text else ":")
        if text in ("no-new-privileges", "writable-cgroups"):
            found[text.replace("-", "_")] = True
        elif text == "disable":
            wanted.append("disable")
        elif not separator:
            raise Invalid(f'invalid --security-opt 1: "{text}"')
        elif key == "label":
            wanted.append(value)
        elif key in ("apparmor", "seccomp"):
            found[key] = value
        elif key in ("no-new-privileges", "writable-cgroups"):
            found[key.replace("-", "_")] = _flag(text, value)
        else:
            raise Invalid(f'invalid --security-opt 2: "{text}"')
    security = msgspec.convert(found | {"selinux": labels.compose_label(wanted)}, Security)
    labels.check_profile_name(security.apparmor)
    if security.seccomp not in PLAIN_SECCOMP:
        parse_profile(security.seccomp)
    return security


def _flag(text: str, value: str) -> bool:
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise Invalid(f'invalid --security-opt 2: "{text}"')
