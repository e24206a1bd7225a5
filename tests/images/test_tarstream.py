"""The tar splitter gives what tarfile wrote, however the bytes are cut."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.errors import Corrupt, Invalid
from cais.images.tarstream import Entry, TarSplitter, parse_pax


class Seen:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.entries: list[tuple[Entry, bytes]] = []
        self._entry = Entry("", "", 0)
        self._data = b""

    def begin(self, entry: Entry) -> None:
        """Sink.begin."""
        self._entry, self._data = entry, b""

    def write(self, data: memoryview) -> None:
        """Sink.write."""
        self._data += data

    def end(self) -> None:
        """Sink.end."""
        self.entries.append((self._entry, self._data))


def split(archive: bytes, step: int) -> list[tuple[Entry, bytes]]:
    """All entries of ``archive``, fed in pieces of ``step`` bytes."""
    seen = Seen()
    splitter = TarSplitter(seen)
    for start in range(0, len(archive), step):
        splitter.feed(archive[start : start + step])
    splitter.finish()
    return seen.entries


def write(files: list[tuple[str, bytes]], format: int) -> bytes:
    """A tar of ``files``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


NAMES = st.text(
    st.characters(blacklist_characters="\0\n", blacklist_categories=("Cs",)), min_size=1, max_size=300
)


@given(
    files=st.lists(
        st.tuples(NAMES.filter(lambda name: not name.endswith("/")), st.binary(max_size=2000)), max_size=4
    ),
    format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    step=st.integers(1, 3000),
)
def test_what_was_packed_comes_out(files: list[tuple[str, bytes]], format: int, step: int) -> None:
    """Long and foreign names, empty files, any piece size: names, sizes and bytes are the same."""
    entries = split(write(files, format), step)
    assert [(entry.name, data) for entry, data in entries] == files
    assert all(entry.kind == "file" and entry.size == len(data) for entry, data in entries)


def test_kinds_and_targets_are_told_apart() -> None:
    """Links, folders and devices are what they are, long targets included."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, target in [
            ("s", tarfile.SYMTYPE, "t" * 200),
            ("h", tarfile.LNKTYPE, "x"),
            ("d", tarfile.DIRTYPE, ""),
            ("c", tarfile.CHRTYPE, ""),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    found = [(entry.kind, entry.target) for entry, _ in split(out.getvalue(), 100)]
    assert found == [("symlink", "t" * 200), ("hardlink", "x"), ("folder", ""), ("other", "")]


def test_a_size_beyond_octal_is_read() -> None:
    """GNU's base-256 numbers and PAX sizes announce files of more than 8 GiB."""
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("big")
        info.size = 9 << 30
        seen = Seen()
        splitter = TarSplitter(seen)
        splitter.feed(info.tobuf(format))
        with pytest.raises(Corrupt, match="unexpected EOF"):
            splitter.finish()
        splitter.feed(b"x" * 10)
        assert seen._entry.size == 9 << 30


@pytest.mark.parametrize("cut", [1, 511, 513, 1024, 2559])
def test_an_archive_that_ends_early_is_corrupt(cut: int) -> None:
    """An end inside a header, a body or its padding is told; one between entries may be the end."""
    archive = write([("a", b"x" * 1500), ("b", b"y" * 10)], tarfile.USTAR_FORMAT)
    with pytest.raises(Corrupt, match="unexpected EOF"):
        split(archive[:cut], 100)


def test_a_damaged_header_is_corrupt() -> None:
    """A wrong checksum ends the reading."""
    archive = bytearray(write([("a", b"x")], tarfile.USTAR_FORMAT))
    archive[0] ^= 1
    with pytest.raises(Corrupt, match="invalid tar header"):
        split(bytes(archive), 512)


def test_an_endless_name_is_refused() -> None:
    """A long-name record of gigabytes is not read into memory."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with pytest.raises(Invalid, match="has a name of"):
        split(info.tobuf(tarfile.GNU_FORMAT), 512)


@pytest.mark.parametrize("data", [b"5 a=b", b"x a=b\n", b"999 a=b\n", b"0 a=b\n", b"6 ab\n", b" a=b\n"])
def test_broken_pax_records_are_corrupt(data: bytes) -> None:
    """Lengths and separators are checked."""
    with pytest.raises(Corrupt):
        parse_pax(data)


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_arbitrary_bytes_do_no_harm(data: bytes, step: int) -> None:
    """Noise is refused with an error of ours, or is no entry."""
    try:
        split(data, step)
    except (Corrupt, Invalid):
        return
