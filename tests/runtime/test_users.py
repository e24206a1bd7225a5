"""Users and groups of an image."""

import os
from pathlib import Path

import pytest

from cais.runtime.users import MAX_ID, find_identity, read_table

PASSWD = [
    ["root", "x", "0", "0", "", "/root", "/bin/sh"],
    ["app", "x", "7", "8", "", "/app", ""],
    ["123", "x", "9", "9", "", "/n", ""],
]
GROUP = [
    ["root", "x", "0", ""],
    ["app", "x", "8", ""],
    ["extra", "x", "70", "app,other"],
    ["55", "x", "56", ""],
]


@pytest.mark.parametrize(
    ("text", "extra", "uid", "gid", "groups", "home"),
    [
        ("", [], 0, 0, [], "/root"),
        ("app", [], 7, 8, [70], "/app"),
        ("7", [], 7, 8, [70], "/app"),
        ("app:extra", [], 7, 70, [], "/app"),
        ("1000", [], 1000, 0, [], ""),
        ("1000:2000", [], 1000, 2000, [], ""),
        ("123", [], 9, 9, [], "/n"),
        ("0:55", ["extra", "99"], 0, 56, [70, 99], "/root"),
    ],
)
def test_docker_rules(text: str, extra: list[str], uid: int, gid: int, groups: list[int], home: str) -> None:
    """Names before numbers, supplementary groups only without an explicit group."""
    found = find_identity(text, extra, PASSWD, GROUP)
    assert (found.uid, found.gid, found.groups, found.home) == (uid, gid, groups, home)


@pytest.mark.parametrize("text", ["nobody", "app:nogroup", str(MAX_ID + 1), "4294967296", f"0:{MAX_ID + 1}"])
def test_unknown_names_and_numbers_out_of_range_are_refused(text: str) -> None:
    """4294967296 must not become root (CVE-2024-40635)."""
    with pytest.raises(ValueError, match=r"unable to find|must be in range"):
        find_identity(text, [], PASSWD, GROUP)


def test_an_id_out_of_range_in_the_image_is_refused() -> None:
    """The image's own file cannot smuggle a number that wraps around."""
    with pytest.raises(ValueError, match="must be in range"):
        find_identity("bad", [], [["bad", "x", "4294967296", "0", "", "/", ""]], [])


def test_a_fifo_for_a_passwd_file_does_not_block(tmp_path: Path) -> None:
    """An image may contain anything under that name."""
    os.mkfifo(tmp_path / "passwd")
    assert read_table(str(tmp_path / "passwd")) == []
    assert read_table(str(tmp_path / "missing")) == []


def test_lines_that_are_not_text_are_kept_out(tmp_path: Path) -> None:
    """Comments and empty lines are skipped, strange bytes survive."""
    (tmp_path / "passwd").write_bytes(b"# c\n\nro\xffot:x:0:0::/:\n")
    assert read_table(str(tmp_path / "passwd")) == [["ro\udcffot", "x", "0", "0", "", "/", ""]]
