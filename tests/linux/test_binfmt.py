"""Entries of binfmt_misc as kernels show them."""

from pathlib import Path

import pytest

from cais.linux.binfmt import parse_entry, read_emulated

ELF64, ELF32 = "7f454c460201010000000000000000000200", "7f454c460101010000000000000000000200"
BIG64 = "7f454c460202010000000000000000000002"


def entry(magic: str, flags: str = "F", first: str = "enabled", offset: int = 0) -> str:
    """What a kernel shows of an entry."""
    return f"{first}\ninterpreter /usr/bin/qemu\nflags: {flags}\noffset {offset}\nmagic {magic}\nmask ffff\n"


@pytest.mark.parametrize(
    ("text", "machine"),
    [
        (entry(ELF64 + "b700"), "aarch64"),
        (entry(ELF32 + "2800", "POCF"), "armv7l"),
        (entry(ELF64 + "f300"), "riscv64"),
        (entry(ELF64 + "1500"), "ppc64le"),
        (entry(BIG64 + "0016"), "s390x"),
        (entry(ELF64 + "0201"), "loongarch64"),
        (entry(ELF64 + "b700", "OC"), ""),  # the interpreter would be looked for inside
        (entry(ELF64 + "b700", first="disabled"), ""),
        (entry(ELF64 + "b700", offset=4), ""),
        (entry(ELF64 + "ffff"), ""),
        (entry("7f454c46"), ""),
        (entry("cafebabe" * 5), ""),
        (entry("no hex"), ""),
        ("enabled\ninterpreter /usr/bin/wine\nflags: F\nextension .exe\n", ""),
        ("", ""),
    ],
)
def test_what_an_entry_emulates(text: str, machine: str) -> None:
    """ELF's machine, class and byte order say it; the names of entries are anybody's choice."""
    assert parse_entry(text) == machine


def test_all_entries_are_read(tmp_path: Path) -> None:
    """Each machine once; nothing while it is switched off or not there."""
    assert read_emulated(str(tmp_path)) == []
    (tmp_path / "status").write_text("enabled\n")
    (tmp_path / "register").write_text("")
    for name, text in (("a", ELF64 + "b700"), ("b", ELF64 + "b700"), ("c", ELF32 + "2800")):
        (tmp_path / name).write_text(entry(text))
    assert sorted(read_emulated(str(tmp_path))) == ["aarch64", "armv7l"]
    (tmp_path / "status").write_text("disabled\n")
    assert read_emulated(str(tmp_path)) == []
