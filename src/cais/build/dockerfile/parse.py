"""From lines to typed instructions and stages."""

import re
from collections.abc import Callable

from cais.build.dockerfile.fault import DockerfileError, Lines, suggest
from cais.build.dockerfile.flags import Flags, parse_flags, parse_mount
from cais.build.dockerfile.lines import Line, read_single, read_text
from cais.build.dockerfile.splice import Read, splice
from cais.build.dockerfile.syntax import OWN_LINE, is_own
from cais.build.dockerfile.values import (
    Arg,
    Cmd,
    Command,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    From,
    Health,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Run,
    Shell,
    Stage,
    StopSignal,
    Unset,
    User,
    Value,
    Volume,
    Workdir,
)
from cais.build.dockerfile.words import parse_exec, split_words
from cais.errors import Invalid
from cais.images.changes import parse_duration_ns
from cais.spec.image import Healthcheck

_OWN = ("INCLUDE", "UNSET")
UNSET_NAMED = ("ENV", "LABEL", "VOLUME", "EXPOSE")
UNSET_WHOLE = ("ENTRYPOINT", "CMD", "USER", "WORKDIR", "HEALTHCHECK", "STOPSIGNAL")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*")
_NETWORKS = ("default", "none", "host")
_SECURITY = ("sandbox", "insecure")
_SHORTEST_NS = 10**6


def parse_dockerfile(data: bytes, name: str = "Dockerfile", read: Read | None = None) -> Dockerfile:
    """The whole file; ``read``: how other files of the context are had, for INCLUDE. Raises DockerfileError with the
    place, the lines and a hint."""
    text = read_text(data, name)
    own = is_own(text.directives.get("syntax", ""), text.raw, name)
    if own and read is not None:
        text = splice(text, read)
    args: list[Instruction] = []
    stages: list[tuple[Line, From, list[Instruction]]] = []
    for line in text.lines:
        try:
            value = parse_line(line, text.escape, own=own)
            if isinstance(value, From):
                stages.append((line, value, []))
            elif stages:
                stages[-1][2].append(Instruction(line, value))
            elif isinstance(value, Arg):
                args.append(Instruction(line, value))
            else:
                raise DockerfileError(
                    "no build stage in current context", hint="FROM comes first, only ARG may stand before it"
                )
        except DockerfileError as error:
            raise error.located(line.lines, name, text.raw) from None
    if not stages:
        problem = (
            "no build stage in current context" if text.lines else f"the Dockerfile ({name}) cannot be empty"
        )
        end = Lines(len(text.raw), len(text.raw))
        raise DockerfileError(problem, hint="it needs a FROM").located(end, name, text.raw)
    made = tuple(Stage(i, line, base, tuple(steps)) for i, (line, base, steps) in enumerate(stages))
    return Dockerfile(name, text.raw, text.escape, text.directives, tuple(args), made, text.lines)


def parse_trigger(text: str, escape: str = "\\") -> list[Instruction]:
    """The instructions of one ONBUILD entry of an image. Raises DockerfileError."""
    found = []
    for line in read_single(text, escape):
        if line.name in ("FROM", "ONBUILD", "MAINTAINER"):
            raise DockerfileError(f"{line.name} isn't allowed as an ONBUILD trigger")
        found.append(Instruction(line, parse_line(line, escape)))
    return found


def parse_line(line: Line, escape: str = "\\", *, own: bool = False) -> Value:
    """One instruction; ``own``: of Cais's language. Raises DockerfileError without a place."""
    parse = _PARSERS.get(line.name)
    if line.name in _OWN:
        if not own:
            raise DockerfileError(
                f"{line.keyword} is an instruction of Cais's own",
                hint=f"{OWN_LINE} at the top of the file turns it on",
            )
        parse = _parse_unset
    if parse is None:
        raise DockerfileError(f"unknown instruction: {line.keyword}", hint=suggest(line.keyword, _PARSERS))
    flags = parse_flags(line.name, line.flags)
    return parse(line, flags, escape)


# Shared forms


def _words(line: Line, escape: str) -> list[str]:
    """Separated by blanks, quotes stay."""
    return split_words(line.rest, escape)


def _list(line: Line) -> list[str]:
    """The exec form, or words."""
    found = parse_exec(line.rest)
    return line.rest.split() if found is None else list(found)


def _one(line: Line) -> str:
    if not line.rest:
        raise DockerfileError(f"{line.name} requires exactly one argument")
    return line.rest


def _command(line: Line) -> Command:
    words = parse_exec(line.rest)
    return Command((line.rest,), True) if words is None else Command(words, False)


def _flag(flags: Flags, name: str) -> str:
    return flags.get(name, [""])[0]


def _pairs(line: Line, escape: str) -> tuple[tuple[tuple[str, str], ...], bool]:
    """``a=b c="d e"``, or the old form ``name the rest``."""
    words = _words(line, escape)
    if not words:
        raise DockerfileError(f"{line.name} requires at least one argument")
    if "=" not in words[0]:
        name, *rest = line.rest.split(None, 1)
        if not rest:
            raise DockerfileError(
                f"{line.name} must have two arguments", hint=f"write {line.name} {name}=VALUE"
            )
        return ((name, rest[0]),), True
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(
                f"syntax error - can't find = in {word!r}. Must be of the form: name=value",
                hint="put quotes around a value with blanks",
            )
        if not name:
            raise DockerfileError(f"{line.name} names can not be blank")
        pairs.append((name, value))
    return tuple(pairs), False


# One function for each instruction


def _parse_from(line: Line, flags: Flags, escape: str) -> From:
    words = line.rest.split()
    if len(words) not in (1, 3):
        raise DockerfileError("FROM requires either one or three arguments", hint="FROM image [AS name]")
    name = ""
    if len(words) == 3:
        if words[1].lower() != "as":
            raise DockerfileError("FROM requires either one or three arguments", hint="FROM image [AS name]")
        name = words[2].lower()
        if not _STAGE_NAME.fullmatch(name):
            raise DockerfileError(
                f"invalid name for build stage: {words[2]!r}, name can't start with a number or contain symbols"
            )
    return From(words[0], _flag(flags, "platform"), name)


def _parse_arg(line: Line, flags: Flags, escape: str) -> Arg:
    words = _words(line, escape)
    if not words:
        raise DockerfileError("ARG requires at least one argument")
    pairs: list[tuple[str, str | None]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise DockerfileError("ARG names can not be blank")
        pairs.append((name, value if equals else None))
    return Arg(tuple(pairs))


def _parse_env(line: Line, flags: Flags, escape: str) -> Env:
    return Env(*_pairs(line, escape))


def _parse_label(line: Line, flags: Flags, escape: str) -> Label:
    return Label(*_pairs(line, escape))


def _parse_run(line: Line, flags: Flags, escape: str) -> Run:
    network, security = _flag(flags, "network").lower(), _flag(flags, "security").lower()
    if network and network not in _NETWORKS:
        raise DockerfileError(f"network mode {network!r} is not valid", hint=f"use {', '.join(_NETWORKS)}")
    if security and security not in _SECURITY:
        raise DockerfileError(f"security mode {security!r} is not valid", hint=f"use {', '.join(_SECURITY)}")
    mounts = tuple(map(parse_mount, flags.get("mount", ())))
    command = _command(line)
    if not any(command.words) and not line.heredocs:
        raise DockerfileError("RUN requires at least one argument")
    return Run(command, mounts, network, security, tuple(flags.get("device", ())), line.heredocs)


def _parse_copy(line: Line, flags: Flags, escape: str) -> Copy:
    words = parse_exec(line.rest)
    # Blanks separate even inside quotes: names with blanks need the exec form.
    listed = tuple(line.rest.split()) if words is None else words
    if len(listed) < 2:
        raise DockerfileError(
            f"{line.name} requires at least two arguments, but only {len(listed)} provided. Destination could "
            "not be determined",
            hint=f"{line.name} SOURCE… DESTINATION",
        )
    if any(word.startswith("<<") for word in listed[-1:]) and line.heredocs:
        raise DockerfileError(f"{line.name} cannot accept a heredoc as a destination")
    unpack = flags.get("unpack")
    return Copy(
        listed[:-1],
        listed[-1],
        is_add=line.name == "ADD",
        from_=_flag(flags, "from"),
        chown=_flag(flags, "chown"),
        chmod=_flag(flags, "chmod"),
        link=_flag(flags, "link") == "true",
        parents=_flag(flags, "parents") == "true",
        exclude=tuple(flags.get("exclude", ())),
        checksum=_flag(flags, "checksum"),
        keep_git_dir=_flag(flags, "keep-git-dir") == "true" if "keep-git-dir" in flags else None,
        unpack=None if unpack is None else unpack[0] == "true",
        heredocs=line.heredocs,
    )


def _parse_cmd(line: Line, flags: Flags, escape: str) -> Cmd:
    command = _command(line)
    return Cmd(command if line.rest else Command((), False))


def _parse_entrypoint(line: Line, flags: Flags, escape: str) -> Entrypoint:
    command = _command(line)
    return Entrypoint(command if line.rest else Command((), False))


def _parse_shell(line: Line, flags: Flags, escape: str) -> Shell:
    words = parse_exec(line.rest)
    if words is None:
        raise DockerfileError(
            "SHELL requires the arguments to be in JSON form", hint='SHELL ["/bin/sh", "-c"]'
        )
    if not words:
        raise DockerfileError("SHELL requires at least one argument")
    return Shell(words)


def _parse_user(line: Line, flags: Flags, escape: str) -> User:
    return User(_one(line))


def _parse_workdir(line: Line, flags: Flags, escape: str) -> Workdir:
    return Workdir(_one(line))


def _parse_stop_signal(line: Line, flags: Flags, escape: str) -> StopSignal:
    if len(line.rest.split()) != 1:
        raise DockerfileError("STOPSIGNAL requires exactly one argument")
    return StopSignal(line.rest)


def _parse_maintainer(line: Line, flags: Flags, escape: str) -> Maintainer:
    return Maintainer(_one(line))


def _parse_expose(line: Line, flags: Flags, escape: str) -> Expose:
    ports = tuple(sorted(line.rest.split()))
    if not ports:
        raise DockerfileError("EXPOSE requires at least one argument")
    return Expose(ports)


def _parse_volume(line: Line, flags: Flags, escape: str) -> Volume:
    paths = [path.strip() for path in _list(line)]
    if not paths:
        raise DockerfileError("VOLUME requires at least one argument")
    if not all(paths):
        raise DockerfileError("VOLUME specified can not be an empty string")
    return Volume(tuple(paths))


def _parse_onbuild(line: Line, flags: Flags, escape: str) -> OnBuild:
    trigger = line.rest.split(None, 1)[0].upper() if line.rest else ""
    if not trigger:
        raise DockerfileError("ONBUILD requires at least one argument")
    if trigger == "ONBUILD":
        raise DockerfileError("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("FROM", "MAINTAINER", *_OWN):
        raise DockerfileError(f"{trigger} isn't allowed as an ONBUILD trigger")
    if trigger not in _PARSERS:
        raise DockerfileError(f"unknown instruction: {trigger}", hint=suggest(trigger, _PARSERS))
    text = line.rest + "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in line.heredocs)
    return OnBuild(text)


def _parse_unset(line: Line, flags: Flags, escape: str) -> Unset:
    if line.name == "INCLUDE":
        raise DockerfileError("INCLUDE is not possible here: the Dockerfile did not come with a context")
    kind, *names = _words(line, escape) or [""]
    known = (*UNSET_NAMED, *UNSET_WHOLE)
    if kind.upper() not in known:
        hint = suggest(kind, known) or f"UNSET knows {', '.join(known)}"
        raise DockerfileError(f"UNSET {kind} is not possible".replace("  ", " "), hint=hint)
    kind = kind.upper()
    if kind in UNSET_NAMED and not names:
        raise DockerfileError(f"UNSET {kind} requires at least one name", hint=f"UNSET {kind} NAME…")
    if kind in UNSET_WHOLE and names:
        raise DockerfileError(f"UNSET {kind} takes no names")
    if any("=" in name for name in names):
        raise DockerfileError(f"UNSET {kind} takes names alone, no values")
    return Unset(kind, tuple(names))


def _parse_health(line: Line, flags: Flags, escape: str) -> Health:
    kind, _, rest = line.rest.partition(" ")
    rest = rest.strip()
    match kind.upper():
        case "":
            raise DockerfileError(
                "HEALTHCHECK requires at least one argument", hint="HEALTHCHECK CMD command"
            )
        case "NONE" if rest:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        case "NONE":
            return Health(Healthcheck(test=("NONE",)))
        case "CMD":
            words = parse_exec(rest)
            if not rest or words == ():
                raise DockerfileError("missing command after HEALTHCHECK CMD")
            test = ("CMD-SHELL", rest) if words is None else ("CMD", *words)
            numbers = {name.replace("-", "_"): _health_number(name, flags[name][0]) for name in flags}
            return Health(Healthcheck(test=test, **numbers))
    raise DockerfileError(
        f'unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)', hint=suggest(kind, ("CMD", "NONE"))
    )


def _health_number(name: str, value: str) -> int:
    if name == "retries":
        if not (value.isascii() and value.isdecimal()):
            raise DockerfileError(f"--retries must be at least 0 (not {value})")
        return int(value)
    try:
        duration = parse_duration_ns(value)
    except Invalid as error:
        raise DockerfileError(str(error), hint="write 30s, 1m30s or the like") from None
    if 0 < duration < _SHORTEST_NS:
        raise DockerfileError(f'interval "{name}" cannot be less than 1ms')
    return duration


_PARSERS: dict[str, Callable[[Line, Flags, str], Value]] = {
    "ADD": _parse_copy,
    "ARG": _parse_arg,
    "CMD": _parse_cmd,
    "COPY": _parse_copy,
    "ENTRYPOINT": _parse_entrypoint,
    "ENV": _parse_env,
    "EXPOSE": _parse_expose,
    "FROM": _parse_from,
    "HEALTHCHECK": _parse_health,
    "LABEL": _parse_label,
    "MAINTAINER": _parse_maintainer,
    "ONBUILD": _parse_onbuild,
    "RUN": _parse_run,
    "SHELL": _parse_shell,
    "STOPSIGNAL": _parse_stop_signal,
    "USER": _parse_user,
    "VOLUME": _parse_volume,
    "WORKDIR": _parse_workdir,
}
