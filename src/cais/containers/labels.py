"""Security labels: which AppArmor profile and SELinux label containers get; that the profile is in the kernel."""

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

from cais.containers.limits import Machine
from cais.containers.record import MountPoint
from cais.errors import Invalid, Unsupported
from cais.linux import apparmor
from cais.linux.apparmor import UNCONFINED

BASE_LABEL = {"user": "system_u", "role": "system_r", "type": "container_t", "level": "s0"}
"""What Docker's containers have where nothing is said, in the order in which a label is written."""

DISABLE = "disable"
_PROFILE = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,512}")
"""The kernel trims blanks, ends at a null byte and takes a page at most: such a name would become another one."""

_PIECE = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_LEVEL = re.compile(r"[A-Za-z0-9_.,:-]{1,256}", re.ASCII)


def check_profile_name(name: str) -> None:
    """``apparmor=NAME``. Raises Invalid for what the kernel would read as another name."""
    if name and not _PROFILE.fullmatch(name):
        raise Invalid(f"invalid apparmor profile name: {name!r}")


def compose_label(options: Iterable[str]) -> str:
    """The SELinux label that ``label=…`` options ask for; empty for none and with ``disable``. Raises Invalid in
    Docker's words for an unknown form, Unsupported for what Docker has and this engine has not."""
    found: dict[str, str] = {}
    disabled = False
    for text in options:
        key, colon, value = text.partition(":")
        if text == DISABLE:
            disabled = True
        elif key == "filetype" and colon:
            raise Unsupported("label option filetype is not supported: files of containers are not labelled")
        elif not colon or key not in BASE_LABEL:
            raise Invalid(
                f"bad label option \"{text}\", valid options 'disable' or \n"
                "'user, role, level, type, filetype' followed by ':' and a value"
            )
        elif not (_LEVEL if key == "level" else _PIECE).fullmatch(value):
            # A colon or a blank would move what follows into another field.
            raise Invalid(f"invalid value in label option {text!r}")
        else:
            found[key] = value
    return "" if disabled or not found else ":".join((BASE_LABEL | found).values())


def choose_profile(asked: str, *, privileged: bool, machine: Machine) -> str:
    """The profile that a container runs under; empty where the machine has no AppArmor and nobody asked for it.

    Raises Unsupported when a profile was asked for that the machine cannot give: a container that was to be confined
    must not run without."""
    if not machine.no_apparmor:
        return asked or (UNCONFINED if privileged else apparmor.NAME)
    if asked not in ("", UNCONFINED, apparmor.NAME):
        raise Unsupported(f"apparmor profile {asked} was asked for, but {machine.no_apparmor}")
    return ""


def check_label(label: str, machine: Machine) -> None:
    """Raises Unsupported when an SELinux label was asked for that the machine cannot give."""
    if label and machine.no_selinux:
        raise Unsupported(f"selinux label {label} was asked for, but {machine.no_selinux}")


def relabel_warnings(points: Iterable[MountPoint], machine: Machine) -> list[str]:
    """``:z`` and ``:Z`` of ``-v``: nothing without SELinux, as in Docker; with it, nothing that is kept quiet."""
    if machine.no_selinux:
        return []
    return [
        f"Files are not relabeled for SELinux: '{point.mode}' of {point.destination} is discarded."
        for point in points
        if {"z", "Z"} & set(point.mode.split(","))
    ]


class Profiles:
    """The AppArmor profiles in the kernel, the default one put there when it is needed first."""

    def __init__(self, listing: Path = apparmor.LISTING, parser: str = apparmor.PARSER) -> None:
        self._listing = listing
        self._parser = parser
        self._loading = asyncio.Lock()

    async def ensure(self, name: str) -> None:
        """Return once the profile is there. Raises Invalid for one that nobody has loaded; Unsupported when the default
        one cannot be loaded. Asked at every start: other programs may remove profiles at any time."""
        if name in ("", UNCONFINED) or name.startswith(":") or "//&" in name:
            # Other namespaces and stacks are not in our list: the kernel says at the start whether they are there.
            return
        if self._is_loaded(name):
            return
        if name != apparmor.NAME:
            raise Invalid(f"apparmor profile {name} is not loaded: load it with apparmor_parser")
        async with self._loading:
            if not self._is_loaded(name):
                await self._load()

    def _is_loaded(self, name: str) -> bool:
        try:
            return name in apparmor.read_profiles(self._listing)
        except OSError as error:
            raise Unsupported(f"cannot tell whether apparmor profile {name} is loaded: {error}") from error

    async def _load(self) -> None:
        text = apparmor.make_profile(apparmor.read_label("self"))
        try:
            await asyncio.to_thread(apparmor.load, text, self._parser)
        except FileNotFoundError as error:
            raise Unsupported(
                f"AppArmor enabled on system but the {apparmor.NAME} profile could not be loaded: {self._parser} is "
                "not installed (Debian: apt-get install apparmor); --security-opt apparmor=unconfined does without"
            ) from error
        except OSError as error:
            raise Unsupported(
                f"AppArmor enabled on system but the {apparmor.NAME} profile could not be loaded: {error.strerror}"
            ) from error
