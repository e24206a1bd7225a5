"""libseccomp (seccomp_init(3) and its kin), as far as compiling filters needs it."""

import ctypes
import errno
import os
from collections.abc import Iterable
from types import TracebackType

from cais.errors import Unsupported

# Our own dozen lines of ctypes and not the package pyseccomp: that one looks for the library by starting
# ldconfig and gcc at import (30 ms, and an error where neither is there), and an engine without it could
# not even say what is missing.
LIBRARY = "libseccomp.so.2"

# seccomp.h: actions, comparisons, attributes.
KILL_THREAD, KILL_PROCESS, TRAP, LOG, ALLOW = 0, 0x80000000, 0x30000, 0x7FFC0000, 0x7FFF0000
COMPARE = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
ATTRIBUTE_OPTIMIZE = 8
NO_CALL = -1

# Architecture tokens are the kernel's AUDIT_ARCH numbers, but for x32, which the kernel tells from x86_64
# by the call.
NATIVE = 0
_64BIT, _LITTLE, _N32 = 0x80000000, 0x40000000, 0x20000000
ARCHITECTURES = {
    "X86": 3 | _LITTLE,
    "X86_64": 62 | _64BIT | _LITTLE,
    "X32": 62 | _LITTLE,
    "ARM": 40 | _LITTLE,
    "AARCH64": 183 | _64BIT | _LITTLE,
    "MIPS": 8,
    "MIPS64": 8 | _64BIT,
    "MIPS64N32": 8 | _64BIT | _N32,
    "MIPSEL": 8 | _LITTLE,
    "MIPSEL64": 8 | _64BIT | _LITTLE,
    "MIPSEL64N32": 8 | _64BIT | _LITTLE | _N32,
    "PPC": 20,
    "PPC64": 21 | _64BIT,
    "PPC64LE": 21 | _64BIT | _LITTLE,
    "S390": 22,
    "S390X": 22 | _64BIT,
    "RISCV64": 243 | _64BIT | _LITTLE,
    "LOONGARCH64": 258 | _64BIT | _LITTLE,
}


def errno_action(number: int) -> int:
    """SCMP_ACT_ERRNO."""
    return 0x50000 | number


def trace_action(number: int) -> int:
    """SCMP_ACT_TRACE."""
    return 0x7FF00000 | number


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("index", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("one", ctypes.c_uint64),
        ("two", ctypes.c_uint64),
    )


Comparison = tuple[int, int, int, int]
"""Argument index, one of ``COMPARE``, value, second value."""


class Libseccomp:
    """The loaded library. Raises Unsupported where it is not installed."""

    def __init__(self, name: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise Unsupported(f"seccomp needs {name}: install libseccomp2") from error
        self._library.seccomp_init.restype = ctypes.c_void_p

    def find_call(self, name: str, architecture: int = NATIVE) -> int:
        """The number of a system call, ``NO_CALL`` when this libseccomp does not know the name; other
        negative numbers stand for calls the architecture does not have."""
        resolve = self._library.seccomp_syscall_resolve_name_arch
        return int(resolve(ctypes.c_uint32(architecture), name.encode("utf-8", "replace")))

    def open_filter(self, default: int) -> "LibFilter":
        """A new filter of the native architecture; closed by the caller (``with``)."""
        return LibFilter(self._library, default)


class LibFilter:
    """A filter being made. OSError for what libseccomp refuses."""

    def __init__(self, library: ctypes.CDLL, default: int) -> None:
        self._library = library
        self._filter = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
        if not self._filter:
            raise OSError(errno.EINVAL, f"seccomp default action {default:#x}")

    def __enter__(self) -> "LibFilter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.seccomp_release(self._filter)

    def add_architecture(self, token: int) -> None:
        """Filter the calls of this architecture too; nothing when it is in already."""
        result = self._library.seccomp_arch_add(self._filter, ctypes.c_uint32(token))
        if result != -errno.EEXIST:
            self._check(result, f"architecture {token:#x}")

    def optimize(self) -> None:
        """A binary tree over the call numbers. Ignored by libseccomp before 2.5, which has only lists."""
        self._library.seccomp_attr_set(self._filter, ATTRIBUTE_OPTIMIZE, ctypes.c_uint32(2))

    def add_rule(self, action: int, call: int, comparisons: Iterable[Comparison], what: str) -> None:
        """``action`` for the call when all comparisons hold; ``what`` names it in an error."""
        rows = [_Comparison(*each) for each in comparisons]
        array = (_Comparison * len(rows))(*rows)
        add = self._library.seccomp_rule_add_array
        self._check(add(self._filter, ctypes.c_uint32(action), call, ctypes.c_uint(len(rows)), array), what)

    def export(self) -> bytes:
        """The program: an array of struct sock_filter."""
        with os.fdopen(os.memfd_create("seccomp"), "w+b") as file:
            self._check(self._library.seccomp_export_bpf(self._filter, file.fileno()), "export")
            file.seek(0)
            return file.read()

    def _check(self, result: int, what: str) -> None:
        if result < 0:
            raise OSError(-result, f"seccomp filter: {what}: {os.strerror(-result)}")
