"""A real hub on its bad days: cut uploads, two writers at once, a full disk, slow and vanishing clients, a frozen
process, a crowd."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from harness.hub import LiveHub, free_port, running_hub, wait_until
from harness.wire import Reply, Repository, Wire, dial, format_image, read_reply, sha256

pytestmark = pytest.mark.slow
CHUNK = 1 << 20
"""Bytes that the hub gathers before it writes."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """One for the tests that do not harm it for good."""
    with running_hub(tmp_path_factory.mktemp("days") / "hub", "--open") as hub:
        yield hub


@pytest.fixture
def wire(hub: LiveHub) -> Iterator[Wire]:
    """A connection to it."""
    with closing(Wire(hub.port)) as wire:
        yield wire


@pytest.fixture
def repository(wire: Wire, request: pytest.FixtureRequest) -> Repository:
    """One of the test's own."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name.lower()).strip("-")
    while "--" in name:
        name = name.replace("--", "-")
    return Repository(wire, f"days/{name}")


def put_head(location: str, data: bytes, start: int = 0) -> bytes:
    """The head of the closing request of an upload that has ``start`` bytes already."""
    place = f"Content-Range: {start}-{len(data) - 1}\r\n" if start else ""
    line = f"PUT {location}?digest={sha256(data)} HTTP/1.1\r\nHost: localhost\r\n"
    return f"{line}{place}Content-Length: {len(data) - start}\r\n\r\n".encode()


def cut(port: int, sent: bytes, *, pulled: bool = True) -> None:
    """Send this much of a request and go away: with a reset, as when a cable is ``pulled``, or with an end."""
    with dial(port) as connection:
        connection.sendall(sent)
        if pulled:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def offset(reply: Reply) -> int:
    """How many bytes an upload has, by its Range, as clients read it."""
    assert reply.status == 204, reply
    last = int(reply.headers["range"].removeprefix("0-"))
    return last + 1 if last else 0


def uploaded(hub: LiveHub, location: str) -> int:
    """Bytes of an upload that are in its file."""
    (file,) = (hub.root / "uploads").glob(f"{location.rpartition('/')[2]}*")
    return file.stat().st_size


def complete(repository: Repository, location: str, data: bytes) -> None:
    """Take the upload up where it is, as clients do: again, if more of it had come than was said."""
    for _ in range(3):
        have = offset(repository.wire.ask("GET", location))
        place = {"Content-Range": f"{have}-{len(data) - 1}"}
        reply = repository.wire.ask("PUT", f"{location}?digest={sha256(data)}", data[have:], place)
        if reply.status != 416:
            break
    assert reply.status == 201, reply
    assert repository.ask("GET", f"blobs/{sha256(data)}").body == data


SIZE = 2 * CHUNK + 5000
CUTS = {
    "in the head": -50,
    "before the body": 0,
    "first byte": 1,
    "second byte": 2,
    "before a chunk's edge": CHUNK - 1,
    "chunk's edge": CHUNK,
    "behind a chunk's edge": CHUNK + 1,
    "two chunks": 2 * CHUNK,
    "one byte short": SIZE - 1,
}


@pytest.mark.parametrize("where", CUTS)
@pytest.mark.parametrize("pulled", [False, True], ids=["ended", "reset"])
def test_an_upload_that_is_cut(hub: LiveHub, repository: Repository, where: str, pulled: bool) -> None:
    """Wherever and however the connection breaks, the status says no more than was sent, and the rest completes it."""
    data = os.urandom(SIZE)
    location = repository.start()
    head = put_head(location, data)
    sent = max(CUTS[where], 0)
    cut(hub.port, head[: CUTS[where]] if CUTS[where] < 0 else head + data[:sent], pulled=pulled)
    assert offset(repository.wire.ask("GET", location)) <= sent
    complete(repository, location, data)


@pytest.mark.parametrize("size", [0, 1, 2, 70_000, 3 * CHUNK])
def test_a_stream_that_is_cut(hub: LiveHub, repository: Repository, size: int) -> None:
    """The same for what Docker sends: a PATCH with chunked encoding, cut between two of its chunks."""
    data = os.urandom(4 * CHUNK)
    location = repository.start()
    head = f"PATCH {location} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    cut(hub.port, head + (b"%x\r\n%s\r\n" % (size, data[:size]) if size else b""), pulled=False)
    assert offset(repository.wire.ask("GET", location)) <= size
    complete(repository, location, data)


def test_what_was_written_is_kept(hub: LiveHub, repository: Repository) -> None:
    """An upload over a line that breaks again and again arrives: what the hub has written is not sent a second time."""
    data = os.urandom(8 * CHUNK)
    location, have = repository.start(), 0
    for step in (2 * CHUNK + 10, CHUNK + 1, 3 * CHUNK):
        with dial(hub.port) as connection:
            head = put_head(location, data, have).replace(b"PUT", b"PATCH", 1)
            connection.sendall(head + data[have : have + step])
            least = have + step - CHUNK
            wait_until(lambda least=least: uploaded(hub, location) >= least, "it is written")
        before, have = have + step, offset(repository.wire.ask("GET", location))
        assert least <= have <= before
    complete(repository, location, data)


def test_an_answer_that_is_lost(hub: LiveHub, repository: Repository) -> None:
    """A client that has sent all but got no answer is told that the session is over, and finds the blob."""
    data = os.urandom(CHUNK + 10)
    location = repository.start()
    with dial(hub.port) as connection:
        connection.sendall(put_head(location, data) + data)
        wait_until(lambda: repository.wire.ask("GET", location).status == 404, "the upload has ended")
    assert repository.ask("GET", f"blobs/{sha256(data)}").body == data


def test_a_manifest_that_is_cut(hub: LiveHub, repository: Repository) -> None:
    """Half a manifest is none."""
    repository.push_image("1")
    data = format_image(b"{}", [b"layer"], annotations={"a": "b" * 1000})
    line = f"PUT /v2/{repository.name}/manifests/2 HTTP/1.1\r\nHost: localhost\r\n"
    for length in (0, 1, len(data) - 1):
        cut(hub.port, f"{line}Content-Length: {len(data)}\r\n\r\n".encode() + data[:length])
    assert repository.ask("GET", "manifests/2").status == 404
    assert repository.ask("GET", "tags/list").json["tags"] == ["1"]


# Two at once


def together(*acts: Callable[[], Reply]) -> list[Reply]:
    """What each answered; all began at the same time."""
    barrier = threading.Barrier(len(acts))

    def run(act: Callable[[], Reply]) -> Reply:
        barrier.wait(10)
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


def test_two_writers_of_one_tag(hub: LiveHub, repository: Repository) -> None:
    """Both manifests are there whole, and the tag is one of them, for everybody."""
    for data in (b"{}", b"layer"):
        repository.push_blob(data)
    wires = [Wire(hub.port) for _ in range(8)]
    for turn in range(10):
        datas = [format_image(b"{}", [b"layer"], annotations={"n": f"{turn}/{n}"}) for n in range(8)]
        replies = together(
            *(
                lambda wire=wire, data=data: Repository(wire, repository.name).put_manifest(data, "latest")
                for wire, data in zip(wires, datas, strict=True)
            )
        )
        assert {reply.status for reply in replies} == {201}
        for data in datas:
            assert repository.ask("GET", f"manifests/{sha256(data)}").body == data
        seen = {Repository(wire, repository.name).ask("GET", "manifests/latest").body for wire in wires}
        assert len(seen) == 1 and seen <= set(datas)
    for wire in wires:
        wire.close()


def test_two_requests_on_one_upload(hub: LiveHub, repository: Repository) -> None:
    """While one writes, another is refused with 409 and mixes nothing in; the first goes on to its end."""
    data = os.urandom(4 * CHUNK)
    location = repository.start()
    with dial(hub.port) as first:
        first.sendall(put_head(location, data) + data[: 3 * CHUNK])
        wait_until(lambda: uploaded(hub, location) > 0, "the first writes")
        reply = repository.wire.ask("PATCH", location, b"mixed in")
        assert reply.brief == (409, "BLOB_UPLOAD_INVALID")
        first.sendall(data[3 * CHUNK :])
        assert read_reply(first).status == 201
    assert repository.ask("GET", f"blobs/{sha256(data)}").body == data


def test_a_request_that_is_sent_twice(hub: LiveHub, repository: Repository) -> None:
    """One of the two makes the blob; the other is told that the upload is over; neither is a failure inside."""
    wires = [Wire(hub.port) for _ in range(2)]
    for _ in range(20):
        data = os.urandom(50_000)
        location = repository.start()
        replies = together(
            *(
                lambda wire=wire, location=location, data=data: wire.ask(
                    "PUT", f"{location}?digest={sha256(data)}", data
                )
                for wire in wires
            )
        )
        assert sorted(reply.status for reply in replies) in ([201, 404], [201, 409]), replies
        assert repository.ask("GET", f"blobs/{sha256(data)}").body == data
    for wire in wires:
        wire.close()


def test_the_same_blob_from_many(hub: LiveHub, repository: Repository) -> None:
    """Eight that push it to different repositories at once all have it."""
    data = os.urandom(500_000)
    wires = [Wire(hub.port) for _ in range(8)]

    def push(wire: Wire, number: int) -> Reply:
        own = Repository(wire, f"{repository.name}/{number}")
        own.push_blob(data)
        return own.ask("GET", f"blobs/{sha256(data)}")

    replies = together(*(lambda w=wire, n=n: push(w, n) for n, wire in enumerate(wires)))
    assert all(reply.body == data for reply in replies)
    for wire in wires:
        wire.close()


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 12 MiB, which only this test's processes see."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12M", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.kernel
def test_a_disk_that_fills(small_disk: Path) -> None:
    """What does not fit is 507 with a code; all else is served; after space was made everything works again."""
    words = ("--open", "--grace", "0.2", "--collect-every", "0.1")
    with running_hub(small_disk / "hub", *words) as hub, closing(Wire(hub.port)) as wire:
        kept = Repository(wire, "team/kept")
        image = kept.push_image("1", [os.urandom(1 << 20)])
        full = Repository(wire, "team/full")
        location = full.start()
        data = os.urandom(16 << 20)
        reply = wire.ask("PUT", f"{location}?digest={sha256(data)}", data)
        assert reply.brief == (507, "UNAVAILABLE"), reply
        have = offset(wire.ask("GET", location))
        assert 0 < have < len(data)
        _fill(small_disk)
        assert _served(kept, image)
        for _ in range(30):
            reply = kept.put_manifest(kept.images[image] + b" " * 100_000, "2")
            if reply.status != 201:
                break
        assert reply.brief == (507, "UNAVAILABLE"), reply
        assert _served(kept, image)
        reply = full.ask("POST", f"blobs/uploads/?digest={sha256(b'x' * 5000)}", b"x" * 5000)
        assert reply.brief == (507, "UNAVAILABLE"), reply
        assert wire.ask("DELETE", location).status == 204
        (small_disk / "filler").unlink()
        full.push_image("1", [os.urandom(1 << 20)])
        assert _served(kept, image)
        assert hub.stop() == 0


@pytest.mark.kernel
def test_a_full_disk_and_a_kill(small_disk: Path) -> None:
    """A hub that is killed on a full disk starts on it, serves what it has, and makes room when asked to."""
    with running_hub(small_disk / "hub", "--open", "--grace", "0.2", "--collect-every", "0.1") as hub:
        with closing(Wire(hub.port)) as wire:
            image = Repository(wire, "team/kept").push_image("1", [os.urandom(4 << 20)])
            _fill(small_disk)
            reply = wire.ask("POST", f"/v2/a/b/blobs/uploads/?digest={sha256(b'x' * 9000)}", b"x" * 9000)
            assert reply.status == 507
        hub.kill()
        hub.start()
        with closing(Wire(hub.port)) as wire:
            kept = Repository(wire, "team/kept")
            assert kept.ask("GET", "manifests/1").headers["docker-content-digest"] == image
            (small_disk / "filler").unlink()
            assert kept.ask("DELETE", f"manifests/{image}").status == 202
            wait_until(lambda: not list((hub.root / "content/blobs/sha256").iterdir()), "room")
            kept.push_image("2", [os.urandom(6 << 20)])


def _fill(disk: Path) -> None:
    """To the last byte."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass


def _served(repository: Repository, image: str) -> bool:
    document = json.loads(repository.images[image])
    parts = [repository.ask("GET", f"blobs/{part['digest']}") for part in document["layers"]]
    manifest = repository.ask("GET", f"manifests/{image}")
    return all(
        sha256(part.body) == entry["digest"] for part, entry in zip(parts, document["layers"], strict=True)
    ) and (manifest.body == repository.images[image])


# Clients that are slow, or gone


def test_a_slow_reader(hub: LiveHub, repository: Repository) -> None:
    """One that takes its bytes in small pieces, with pauses until its buffer is full, gets them all; others do not
    wait for it."""
    data = os.urandom(8 << 20)
    digest = repository.push_blob(data)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        slow.settimeout(30)
        slow.connect(("127.0.0.1", hub.port))
        slow.sendall(f"GET /v2/{repository.name}/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        response = http.client.HTTPResponse(slow)
        response.begin()
        got = bytearray()
        while chunk := response.read(100_000):
            got += chunk
            began = time.monotonic()
            assert repository.ask("HEAD", f"blobs/{digest}").status == 200
            assert time.monotonic() - began < 5
        response.close()
    assert bytes(got) == data


def test_a_slow_writer(hub: LiveHub, repository: Repository) -> None:
    """A manifest and a blob that come byte by byte are taken, and others do not wait for them."""
    data = os.urandom(300)
    with dial(hub.port) as slow:
        slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in put_head(repository.start(), data) + data:
            slow.sendall(bytes([byte]))
            if byte % 16 == 0:
                assert repository.wire.ask("GET", "/v2/").status == 200
        assert read_reply(slow).status == 201
    assert repository.ask("GET", f"blobs/{sha256(data)}").body == data


def test_clients_that_go_away_in_the_middle_of_a_download(hub: LiveHub, repository: Repository) -> None:
    """They leave no descriptor open and no trace of a failure in the log."""
    digest = repository.push_blob(os.urandom(20 << 20))
    request = f"GET /v2/{repository.name}/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    log = hub.root.parent / "hub.log"
    logged = log.stat().st_size
    before = descriptors(hub)
    for number in range(20):
        with dial(hub.port) as connection:
            connection.sendall(request)
            connection.recv(1 + number * 10_000)
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: descriptors(hub) <= before, "descriptors are given back")
    assert repository.ask("HEAD", f"blobs/{digest}").status == 200
    assert b"Traceback" not in log.read_bytes()[logged:]


def test_clients_that_go_away_in_the_middle_of_an_upload(hub: LiveHub, repository: Repository) -> None:
    """They leave no descriptor open and no trace of a failure in the log."""
    log = hub.root.parent / "hub.log"
    logged = log.stat().st_size
    repository.push_blob(b"so that this connection is there")
    before = descriptors(hub)
    for number in range(20):
        data = os.urandom(100_000)
        location = repository.start()
        cut(hub.port, put_head(location, data) + data[: number * 5_000])
        repository.wire.ask("GET", location)
    wait_until(lambda: descriptors(hub) <= before, "descriptors are given back")
    assert b"Traceback" not in log.read_bytes()[logged:]


def descriptors(hub: LiveHub) -> int:
    """How many the hub's process has open."""
    return len(os.listdir(f"/proc/{hub.pid}/fd"))


# The process


def test_a_hub_that_is_frozen(hub: LiveHub, repository: Repository) -> None:
    """What was under way when it was stopped (SIGSTOP) goes on when it continues: nothing is lost, nothing is late."""
    data = os.urandom(6 << 20)
    digest = repository.push_blob(data)
    other = os.urandom(100_000)
    with dial(hub.port) as upload, dial(hub.port) as download:
        upload.sendall(put_head(repository.start(), other) + other[:50_000])
        download.sendall(
            f"GET /v2/{repository.name}/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        first = download.recv(1000)
        os.kill(hub.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: _state(hub) == "T", "stopped")
            upload.sendall(other[50_000:])
        finally:
            os.kill(hub.pid, signal.SIGCONT)
        assert read_reply(upload).status == 201
        want = len(data) + first.index(b"\r\n\r\n") + 4
        got = bytearray(first)
        while len(got) < want:
            got += download.recv(1 << 20)
    assert bytes(got).endswith(data)
    assert repository.ask("GET", f"blobs/{sha256(other)}").body == other


def _state(hub: LiveHub) -> str:
    return Path(f"/proc/{hub.pid}/stat").read_text().rpartition(") ")[2][0]


def test_a_hub_that_is_asked_to_end_under_load(tmp_path: Path) -> None:
    """SIGTERM ends it soon and well though clients are in the middle; what was answered is there at the next start."""
    with running_hub(tmp_path / "hub", "--open") as hub:
        with closing(Wire(hub.port)) as wire:
            repository = Repository(wire, "a/b")
            image = repository.push_image("1", [os.urandom(8 << 20)])
            location = repository.start()
            (layer,) = json.loads(repository.images[image])["layers"]
            with dial(hub.port) as reader, dial(hub.port) as writer:
                reader.sendall(
                    f"GET /v2/a/b/blobs/{layer['digest']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                )
                assert reader.recv(100)
                writer.sendall(put_head(location, b"x" * 100) + b"x" * 50)
                began = time.monotonic()
                assert hub.stop() == 0
                assert time.monotonic() - began < 10
        hub.start()
        with closing(Wire(hub.port)) as wire:
            again = Repository(wire, "a/b")
            assert again.ask("GET", "manifests/1").headers["docker-content-digest"] == image
            have = offset(wire.ask("GET", location))
            reply = wire.ask("PUT", f"{location}?digest={sha256(b'x' * 100)}", b"x" * (100 - have))
            assert reply.status == 201


def test_a_second_hub_on_the_same_folder(hub: LiveHub, wire: Wire) -> None:
    """It is refused with a sentence, and the first goes on."""
    second = LiveHub(hub.root, free_port(), ("--open",))
    with pytest.raises(AssertionError, match="in use by another hub"):
        second.start()
    assert wire.ask("GET", "/v2/").status == 200


def test_a_crowd(hub: LiveHub) -> None:
    """64 clients that push and pull at once are all served, and each gets its own bytes."""

    def work(number: int) -> None:
        with closing(Wire(hub.port)) as wire:
            repository = Repository(wire, f"crowd/{number % 8}")
            for turn in range(3):
                layer = b"%d-%d-" % (number, turn) + os.urandom(50_000)
                repository.push_image(f"t{number}", [layer, b"shared by all"])
                assert repository.ask("GET", f"blobs/{sha256(layer)}").body == layer
                manifest = repository.ask("GET", f"manifests/t{number}")
                assert manifest.json["layers"][0]["digest"] == sha256(layer)

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(work, range(64)))
    with closing(Wire(hub.port)) as wire:
        tags = [Repository(wire, f"crowd/{n}").ask("GET", "tags/list").json["tags"] for n in range(8)]
    assert sorted(tag for each in tags for tag in each) == sorted(f"t{n}" for n in range(64))
