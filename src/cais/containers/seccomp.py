"""Seccomp filters for containers, compiled once for each profile and set of capabilities."""

from collections.abc import Sequence
from pathlib import Path

from cais.linux.seccomp_compile import compile_profile
from cais.spec.seccomp import Profile, parse_profile
from cais.spec.seccomp_default import DEFAULT_PROFILE


class SeccompFilters:
    """Compiled programs by profile text and bounding capabilities. ``default``: the engine's own profile, a path,
    ``unconfined``, or empty for the built-in one."""

    def __init__(self, cache: Path, default: str) -> None:
        self._cache = cache
        self._default = _read_default(default)
        self._programs: dict[tuple[str, tuple[str, ...]], bytes] = {}

    def program(self, profile: str, capabilities: Sequence[str]) -> bytes:
        """The BPF program, empty for unconfined. ``profile``: a record's ``seccomp``. Raises Invalid for a profile
        that cannot be read, OSError for one that libseccomp refuses."""
        key = (profile, tuple(capabilities))
        found = self._programs.get(key)
        if found is None:
            chosen = self._choose(profile)
            found = compile_profile(chosen, key[1], self._cache) if chosen else b""
            self._programs[key] = found
        return found

    def _choose(self, profile: str) -> Profile | None:
        if profile == "unconfined":
            return None
        if profile in ("builtin", "default"):
            return DEFAULT_PROFILE
        return parse_profile(profile) if profile else self._default


def _read_default(default: str) -> Profile | None:
    if default == "unconfined":
        return None
    if default in ("", "builtin", "default"):
        return DEFAULT_PROFILE
    return parse_profile(Path(default).read_bytes())
