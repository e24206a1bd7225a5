"""Log lines and their rotation."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cais.runtime.logs import PARTIAL, RECORD, LogFile, encode_json, format_time, split_long

NOW = 1_795_500_000_123_456_700


def texts(data: bytes) -> list[str]:
    """The ``log`` fields of JSON lines."""
    return [json.loads(line)["log"] for line in data.splitlines()]


@given(st.lists(st.text(st.characters(exclude_characters="\n", codec="utf-8"))))
def test_any_text_comes_back_from_json(lines: list[str]) -> None:
    """Whatever a container prints, each line is one JSON object with that text."""
    data = "".join(line + "\n" for line in lines).encode()
    expected = [line + "\n" for line in lines]
    if data:
        assert texts(encode_json(data, "stdout", NOW)) == expected


@given(st.binary().map(lambda data: data.replace(b"\n", b"") + b"\n"))
def test_any_bytes_make_one_valid_line(data: bytes) -> None:
    """Bytes that are not UTF-8 cannot break the log's form."""
    encoded = encode_json(data, "stderr", NOW)
    assert encoded.count(b"\n") == 1
    assert json.loads(encoded)["log"] == data.decode("utf-8", "replace")


def test_html_characters_are_escaped_as_go_does() -> None:
    """Byte for byte what dockerd's encoder writes."""
    line = encode_json(b"<a&b>\n", "stdout", 0)
    assert line == b'{"log":"\\u003ca\\u0026b\\u003e\\n","stream":"stdout","time":"1970-01-01T00:00:00Z"}\n'


@given(st.integers(0, 4_000_000_000), st.integers(0, 999_999_999))
def test_times_are_rfc3339(seconds: int, nanoseconds: int) -> None:
    """The fraction has no trailing zeros and no digit is lost."""
    text = format_time(seconds * 10**9 + nanoseconds).decode()
    whole, _, fraction = text.removesuffix("Z").partition(".")
    assert datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp() == seconds
    assert int((fraction or "0").ljust(9, "0")) == nanoseconds and not fraction.endswith("0")


@given(st.binary(max_size=200), st.integers(0, 3))
def test_long_lines_are_split_and_nothing_is_lost(data: bytes, repeat: int) -> None:
    """Pieces join to the input and hold no line above the limit."""
    data += (b"x" * (PARTIAL + 100) + b"\n") * repeat + data
    pieces = split_long(data)
    assert b"".join(pieces) == data
    assert all(len(line) <= PARTIAL for piece in pieces for line in piece.split(b"\n"))


@given(st.lists(st.binary(max_size=50)), st.sampled_from(["json-file", "local"]))
def test_chunk_borders_do_not_show(tmp_path_factory, chunks: list[bytes], driver: str) -> None:  # type: ignore[no-untyped-def]
    """However the output is cut into chunks, the log holds its bytes in order."""
    path = tmp_path_factory.mktemp("log") / "log"
    log = LogFile(driver, str(path), 0, 1)
    chunks = [bytes(b & 0x3F | 0x40 if b != 10 else b for b in chunk) for chunk in chunks]
    for chunk in chunks:
        log.write("stdout", chunk, NOW)
    log.finish("stdout", NOW)
    log.close()
    raw, found = path.read_bytes(), b""
    if driver == "json-file":
        found = "".join(texts(raw)).encode()
    while driver == "local" and raw:
        size, stream, _ = RECORD.unpack_from(raw)
        found, raw = found + raw[RECORD.size : RECORD.size + size], raw[RECORD.size + size :]
        assert stream == 1
    assert found == b"".join(chunks)


def test_rotation_keeps_the_newest_files(tmp_path: Path) -> None:
    """No file much above the size, not more files than allowed, the newest lines kept in order."""
    path = tmp_path / "log"
    log = LogFile("json-file", str(path), 1000, 3)
    for number in range(200):
        log.write("stdout", b"line %d\n" % number, NOW)
    log.close()
    names = sorted(os.listdir(tmp_path))
    assert names == ["log", "log.1", "log.2"]
    assert all(1000 <= (tmp_path / name).stat().st_size < 1100 for name in names[1:])
    kept = [text for name in ("log.2", "log.1", "log") for text in texts((tmp_path / name).read_bytes())]
    assert kept == [f"line {n}\n" for n in range(200 - len(kept), 200)]


def test_one_storm_in_one_chunk_is_rotated_too(tmp_path: Path) -> None:
    """A chunk larger than a file is spread over files at line borders."""
    path = tmp_path / "log"
    log = LogFile("json-file", str(path), 500, 2)
    log.write("stdout", b"".join(b"%d\n" % n for n in range(1000)), NOW)
    log.close()
    kept = texts((tmp_path / "log.1").read_bytes()) + texts(path.read_bytes())
    assert kept[-1] == "999\n" and (tmp_path / "log.1").stat().st_size < 700


def test_a_full_device_loses_lines_and_raises_nothing() -> None:
    """ENOSPC is counted."""
    log = LogFile("json-file", "/dev/full", 0, 1)
    log.write("stdout", b"text\n", NOW)
    assert log.lost
    log.close()
