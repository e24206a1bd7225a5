"""The version 2 device controller: device rules as a BPF program (pure), loaded and attached with bpf(2)."""

import ctypes
import errno
import os
import struct

from cais.errors import Unsupported
from cais.linux.cgroups.devices import Rule

# bpf(2) commands, program and attach types (linux/bpf.h).
PROG_LOAD, PROG_ATTACH, PROG_DETACH, PROG_GET_FD_BY_ID, PROG_QUERY = 5, 8, 9, 13, 16
PROG_TYPE_CGROUP_DEVICE, CGROUP_DEVICE = 15, 6
ALLOW_MULTI, REPLACE = 2, 4
ATTR_SIZE = 128
SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

# struct bpf_cgroup_dev_ctx: u32 access_type ((access << 16) | type), u32 major, u32 minor.
TYPES = {"b": 1, "c": 2}
ACCESS = {"m": 1, "r": 2, "w": 4}
EVERY_ACCESS = 7

# Instruction codes (Documentation/bpf/standardization/instruction-set.rst).
LOAD_WORD, MOVE, MOVE_REG, AND, SHIFT_RIGHT = 0x61, 0xB4, 0xBC, 0x54, 0x74
JUMP_EQUAL, JUMP_NOT_EQUAL, JUMP_SET, EXIT = 0x16, 0x56, 0x46, 0x95
# Registers: r1 is the context; r2 type, r3 access still undecided, r4 major, r5 minor, r0 the verdict.
CONTEXT, TYPE, REST, MAJOR, MINOR, VERDICT = 1, 2, 3, 4, 5, 0


def _op(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, target | source << 4, offset, value)


def _unsigned(number: int) -> int:
    """A u32 as the signed immediate with the same bits."""
    return number - (1 << 32) if number >= 1 << 31 else number


def make_program(rules: list[Rule]) -> bytes:
    """A device program with the verdicts of the v1 controller: the rules apply in order, so the last one
    that speaks of an access wins; the program walks them from the last to the first, narrowing the
    accesses not yet decided. What no rule decides is refused."""
    code = [
        _op(LOAD_WORD, TYPE, CONTEXT, 0),
        _op(MOVE_REG, REST, TYPE),
        _op(AND, TYPE, value=0xFFFF),
        _op(SHIFT_RIGHT, REST, value=16),
        _op(LOAD_WORD, MAJOR, CONTEXT, 4),
        _op(LOAD_WORD, MINOR, CONTEXT, 8),
    ]
    for rule in reversed(rules):
        code += _rule_ops(rule)
        if rule.type == "a":
            break  # Nothing before it can matter, and the verifier refuses code that cannot be reached.
    else:
        code += _verdict(False)
    return b"".join(code)


def _verdict(allow: bool) -> list[bytes]:
    return [_op(MOVE, VERDICT, value=int(allow)), _op(EXIT)]


def _rule_ops(rule: Rule) -> list[bytes]:
    if rule.type == "a":
        return _verdict(rule.allow)
    mask = sum(ACCESS[letter] for letter in set(rule.access))
    body: list[bytes | None]
    if not rule.allow:
        body = [_op(JUMP_SET, REST, offset=1, value=mask), None, *_verdict(False)]
    elif mask == EVERY_ACCESS:
        body = [*_verdict(True)]
    else:
        body = [
            _op(AND, REST, value=EVERY_ACCESS & ~mask),
            _op(JUMP_NOT_EQUAL, REST, offset=2),
            *_verdict(True),
        ]
    tests: list[tuple[int, int]] = [(TYPE, TYPES[rule.type])]
    tests += [(MAJOR, rule.major)] if rule.major is not None else []
    tests += [(MINOR, rule.minor)] if rule.minor is not None else []
    return _assemble(tests, body)


def _assemble(tests: list[tuple[int, int]], body: list[bytes | None]) -> list[bytes]:
    """Each test that fails jumps behind the body; None in the body is a jump behind it too."""
    size = len(tests) + len(body)
    skips = [
        _op(JUMP_NOT_EQUAL, register, offset=size - index - 1, value=_unsigned(number))
        for index, (register, number) in enumerate(tests)
    ]
    jump_always = 0x05
    ops = [
        _op(jump_always, offset=len(body) - index - 1) if op is None else op for index, op in enumerate(body)
    ]
    return skips + ops


def attach_devices(folder_fd: int, program: bytes, *, fresh: bool) -> None:
    """Load the program and attach it to the open cgroup folder, in place of ours before it unless
    ``fresh``. Other programs may be attached below (systemd in a container does so); all of them must
    agree to an access."""
    new = _load(program)
    try:
        old = (
            [] if fresh else [_call(PROG_GET_FD_BY_ID, struct.pack("=I", each)) for each in _query(folder_fd)]
        )
        try:
            if len(old) == 1:
                # One step, so that the group is never without a program nor under both.
                _call(
                    PROG_ATTACH,
                    struct.pack("=5I", folder_fd, new, CGROUP_DEVICE, ALLOW_MULTI | REPLACE, old[0]),
                )
                return
            _call(PROG_ATTACH, struct.pack("=4I", folder_fd, new, CGROUP_DEVICE, ALLOW_MULTI))
            for each in old:
                _call(PROG_DETACH, struct.pack("=3I", folder_fd, each, CGROUP_DEVICE))
        finally:
            for each in old:
                os.close(each)
    finally:
        os.close(new)


def _load(program: bytes) -> int:
    text = ctypes.create_string_buffer(program, len(program))
    license = ctypes.create_string_buffer(b"Apache-2.0")
    attr = struct.pack(
        "=2I2Q", PROG_TYPE_CGROUP_DEVICE, len(program) // 8, ctypes.addressof(text), ctypes.addressof(license)
    )
    try:
        return _call(PROG_LOAD, attr)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            raise Unsupported(
                "this kernel has no BPF device programs (CONFIG_CGROUP_BPF): cannot limit devices"
            ) from error
        raise


def _query(folder_fd: int) -> list[int]:
    ids = (ctypes.c_uint32 * 64)()
    head = struct.pack("=4IQI", folder_fd, CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids))
    attr = ctypes.create_string_buffer(head, ATTR_SIZE)
    _bpf(PROG_QUERY, attr)
    count = struct.unpack_from("=I", attr.raw, 24)[0]
    return list(ids[:count])


def _call(command: int, attr: bytes) -> int:
    return _bpf(command, ctypes.create_string_buffer(attr, ATTR_SIZE))


def _bpf(command: int, attr: "ctypes.Array[ctypes.c_char]") -> int:
    machine = os.uname().machine
    number = SYSCALL.get(machine)
    if number is None:
        raise Unsupported(f"device programs are not supported on {machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), ctypes.c_int(command), attr, ctypes.c_uint(ATTR_SIZE))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf command {command}: {os.strerror(code)}")
    return result
