"""Capability names and numbers (include/uapi/linux/capability.h), and dropping them from the bounding set."""

import errno

from cais.linux.syscalls import PR_CAP_AMBIENT, PR_CAPBSET_DROP, prctl

NAMES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
NUMBERS = {"CAP_" + name: number for number, name in enumerate(NAMES)}


def mask_of(names: list[str]) -> int:
    """The bit mask of ``CAP_…`` names; names the table does not know are left out."""
    mask = 0
    for name in names:
        number = NUMBERS.get(name, -1)
        if number >= 0:
            mask |= 1 << number
    return mask


def names_of(mask: int) -> list[str]:
    """The ``CAP_…`` names in a bit mask."""
    return [name for name, number in NUMBERS.items() if mask >> number & 1]


def drop_bounding(keep: int) -> None:
    """Drop every capability of the bounding set that is not in the mask ``keep``; the kernel ends the list
    with EINVAL."""
    for number in range(64):
        if keep >> number & 1:
            continue
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return


def raise_ambient(mask: int) -> None:
    """Replace the ambient set (capabilities(7)); each must be permitted and inheritable."""
    prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)
    for number in range(64):
        if mask >> number & 1:
            prctl(PR_CAP_AMBIENT, 2, number, 0, 0)
