"""Clocks that jump: a real hub whose wall clock is set a year ahead and a day back while it works.

The machine's clock is left alone: libfaketime, loaded into the hub's process, reads how wrong it shall be from a file.
The monotonic clock goes on as it is, since that one nobody can set.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cais.hub.clock import STEADY, TOLERANCE, WallClock
from harness.accounts import basic, bearer, copy_people, open_desk
from harness.hub import LiveHub, running_hub, wait_until
from harness.wire import Repository, Wire, format_image, sha256

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
needs_library = pytest.mark.skipif(LIBRARY is None, reason="no libfaketime: install the package libfaketime")
DAY, YEAR = 86_400, 365 * 86_400
JUMPS = (YEAR, 0, -DAY, 0, -YEAR, 0)
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class JumpingHub:
    """A hub and the file that says how wrong its clock is."""

    live: LiveHub
    file: Path

    def jump(self, seconds: int) -> None:
        """From now on its clock is so far from the right time."""
        write_offset(self.file, seconds)

    def log(self) -> str:
        """What it has said."""
        return (self.live.root.parent / f"{self.live.root.name}.log").read_text()

    def collect(self, count: int = 2) -> None:
        """Wait until it has begun and finished so many collections."""
        before = self.log().count(" collected ")
        wait_until(lambda: self.log().count(" collected ") > before + count, "collections")

    def offset(self, wire: Wire) -> float:
        """How wrong it believes the time to be, from what it notes of a request."""
        wire.ask("GET", "/v2/")
        line = (self.live.root.parent / "hub.access").read_text().splitlines()[-1]
        return float(json.loads(line)["at"]) - time.time()

    def cpu(self) -> float:
        """Seconds that it has computed for."""
        fields = Path(f"/proc/{self.live.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_offset(file: Path, seconds: int) -> None:
    """At once: half of a number is another one."""
    part = file.with_suffix(".part")
    part.write_text(f"{seconds:+d}\n")
    part.replace(file)


@contextmanager
def jumping_hub(root: Path, *words: str) -> Iterator[JumpingHub]:
    """Right at the start; at the end it must still be well."""
    file = root.parent / "offset"
    write_offset(file, 0)
    environment = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Without this it ends waits by the monotonic clock at once, and threads that wait for their turn spin.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        "NO_FAKE_STAT": "1",
    }
    with running_hub(root, *words, environment=environment) as live:
        hub = JumpingHub(live, file)
        yield hub
        assert live.stop() == 0 and "Traceback" not in hub.log()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[JumpingHub]:
    """Open to everybody, and in a hurry to collect. By a clock of its own nothing here is as old as its grace."""
    words = ("--grace", "600", "--upload-age", "600", "--collect-every", "0.1", "--scrub-every", "2")
    with jumping_hub(tmp_path / "hub", "--open", "--collect-untagged", *words) as hub:
        yield hub


@pytest.fixture
def wire(hub: JumpingHub) -> Iterator[Wire]:
    """A connection, which all jumps leave as it is."""
    with closing(Wire(hub.live.port)) as wire:
        yield wire


@needs_library
def test_the_clock_jumps(hub: JumpingHub, wire: Wire) -> None:
    """The other tests would show nothing otherwise."""
    for jump in (0, YEAR, -YEAR, -DAY):
        hub.jump(jump)
        assert abs(hub.offset(wire) - jump) < 60


@needs_library
def test_an_upload_goes_on(hub: JumpingHub, wire: Wire) -> None:
    """However old its parts seem, and however often garbage is collected meanwhile."""
    data = [os.urandom(50_000) for _ in JUMPS]
    repository = Repository(wire, "team/app")
    location = repository.start()
    for jump, part in zip(JUMPS, data, strict=True):
        hub.jump(jump)
        hub.collect()
        reply = wire.ask("PATCH", location, part)
        assert reply.status == 202, (jump, reply)
        location = reply.headers["location"]
    digest = sha256(b"".join(data))
    assert wire.ask("PUT", f"{location}?digest={digest}", b"").status == 201
    assert repository.ask("GET", f"blobs/{digest}").body == b"".join(data)


@needs_library
@pytest.mark.parametrize("jump", [YEAR, -DAY, -YEAR])
def test_between_a_question_and_a_push(hub: JumpingHub, wire: Wire, jump: int) -> None:
    """Who was told that a blob or an untagged manifest is here builds upon it after the jump, there and back."""
    repository = Repository(wire, "team/app")
    for there, data in ((jump, b"there"), (0, b"and back")):
        for blob in (b"{}", data):
            repository.push_blob(blob)
            assert repository.ask("HEAD", f"blobs/{sha256(blob)}").status == 200
        loose = repository.push_image("", [data + b" loose"])
        assert repository.ask("HEAD", f"manifests/{loose}").status == 200
        hub.jump(there)
        hub.collect()
        image = format_image(b"{}", [data])
        repository.push_manifest(image, data.decode().replace(" ", "-"))
        repository.push_manifest(repository.images[loose], "loose")
    hub.collect()
    tags = repository.ask("GET", "tags/list").json["tags"]
    assert tags == ["and-back", "loose", "there"]
    for tag in tags:
        manifest = json.loads(repository.ask("GET", f"manifests/{tag}").body)
        for part in (manifest["config"], *manifest["layers"]):
            assert sha256(repository.ask("GET", f"blobs/{part['digest']}").body) == part["digest"]


@needs_library
def test_rules_of_age_wait(hub: JumpingHub, wire: Wire) -> None:
    """A year ahead by mistake, and all images are older than a month: nothing goes until the clock has been steady."""
    repository = Repository(wire, "team/app")
    repository.push_image("1")
    body = json.dumps({"retention": {"rules": [{"pushed_days": 30}]}}).encode()
    url = "/api/v1/repositories/team/app"
    assert wire.ask("PATCH", url, body, {"Content-Type": "application/json"}).status == 200
    for jump in (YEAR, 0, YEAR):
        hub.jump(jump)
        hub.collect(3)
        assert repository.ask("GET", "tags/list").json["tags"] == ["1"]
    assert hub.log().count("the clock was set") == 3


@needs_library
def test_it_does_not_spin(hub: JumpingHub, wire: Wire) -> None:
    """Whatever the time, it spends it waiting, though it collects ten times a second."""
    Repository(wire, "team/app").push_image("1")
    for jump in JUMPS:
        hub.jump(jump)
        used, began = hub.cpu(), time.monotonic()
        hub.collect(9)  # a second at least
        assert hub.cpu() - used < 0.5 * (time.monotonic() - began), jump


def ask_as(wire: Wire, path: str, headers: dict[str, str]) -> int:
    """The status."""
    return int(wire.ask("GET", path, None, headers).status)


@needs_library
async def test_who_somebody_is(tmp_path: Path) -> None:
    """Expiries are dates: past them nobody is let in, and before them again everybody, so that a clock that was wrong
    for a while has ended nothing. A registry token has a beginning too: of another time it is refused, and the client
    gets one of this time by its password."""
    root = tmp_path / "hub"
    copy_people(root)
    async with open_desk(root) as desk:
        forever, hour = await desk.token("alice"), await desk.token("alice", seconds=3600)
        cookie, _ = await desk.people.sessions.open("alice")
    with jumping_hub(root, "--no-open") as hub, closing(Wire(hub.live.port)) as wire:

        def new_token() -> str:
            reply = wire.ask("GET", "/token?service=cais-hub", None, basic("alice"))
            assert reply.status == 200, reply
            return str(json.loads(reply.body)["token"])

        def registry(token: str) -> int:
            return ask_as(wire, "/v2/", bearer(token))

        def kept() -> list[int]:
            headers: list[dict[str, str]] = [
                bearer(forever),
                bearer(hour),
                {"Cookie": f"cais_session={cookie}"},
            ]
            return [ask_as(wire, "/api/v1/account", each) for each in headers]

        first = new_token()
        assert (kept(), registry(first)) == ([200, 200, 200], 200)
        hub.jump(YEAR)
        ahead = new_token()
        assert (kept(), registry(first), registry(ahead)) == ([200, 401, 401], 401, 200)
        hub.jump(-DAY)
        behind = new_token()
        assert (kept(), registry(first), registry(ahead)) == ([200, 200, 200], 401, 401)
        assert registry(behind) == 200
        hub.jump(0)
        assert (kept(), registry(first), registry(ahead)) == ([200, 200, 200], 200, 401)
        assert registry(behind) == 401
        hub.jump(600)
        assert (registry(first), registry(new_token())) == (401, 200)


class Times:
    """Two clocks that the test sets."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 1.7e9, 50.0
        self.clock = WallClock(lambda: self.wall, lambda: self.monotonic)

    def pass_(self, seconds: float, jump: float = 0.0) -> bool:
        """So much time, and a jump; whether the clock is steady."""
        self.monotonic += seconds
        self.wall += seconds + jump
        return self.clock.is_steady()


@pytest.mark.parametrize("jump", [YEAR, -YEAR, TOLERANCE + 1, -TOLERANCE - 1])
def test_a_clock_that_was_set(jump: float) -> None:
    """Is believed again when it has gone evenly for a while; setting it right begins that anew."""
    times = Times()
    assert times.pass_(1.0)
    assert not times.pass_(1.0, jump)
    assert not times.pass_(STEADY - 1)
    assert not times.pass_(2.0, -jump)
    assert not times.pass_(STEADY - 1)
    assert times.pass_(1.0) and times.pass_(10.0)


def test_a_clock_that_drifts() -> None:
    """As they all do, a little every day, is believed."""
    times = Times()
    assert all(times.pass_(DAY, drift) for drift in (2.0, -2.0, 30.0, 30.0, 30.0, -TOLERANCE))
