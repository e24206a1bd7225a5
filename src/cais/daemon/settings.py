"""From what flags and ``daemon.json`` set to the one frozen ``Config``."""

import hashlib
import ipaddress
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from cais.config import DEFAULT_ROOT, DEFAULT_RUN, Budget, BuildBudget, Config, Registry, TlsFiles
from cais.daemon.configfile import merge, read_file
from cais.daemon.options import OPTIONS, Values, parse_arguments
from cais.daemon.values import BuilderValue, GcValue, Pool, RegistryValue, Ulimit, parse_age_ns, parse_size
from cais.errors import Invalid
from cais.remotes.hosts import check_domain, check_mirror

DEFAULT_CONFIG_FILE = Path("/etc/cais/daemon.json")
STORAGE_DRIVERS = ("", "overlay2", "overlayfs")
LOG_DRIVERS = ("json-file", "local", "none")
POOL_NETWORKS = 64
"""Networks cut out of one address pool at most."""


def load_config(arguments: Sequence[str]) -> tuple[Config, bool]:
    """The configuration of a command line and the file it names, and whether it was only to be checked.

    Raises ``Invalid``.
    """
    flags = parse_arguments(arguments)
    named = flags.pop("config-file", "")
    validate = bool(flags.pop("validate", False))
    path = Path(named) if named else DEFAULT_CONFIG_FILE
    values = merge(path, flags, read_file(path, required=bool(named)))
    return make_config(values), validate


def make_config(values: Values) -> Config:
    """The ``Config``. Raises ``Invalid`` for values that contradict each other or cannot be had here."""
    _refuse_unsupported(values)
    fields: dict[str, Any] = {}
    for key, (field, convert) in _FIELDS.items():
        if key in values:
            fields[field] = convert(values[key])
    run = fields.get("run", DEFAULT_RUN)
    fields.setdefault("hosts", (f"unix://{run / 'cais.sock'}",))
    root = fields.get("root", DEFAULT_ROOT)
    if root != DEFAULT_ROOT:
        # Engines live side by side: each has a group of its own, and knows whose what is in it.
        own = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
        fields.setdefault("cgroup_parent", f"cais-{own}")
    fields["tls"] = _tls(values)
    if "default-address-pools" in values:
        fields["address_pools"] = tuple(
            net for pool in values["default-address-pools"] for net in _networks(pool)
        )
    if values.get("log-level") == "debug":
        fields["debug"] = True
    config = Config(**fields)
    _check(config)
    return config


def _path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise Invalid(f"path {text!r} must be absolute")
    return path


def _ulimits(table: dict[str, Ulimit]) -> dict[str, tuple[int, int]]:
    return {name: (limit.soft, limit.hard) for name, limit in table.items()}


def _registries(table: dict[str, RegistryValue]) -> dict[str, Registry]:
    return {
        check_domain(name): Registry(
            tuple(check_mirror(url, may_have_path=True) for url in value.mirrors), value.insecure
        )
        for name, value in table.items()
    }


def _budget(value: GcValue | dict[str, str]) -> Budget:
    try:
        # Flags come as texts, the file as it is.
        gc = value if isinstance(value, GcValue) else msgspec.convert(value, GcValue, strict=False)
        size = gc.max_size if isinstance(gc.max_size, int) else parse_size(gc.max_size)
        if gc.keep_newest < 0 or size < 0:
            raise ValueError("keep-newest and max-size must not be negative")
        return Budget(
            keep_newest=gc.keep_newest,
            max_size=size,
            unused_for_ns=parse_age_ns(gc.unused_for),
            grace_ns=parse_age_ns(gc.grace),
        )
    except (ValueError, msgspec.ValidationError) as error:
        raise Invalid(f"invalid value for gc: {error}") from error


def _build_budget(value: BuilderValue | dict[str, str]) -> BuildBudget:
    """Flags of our own, or what dockerd's file says: of several rules the strictest."""
    try:
        if isinstance(value, dict):
            return BuildBudget(
                parse_size(value.get("keep-bytes", "0")), parse_age_ns(value.get("unused-for", ""))
            )
        gc = value.gc
        if not gc.enabled:
            return BuildBudget()
        sizes = [gc.default_keep_storage, gc.default_reserved_space, gc.default_max_used_space]
        ages = []
        for rule in gc.policy:
            sizes += [rule.keep_storage, rule.reserved_space, rule.max_used_space]
            texts = rule.filter if isinstance(rule.filter, list) else []
            ages += [text.removeprefix("unused-for=") for text in texts if text.startswith("unused-for=")]
        found = [size for size in (parse_size(str(text)) for text in sizes) if size > 0]
        return BuildBudget(min(found, default=0), min(map(parse_age_ns, ages), default=0))
    except (ValueError, msgspec.ValidationError) as error:
        raise Invalid(f"invalid value for builder: {error}") from error


def _seccomp(text: str) -> str:
    return "" if text in ("builtin", "default") else text


_FIELDS: dict[str, tuple[str, Any]] = {
    "hosts": ("hosts", tuple),
    "data-root": ("root", _path),
    "exec-root": ("run", _path),
    "pidfile": ("pidfile", _path),
    "debug": ("debug", bool),
    "labels": ("labels", tuple),
    "bridge": ("bridge", str),
    "bip": ("bip", str),
    "mtu": ("mtu", int),
    "ip-forward": ("ip_forward", bool),
    "ip-masq": ("nat", bool),
    "iptables": ("firewall", bool),
    "dns": ("dns", tuple),
    "dns-opts": ("dns_options", tuple),
    "dns-search": ("dns_search", tuple),
    "cgroup-parent": ("cgroup_parent", lambda text: text.strip("/")),
    "default-shm-size": ("default_shm_size", int),
    "default-ulimits": ("default_ulimits", _ulimits),
    "default-runtime": ("default_runtime", str),
    "log-driver": ("log_driver", str),
    "log-opts": ("log_options", dict),
    "seccomp-profile": ("seccomp_profile", _seccomp),
    "no-new-privileges": ("no_new_privileges", bool),
    "init": ("init", bool),
    "live-restore": ("live_restore", bool),
    "shutdown-timeout": ("shutdown_timeout", int),
    "registry-mirrors": ("registry_mirrors", lambda urls: tuple(map(check_mirror, urls))),
    "insecure-registries": ("insecure_registries", tuple),
    "max-concurrent-downloads": ("max_concurrent_downloads", int),
    "max-concurrent-uploads": ("max_concurrent_uploads", int),
    "registries": ("registries", _registries),
    "gc": ("budget", _budget),
    "builder": ("build_budget", _build_budget),
    "commit-compression": ("commit_compression", str),
    "push-compression": ("push_compression", str),
    "group": ("group", str),
    "insecure-tcp": ("insecure_tcp", bool),
    "netns-pool": ("netns_pool", int),
    "workers": ("workers", int),
    "layer-max-size": ("layer_max_bytes", lambda size: parse_size(str(size))),
    "layer-max-ratio": ("layer_max_ratio", int),
    "layer-max-files": ("layer_max_entries", int),
}


def _refuse_unsupported(values: Values) -> None:
    for option in OPTIONS:
        if option.refuse and option.name in values and values[option.name] not in option.only:
            value = values[option.name]
            if value in ([], {}):
                continue
            raise Invalid(f"--{option.flag} {value} {option.refuse}")
    if values.get("storage-driver", "") not in STORAGE_DRIVERS:
        raise Invalid(f"--storage-driver {values['storage-driver']} is not supported: use overlay2")
    if values.get("default-runtime", "") not in ("", "cais", "runc", "io.containerd.runc.v2"):
        raise Invalid(f"specified default runtime '{values['default-runtime']}' does not exist")


def _tls(values: Values) -> TlsFiles | None:
    if not (values.get("tls") or values.get("tlsverify")):
        return None
    if not values.get("tlsverify"):
        raise Invalid("--tls alone lets in everyone who can connect: use --tlsverify with --tlscacert")
    missing = [key for key in ("tlscacert", "tlscert", "tlskey") if not values.get(key)]
    if missing:
        raise Invalid(f"--tlsverify needs --{missing[0]}")
    return TlsFiles(*(_path(values[key]) for key in ("tlscacert", "tlscert", "tlskey")))


def _networks(pool: Pool) -> list[str]:
    try:
        base = ipaddress.ip_network(pool.base)
        return [str(net) for net in islice(base.subnets(new_prefix=pool.size), POOL_NETWORKS)]
    except ValueError as error:
        raise Invalid(f"invalid default address pool {pool.base!r} size {pool.size}: {error}") from error


def _check(config: Config) -> None:
    if config.mtu < 0:
        raise Invalid(f"invalid default MTU: {config.mtu}")
    if config.max_concurrent_downloads < 0:
        raise Invalid(f"invalid max concurrent downloads: {config.max_concurrent_downloads}")
    if config.max_concurrent_uploads < 0:
        raise Invalid(f"invalid max concurrent uploads: {config.max_concurrent_uploads}")
    if min(config.layer_max_bytes, config.layer_max_ratio, config.layer_max_entries) <= 0:
        raise Invalid("invalid limit of layers: size, ratio and files must be above zero")
    if config.log_driver not in LOG_DRIVERS:
        raise Invalid(f"logger: no log driver named '{config.log_driver}' is registered")
    if config.bip:
        try:
            ipaddress.ip_interface(config.bip)
        except ValueError as error:
            raise Invalid(f"invalid --bip {config.bip!r}: {error}") from error
        if "/" not in config.bip:
            raise Invalid(f"invalid --bip {config.bip!r}: want an address with a prefix, 172.29.0.1/16")
    for host in config.hosts:
        _check_host(host, config)


def _check_host(host: str, config: Config) -> None:
    if not host.startswith("tcp://") or config.tls is not None:
        return
    name = host.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        loopback = name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        loopback = False
    if not (config.insecure_tcp and loopback):
        raise Invalid(
            f"{host} would let in everyone who can connect: use --tlsverify with --tlscacert, --tlscert and "
            "--tlskey, or --insecure-tcp with a loopback address"
        )
