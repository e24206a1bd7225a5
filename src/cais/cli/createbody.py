"""From the flags of `run` and `create` to the body of ``POST /containers/create``; pure but for named files.

Only what was given is in the body: an absent field means Docker's default to the engine.
"""

from __future__ import annotations

from cais.cli.environment import read_lines, resolve_variable, split_pairs
from cais.cli.failure import Failure, wrong_option
from cais.cli.flags import quote
from cais.cli.mounts import parse_device, parse_volume
from cais.cli.networking import make_networking
from cais.cli.ports import parse_expose, parse_publish
from cais.cli.wirejson import format_json, parse_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cais.cli.flags import Flags

_TEXTS = {
    "cgroup-parent": "CgroupParent",
    "cgroupns": "CgroupnsMode",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "ipc": "IpcMode",
    "isolation": "Isolation",
    "pid": "PidMode",
    "runtime": "Runtime",
    "userns": "UsernsMode",
    "uts": "UTSMode",
    "volume-driver": "VolumeDriver",
}
_NUMBERS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "memory-swappiness": "MemorySwappiness",
    "oom-score-adj": "OomScoreAdj",
    "pids-limit": "PidsLimit",
    "shm-size": "ShmSize",
}
_BOOLS = {
    "init": "Init",
    "oom-kill-disable": "OomKillDisable",
    "privileged": "Privileged",
    "publish-all": "PublishAllPorts",
    "read-only": "ReadonlyRootfs",
    "rm": "AutoRemove",
}
_LISTS = {
    "blkio-weight-device": "BlkioWeightDevice",
    "device-cgroup-rule": "DeviceCgroupRules",
    "device-read-bps": "BlkioDeviceReadBps",
    "device-read-iops": "BlkioDeviceReadIOps",
    "device-write-bps": "BlkioDeviceWriteBps",
    "device-write-iops": "BlkioDeviceWriteIOps",
    "dns": "Dns",
    "dns-option": "DnsOptions",
    "dns-search": "DnsSearch",
    "add-host": "ExtraHosts",
    "group-add": "GroupAdd",
    "link": "Links",
    "mount": "Mounts",
    "volumes-from": "VolumesFrom",
}


def make_create_body(flags: Flags, outside: Mapping[str, str]) -> dict[str, Any]:
    """The create request. ``outside`` is this process's environment. Raises Failure for contradictions."""
    body = _make_config(flags, outside)
    body["HostConfig"] = host = _make_host_config(flags)
    _put_ports(body, host, flags)
    _put_volumes(body, host, flags)
    _put_security(host, flags)
    if healthcheck := _make_healthcheck(flags):
        body["Healthcheck"] = healthcheck
    host["NetworkMode"], endpoints = make_networking(flags)
    if endpoints:
        body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return body


def _make_config(flags: Flags, outside: Mapping[str, str]) -> dict[str, Any]:
    body: dict[str, Any] = {"Image": flags.args[0], **_make_streams(flags)}
    for flag, name in (
        ("hostname", "Hostname"),
        ("domainname", "Domainname"),
        ("user", "User"),
        ("workdir", "WorkingDir"),
        ("stop-signal", "StopSignal"),
    ):
        if text := flags.text(flag):
            body[name] = text
    if flags.given("stop-timeout"):
        body["StopTimeout"] = flags.number("stop-timeout")
    if flags.args[1:]:
        body["Cmd"] = flags.args[1:]
    if flags.given("entrypoint"):
        body["Entrypoint"] = [flags.text("entrypoint")]  # [""] resets the image's
    environment = read_lines(flags.many("env-file"), outside)
    environment += [resolve_variable(text, outside) for text in flags.many("env")]
    if environment:
        body["Env"] = environment
    labels = split_pairs([*read_lines(flags.many("label-file"), {}), *flags.many("label")])
    if labels:
        body["Labels"] = labels
    return body


def _make_streams(flags: Flags) -> dict[str, bool]:
    """Which streams are attached: the named ones, else all that make sense, none when detached."""
    interactive, named = flags.on("interactive"), flags.many("attach")
    detached = flags.on("detach")
    streams = {
        "AttachStdin": "stdin" in named or (not named and interactive),
        "AttachStdout": "stdout" in named or not named,
        "AttachStderr": "stderr" in named or not named,
    }
    if detached:
        streams = dict.fromkeys(streams, False)
    body = {name: True for name, on in streams.items() if on}
    if flags.on("tty"):
        body["Tty"] = True
    if interactive:
        body["OpenStdin"] = True
        if streams["AttachStdin"]:
            body["StdinOnce"] = True
    return body


def _make_host_config(flags: Flags) -> dict[str, Any]:
    host: dict[str, Any] = {name: flags.text(flag) for flag, name in _TEXTS.items() if flags.text(flag)}
    host.update({name: flags.number(flag) for flag, name in _NUMBERS.items() if flags.given(flag)})
    host.update({name: flags.on(flag) for flag, name in _BOOLS.items() if flags.given(flag)})
    host.update({name: flags.many(flag) for flag, name in _LISTS.items() if flags.many(flag)})
    for flag, name in (("annotation", "Annotations"), ("sysctl", "Sysctls")):
        if pairs := flags.many(flag):
            host[name] = split_pairs(pairs)
    for flag, name in (("cap-add", "CapAdd"), ("cap-drop", "CapDrop")):
        if names := flags.many(flag):
            host[name] = [format_capability(text) for text in names]
    if limits := flags.many("ulimit"):
        host["Ulimits"] = [v for _, v in sorted({limit["Name"]: limit for limit in limits}.items())]
    if devices := flags.many("device"):
        host["Devices"] = [_checked(parse_device, text) for text in devices]
    if mounts := flags.many("tmpfs"):
        host["Tmpfs"] = {path: options for path, _, options in (text.partition(":") for text in mounts)}
    if options := flags.many("storage-opt"):
        if any("=" not in option for option in options):
            raise wrong_option("invalid storage option")
        host["StorageOpt"] = split_pairs(options)
    _check_modes(flags)
    if flags.text("log-driver") == "none" and flags.many("log-opt"):
        raise wrong_option("invalid logging opts for driver none")
    if flags.given("log-driver") or flags.many("log-opt"):
        host["LogConfig"] = {"Type": flags.text("log-driver"), "Config": split_pairs(flags.many("log-opt"))}
    host["RestartPolicy"] = _make_restart(flags)
    return host


def format_capability(text: str) -> str:
    """The kernel's name for what people type: ``net_admin`` is ``CAP_NET_ADMIN``, ``all`` is ``ALL``."""
    name = text.strip().upper()
    return name if name in ("ALL", "RESET") or name.startswith("CAP_") else f"CAP_{name}"


def _check_modes(flags: Flags) -> None:
    """Refuse namespace modes that cannot exist; `ipc` is the engine's to judge, as in Docker."""
    for flag, words, what in (
        ("pid", ("host",), "PID"),
        ("uts", ("host",), "UTS"),
        ("userns", ("host",), "USER"),
        ("cgroupns", ("host", "private"), "CGROUP"),
    ):
        text = flags.text(flag)
        shared = flag in ("pid", "uts") and text.startswith("container:") and len(text) > len("container:")
        if text and text not in words and not shared:
            raise wrong_option(f"--{flag}: invalid {what} mode")


def _make_restart(flags: Flags) -> dict[str, Any]:
    text = flags.text("restart", "no")
    name, colon, count = text.partition(":")
    if colon and not count.removeprefix("-").isdigit():
        raise wrong_option("invalid restart policy format: maximum retry count must be an integer")
    if text and not name:
        raise wrong_option("invalid restart policy format: no policy provided before colon")
    if flags.on("rm") and name not in ("no", ""):
        raise wrong_option("conflicting options: cannot specify both --restart and --rm")
    return {"Name": name, "MaximumRetryCount": int(count)} if colon else {"Name": name}


def _put_ports(body: dict[str, Any], host: dict[str, Any], flags: Flags) -> None:
    exposed: dict[str, Any] = {}
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in flags.many("publish"):
        for port, binding in _checked(parse_publish, text):
            exposed[port] = {}
            bindings.setdefault(port, []).append(binding)
    for text in flags.many("expose"):
        exposed.update({port: {} for port in _checked(parse_expose, text)})
    if exposed:
        body["ExposedPorts"] = exposed
    if bindings:
        host["PortBindings"] = bindings


def _put_volumes(body: dict[str, Any], host: dict[str, Any], flags: Flags) -> None:
    anonymous, binds = {}, []
    for text in flags.many("volume"):
        kind, spec = _checked(parse_volume, text)
        if kind:
            binds.append(spec)
        else:
            anonymous[spec] = dict[str, str]()
    if anonymous:
        body["Volumes"] = anonymous
    if binds:
        host["Binds"] = binds


def _put_security(host: dict[str, Any], flags: Flags) -> None:
    """``seccomp=FILE`` is read here and sent as its content; ``systempaths=unconfined`` unmasks /proc."""
    given, sent = flags.many("security-opt"), []
    for text in given:
        name, equals, value = text.partition("=")
        if not equals and name != "no-new-privileges":
            name, equals, value = text.partition(":")
        if not value and name != "no-new-privileges":
            raise wrong_option(f"Invalid --security-opt: {quote(text)}")
        if text == "systempaths=unconfined":
            host["MaskedPaths"] = host["ReadonlyPaths"] = []
        elif name == "seccomp" and value not in ("unconfined", "builtin"):
            sent.append(f"seccomp={_read_profile(value)}")
        else:
            sent.append(text)
    if sent:
        host["SecurityOpt"] = sent


def _read_profile(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return format_json(parse_json(file.read()))
    except OSError as error:
        reason = f"open {path}: {(error.strerror or '').lower()}"
        raise wrong_option(f"opening seccomp profile ({path}) failed: {reason}") from None
    except ValueError as error:
        raise wrong_option(f"compacting json for seccomp profile ({path}) failed: {error}") from None


def _make_healthcheck(flags: Flags) -> dict[str, Any]:
    times = {
        "health-interval": "Interval",
        "health-timeout": "Timeout",
        "health-start-period": "StartPeriod",
        "health-start-interval": "StartInterval",
        "health-retries": "Retries",
    }
    given = {name: flags.number(flag) for flag, name in times.items() if flags.number(flag)}
    command = flags.text("health-cmd")
    if flags.on("no-healthcheck"):
        if given or command:
            raise wrong_option("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    for flag in times:
        if flags.number(flag) < 0:
            raise wrong_option(f"--{flag} cannot be negative")
    return {**given, "Test": ["CMD-SHELL", command]} if command else given


def _checked(parse: Any, text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise wrong_option(str(error)) from None


def check_streams(flags: Flags) -> None:
    """What `run` refuses before anything else. Raises Failure, exit code 1."""
    if flags.on("detach") and flags.many("attach"):
        raise Failure("conflicting options: cannot specify both --attach and --detach")
