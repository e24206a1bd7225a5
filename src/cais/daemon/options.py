"""The engine's options as a table: dockerd's flags and ``daemon.json`` keys, and ours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cais.daemon import values
from cais.errors import Invalid

Values = dict[str, Any]
"""What was set, by ``Option.key``."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. ``flag`` without dashes; ``key`` its name in ``daemon.json`` (empty: a flag only);
    ``parse`` makes a value of a flag's text; ``type`` is what JSON must hold. ``many``: the flag may be
    repeated. ``refuse``: why any value but ``only`` cannot be had here (empty: it can)."""

    flag: str
    key: str
    parse: Callable[[str], Any]
    type: Any
    short: str = ""
    many: bool = False
    aliases: tuple[str, ...] = ()
    refuse: str = ""
    only: tuple[Any, ...] = ()

    @property
    def is_bool(self) -> bool:
        """A flag that needs no value."""
        return self.type is bool

    @property
    def name(self) -> str:
        """The key, or the flag when the file has no such key."""
        return self.key or self.flag


def _bool(flag: str, key: str = "-", *, short: str = "", refuse: str = "", only: bool = False) -> Option:
    return Option(
        flag, flag if key == "-" else key, values.parse_bool, bool, short, refuse=refuse, only=(only,)
    )


def _text(flag: str, key: str = "-", *, short: str = "", aliases: tuple[str, ...] = ()) -> Option:
    return Option(flag, flag if key == "-" else key, str, str, short, aliases=aliases)


def _number(flag: str, key: str = "-") -> Option:
    return Option(flag, flag if key == "-" else key, values.parse_int, int)


def _list(flag: str, key: str, parse: Callable[[str], str] = str, *, short: str = "") -> Option:
    return Option(flag, key, parse, list[str], short, many=True)


def _never(flag: str, key: str, kind: Any = str, *, short: str = "", only: tuple[Any, ...] = ("",)) -> Option:
    parse: Callable[[str], Any] = {bool: values.parse_bool, int: values.parse_int}.get(kind, str)
    many = kind not in (str, bool, int)
    return Option(flag, key, parse, kind, short, many=many, refuse="is not supported", only=only)


OPTIONS: tuple[Option, ...] = (
    # What the engine acts on.
    _list("host", "hosts", values.parse_host, short="H"),
    _text("data-root", aliases=("root", "graph")),
    _text("exec-root", aliases=("run",)),
    _text("pidfile", short="p"),
    _text("config-file", ""),
    _bool("validate", ""),
    _bool("debug", short="D"),
    Option("log-level", "log-level", values.parse_log_level, str, "l"),
    _list("label", "labels", values.parse_label),
    _text("bridge", short="b"),
    _text("bip"),
    _number("mtu"),
    Option("default-address-pool", "default-address-pools", values.parse_pool, list[values.Pool], many=True),
    _bool("ip-forward"),
    _bool("ip-masq"),
    _bool("iptables"),
    _list("dns", "dns", values.parse_ip),
    _list("dns-opt", "dns-opts"),
    _list("dns-search", "dns-search"),
    _text("cgroup-parent"),
    Option("default-shm-size", "default-shm-size", values.parse_size, int | str),
    Option("default-ulimit", "default-ulimits", values.parse_ulimit, dict[str, values.Ulimit], many=True),
    _text("default-runtime"),
    _text("log-driver"),
    Option("log-opt", "log-opts", values.parse_pair, dict[str, str], many=True),
    _text("seccomp-profile"),
    _bool("no-new-privileges"),
    _bool("init"),
    _bool("live-restore"),
    _number("shutdown-timeout"),
    _list("registry-mirror", "registry-mirrors"),
    _list("insecure-registry", "insecure-registries"),
    _number("max-concurrent-downloads"),
    _number("max-concurrent-uploads"),
    _text("group", short="G"),
    _bool("tls"),
    _bool("tlsverify"),
    _text("tlscacert"),
    _text("tlscert"),
    _text("tlskey"),
    # Ours.
    _bool("insecure-tcp"),
    _number("netns-pool"),
    _number("workers"),
    Option("layer-max-size", "layer-max-size", values.parse_size, int | str),
    _number("layer-max-ratio"),
    _number("layer-max-files"),
    Option("registry", "registries", values.parse_registry, dict[str, values.RegistryValue], many=True),
    Option("gc", "gc", values.parse_gc, values.GcValue, many=True),
    Option("builder-gc", "builder", values.parse_builder_gc, values.BuilderValue, many=True),
    Option("commit-compression", "commit-compression", values.parse_codec, str),
    Option("push-compression", "push-compression", values.parse_compression, str),
    # Understood, for they change nothing that this engine promises.
    _text("storage-driver", short="s"),
    _list("storage-opt", "storage-opts"),
    _list("exec-opt", "exec-opts", values.parse_exec_option),
    _bool("experimental"),
    _bool("restart", "", short="r"),
    _text("containerd"),
    _text("containerd-namespace"),
    _text("containerd-plugins-namespace", "containerd-plugin-namespace"),
    _bool("cri-containerd"),
    _text("log-format"),
    _bool("raw-logs"),
    _number("max-download-attempts"),
    _bool("userland-proxy"),
    _text("userland-proxy-path"),
    _bool("ip6tables"),
    _bool("ip-forward-no-drop"),
    _text("firewall-backend"),
    Option("feature", "features", values.parse_feature, dict[str, bool], many=True),
    Option("add-runtime", "runtimes", values.parse_pair, dict[str, Any], many=True),
    _text("init-path"),
    _number("network-control-plane-mtu"),
    _text("default-cgroupns-mode"),
    _text("swarm-default-advertise-addr"),
    _list("cdi-spec-dir", "cdi-spec-dirs"),
    # Refused, for a user who sets them relies on what we do not do.
    _never("authorization-plugin", "authorization-plugins", list[str], only=()),
    _never("userns-remap", "userns-remap"),
    _never("selinux-enabled", "selinux-enabled", bool, only=(False,)),
    _never("rootless", "rootless", bool, only=(False,)),
    _never("ipv6", "ipv6", bool, only=(False,)),
    _never("icc", "icc", bool, only=(True,)),
    _never("ip", "ip", only=("", "0.0.0.0")),
    _never("bip6", "bip6"),
    _never("fixed-cidr", "fixed-cidr"),
    _never("fixed-cidr-v6", "fixed-cidr-v6"),
    _never("default-gateway", "default-gateway"),
    _never("default-gateway-v6", "default-gateway-v6"),
    _never("host-gateway-ip", "host-gateway-ip"),
    _never("default-ipc-mode", "default-ipc-mode", only=("", "private")),
    _never("default-network-opt", "default-network-opts", dict[str, Any], only=()),
    _never("bridge-accept-fwmark", "bridge-accept-fwmark"),
    _never("allow-direct-routing", "allow-direct-routing", bool, only=(False,)),
    _never("cpu-rt-period", "cpu-rt-period", int, only=(0,)),
    _never("cpu-rt-runtime", "cpu-rt-runtime", int, only=(0,)),
    _never("metrics-addr", "metrics-addr"),
    _never("node-generic-resource", "node-generic-resources", list[str], only=()),
    _never("http-proxy", "http-proxy"),
    _never("https-proxy", "https-proxy"),
    _never("no-proxy", "no-proxy"),
)

BY_FLAG = {name: option for option in OPTIONS for name in (option.flag, *option.aliases)}
BY_SHORT = {option.short: option for option in OPTIONS if option.short}
BY_KEY = {option.key: option for option in OPTIONS if option.key}


def parse_arguments(arguments: Sequence[str]) -> Values:
    """What the command line sets. The forms are pflag's: ``--mtu 9000``, ``--mtu=9000``, ``-H x``, ``-Hx``,
    ``-D``.

    Raises ``Invalid`` in pflag's words.
    """
    found: Values = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--" and not rest:
            break
        if not word.startswith("-") or word in ("-", "--"):
            raise Invalid(f'"cais daemon" accepts no arguments: {word}')
        if word.startswith("--"):
            flag, equals, text = word[2:].partition("=")
            option = BY_FLAG.get(flag)
            if option is None:
                raise Invalid(f"unknown flag: --{flag}")
            _take(found, option, f"--{flag}", text if equals else None, rest)
        else:
            _take_short(found, word, rest)
    return found


def _take_short(found: Values, word: str, rest: list[str]) -> None:
    letters = word[1:]
    while letters:
        option = BY_SHORT.get(letters[0])
        if option is None:
            raise Invalid(f"unknown shorthand flag: '{letters[0]}' in {word}")
        letters = letters[1:]
        if option.is_bool and not letters.startswith("="):
            _take(found, option, word, None, rest)
            continue
        text = letters.removeprefix("=") if letters else None
        _take(found, option, word, text, rest)
        return


def _take(found: Values, option: Option, shown: str, text: str | None, rest: list[str]) -> None:
    """Set ``option`` from ``text``, or from the next word when there is none and it needs one."""
    if text is None:
        if option.is_bool:
            text = "true"
        elif rest:
            text = rest.pop(0)
        else:
            raise Invalid(f"flag needs an argument: {shown}")
    names = f"-{option.short}, --{option.flag}" if option.short else f"--{option.flag}"
    try:
        value = option.parse(text)
    except ValueError as error:
        raise Invalid(f'invalid argument "{text}" for "{names}" flag: {error}') from error
    if not option.many:
        found[option.name] = value
    elif isinstance(value, tuple):
        found.setdefault(option.name, {})[value[0]] = value[1]
    else:
        found.setdefault(option.name, []).append(value)
