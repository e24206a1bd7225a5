"""Which capabilities a container gets: Docker's default fourteen, ``--cap-add``, ``--cap-drop``, ``--privileged``."""

from collections.abc import Iterable, Sequence

from cais.errors import Invalid

KNOWN = tuple(
    "CAP_" + name
    for name in """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE
    SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
    SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
    """.split()  # noqa: SIM905
)
"""In the order of their numbers, capability.h."""

DEFAULT = tuple(
    "CAP_" + name
    for name in """CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE
    SYS_CHROOT KILL AUDIT_WRITE""".split()  # noqa: SIM905
)
"""Docker's fourteen."""

ALL = "ALL"


def from_mask(mask: int) -> tuple[str, ...]:
    """Names of the bits of ``mask`` (``CapEff`` of /proc/self/status); bits without a name are left out."""
    return tuple(name for number, name in enumerate(KNOWN) if mask >> number & 1)


def normalize(names: Iterable[str], available: Sequence[str]) -> tuple[str, ...]:
    """``CAP_…`` names in upper case. ``available``: what the engine itself has and can give.

    Raises Invalid for unknown names and for what the engine lacks.
    """
    out: list[str] = []
    for text in names:
        name = text.upper()
        if name != ALL and not name.startswith("CAP_"):
            name = "CAP_" + name
        if name != ALL and name not in KNOWN:
            raise Invalid(f'unknown capability: "{name}"')
        if name != ALL and name not in available:
            raise Invalid(
                "capability not supported by your kernel or not available in the current environment: "
                f'"{name}"'
            )
        out.append(name)
    return tuple(out)


def choose(add: Sequence[str], drop: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """The capabilities of an unprivileged container. ``add`` wins over ``drop ALL``, ``drop`` over ``add ALL``."""
    adds, drops = normalize(add, available), normalize(drop, KNOWN)
    if ALL in adds:
        chosen = [name for name in available if name not in drops]
    elif ALL in drops:
        chosen = list(adds)
    else:
        chosen = [name for name in DEFAULT if name not in drops] + list(adds)
    wanted = set(chosen) & set(available)
    # In the order of their numbers, so that equal wishes give equal specifications.
    return tuple(name for name in KNOWN if name in wanted)
