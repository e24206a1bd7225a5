"""The packages that rpm has on record, whatever it keeps them in."""

import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.build.attest.berkeley import read_hash_file
from cais.build.attest.packages import Distribution, package_url
from cais.build.attest.rpm import parse_header, parse_rpm
from cais.errors import Invalid
from harness.rpm import BASH, KEY, rpm_ndb, rpm_sqlite

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "rpm"
LITTLE = (FOLDER / "little.Packages").read_bytes()
"""Six headers and rpm's counter, written by Berkeley DB 5.3 (``db5.3_load``) with pages of 512 bytes."""
BIG = (FOLDER / "big.Packages").read_bytes()
"""The same in the other byte order."""
INSTALLED = {
    ("bash", "4.2.46-34.el7"),
    ("glibc", "2.17-317.el7"),
    ("tzdata", "2020a-1.el7"),
    ("rpm", "4.11.3-45.el7"),
    ("filesystem", "3.2-25.el7"),
}


def patch(place: int, data: bytes) -> bytes:
    """LITTLE with other bytes there."""
    return LITTLE[:place] + data + LITTLE[place + len(data) :]


def page(number: int, place: int) -> int:
    """A place of a page. Pages 1 and 2 have items; bash is on page 3, tzdata on 5, filesystem on 10, 11 and 12."""
    return number * 512 + place


def test_rpm_is_read_in_both_formats(tmp_path: Path) -> None:
    """SQLite and ndb; keys are no packages."""
    for data in (rpm_sqlite(tmp_path / "db", BASH, KEY), rpm_ndb(BASH, KEY)):
        (bash,) = parse_rpm(data, "x")
        url = package_url(bash, Distribution("fedora", "40"))
        assert url == "pkg:rpm/fedora/bash@5.2-3.fc40?arch=x86_64&distro=fedora-40&epoch=1"


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIEW Packages AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT x AS blob FROM c",
        "CREATE VIEW Packages AS SELECT x'00' AS blob",
        "CREATE VIRTUAL TABLE Packages USING fts5(blob)",
        "CREATE TABLE other (blob)",
        "CREATE TABLE Packages (a, blob AS (zeroblob(900000000)) VIRTUAL); INSERT INTO Packages (a) VALUES (1)",
    ],
)
def test_a_database_that_is_a_program_does_not_run(tmp_path: Path, sql: str) -> None:
    """Views, other tables, values that are made up on the way."""
    with pytest.raises(Invalid, match="database of rpm"):
        list(parse_rpm(rpm_sqlite(tmp_path / "db", sql=sql), "x"))


@pytest.mark.parametrize("data", [LITTLE, BIG])
def test_berkeley_db_is_read_in_both_byte_orders(data: bytes) -> None:
    """Headers on a page and on chains of pages, each once; the counter and keys are no packages."""
    found = list(parse_rpm(data, "x"))
    assert len(found) == len(INSTALLED)
    assert {(one.name, one.version) for one in found} == INSTALLED
    assert {one.qualifiers["arch"] for one in found} == {"x86_64"}


def test_pages_whose_items_are_not_sorted_are_read() -> None:
    """As releases before 4.6 wrote them."""
    data = bytearray(patch(16, struct.pack("<I", 8)))
    data[page(1, 25)] = data[page(2, 25)] = 2
    assert {(one.name, one.version) for one in parse_rpm(bytes(data), "x")} == INSTALLED


@pytest.mark.parametrize(
    ("place", "data", "message"),
    [
        (16, struct.pack("<I", 7), "version 7"),
        (16, struct.pack("<I", 11), "version 11"),
        (20, struct.pack("<I", 256), "first page"),
        (20, struct.pack("<I", 768), "first page"),
        (20, struct.pack("<I", 1 << 17), "first page"),
        (24, b"\1", "encrypted"),
        (25, b"\x09", "first page"),
        (26, b"\1", "checksums"),
    ],
)
def test_a_file_that_berkeley_db_lays_out_otherwise_is_refused(place: int, data: bytes, message: str) -> None:
    """Rather than read as what it is not."""
    with pytest.raises(Invalid, match=message):
        list(parse_rpm(patch(place, data), "x"))


@pytest.mark.parametrize(
    ("place", "data", "lost"),
    [
        (page(10, 16), struct.pack("<I", 10), "filesystem"),  # it goes round
        (page(10, 16), struct.pack("<I", 99), "filesystem"),  # behind the end of the file
        (page(10, 16), struct.pack("<I", 0), "filesystem"),
        (page(11, 8), b"\x77", "filesystem"),  # another page's number
        (page(11, 22), b"\0\0", "filesystem"),
        (page(11, 22), b"\xff\xff", "filesystem"),  # more than a page
        (page(12, 22), b"\xff\0", "filesystem"),  # less than the item is long
        (page(12, 22), b"\xe6\1", "filesystem"),  # more
        (page(11, 25), b"\0", "filesystem"),
        (page(2, 478), struct.pack("<4xII", 3, 165), "tzdata"),  # no item, or on bash's page
        (page(2, 478), struct.pack("<B3xII", 3, 3, 165), "tzdata"),
        (page(2, 26 + 6), b"\xff\1", "rpm tzdata"),  # the fourth item begins behind the third
        (page(2, 26 + 6), b"\0\0", "rpm tzdata"),
        (page(2, 20), b"\5\0", "rpm"),
    ],
)
def test_what_is_left_of_a_damaged_database_is_read(place: int, data: bytes, lost: str) -> None:
    """What cannot be costs the records that it is part of, and it is said how many."""
    names, expected = set(), {name for name, _ in INSTALLED} - set(lost.split())
    with pytest.raises(Invalid, match=f"damaged: {len(lost.split())} of its records"):
        for each in parse_rpm(patch(place, data), "x"):
            names.add(each.name)
    assert names == expected


def test_a_database_that_is_cut_short_says_so() -> None:
    """And gives what is whole."""
    names = set()
    with pytest.raises(Invalid, match="cut short"):
        for each in parse_rpm(LITTLE[:-1], "x"):
            names.add(each.name)
    assert names == {name for name, _ in INSTALLED} - {"filesystem"}
    with pytest.raises(Invalid, match="too short"):
        list(parse_rpm(LITTLE[:100], "x"))
    # The last bytes say that there are more.
    with pytest.raises(Invalid, match="cut short"):
        list(parse_rpm(patch(page(2, 507), b"\3")[: page(3, 0)], "x"))


def test_a_page_of_a_chain_holds_no_more_than_a_page() -> None:
    """Though item and page agree on it."""
    data = bytearray(patch(page(2, 495), struct.pack("<B3xII", 3, 3, 500)))
    data[page(3, 22) : page(3, 24)] = struct.pack("<H", 500)
    with pytest.raises(Invalid, match="damaged: 1 of"):
        list(read_hash_file(bytes(data)))


def test_a_header_takes_no_more_memory_than_it_is_long() -> None:
    """Though every tag that there can be stands for the same text."""
    entries = b"".join(struct.pack(">IIII", 2000 + number, 6, 0, 1) for number in range(20_000))
    blob = struct.pack(">II", 20_000, 4096) + entries + b"x" * 4096
    tracemalloc.start()
    try:
        assert parse_header(blob, "x") is not None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(blob)


@given(st.binary(max_size=200), st.integers(0, 60))
def test_damaged_databases_are_passed_over(noise: bytes, cut: int) -> None:
    """Headers and databases, cut and changed."""
    parse_header(noise, "x")
    parse_header(BASH[:cut] + noise + BASH[cut:], "x")
    whole = rpm_ndb(BASH)
    for data in (b"RpmP" + noise, whole[:32] + noise + whole[32:], b"SQLite format 3\0" + noise):
        try:
            list(parse_rpm(data, "x"))
        except Invalid:
            continue


@given(st.lists(st.tuples(st.integers(16, len(LITTLE) - 1), st.binary(min_size=1, max_size=8)), max_size=8))
def test_no_change_of_a_byte_does_more_than_damage(changes: list[tuple[int, bytes]]) -> None:
    """And what comes out is never more than went in."""
    data = bytearray(LITTLE)
    for place, noise in changes:
        data[place : place + len(noise)] = noise
    found: list[bytes] = []
    try:
        for key, value in read_hash_file(bytes(data)):
            found += key, value
    except Invalid:
        pass
    assert sum(map(len, found)) <= len(data)
