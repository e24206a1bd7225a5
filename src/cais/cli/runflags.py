"""The flags of `run` and `create`: the table, and the kinds of value only they have."""

from __future__ import annotations

from cais.cli.environment import parse_label, parse_variable
from cais.cli.flags import KINDS, quote
from cais.cli.mounts import parse_mount, split_csv
from cais.cli.ports import parse_ip
from cais.cli.units import parse_bytes, parse_cpus, parse_duration, parse_swap, parse_ulimit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cais.cli.flags import Parser, Row

_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def parse_stream(text: str) -> str:
    """A standard stream's name. Raises ValueError."""
    name = text.lower()
    if name not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return name


def parse_host_entry(text: str) -> str:
    """``name:ip`` or ``name=ip`` (``host-gateway`` is an ip too) as ``name:ip``. Raises ValueError."""
    name, found, address = text.partition("=" if "=" in text else ":")
    if not found or not name or ":" in name:
        raise ValueError(f"bad format for add-host: {quote(text)}")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address != "host-gateway":
        try:
            parse_ip(address)
        except ValueError:
            raise ValueError(f"invalid IP address in add-host: {quote(address)}") from None
    return f"{name}:{address}"


def parse_search_domain(text: str) -> str:
    """A DNS search domain, or ``.`` for none. Raises ValueError."""
    domain = text.strip(" ")
    labels = domain.removesuffix(".").split(".")
    good = all(
        label and label.replace("-", "a").isalnum() and label.isascii() and label == label.strip("-")
        for label in labels
    )
    if domain != "." and not (good and any(char.isalpha() for char in domain)):
        raise ValueError(f"{domain} is not a valid domain")
    return domain


def parse_sysctl(text: str) -> str:
    """``name=value`` of a namespaced kernel parameter. Raises ValueError."""
    name, equals, _ = text.partition("=")
    if not equals or not (name in _SYSCTLS or name.startswith(("net.", "fs.mqueue."))):
        raise ValueError(f"sysctl '{text}' is not allowed")
    return text


def parse_link(text: str) -> str:
    """``container[:alias]``. Raises ValueError."""
    if not text:
        raise ValueError("empty string specified for links")
    if text.count(":") > 1:
        raise ValueError(f"bad format for links: {text}")
    return text


def parse_device_rule(text: str) -> str:
    """A line of the devices cgroup: ``c 1:3 rwm``. Raises ValueError."""
    kind, _, rest = text.partition(" ")
    numbers, _, access = rest.partition(" ")
    major, colon, minor = numbers.partition(":")
    good = kind in ("a", "b", "c") and colon and set(access) <= set("rwm") and 1 <= len(access) <= 3
    if not good or not all(number == "*" or number.isdigit() for number in (major, minor)):
        raise ValueError(f"invalid device cgroup format '{text}'")
    return text


_NETWORK_KEYS = {
    "name": "name",
    "alias": "aliases",
    "ip": "ip",
    "ip6": "ip6",
    "mac-address": "mac",
    "link-local-ip": "local",
    "driver-opt": "options",
    "gw-priority": "priority",
}


def parse_network(text: str) -> dict[str, list[str]]:
    """``NAME`` or ``name=…,alias=…``: the given values by field. Raises ValueError."""
    if "=" not in text:
        return {"name": [text]}
    given: dict[str, list[str]] = {}
    for field in split_csv(text):
        key, equals, value = field.lower().partition("=")
        if not equals or not key:
            raise ValueError(f"invalid field {field}")
        if key.strip() not in _NETWORK_KEYS:
            raise ValueError(f"invalid field key {key.strip()}")
        given.setdefault(_NETWORK_KEYS[key.strip()], []).append(value.strip())
    if not any(given.get("name", [])):
        raise ValueError("network name/id is not specified")
    return given


def parse_throttle(text: str) -> dict[str, object]:
    """``/dev/path:rate`` with a size as rate. Raises ValueError."""
    path, colon, rate = text.partition(":")
    if not colon or not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return {"Path": path, "Rate": parse_bytes(rate)}


def parse_weight(text: str) -> dict[str, object]:
    """``/dev/path:weight``. Raises ValueError."""
    path, colon, weight = text.partition(":")
    if not colon or not path.startswith("/dev/"):
        raise ValueError(f"bad format: {text}")
    if not weight.isdigit() or not (weight == "0" or 10 <= int(weight) <= 1000):
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(weight)}


RUN_KINDS: Mapping[str, Parser] = {
    **KINDS,
    "bytes": parse_bytes,
    "swap": parse_swap,
    "decimal": parse_cpus,
    "duration": parse_duration,
    "ulimit...": parse_ulimit,
    "mount...": parse_mount,
    "network...": parse_network,
    "env...": parse_variable,
    "label...": parse_label,
    "stream...": parse_stream,
    "host...": parse_host_entry,
    "ip...": parse_ip,
    "domain...": parse_search_domain,
    "sysctl...": parse_sysctl,
    "link...": parse_link,
    "rule...": parse_device_rule,
    "throttle...": parse_throttle,
    "weight...": parse_weight,
}

CREATE_FLAGS: tuple[Row, ...] = (
    ("add-host", "", "host...", "Line for /etc/hosts: name:ip, or name:host-gateway"),
    ("annotation", "", "list...", "OCI annotation, key=value"),
    ("attach", "a", "stream...", "Stream to attach: stdin, stdout, stderr"),
    ("blkio-weight", "", "uint16", "Share of block I/O, 10 to 1000; 0: none"),
    ("blkio-weight-device", "", "weight...", "Share of one device's I/O, /dev/x:weight"),
    ("cap-add", "", "list...", "Capability to add"),
    ("cap-drop", "", "list...", "Capability to drop"),
    ("cgroup-parent", "", "string", "Parent cgroup"),
    ("cgroupns", "", "string", "Cgroup namespace: private or host"),
    ("cidfile", "", "string", "File to write the container's id to"),
    ("cpu-period", "", "int", "CFS period, microseconds"),
    ("cpu-quota", "", "int", "CFS quota, microseconds"),
    ("cpu-rt-period", "", "int", "Real-time period, microseconds"),
    ("cpu-rt-runtime", "", "int", "Real-time runtime, microseconds"),
    ("cpu-shares", "c", "int", "Relative share of CPU time"),
    ("cpus", "", "decimal", "Number of CPUs, 1.5 for one and a half"),
    ("cpuset-cpus", "", "string", "CPUs to run on: 0-3 or 0,1"),
    ("cpuset-mems", "", "string", "Memory nodes to use: 0-3 or 0,1"),
    ("device", "", "list...", "Host device to add: /dev/x[:/dev/y][:rwm]"),
    ("device-cgroup-rule", "", "rule...", "Rule for the device allow-list: 'c 1:3 rwm'"),
    ("device-read-bps", "", "throttle...", "Read limit in bytes a second, /dev/x:rate"),
    ("device-read-iops", "", "throttle...", "Read limit in operations a second, /dev/x:rate"),
    ("device-write-bps", "", "throttle...", "Write limit in bytes a second, /dev/x:rate"),
    ("device-write-iops", "", "throttle...", "Write limit in operations a second, /dev/x:rate"),
    ("disable-content-trust", "", "bool", "Accepted for compatibility"),
    ("dns", "", "ip...", "DNS server"),
    ("dns-opt", "", "list...", ""),
    ("dns-option", "", "list...", "Option for /etc/resolv.conf"),
    ("dns-search", "", "domain...", "DNS search domain"),
    ("domainname", "", "string", "NIS domain name"),
    ("entrypoint", "", "string", "Program to run instead of the image's; '' for none"),
    ("env", "e", "env...", "Variable: NAME=value, or NAME to pass it on"),
    ("env-file", "", "list...", "File of NAME=value lines"),
    ("expose", "", "list...", "Port or range of ports to expose"),
    ("group-add", "", "list...", "Additional group"),
    ("health-cmd", "", "string", "Command that checks the container's health"),
    ("health-interval", "", "duration", "Time between two checks"),
    ("health-retries", "", "int", "Failures in a row that mean unhealthy"),
    ("health-start-interval", "", "duration", "Time between two checks while starting"),
    ("health-start-period", "", "duration", "Time to start up in which failures do not count"),
    ("health-timeout", "", "duration", "Longest time for one check"),
    ("hostname", "h", "string", "Host name inside"),
    ("init", "", "bool", "Run a small init as process 1"),
    ("interactive", "i", "bool", "Keep stdin open"),
    ("ip", "", "string", "IPv4 address"),
    ("ip6", "", "string", "IPv6 address"),
    ("ipc", "", "string", "IPC namespace: private, shareable, host, none, container:ID"),
    ("isolation", "", "string", "Accepted for compatibility"),
    ("kernel-memory", "", "bytes", "Accepted for compatibility"),
    ("label", "l", "label...", "Label, key=value"),
    ("label-file", "", "list...", "File of key=value lines"),
    ("link", "", "link...", "Link to another container"),
    ("link-local-ip", "", "list...", "Link-local address"),
    ("log-driver", "", "string", "Where output goes: json-file, local, none"),
    ("log-opt", "", "list...", "Option of the log driver, key=value"),
    ("mac-address", "", "string", "MAC address"),
    ("memory", "m", "bytes", "Memory limit, e.g. 64m"),
    ("memory-reservation", "", "bytes", "Soft memory limit"),
    ("memory-swap", "", "swap", "Memory and swap together; -1: no limit"),
    ("memory-swappiness", "", "int", "Willingness to swap, 0 to 100"),
    ("mount", "", "mount...", "Mount: type=bind|volume|tmpfs,src=…,dst=…[,readonly…]"),
    ("name", "", "string", "Name of the container"),
    ("net", "", "network...", ""),
    ("net-alias", "", "list...", ""),
    ("network", "", "network...", "Network: bridge, none, host, container:ID, or a name"),
    ("network-alias", "", "list...", "Further name in that network"),
    ("no-healthcheck", "", "bool", "Turn the image's health check off"),
    ("oom-kill-disable", "", "bool", "Do not kill when memory runs out"),
    ("oom-score-adj", "", "int", "Preference of the OOM killer, -1000 to 1000"),
    ("pid", "", "string", "PID namespace: host, container:ID"),
    ("pids-limit", "", "int", "Most processes and threads; -1: no limit"),
    ("platform", "", "string", "Platform of the image: os/arch[/variant]"),
    ("privileged", "", "bool", "All capabilities and devices"),
    ("publish", "p", "list...", "Publish a port: [[ip:]host:]container[/proto]"),
    ("publish-all", "P", "bool", "Publish all exposed ports at random host ports"),
    ("pull", "", "string", "When to pull the image: always, missing, never"),
    ("quiet", "q", "bool", "No output of a pull"),
    ("read-only", "", "bool", "Read-only root file system"),
    ("restart", "", "string", "Restart rule: no, on-failure[:n], always, unless-stopped"),
    ("rm", "", "bool", "Remove the container when it exits"),
    ("runtime", "", "string", "Runtime to use"),
    ("security-opt", "", "list...", "seccomp=FILE|unconfined, no-new-privileges, apparmor=…, label=…"),
    ("shm-size", "", "bytes", "Size of /dev/shm"),
    ("stop-signal", "", "string", "Signal that asks it to stop"),
    ("stop-timeout", "", "int", "Seconds it may take to stop"),
    ("storage-opt", "", "list...", "Option of the storage driver, key=value"),
    ("sysctl", "", "sysctl...", "Kernel parameter, name=value"),
    ("tmpfs", "", "list...", "tmpfs mount: /path[:options]"),
    ("tty", "t", "bool", "Give it a terminal"),
    ("ulimit", "", "ulimit...", "Resource limit, name=soft[:hard]"),
    ("user", "u", "string", "User: name|uid[:group|gid]"),
    ("userns", "", "string", "User namespace: host"),
    ("uts", "", "string", "UTS namespace: host"),
    ("volume", "v", "list...", "Volume or bind mount: [src:]dst[:options]"),
    ("volume-driver", "", "string", "Driver for named volumes"),
    ("volumes-from", "", "list...", "Take the volumes of another container"),
    ("workdir", "w", "string", "Working folder inside"),
)

RUN_FLAGS: tuple[Row, ...] = (
    *CREATE_FLAGS,
    ("detach", "d", "bool", "Run in the background and print the id"),
    ("detach-keys", "", "string", "Keys that detach, e.g. ctrl-p,ctrl-q"),
    ("sig-proxy", "", "bool", "Pass signals on to the process (default true)"),
)
