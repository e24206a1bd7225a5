"""The tar reader: numbers, names, extensions; compared with the standard library's writer."""

import io
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cais.errors import CaisError, Corrupt, Invalid
from cais.store.layers.pax import parse_pax, parse_pax_time
from cais.store.layers.stream import Stream
from cais.store.layers.tar import Entry, parse_number, read_entries


def read(data: bytes, chunk: int = 700) -> list[tuple[Entry, bytes]]:
    """All entries with their content, from chunks of an odd size so that everything crosses a border."""
    chunks = (data[start : start + chunk] for start in range(0, len(data), chunk))
    found = []
    with Stream(chunks) as stream:
        for entry in read_entries(stream):
            found.append((entry, bytes(stream.take(entry.size))))
    return found


def record(key: str, value: bytes) -> bytes:
    """One pax record."""
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def header(kind: bytes, name: bytes, data: bytes = b"", **fields: bytes) -> bytes:
    """A raw member with some fields replaced and the checksum made right."""
    info = tarfile.TarInfo(name.decode("latin-1"))
    info.type, info.size = kind, len(data)
    block = bytearray(info.tobuf(format=tarfile.USTAR_FORMAT, encoding="latin-1"))
    for field, (start, end) in {
        "size": (124, 136),
        "mtime": (136, 148),
        "uid": (108, 116),
        "magic": (257, 265),
        "prefix": (345, 500),
        "trailer": (500, 512),
    }.items():
        if field in fields:
            block[start:end] = fields[field].ljust(end - start, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + bytes(-len(data) % 512)


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=150),
            st.binary(max_size=1500),
            st.integers(0, 2**55),
            st.integers(-(2**40), 2**40),
        ),
        max_size=5,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.integers(1, 3000),
)
def test_reads_what_the_standard_library_writes(members: Any, format: int, chunk: int) -> None:
    """Names, content, owners and times in both formats, however the stream is cut into chunks."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data, uid, mtime in members:
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.mtime = len(data), uid, mtime
            archive.addfile(info, io.BytesIO(data))
    found = [(e.name.decode(), data, e.uid, e.mtime_ns // 10**9) for e, data in read(out.getvalue(), chunk)]
    assert found == [tuple(member) for member in members]


@settings(deadline=None)
@given(st.integers(-(2**62), 2**62))
def test_base_256_numbers(value: int) -> None:
    """GNU's large and negative numbers, in fields of twelve bytes."""
    field = bytearray(value.to_bytes(12, "big", signed=True))
    field[0] = 0x80 if value >= 0 else 0xFF
    assert parse_number(bytes(field)) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [(b"0000644\0", 0o644), (b"   644 \0", 0o644), (b"\0" * 8, 0), (b" " * 8, 0), (b"77777777", 0o77777777)],
)
def test_octal_numbers(field: bytes, value: int) -> None:
    """With spaces, NULs, both or neither."""
    assert parse_number(field) == value


@pytest.mark.parametrize(
    "field",
    [b"00a0000\0", b"-0000001", b"+0000001", b"0o000001", b"0_000001", b"9       ", b"1\x001\x00    "],
)
def test_no_numbers(field: bytes) -> None:
    """Signs, underscores, prefixes and inner NULs, which int() would take, are Corrupt."""
    with pytest.raises(Corrupt, match="no number"):
        parse_number(field)


def test_ustar_prefix_and_stars_shorter_one() -> None:
    """prefix/name; star's headers keep times in the prefix's last bytes; GNU's have no prefix."""
    prefix = b"p" * 140 + b"12345"
    assert read(header(b"0", b"f", prefix=prefix))[0][0].name == prefix + b"/f"
    assert (
        read(header(b"0", b"f", prefix=prefix, trailer=b"\0" * 8 + b"tar\0"))[0][0].name == b"p" * 131 + b"/f"
    )
    assert read(header(b"0", b"f", prefix=prefix, magic=b"ustar  \0"))[0][0].name == b"f"
    assert read(header(b"0", b"f", prefix=prefix, magic=b""))[0][0].name == b"f"


def test_a_pax_size_wins_over_the_headers() -> None:
    """A reader that took the header's size would see other members in the content: that is how files are smuggled."""
    inner = header(b"0", b"smuggled", b"x")
    data = header(b"x", b"pax", record("size", b"%d" % len(inner))) + header(b"0", b"f") + inner
    assert [(entry.name, content) for entry, content in read(data)] == [(b"f", inner)]


def test_links_and_folders_have_no_content() -> None:
    """As in Go: a size on them is not followed by data."""
    size = b"%011o" % 512
    for kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
        data = header(kind, b"l", size=size) + header(b"0", b"f", b"x")
        assert [entry.name.rstrip(b"/") for entry, _ in read(data)] == [b"l", b"f"]


def test_extensions_belong_to_one_member() -> None:
    """A pax header is used up by the next member; a global one is passed over, as Docker does."""
    data = (
        header(b"g", b"global", record("path", b"nowhere"))
        + header(b"x", b"pax", record("path", b"one") + record("mtime", b"1.5"))
        + header(b"0", b"f")
        + header(b"0", b"two", mtime=b"%011o" % 7)
    )
    assert [(entry.name, entry.mtime_ns) for entry, _ in read(data)] == [
        (b"one", 1500000000),
        (b"two", 7 * 10**9),
    ]


def test_an_old_file_with_a_slash_is_a_folder() -> None:
    """Before ustar there was no other way to say so."""
    assert read(header(b"\0", b"d/"))[0][0].kind == b"5"
    assert read(header(b"\0", b"f"))[0][0].kind == read(header(b"7", b"f"))[0][0].kind == b"0"


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 512,
        header(b"0", b"f")[:300],
        header(b"0", b"f", b"data")[:600],
        header(b"x", b"p", record("path", b"q")),
        header(b"x", b"p", record("path", b"q")) + bytes(1024),
        header(b"x", b"p", b"5 path=q\n"),
        header(b"x", b"p", b"path=q\n"),
        header(b"x", b"p", b"999999 path=q\n"),
        header(b"x", b"p", record("path", b"a\0b")),
        header(b"x", b"p", record("size", b"-1")),
        header(b"x", b"p", record("size", b"1_0")),
        header(b"x", b"p", record("mtime", b"1e5")),
        header(b"x", b"p", record("SCHILY.xattr.", b"v")),
        header(b"x", b"p", record("LIBARCHIVE.xattr.user.a", b"!")),
        header(b"0", b"f", size=b"\xff" * 12),
        header(b"0", b"f", uid=b"0000009\0"),
    ],
)
def test_broken_archives_are_corrupt(data: bytes) -> None:
    """Bad checksums, cuts, extensions without a member, records with wrong lengths and values."""
    with pytest.raises(Corrupt):
        read(data)


def test_a_huge_extension_is_refused() -> None:
    """It would be held in memory."""
    with pytest.raises(Invalid, match="extension header of"):
        read(header(b"L", b"l", size=b"%011o" % (2 << 20)))


SPARSE = (
    record("GNU.sparse.major", b"1")
    + record("GNU.sparse.minor", b"0")
    + record("GNU.sparse.realsize", b"100")
)


def test_the_sparse_form_with_a_leading_map() -> None:
    """GNU 1.0: the map's blocks are not content; the real name and size are in the records."""
    body = b"2\n10\n3\n50\n2\n".ljust(512, b"\0") + b"abcde"
    data = header(b"x", b"p", SPARSE + record("GNU.sparse.name", b"real")) + header(
        b"0", b"GNUSparseFile.0/f", body
    )
    ((entry, content),) = read(data)
    assert (entry.name, entry.sparse, entry.real_size, content) == (
        b"real",
        ((10, 3), (50, 2)),
        100,
        b"abcde",
    )


@pytest.mark.parametrize(
    "body",
    [
        b"1\n90\n20\n".ljust(512, b"\0") + b"a" * 20,
        b"2\n10\n3\n5\n2\n".ljust(512, b"\0") + b"abcde",
        b"1\n10\n9\n".ljust(512, b"\0") + b"abcde",
        b"99999999999\n".ljust(512, b"\0"),
        b"1\n-1\n6\n".ljust(512, b"\0") + b"abcde",
        b"",
        b"\n" * 512,
    ],
)
def test_impossible_sparse_maps_are_corrupt(body: bytes) -> None:
    """Beyond the file, out of order, not the size of the data, endless counts (CVE-2025-58183)."""
    with pytest.raises(Corrupt):
        read(header(b"x", b"p", SPARSE) + header(b"0", b"f", body))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_pax_bytes_are_parsed_or_corrupt(data: bytes) -> None:
    """Nothing but Corrupt comes out of arbitrary bytes."""
    try:
        parse_pax(data)
    except Corrupt:
        return


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "path",
                    "size",
                    "mtime",
                    "uid",
                    "SCHILY.xattr.user.a",
                    "GNU.sparse.map",
                    "GNU.sparse.offset",
                    "GNU.sparse.numbytes",
                    "GNU.sparse.major",
                ]
            ),
            st.one_of(st.binary(max_size=8), st.integers(0, 99).map(lambda n: b"%d" % n)),
        )
    )
)
def test_any_records_are_parsed_or_corrupt(records: list[tuple[str, bytes]]) -> None:
    """Well-formed records with any value, and the member behind them."""
    data = header(b"x", b"p", b"".join(record(*pair) for pair in records)) + header(b"0", b"f", b"x" * 100)
    try:
        read(data)
    except CaisError:
        return


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(0, 999_999_999))
def test_pax_times_are_exact(seconds: int, fraction: int) -> None:
    """Nanoseconds survive, which a float would lose; the sign counts for all of it."""
    magnitude = abs(seconds) * 10**9 + fraction
    sign = "-" if seconds < 0 else ""
    assert parse_pax_time(f"{sign}{abs(seconds)}.{fraction:09d}".encode()) == (
        -magnitude if sign else magnitude
    )
