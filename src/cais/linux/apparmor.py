"""AppArmor: whether it is at work here, which profiles the kernel has, and the default one: its text, its loading."""

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

NAME = "cais-default"
"""The default profile. An administrator may load one of that name first: then it is theirs that holds."""

UNCONFINED = "unconfined"
LISTING = Path("/sys/kernel/security/apparmor/profiles")
PARSER = "apparmor_parser"
PARSER_SECONDS = 60.0

_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_MORE_FOLDERS = "/usr/sbin:/sbin"
_MODE = re.compile(r" \([a-z]+\)$")
_PLAIN_LABEL = re.compile(r"[A-Za-z0-9_./+-]+")

_PROFILE = """\
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  # Capabilities, mounts and seccomp decide about these; what is denied below is denied whatever they allow.
  network,
  capability,
  file,
  umount,

  # No new mounts: every one of them could lead around the rules on paths below.
  deny mount,

  # Who manages containers may end them; among themselves they may do as they like.
  signal (receive) peer={unconfined},{peer}
  signal (send, receive) peer={name},
  # Nobody but a neighbour is traced or looked into.
  ptrace (trace, read, tracedby, readby) peer={name},

  # /proc: files at the top belong to the machine, as do folders that are neither a process's nor sys.
  deny /proc/* w,
  deny /proc/[^0-9s]*/** w,
  deny /proc/{{s,sy}}/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sy[^s]*/** w,
  deny /proc/sys?*/** w,
  deny /proc/kcore rwklx,
  deny /proc/sysrq-trigger rwklx,
  # Of /proc/sys only limits of System V shared memory and semaphores, which an IPC namespace has for itself.
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/ke[^r]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^eh]** w,
  deny /proc/sys/kernel/se[^m]** w,
  deny /proc/sys/kernel/sh[^m]** w,

  # /sys: nothing but control groups can be changed.
  deny /sys/[^f]** wklx,
  deny /sys/f[^s]** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/fs/c[^g]** wklx,
  deny /sys/fs/cg[^r]** wklx,
  # Tables of the firmware, energy meters (CVE-2020-8694) and the rules themselves are not even read.
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""
# The language: apparmor.d(5). The effect is that of Docker's default profile as its documentation lists it.


def why_not() -> str:
    """Why no profile can be given to containers here; empty where one can.

    As in Docker, an engine that is itself in a container (``container`` is set) has no say in the machine's profiles,
    and where securityfs is not mounted nobody can tell which there are."""
    try:
        enabled = _ENABLED.read_text(encoding="ascii", errors="replace").startswith("Y")
    except OSError:
        enabled = False
    if not enabled:
        return "this kernel has no apparmor"
    if not LISTING.exists():
        return "securityfs is not mounted at /sys/kernel/security, so apparmor is out of reach"
    if os.environ.get("container"):  # noqa: SIM112 -- systemd spells it so
        return "the engine is in a container itself, so apparmor is out of reach"
    return ""


def read_profiles(listing: Path = LISTING) -> frozenset[str]:
    """Names of the profiles in the kernel, whatever their mode. Raises OSError."""
    return frozenset(parse_profiles(listing.read_text(encoding="utf-8", errors="replace")))


def parse_profiles(text: str) -> list[str]:
    """Names from the kernel's list, whose lines are ``name (mode)``; a name may have blanks and parentheses."""
    return [_MODE.sub("", line) for line in text.splitlines() if _MODE.search(line)]


def read_label(pid: int | str) -> str:
    """``name (mode)`` or ``unconfined`` of a process; empty where there is no AppArmor or no such process."""
    for file in ("attr/apparmor/current", "attr/current"):
        try:
            return Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8", errors="replace").rstrip("\0\n")
        except OSError:
            continue
    return ""


def make_profile(engine_label: str = UNCONFINED) -> str:
    """The default profile's text. ``engine_label`` is what ``read_label`` says of the engine: when it is confined
    itself, its signals are let through."""
    own = _MODE.sub("", engine_label)
    confined = own not in ("", UNCONFINED) and _PLAIN_LABEL.fullmatch(own)
    peer = f"\n  signal (receive) peer={own}," if confined else ""
    return _PROFILE.format(name=NAME, unconfined=UNCONFINED, peer=peer)


def find_parser(parser: str = PARSER) -> str:
    """The path of the program that loads profiles; empty when it is not installed."""
    return shutil.which(parser, path=f"{os.environ.get('PATH', os.defpath)}:{_MORE_FOLDERS}") or ""


def load(text: str, parser: str = PARSER, *, seconds: float = PARSER_SECONDS) -> None:
    """Have the profiles of ``text`` compiled and put into the kernel; those of the same names are replaced.

    Raises FileNotFoundError without a parser, OSError with the parser's words when it or the kernel refuses."""
    found = find_parser(parser)
    if not found:
        raise FileNotFoundError(errno.ENOENT, "is not installed", parser)
    try:
        # -K: no cache, which would be a file that the machine's own scripts load at boot.
        result = subprocess.run(
            [found, "-Kr"],
            input=text.encode(),
            capture_output=True,
            cwd="/",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(errno.ETIMEDOUT, f"{parser} did not end in {seconds:g} s") from error
    if result.returncode:
        words = " ".join((result.stderr or result.stdout).decode("utf-8", "replace").split())[:500]
        raise OSError(errno.EINVAL, f"{parser} failed with {result.returncode}: {words}")
