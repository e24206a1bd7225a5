"""What a container wrote is read back byte for byte, from either format, whole or in part."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cais.containers.logs import (
    JsonReader,
    LocalReader,
    LogsWanted,
    Run,
    format_run,
    log_files,
    tail_offset,
)
from cais.containers.logstream import LogStream
from cais.runtime.logs import LogFile, encode_json
from cais.spec.multiplex import Demultiplexer
from harness.engines import until

SECOND = 10**9
START = 1_700_000_000 * SECOND


def write(
    path: Path, *chunks: tuple[str, bytes], driver: str = "json-file", size: int = 0, files: int = 1
) -> None:
    """A log as the keeper writes it: chunk after chunk, a second apart."""
    log = LogFile(driver, str(path), size, files)
    for number, (stream, data) in enumerate(chunks):
        log.write(stream, data, START + number * SECOND)
    for stream in ("stdout", "stderr"):
        log.finish(stream, START + len(chunks) * SECOND)
    log.close()


async def collect(parts: AsyncIterator[bytes]) -> bytes:
    """All parts."""
    return b"".join([part async for part in parts])


async def read(path: Path, driver: str = "json-file", **wanted: object) -> bytes:
    """The text a client without a terminal gets."""
    data = await collect(LogStream(path, driver, LogsWanted(**wanted)).read())  # type: ignore[arg-type]
    return b"".join(piece for _, piece in Demultiplexer().feed(data))


@pytest.fixture(params=["json-file", "local"])
def driver(request: pytest.FixtureRequest) -> str:
    """Both formats."""
    return str(request.param)


ODD = b'tab\t quote" back\\slash \\n <&> \x00\x1b[1m nul \xe2\x80\xa8 caf\xc3\xa9 \xf0\x9f\x9a\xa2\r\n'


async def test_both_streams_come_back_in_order(tmp_path: Path, driver: str) -> None:
    """With their numbers."""
    path = tmp_path / "log"
    write(path, ("stdout", b"a\nb\n"), ("stderr", b"c\n"), ("stdout", b"d"), driver=driver)
    data = await collect(LogStream(path, driver, LogsWanted()).read())
    assert Demultiplexer().feed(data) == [(1, b"a\nb\n"), (2, b"c\n"), (1, b"d")]


async def test_any_text_comes_back(tmp_path: Path, driver: str) -> None:
    """Escapes, controls, line separators, wide characters, carriage returns."""
    write(tmp_path / "log", ("stdout", ODD * 3), driver=driver)
    assert await read(tmp_path / "log", driver) == ODD * 3


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(max_size=40)), max_size=12),
    st.integers(1, 99),
)
def test_json_is_read_back_in_pieces_of_any_size(chunks: list[tuple[str, str]], size: int) -> None:
    """The reader does not care where a block ends; nor where the same time goes on."""
    written = [(stream, (text + "\n").encode()) for stream, text in chunks]
    data = b"".join(
        encode_json(text, stream, START + number // 3) for number, (stream, text) in enumerate(written)
    )
    reader = JsonReader(split=False)
    runs = [run for at in range(0, len(data), size) for run in reader.feed(data[at : at + size])]
    numbers = {"stdout": 1, "stderr": 2}
    for stream, number in numbers.items():
        assert b"".join(run.pieces[0] for run in runs if run.stream == number) == b"".join(
            text for name, text in written if name == stream
        )


def test_dockers_own_file_is_read() -> None:
    """One line each, written by dockerd; with attributes; a torn line and rubbish are left out."""
    lines = (
        b'{"log":"one\\n","stream":"stdout","time":"2024-01-01T00:00:00.5Z"}\n'
        b'{"log":"two\\n","stream":"stderr","attrs":{"tag":"x"},"time":"2024-01-01T00:00:01Z"}\n'
        b"\0\0\0garbage\n"
        b'{"log":"tor'
    )
    runs = list(JsonReader(split=False).feed(lines))
    assert [(run.stream, run.pieces) for run in runs] == [(1, (b"one\n",)), (2, (b"two\n",))]


def test_a_torn_local_record_ends_the_reading() -> None:
    """A length that cannot be does not make the reader wait for gigabytes."""
    assert list(LocalReader(split=False).feed(b"\xff" * 64)) == []


def test_timestamps_have_nine_digits_and_stand_before_every_line() -> None:
    """As docker logs -t shows them."""
    run = Run(1, START + 5, (b"a\n", b"b\n"))
    text = format_run(run, LogsWanted(timestamps=True, raw=True))
    assert text == b"2023-11-14T22:13:20.000000005Z a\n2023-11-14T22:13:20.000000005Z b\n"


async def test_a_stream_can_be_left_out(tmp_path: Path, driver: str) -> None:
    """--stderr only."""
    write(tmp_path / "log", ("stdout", b"a\n"), ("stderr", b"b\n"), driver=driver)
    assert await read(tmp_path / "log", driver, stdout=False) == b"b\n"


async def test_since_and_until(tmp_path: Path, driver: str) -> None:
    """Both bounds are inclusive."""
    write(tmp_path / "log", *(("stdout", b"%d\n" % number) for number in range(6)), driver=driver)
    wanted = {"since_ns": START + 2 * SECOND, "until_ns": START + 3 * SECOND}
    assert await read(tmp_path / "log", driver, **wanted) == b"2\n3\n"


@pytest.mark.parametrize(
    ("tail", "expected"), [(0, b""), (1, b"6\n"), (3, b"4\n5\n6\n"), (99, b"1\n2\n3\n4\n5\n6\n")]
)
async def test_tail(tmp_path: Path, driver: str, tail: int, expected: bytes) -> None:
    """The last lines, also out of the middle of a chunk."""
    write(tmp_path / "log", ("stdout", b"1\n2\n"), ("stdout", b"3\n4\n5\n6\n"), driver=driver)
    assert await read(tmp_path / "log", driver, tail=tail) == expected


async def test_rotated_files_are_one_log(tmp_path: Path, driver: str) -> None:
    """Oldest first, tails across the border; what was dropped is gone."""
    path = tmp_path / "log"
    chunks = [("stdout", b"%04d\n" % number) for number in range(600)]
    write(path, *chunks, driver=driver, size=2000, files=3)
    whole = await read(path, driver)
    numbers = [int(line) for line in whole.split()]
    assert len(log_files(path)) == 3
    assert numbers == list(range(numbers[0], 600)) and numbers[0] > 0
    tail = await read(path, driver, tail=len(numbers) - 3)
    assert tail == b"".join(data for _, data in chunks[numbers[3] :])


async def test_no_log_yet_is_empty(tmp_path: Path, driver: str) -> None:
    """A container that was only created."""
    assert await read(tmp_path / "log", driver) == b""


def test_the_tail_is_found_without_reading_the_rest(tmp_path: Path) -> None:
    """From the end backwards, over blocks without a newline."""
    path = tmp_path / "log"
    path.write_bytes(b"x\n" * 10 + b"y" * (3 << 20) + b"\nz\n")
    with path.open("rb") as file:
        assert tail_offset(file, 1) == (path.stat().st_size - 2, 0)
        assert tail_offset(file, 2) == (20, 0)
        assert tail_offset(file, 12) == (0, 0)
        assert tail_offset(file, 20) == (0, 8)


class Follower:
    """A reader at work; ``text`` is what it has got so far."""

    def __init__(self, path: Path, driver: str) -> None:
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self.text = b""
        stream = LogStream(path, driver, LogsWanted(follow=True, raw=True))
        self.task = asyncio.create_task(self._read(stream))

    async def _read(self, stream: LogStream) -> None:
        async for part in stream.read(self.ended):
            self.text += part


async def test_follow_gets_what_is_written_and_ends_with_the_container(tmp_path: Path, driver: str) -> None:
    """Also what was written in the very last moment."""
    path = tmp_path / "log"
    follower = Follower(path, driver)
    await asyncio.sleep(0)
    log = LogFile(driver, str(path), 0, 1)
    log.write("stdout", b"one\n", START)
    await until(lambda: follower.text == b"one\n")
    log.write("stdout", b"two\n", START)
    log.close()
    follower.ended.set_result((0, ""))
    await asyncio.wait_for(follower.task, 5)
    assert follower.text == b"one\ntwo\n"


async def test_follow_survives_rotation(tmp_path: Path, driver: str) -> None:
    """Not a line is lost or doubled while the file is renamed under the reader."""
    path = tmp_path / "log"
    log = LogFile(driver, str(path), 4000, 4)
    log.write("stdout", b"-1\n", START)
    follower = Follower(path, driver)
    await until(lambda: follower.text != b"")
    for number in range(400):
        log.write("stdout", b"%d\n" % number, START + number)
        if number % 20 == 0:
            await until(lambda seen=number: b"\n%d\n" % seen in follower.text)  # type: ignore[misc]
    log.close()
    follower.ended.set_result((0, ""))
    await asyncio.wait_for(follower.task, 5)
    assert [int(line) for line in follower.text.split()] == list(range(-1, 400))


async def test_a_follower_that_leaves_closes_everything(tmp_path: Path, driver: str) -> None:
    """No descriptor of file or watch stays open."""
    path = tmp_path / "log"
    write(path, ("stdout", b"a\n"), driver=driver)
    before = len(os.listdir("/proc/self/fd"))
    follower = Follower(path, driver)
    await until(lambda: follower.text == b"a\n")
    follower.task.cancel()
    await asyncio.gather(follower.task, return_exceptions=True)
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.slow
async def test_a_large_log_is_read_in_constant_memory(tmp_path: Path) -> None:
    """What is given out at once stays near one block, whatever the file's size."""
    path = tmp_path / "log"
    chunk = encode_json(b"line\n" * 13000, "stdout", START)
    with path.open("wb") as file:
        for _ in range(20):
            file.write(chunk)
    largest = total = 0
    async for part in LogStream(path, "json-file", LogsWanted(raw=True)).read():
        largest, total = max(largest, len(part)), total + len(part)
    assert total == 20 * 13000 * 5
    assert largest < 1 << 20


def test_lines_agree_with_json() -> None:
    """The fast way says what a JSON parser says."""
    data = encode_json(ODD * 2 + b"end\n", "stderr", START)
    expected = "".join(json.loads(line)["log"] for line in data.splitlines()).encode()
    (run,) = JsonReader(split=False).feed(data)
    assert run == Run(2, START, (expected,))
