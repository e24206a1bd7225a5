"""The head of a seccomp program: verdicts for calls newer than libseccomp, ENOSYS for calls newer than
the profile; pure."""

import struct
from collections.abc import Mapping
from typing import NamedTuple

# Classic BPF instruction codes (linux/bpf_common.h) and struct seccomp_data's offsets (linux/seccomp.h).
LOAD, AND, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, JUMP_SET, RETURN = (
    0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06,
)  # fmt: skip
NUMBER_OFFSET, ARCH_OFFSET = 0, 4

X32_BIT = 0x40000000
AUDIT_X86_64 = 0xC000003E
AUDIT_ARCHES = {
    "SCMP_ARCH_X86_64": AUDIT_X86_64,
    "SCMP_ARCH_X32": AUDIT_X86_64,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
    "SCMP_ARCH_LOONGARCH64": 0xC0000102,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_S390": 0x00000016,
}
"""Architectures that share the numbers of new calls; the MIPS ones add an offset and get no head."""

_NAMES = """
quotactl_fd landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret process_mrelease
futex_waitv set_mempolicy_home_node cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue
statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat
listxattrat removexattrat open_tree_attr file_getattr file_setattr
"""
NEWER = {name: number for number, name in enumerate(_NAMES.split(), 443)}
"""Calls by number, the same everywhere since 5.1 (scripts/syscall.tbl): what the installed libseccomp may
not know."""

ENOSYS_ACTION = 0x00050000 | 38


class Section(NamedTuple):
    """One architecture's head: ``verdicts`` by call number, each above ``known``, the highest number the
    main program decides; above ``last`` all is ENOSYS (None: left to the main program)."""

    known: int
    last: int | None
    verdicts: Mapping[int, int]


def make_head(sections: Mapping[str, Section]) -> bytes:
    """The instructions to put before the main program. ``sections`` by ``SCMP_ARCH_…`` name; x32 is told
    from x86_64 by the bit in its numbers. Whoever is in no section runs into the main program, which
    knows what to do with it.

    Why: a program built for a newer kernel probes for a call and falls back on ENOSYS, but gives up on
    EPERM. So what nobody could know when the profile was written is "no such call", as runc does it
    (libseccomp cannot).
    """
    blocks: list[tuple[int, list[bytes]]] = []
    for audit in dict.fromkeys(AUDIT_ARCHES[name] for name in sections if name in AUDIT_ARCHES):
        names = [name for name in sections if AUDIT_ARCHES.get(name) == audit]
        blocks.append((audit, _block(names, sections)))
    if not blocks:
        return b""
    code = _leave([])
    for audit, block in reversed(blocks):
        # Each block ends in the main program or a verdict; a foreign architecture jumps over it. Long
        # jump: a block may be longer than the 255 instructions a conditional one reaches.
        code = [_op(JUMP_EQUAL, audit, 1, 0), _op(JUMP, len(block)), *block, *code]
    size = len(code) + 1
    final = [_op(LOAD, ARCH_OFFSET), *code]
    return b"".join(_resolve(op, size - index - 1) for index, op in enumerate(final))


MAIN = b"to main "
"""Placeholder of a jump to the main program, whose distance is known last."""


def _op(code: int, value: int, when: int = 0, unless: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when, unless, value)


def _resolve(op: bytes, distance: int) -> bytes:
    return _op(JUMP, distance) if op == MAIN else op


def _leave(code: list[bytes]) -> list[bytes]:
    return [*code, MAIN]


def _block(names: list[str], sections: Mapping[str, Section]) -> list[bytes]:
    if AUDIT_ARCHES[names[0]] != AUDIT_X86_64:
        return [_op(LOAD, NUMBER_OFFSET), *_section(sections[names[0]])]
    native = _section(sections["SCMP_ARCH_X86_64"]) if "SCMP_ARCH_X86_64" in sections else [MAIN]
    x32 = [MAIN]
    if "SCMP_ARCH_X32" in sections:
        x32 = [_op(AND, 0xFFFFFFFF ^ X32_BIT), *_section(sections["SCMP_ARCH_X32"])]
    return [_op(LOAD, NUMBER_OFFSET), _op(JUMP_SET, X32_BIT, 0, 1), _op(JUMP, len(native)), *native, *x32]


def _section(section: Section) -> list[bytes]:
    code = [_op(JUMP_GREATER, section.known, 1, 0), MAIN]
    for number, verdict in sorted(section.verdicts.items()):
        code += [_op(JUMP_EQUAL, number, 0, 1), _op(RETURN, verdict)]
    if section.last is not None:
        code += [_op(JUMP_GREATER, section.last, 0, 1), _op(RETURN, ENOSYS_ACTION)]
    return _leave(code)
