"""Which other processors' programs the kernel here hands to an emulator (binfmt_misc)."""

import os
import struct
from collections.abc import Iterable

FOLDER = "/proc/sys/fs/binfmt_misc"

_ELF = b"\x7fELF"
_MACHINE_AT, _CLASS_AT, _ORDER_AT = 18, 4, 5
_CLASS_64, _LITTLE = 2, 1
# e_machine (elf.h) with class and byte order, as uname(2) names what runs there.
_MACHINES = {
    (3, 1, _LITTLE): "i686",
    (62, _CLASS_64, _LITTLE): "x86_64",
    (40, 1, _LITTLE): "armv7l",
    (183, _CLASS_64, _LITTLE): "aarch64",
    (243, _CLASS_64, _LITTLE): "riscv64",
    (21, _CLASS_64, _LITTLE): "ppc64le",
    (22, _CLASS_64, 2): "s390x",
    (8, _CLASS_64, _LITTLE): "mips64le",
    (258, _CLASS_64, _LITTLE): "loongarch64",
}


def read_emulated(folder: str = FOLDER) -> list[str]:
    """Machines, as uname(2) names them, whose programs run in any root; none where binfmt_misc is not mounted."""
    try:
        if _read(f"{folder}/status").strip() != "enabled":
            return []
        names = sorted(set(os.listdir(folder)) - {"status", "register"})
        texts = [_read(f"{folder}/{name}") for name in names]
    except OSError:
        return []
    return list(dict.fromkeys(filter(None, map(parse_entry, texts))))


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def parse_entry(text: str) -> str:
    """The machine that an entry emulates, as the kernel shows it (admin-guide/binfmt-misc.rst); empty: none.

    Only with the flag F: without it the interpreter is looked for in the container's root, where it is not."""
    values = dict(_split(text.splitlines()))
    if "enabled" not in values or "F" not in values.get("flags:", "") or values.get("offset", "0") != "0":
        return ""
    try:
        magic = bytes.fromhex(values.get("magic", ""))
    except ValueError:
        return ""
    return find_machine(magic)


def find_machine(header: bytes) -> str:
    """The machine that an ELF file is for, by its first 20 bytes; empty: none that is known."""
    if not header.startswith(_ELF) or len(header) < _MACHINE_AT + 2:
        return ""
    order = "<" if header[_ORDER_AT] == _LITTLE else ">"
    (machine,) = struct.unpack_from(f"{order}H", header, _MACHINE_AT)
    return _MACHINES.get((machine, header[_CLASS_AT], header[_ORDER_AT]), "")


def _split(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        name, _, value = line.partition(" ")
        yield name, value.strip()
