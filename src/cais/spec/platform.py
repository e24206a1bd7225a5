"""Platforms: what an image was built for, what a host can run, and which of several fits best."""

import re
from collections.abc import Sequence

import msgspec

from cais.errors import Invalid

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OSES = {"macos": "darwin"}
# GOARCH names for what uname(2) and distributions say; the variant that the name implies, if any.
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86": ("386", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", ""),
}
_KNOWN = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x", "wasm"}
)
_OLDER_ARM = ("v8", "v7", "v6", "v5")
_OLDER_AMD64 = ("v4", "v3", "v2", "")


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A platform as OCI's descriptor.md spells it (``platform`` of an image-index entry)."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: tuple[str, ...] = msgspec.field(name="os.features", default=())

    def __str__(self) -> str:
        return format_platform(self)


def parse_platform(text: str) -> Platform:
    """Parse ``os``, ``os/arch`` or ``os/arch/variant``; a lone architecture means Linux. Raises Invalid."""
    words = text.split("/")
    if not 1 <= len(words) <= 3 or not all(_WORD.fullmatch(word) for word in words):
        raise Invalid(f"invalid platform: {text!r}: want os/arch[/variant]")
    if len(words) == 1:
        word = words[0].lower()
        if word in _KNOWN or word in _ARCHITECTURES:
            words = ["linux", word]
        else:
            raise Invalid(f"invalid platform: {text!r}: unknown operating system or architecture")
    return normalize_platform(
        Platform(os=words[0], architecture=words[1], variant=words[2] if len(words) == 3 else "")
    )


def format_platform(platform: Platform) -> str:
    """``os/arch[/variant]``; the inverse of ``parse_platform`` for normalised values."""
    return "/".join(word for word in (platform.os, platform.architecture, platform.variant) if word)


def host_platform(sysname: str, machine: str) -> Platform:
    """The platform of a host, given ``sysname`` and ``machine`` of uname(2)."""
    return normalize_platform(Platform(os=sysname, architecture=machine))


def normalize_platform(platform: Platform) -> Platform:
    """One spelling a platform: Go's names; default variants (arm64 v8, amd64 v1) empty, bare arm is v7."""
    name = platform.architecture.lower()
    architecture, variant = _ARCHITECTURES.get(name, (name, ""))
    variant = platform.variant.lower() or variant
    if variant.isdigit():
        variant = f"v{variant}"
    match architecture, variant:
        case ("arm64", "v8") | ("amd64", "v1"):
            variant = ""
        case ("arm", ""):
            variant = "v7"
    system = platform.os.lower()
    return msgspec.structs.replace(
        platform, os=_OSES.get(system, system), architecture=architecture, variant=variant
    )


def choose_platform(host: Platform, offered: Sequence[Platform]) -> int | None:
    """The index of the platform in ``offered`` that ``host`` runs best; None if it runs none of them."""
    runnable = _runnable(normalize_platform(host))
    ranks = [
        (runnable.index(key), index)
        for index, platform in enumerate(offered)
        if (key := _key(normalize_platform(platform))) in runnable
    ]
    return min(ranks)[1] if ranks else None


def list_runnable(host: Platform) -> list[Platform]:
    """What the processor of ``host`` runs by itself, best first."""
    return [
        Platform(os=os, architecture=architecture, variant=variant)
        for os, architecture, variant in _runnable(normalize_platform(host))
    ]


def matches(wanted: Platform, platform: Platform) -> bool:
    """Whether ``platform`` is what was asked for; fields that ``wanted`` leaves empty match everything."""
    want, have = normalize_platform(wanted), normalize_platform(platform)
    if want.os and want.os != have.os:
        return False
    if want.architecture and want.architecture != have.architecture:
        return False
    return not wanted.variant or want.variant == have.variant


def _key(platform: Platform) -> tuple[str, str, str]:
    return platform.os, platform.architecture, platform.variant


def _runnable(host: Platform) -> list[tuple[str, str, str]]:
    """What ``host`` can run, best first: itself, older variants, then the 32-bit sibling."""
    keys = [_key(host)]
    match host.architecture:
        case "amd64":
            older = (
                _OLDER_AMD64[_OLDER_AMD64.index(host.variant) + 1 :] if host.variant in _OLDER_AMD64 else ()
            )
            keys += [(host.os, "amd64", variant) for variant in older]
            keys.append((host.os, "386", ""))
        case "arm64":
            keys += [(host.os, "arm64", "")] if host.variant else []
            keys += [(host.os, "arm", variant) for variant in _OLDER_ARM]
        case "arm" if host.variant in _OLDER_ARM:
            older = _OLDER_ARM[_OLDER_ARM.index(host.variant) + 1 :]
            keys += [(host.os, "arm", variant) for variant in older]
    return keys
