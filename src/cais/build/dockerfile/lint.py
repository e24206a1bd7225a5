"""What ``docker build --check`` warns about: the rules by Docker's names, in our words.

Source: Docker's documentation, "Build checks". What a rule needs beside the text (the base image's variables, the
ignore file) is given to it; without that the rule is silent.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec.structs import replace

from cais.build.dockerfile.fault import DockerfileError, Lines, Spliced, suggest
from cais.build.dockerfile.rules import (
    CHECK_ARG,
    RULES,
    CheckOptions,
    Rule,
    add_comments,
    parse_check,
)
from cais.build.dockerfile.scope import Scope
from cais.build.dockerfile.values import (
    Arg,
    Cmd,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    Health,
    Instruction,
    Label,
    Maintainer,
    Run,
    Shell,
    Stage,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from cais.build.dockerfile.words import Expansion, expand
from cais.errors import Invalid
from cais.spec.ignore import Ignore, clean_path
from cais.spec.platform import Platform, format_platform, parse_platform
from cais.spec.reference import parse_reference

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_RESERVED = ("context", "scratch")


class Finding(msgspec.Struct, frozen=True):
    """One warning: the ``rule``'s name, the ``message``, and where."""

    rule: str
    message: str
    lines: Lines

    @property
    def about(self) -> Rule:
        """The rule itself."""
        return RULES[self.rule]


class BasePlatforms(msgspec.Struct, frozen=True):
    """Of one stage: the platform it is built for, and that of the image it stands on."""

    expected: Platform
    actual: Platform


def check_options(file: Dockerfile, given: Mapping[str, str]) -> CheckOptions:
    """What the file's directive says, or the build argument above it. Raises DockerfileError."""
    return parse_check(given.get(CHECK_ARG, "") or file.directives.get("check", ""))


def lint(
    file: Dockerfile,
    scope: Scope,
    *,
    base_env: Mapping[int, Mapping[str, str]] | None = None,
    platforms: Mapping[int, BasePlatforms] | None = None,
    ignore: Ignore | None = None,
) -> list[Finding]:
    """Everything the rules find, by line. ``base_env``, ``platforms``: by stage index, of the image it stands on."""
    options = check_options(file, scope.given)
    found = [*_texts(file), *_stages(file), *_froms(file, scope)]
    for stage in file.stages:
        found += _steps(stage)
        found += _copies(stage, ignore) if ignore else ()
        if base_env is not None and stage.index in base_env:
            found += _variables(file, stage, base_env[stage.index])
        if platforms is not None and stage.index in platforms:
            found += _base_platform(stage, platforms[stage.index])
    own = {line.lines: add_comments(options, line.comments) for line in file.lines if line.comments}
    kept = [finding for finding in found if own.get(finding.lines, options).wants(finding.rule)]
    if isinstance(file.raw, Spliced):
        kept = [_with_origin(finding, file.raw, file.name) for finding in kept]
    return sorted(dict.fromkeys(kept), key=lambda finding: (finding.lines.start, finding.rule))


def _with_origin(finding: Finding, raw: Spliced, main: str) -> Finding:
    name, lines = raw.origin(finding.lines)
    return finding if name == main else replace(finding, message=f"{finding.message} (in {name}, {lines})")


# The text as a whole


def _texts(file: Dockerfile) -> Iterator[Finding]:
    for line in file.lines:
        if line.empty_continuation:
            last = Lines(line.lines.end, line.lines.end)
            yield Finding("NoEmptyContinuation", "an empty line inside a continued one", last)
    in_stages = [line for line in file.lines if line.lines.start >= file.stages[0].line.lines.start]
    plain = [
        line.keyword for line in in_stages if line.keyword in (line.keyword.upper(), line.keyword.lower())
    ]
    lower = sum(word.islower() for word in plain)
    casing, same = ("lowercase", str.lower) if lower > len(plain) - lower else ("uppercase", str.upper)
    for line in in_stages:
        if line.keyword != same(line.keyword):
            message = f"'{line.keyword}' is not written like most instructions here ({casing})"
            yield Finding("ConsistentInstructionCasing", message, line.lines)
    yield from _descriptions(file)


def _descriptions(file: Dockerfile) -> Iterator[Finding]:
    for line in file.lines:
        if not line.comments or not line.comments[-1]:
            continue
        words = line.rest.split()
        if line.name == "ARG" and words:
            name = words[0].partition("=")[0]
        elif line.name == "FROM" and len(words) == 3:
            name = words[2]
        else:
            continue
        if line.comments[-1].split()[0] not in (name, name.lower() if line.name == "FROM" else name):
            message = f"the comment above {line.name} should be: # {name} <description>"
            yield Finding("InvalidDefinitionDescription", message, line.lines)


# Stages and FROM


def _stages(file: Dockerfile) -> Iterator[Finding]:
    seen: set[str] = set()
    for stage in file.stages:
        words, lines = stage.line.rest.split(), stage.line.lines
        if len(words) != 3:
            continue
        keyword, name = stage.line.keyword, words[2]
        if name != name.lower():
            yield Finding("StageNameCasing", f"stage name '{name}' should be lowercase", lines)
        is_upper = {str.upper: keyword.isupper(), str.lower: keyword.islower()}
        if not any(same(words[1]) == words[1] and fits for same, fits in is_upper.items()):
            yield Finding("FromAsCasing", f"'{words[1]}' and '{keyword}' differ in case", lines)
        if name.lower() in _RESERVED:
            message = f"stage name should not be the reserved {name.lower()!r}"
            yield Finding("ReservedStageName", message, lines)
        if name.lower() in seen:
            yield Finding("DuplicateStageName", f"a stage named {name.lower()!r} is there already", lines)
        seen.add(name.lower())


def _froms(file: Dockerfile, scope: Scope) -> Iterator[Finding]:
    declared = {name for step in file.args if isinstance(step.value, Arg) for name, _ in step.value.pairs}
    for stage in file.stages:
        lines = stage.line.lines
        found = _try_expand(stage.base.base, scope.globals, file.escape)
        platform = _try_expand(stage.base.platform, scope.globals, file.escape)
        for expansion in filter(None, (found, platform)):
            for name in sorted(expansion.used - scope.globals.keys() - declared):
                hint = suggest(name, scope.globals)
                message = f"FROM argument '{name}' is not declared" + (f" ({hint})" if hint else "")
                yield Finding("UndefinedArgInFrom", message, lines)
        default = _try_expand(stage.base.base, scope.defaults, file.escape)
        if default and not _is_reference(default.text):
            message = f"without build arguments {stage.base.base} is no image's name"
            yield Finding("InvalidDefaultArgInFrom", message, lines)
        if platform and stage.base.platform:
            yield from _platform(stage, platform, scope)


def _platform(stage: Stage, found: Expansion, scope: Scope) -> Iterator[Finding]:
    lines = stage.line.lines
    if found.used == {"TARGETPLATFORM"} and found.text == scope.globals.get("TARGETPLATFORM"):
        message = f"--platform={stage.base.platform} is what FROM does by itself"
        yield Finding("RedundantTargetPlatform", message, lines)
    if found.used:
        return
    try:
        platform = parse_platform(found.text)
    except Invalid:
        return
    if platform.os not in stage.base.name and platform.architecture not in stage.base.name:
        message = f"--platform should not be the constant {found.text!r}"
        yield Finding("FromPlatformFlagConstDisallowed", message, lines)


def _base_platform(stage: Stage, platforms: BasePlatforms) -> Iterator[Finding]:
    expected, actual = map(format_platform, (platforms.expected, platforms.actual))
    # What a variant is called differs from image to image.
    if (platforms.expected.os, platforms.expected.architecture) != (
        platforms.actual.os,
        platforms.actual.architecture,
    ):
        message = f"{stage.base.base} is for {actual}, and this is a build for {expected}"
        yield Finding("InvalidBaseImagePlatform", message, stage.line.lines)


def _is_reference(text: str) -> bool:
    try:
        parse_reference(text)
    except Invalid:
        return False
    return True


def _try_expand(text: str, env: Mapping[str, str], escape: str, *, quotes: bool = True) -> Expansion | None:
    try:
        return expand(text, env, escape, quotes=quotes)
    except DockerfileError:
        return None


# Instructions


def _steps(stage: Stage) -> Iterator[Finding]:
    once: dict[type, Instruction] = {}
    has_shell, has_workdir = False, False
    for step in stage.steps:
        value, lines = step.value, step.line.lines
        if isinstance(value, Cmd | Entrypoint | Health):
            earlier = once.get(type(value))
            if earlier:
                message = f"of several {step.line.name} in a stage only the last one counts"
                yield Finding("MultipleInstructionsDisallowed", message, earlier.line.lines)
            once[type(value)] = step
        match value:
            case Shell():
                has_shell = True
            case Cmd() | Entrypoint() if value.command.is_shell and not has_shell:
                message = f"{step.line.name} in JSON form passes signals on to the program"
                yield Finding("JSONArgsRecommended", message, lines)
            case Maintainer():
                message = "MAINTAINER is deprecated: use LABEL org.opencontainers.image.authors"
                yield Finding("MaintainerDeprecated", message, lines)
            case Workdir():
                if not has_workdir and not value.path.startswith(("/", "$")):
                    message = f"relative WORKDIR {value.path!r} depends on the base image"
                    yield Finding("WorkdirRelativePath", message, lines)
                has_workdir = True
            case Env() | Label() | Arg():
                yield from _names(step)
            case Expose():
                yield from _ports(value, lines)


def _names(step: Instruction) -> Iterator[Finding]:
    value, name = step.value, step.line.name
    if isinstance(value, Env | Label) and value.legacy:
        message = f"write {name} key=value, not {name} key value"
        yield Finding("LegacyKeyValueFormat", message, step.line.lines)
    if isinstance(value, Env | Arg):
        for key, _ in value.pairs:
            if _SECRET.search(key) and not _NO_SECRET.search(key):
                message = f'{name} "{key}" keeps a secret in the image: use RUN --mount=type=secret'
                yield Finding("SecretsUsedInArgOrEnv", message, step.line.lines)


def _ports(value: Expose, lines: Lines) -> Iterator[Finding]:
    for port in value.ports:
        protocol = port.partition("/")[2]
        if protocol != protocol.lower() and "$" not in protocol:
            yield Finding("ExposeProtoCasing", f"protocol of {port!r} should be lowercase", lines)
        if ":" in port and "$" not in port:
            message = f"{port!r} should be a port alone, with no address and no port of the host"
            yield Finding("ExposeInvalidFormat", message, lines)


def _copies(stage: Stage, ignore: Ignore) -> Iterator[Finding]:
    if ignore.has_exceptions:
        return  # something in an excluded folder may be wanted: not decided by names alone
    for step in stage.steps:
        value = step.value
        if not isinstance(value, Copy) or value.from_:
            continue
        for source in value.sources:
            path = clean_path(source)
            is_plain = path and not source.startswith("<<") and "://" not in source
            if is_plain and ignore.excludes(path):
                message = f"{step.line.name} of {path!r}, which .dockerignore excludes"
                yield Finding("CopyIgnoredFile", message, step.line.lines)


# Variables


def _variables(file: Dockerfile, stage: Stage, base_env: Mapping[str, str]) -> Iterator[Finding]:
    env = dict(base_env)
    declared: set[str] = set()
    for step in stage.steps:
        documents = step.value.heredocs if isinstance(step.value, Copy) else ()
        for text, quotes in (
            *((text, True) for text in _expanded_texts(step)),
            *((document.text, False) for document in documents if document.expand),
        ):
            found = _try_expand(text, env, file.escape, quotes=quotes)
            # A default does not make it defined.
            for name in sorted(found.used - env.keys() - declared if found else ()):
                if not name[:1].isalpha() and name[:1] != "_":
                    continue
                hint = suggest(name, [*env, *declared])
                message = f"use of undefined variable '${name}'" + (f" ({hint})" if hint else "")
                yield Finding("UndefinedVar", message, step.line.lines)
        if isinstance(step.value, Arg):
            declared.update(name for name, _ in step.value.pairs)
        elif isinstance(step.value, Env):
            env.update(dict.fromkeys((name for name, _ in step.value.pairs), ""))


def _expanded_texts(step: Instruction) -> Iterable[str]:
    match step.value:
        case Env(pairs=pairs) | Label(pairs=pairs):
            return [text for pair in pairs for text in pair]
        case Arg(pairs=defaults):
            return [default for _, default in defaults if default is not None]
        case Copy() as copy:
            return (*copy.sources, copy.destination, copy.chown, copy.chmod, copy.checksum)
        case Workdir(path=text) | User(user=text):
            return (text,)
        case Volume(paths=texts):
            return texts
        case StopSignal(signal=text):
            return (text,)
        case Run() as run:
            return [text for mount in run.mounts for text in (mount.target, mount.source, mount.id)]
    return ()
