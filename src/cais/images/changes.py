"""Dockerfile instructions that change an image's defaults: ``--change`` of import and commit."""

import posixpath
import re
import signal
from collections.abc import Callable, Sequence
from decimal import Decimal

import msgspec

from cais.errors import Invalid
from cais.images.words import expand, parse_json_words, parse_pairs, split_words
from cais.spec.image import ContainerDefaults, Healthcheck

SHELL = ("/bin/sh", "-c")
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(\w+))?")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def apply_changes(defaults: ContainerDefaults, changes: Sequence[str]) -> ContainerDefaults:
    """``defaults`` after the instructions in ``changes``, each one or more Dockerfile lines.

    Raises Invalid with Docker's wording; nothing is changed then.
    """
    commanded = False
    for line in _logical_lines(changes):
        word, _, rest = line.partition(" ")
        name, rest = word.lower(), rest.strip()
        instruction = _INSTRUCTIONS.get(name)
        if instruction is None:
            raise Invalid(f"{word} is not a valid change command")
        defaults = instruction(defaults, rest)
        commanded = commanded or name == "cmd"
        if name == "entrypoint" and not commanded:
            # The old command was meant for the old entrypoint.
            defaults = msgspec.structs.replace(defaults, cmd=())
    return defaults


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of a Go duration such as ``1m30s`` or ``500ms``. Raises Invalid."""
    parts = _DURATION.findall(text)
    if text == "0":
        return 0
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise Invalid(f'time: invalid duration "{text}"')
    return int(sum(Decimal(number) * _UNITS[unit] for number, unit in parts))


def _logical_lines(changes: Sequence[str]) -> list[str]:
    lines: list[str] = []
    continued = ""
    for line in "\n".join(changes).splitlines():
        stripped = line.strip()
        if stripped.startswith("#") or (not stripped and not continued):
            continue
        if stripped.endswith("\\"):
            continued += stripped[:-1]
            continue
        lines.append((continued + stripped).replace("\t", " "))
        continued = ""
    return lines + ([continued] if continued else [])


def _env(defaults: ContainerDefaults) -> dict[str, str]:
    return {text.partition("=")[0]: text.partition("=")[2] for text in defaults.env}


def _one_word(defaults: ContainerDefaults, instruction: str, rest: str) -> str:
    if len(split_words(rest)) != 1:
        raise Invalid(f"{instruction} requires exactly one argument")
    return expand(rest, _env(defaults))


def _command(rest: str) -> tuple[str, ...]:
    words = parse_json_words(rest)
    if words is not None:
        return words
    return (*SHELL, rest) if rest else ()


def _apply_cmd(defaults: ContainerDefaults, rest: str) -> ContainerDefaults:
    return msgspec.structs.replace(defaults, cmd=_command(rest))


def _apply_entrypoint(defaults: ContainerDefaults, rest: str) -> ContainerDefaults:
    return msgspec.structs.replace(defaults, entrypoint=_command(rest))


def _apply_env(defaults: ContainerDefaults, rest: str) -> ContainerDefaults:
    old = _env(defaults)
    new = dict(old)
    for name, value in parse_pairs("ENV", rest):
        # All words of one instruction see the environment from before it (Dockerfile reference, "ENV").
        new[expand(name, old)] = expand(value, old)
    return msgspec.structs.replace(defaults, env=tuple(f"{name}={value}" for name, value in new.items()))


def _apply_label(defaults: ContainerDefaults, rest: str) -> ContainerDefaults:
    env = _env(defaults)
    labels = {expand(name, env): expand(value, env) for name, value in parse_pairs("LABEL", rest)}
    return msgspec.structs.replace(defaults, labels={**defaults.labels, **labels})


def _apply_expose(defaults: ContainerDefaults, rest: str) -> ContainerDefaults:
    words = split_words(rest)
    if not words:
        raise Invalid("EXPOSE requires at least one argument")
    ports: dict[str, dict[str, str]] = {
        port: {} for word in words for port in parse_ports(expand(word, _env(defaults)))
    }
    return msgspec.structs.replace(defaults, exposed_ports={**defaults.exposed_ports, **ports})


def parse_ports(text: str) -> list[str]:
    """``80`` is 80/tcp; ``8000-8002/udp`` is three ports. Raises Invalid."""
    found = _PORT.fullmatch(text)
    if not found:
        raise Invalid(f"invalid containerPort: {text}")
    first, last = int(found[1]), int(found[2] or found[1])
    protocol = (found[3] or "tcp").lower()
    if protocol not in ("tcp", "udp", "sctp"):
        raise Invalid(f"invalid proto: {protocol}")
    if not 0 < first <= last <= 65535:
        raise Invalid(f"invalid containerPort: {text}")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _apply_user(defaults: ContainerDefaults, rest: str) -> ContainerDefaults:
    return msgspec.structs.replace(defaults, user=_one_word(defaults, "USER", rest))


def _apply_workdir(defaults: ContainerDefaults, rest: str) -> ContainerDefaults:
    if not rest:
        raise Invalid("WORKDIR requires exactly one argument")
    path = posixpath.join(defaults.working_dir or "/", expand(rest, _env(defaults)))
    return msgspec.structs.replace(defaults, working_dir=posixpath.normpath("/" + path.lstrip("/")))


def _apply_volume(defaults: ContainerDefaults, rest: str) -> ContainerDefaults:
    words = parse_json_words(rest)
    paths = [expand(word, _env(defaults)) for word in (split_words(rest) if words is None else words)]
    if not paths:
        raise Invalid("VOLUME requires at least one argument")
    if not all(map(str.strip, paths)):
        raise Invalid("VOLUME specified can not be an empty string")
    return msgspec.structs.replace(
        defaults, volumes={**defaults.volumes, **{path.strip(): {} for path in paths}}
    )


def _apply_stop_signal(defaults: ContainerDefaults, rest: str) -> ContainerDefaults:
    text = _one_word(defaults, "STOPSIGNAL", rest)
    if not is_signal(text):
        raise Invalid(f"invalid signal: {text}")
    return msgspec.structs.replace(defaults, stop_signal=text)


def is_signal(text: str) -> bool:
    """Whether ``text`` is a signal's number, or its name with or without SIG."""
    if text.isdecimal():
        return 0 < int(text) <= signal.SIGRTMAX
    name = text.upper().removeprefix("SIG")
    realtime = re.fullmatch(r"RTMIN(?:\+(\d{1,2}))?|RTMAX(?:-(\d{1,2}))?", name)
    if realtime:
        return int(realtime[1] or realtime[2] or 0) <= signal.SIGRTMAX - signal.SIGRTMIN
    return f"SIG{name}" in signal.Signals.__members__


def _apply_on_build(defaults: ContainerDefaults, rest: str) -> ContainerDefaults:
    trigger = rest.partition(" ")[0].upper()
    if not trigger:
        raise Invalid("ONBUILD requires at least one argument")
    if trigger == "ONBUILD":
        raise Invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise Invalid(f"{trigger} isn't allowed as an ONBUILD trigger")
    return msgspec.structs.replace(defaults, on_build=(*defaults.on_build, rest))


def _apply_healthcheck(defaults: ContainerDefaults, rest: str) -> ContainerDefaults:
    flags = {}
    while rest.startswith("--"):
        flag, _, rest = rest.partition(" ")
        name, _, value = flag[2:].partition("=")
        if name not in ("interval", "timeout", "start-period", "start-interval", "retries"):
            raise Invalid(f"unknown flag: --{name}")
        flags[name.replace("-", "_")] = _health_number(name, value)
        rest = rest.strip()
    return msgspec.structs.replace(defaults, healthcheck=_healthcheck(rest, flags))


def _healthcheck(rest: str, flags: dict[str, int]) -> Healthcheck:
    kind, _, command = rest.partition(" ")
    command = command.strip()
    match kind.upper():
        case "":
            raise Invalid("HEALTHCHECK requires at least one argument")
        case "NONE" if command:
            raise Invalid("HEALTHCHECK NONE takes no arguments")
        case "NONE":
            return Healthcheck(test=("NONE",))
        case "CMD" if not command:
            raise Invalid("Missing command after HEALTHCHECK CMD")
        case "CMD":
            words = parse_json_words(command)
            test = ("CMD-SHELL", command) if words is None else ("CMD", *words)
            return Healthcheck(test=test, **flags)
    raise Invalid(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')


def _health_number(name: str, value: str) -> int:
    if name == "retries":
        if not value.isdecimal():
            raise Invalid(f"--retries must be at least 0 (not {value})")
        return int(value)
    duration = parse_duration_ns(value)
    if 0 < duration < 10**6:
        raise Invalid(f'Interval "--{name}" cannot be less than 1ms')
    return duration


_INSTRUCTIONS: dict[str, Callable[[ContainerDefaults, str], ContainerDefaults]] = {
    "cmd": _apply_cmd,
    "entrypoint": _apply_entrypoint,
    "env": _apply_env,
    "expose": _apply_expose,
    "healthcheck": _apply_healthcheck,
    "label": _apply_label,
    "onbuild": _apply_on_build,
    "stopsignal": _apply_stop_signal,
    "user": _apply_user,
    "volume": _apply_volume,
    "workdir": _apply_workdir,
}
