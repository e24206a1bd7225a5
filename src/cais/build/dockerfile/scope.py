"""Arguments: those of the whole build, those that platforms imply, and what ARG before the first FROM makes of them."""

from collections.abc import Mapping

import msgspec

from cais.build.dockerfile.fault import DockerfileError
from cais.build.dockerfile.values import Arg, Dockerfile
from cais.build.dockerfile.words import expand
from cais.spec.platform import Platform, format_platform

PROXY_ARGS = frozenset(
    name
    for lower in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    for name in (lower, lower.upper())
)
"""Known without ARG, given to RUN, and part of neither the cache's key nor the history."""


class Scope(msgspec.Struct, frozen=True):
    """What arguments mean in one build. ``given``: the user's build arguments; ``automatic``: the platforms';
    ``globals``: after the ARGs before the first FROM, automatic ones included; ``defaults``: the same as if nothing
    had been given."""

    given: Mapping[str, str]
    automatic: Mapping[str, str]
    globals: Mapping[str, str]
    defaults: Mapping[str, str]
    proxies: Mapping[str, str] = msgspec.field(default_factory=dict)


def platform_args(build: Platform, target: Platform, stage: str = "") -> dict[str, str]:
    """The automatic arguments (Dockerfile reference, "Automatic platform ARGs in the global scope")."""
    found = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        found[f"{prefix}PLATFORM"] = format_platform(platform)
        found[f"{prefix}OS"] = platform.os
        found[f"{prefix}OSVERSION"] = platform.os_version
        found[f"{prefix}ARCH"] = platform.architecture
        found[f"{prefix}VARIANT"] = platform.variant
    return {**found, "TARGETSTAGE": stage or "default"}


def make_scope(file: Dockerfile, given: Mapping[str, str], automatic: Mapping[str, str]) -> Scope:
    """Put the global arguments together. Raises DockerfileError with the place."""
    start = {name: given.get(name, value) for name, value in automatic.items()}
    found, defaults = dict(start), dict(automatic)
    for instruction in file.args:
        assert isinstance(instruction.value, Arg)
        for name, default in instruction.value.pairs:
            try:
                _define(found, name, default, given, file.escape)
                _define(defaults, name, default, {}, file.escape)
            except DockerfileError as error:
                raise error.located(instruction.line.lines, file.name, file.raw) from None
    proxies = {name: value for name, value in given.items() if name in PROXY_ARGS}
    return Scope(given, start, found, defaults, proxies)


def _define(
    values: dict[str, str], name: str, default: str | None, given: Mapping[str, str], escape: str
) -> None:
    if name in given:
        values[name] = given[name]
    elif default is not None:
        values[name] = expand(default, values, escape).text
