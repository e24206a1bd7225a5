"""What strangers try with a hub: guessing, measuring, lying about who they are and where they are."""

import asyncio
import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from cais.errors import Invalid, Unauthenticated
from cais.hub.passwords import (
    FORGET_SECONDS,
    FREE_BY_ADDRESS,
    FREE_FAILURES,
    MAX_PAUSE,
    PLACES,
    REMEMBERED,
    Passwords,
    Throttle,
    find_network,
)
from cais.hub.server import UNLISTED, client_address, is_host, local_hosts, parse_own_origin, parse_proxies
from cais.registry.refusal import Refusal
from cais.spec.digest import digest_bytes
from harness.accounts import PASSWORD, Desk, basic, bearer, copy_people, open_desk
from harness.hub import LiveHub, running_hub
from harness.wire import Repository, Wire, send_raw

pytestmark = pytest.mark.slow


class Clock:
    """One that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


# Time


async def spent(desk: Desk, name: str, secret: str, number: int) -> float:
    """Seconds of processor that a refused login costs; each from an address of its own."""
    began = time.process_time()
    with pytest.raises(Unauthenticated):
        await desk.login(name, secret, f"192.0.2.{number}")
    return time.process_time() - began


async def test_a_refusal_costs_the_same(tmp_path: Path) -> None:
    """Whatever the reason is: the time tells nobody which names there are, or how good their hashes."""
    file = tmp_path / "htpasswd"
    cheap, dear = (bcrypt.hashpw(b"file password", bcrypt.gensalt(cost)).decode() for cost in (4, 12))
    file.write_text(f"cheap:{cheap}\ndear:{dear}\n")
    async with open_desk(tmp_path / "hub", htpasswd=file) as desk:
        await desk.people.accounts.disable("bob", await desk.login("boss"), disabled=True)
        robot, _ = await desk.people.robots.add("alice", "ci", ["pull"], 0, await desk.login("alice"))
        cases = {
            "unknown": ("nobody", PASSWORD + "!"),
            "known": ("alice", PASSWORD + "!"),
            "disabled": ("bob", PASSWORD),
            "robot": (robot, PASSWORD),
            "token": ("alice", "cais_" + "x" * 40),
            "long": ("alice", "x" * 1000),
            "null": ("alice", "x\0y"),
            "cheap hash": ("cheap", PASSWORD),
            "dear hash": ("dear", PASSWORD),
        }
        rounds = [[await spent(desk, *case, n) for case in cases.values()] for n in range(2)]
        least = dict(zip(cases, map(min, zip(*rounds, strict=True)), strict=True))
        middle = statistics.median(least.values())
        assert middle > 0.02
        assert all(0.7 * middle < cost < 1.4 * middle for cost in least.values()), least


async def test_a_right_password_is_remembered(tmp_path: Path) -> None:
    """For some minutes, as clients send it with every request; not for another hash, and not in plain text."""
    clock = Clock()
    passwords = Passwords(clock)
    try:
        hashed = bcrypt.hashpw(b"secret word", bcrypt.gensalt(10)).decode()
        other = bcrypt.hashpw(b"another word", bcrypt.gensalt(10)).decode()
        costs = []
        for _ in range(2):
            began = time.process_time()
            assert await passwords.matches("secret word", hashed)
            costs.append(time.process_time() - began)
        assert costs[1] < costs[0] / 4
        assert not await passwords.matches("secret word", other)
        assert not await passwords.matches("secret word", None)
        assert not await passwords.matches("", "") and not await passwords.matches("", None)
        assert b"secret" not in repr(vars(passwords)).encode()
        clock.now += 301
        began = time.process_time()
        assert await passwords.matches("secret word", hashed)
        assert time.process_time() - began > costs[0] / 4
    finally:
        passwords.close()


# Guessing


def waits(throttle: Throttle, name: str, address: str) -> float:
    """Seconds it must wait; 0: none."""
    try:
        throttle.check(name, address)
    except Refusal as refusal:
        assert refusal.status == 429
        return float(refusal.headers["Retry-After"])
    return 0.0


def test_patience() -> None:
    """A few failures are free, then each pause is twice the last, up to an end; what is long ago is forgotten."""
    clock = Clock()
    throttle = Throttle(clock)
    pauses = []
    for _ in range(20):
        throttle.fail("alice", "192.0.2.1")
        pauses.append(waits(throttle, "alice", "192.0.2.1"))
        clock.now += pauses[-1]
    assert pauses[: FREE_FAILURES - 1] == [0.0] * (FREE_FAILURES - 1)
    assert pauses[FREE_FAILURES - 1 : FREE_FAILURES + 2] == [2.0, 3.0, 5.0] and pauses[-1] == MAX_PAUSE + 1
    assert waits(throttle, "alice", "192.0.2.2") == 0.0  # nobody locks somebody else out
    clock.now += FORGET_SECONDS + 1
    throttle.fail("alice", "192.0.2.1")
    assert waits(throttle, "alice", "192.0.2.1") == 0.0


def test_many_names_from_one_address() -> None:
    """Make the address wait, but not those who have known their password there."""
    clock = Clock()
    throttle = Throttle(clock)
    throttle.succeed("alice", "192.0.2.1")
    for number in range(FREE_BY_ADDRESS + 5):
        throttle.fail(f"name{number}", "192.0.2.1")
    assert waits(throttle, "bob", "192.0.2.1") > 0 and waits(throttle, "alice", "192.0.2.1") == 0
    for _ in range(FREE_FAILURES):
        throttle.fail("alice", "192.0.2.1")
    assert waits(throttle, "alice", "192.0.2.1") > 0
    clock.now += 1000
    throttle.succeed("alice", "192.0.2.1")
    assert waits(throttle, "alice", "192.0.2.1") == 0


def test_addresses_of_one_network() -> None:
    """Count as one: of IPv6 anybody has as many as there are tries."""
    assert find_network("2001:db8:1:2::3") == find_network("2001:db8:1:2:ffff::1") == "2001:db8:1:2::/64"
    assert find_network("2001:db8:1:3::3") != find_network("2001:db8:1:2::3")
    assert find_network("::ffff:192.0.2.1") == find_network("192.0.2.1") == "192.0.2.1"
    assert find_network("fe80::1%eth0") == "fe80::/64" and len(find_network(":" * 9999)) <= 64
    throttle = Throttle(Clock())
    for number in range(FREE_BY_ADDRESS):
        throttle.fail(f"n{number}", f"2001:db8::{number:x}")
    assert waits(throttle, "alice", "2001:db8::ffff") > 0 and waits(throttle, "alice", "2001:db8:0:1::1") == 0


def test_what_the_throttle_remembers() -> None:
    """Is bounded in number and in size, whoever sends names."""
    throttle = Throttle(Clock())
    for number in range(REMEMBERED):
        throttle.fail("n" * 5000 + str(number), f"198.51.{number >> 8}.{number & 255}")
        throttle.succeed("m" * 5000, f"198.51.{number >> 8}.{number & 255}")
    assert len(throttle._failures) <= REMEMBERED and len(throttle._known) <= REMEMBERED
    assert max(map(len, [*throttle._failures, *throttle._known])) < 200


async def test_guesses_at_the_same_moment(tmp_path: Path) -> None:
    """Get no more answers than guesses one after another; a right one among them is not told either."""
    async with open_desk(tmp_path / "hub") as desk:
        # A clock that stands: on a slow machine a pause of a second is over before the last guess is judged.
        desk.people.logins._throttle = Throttle(Clock())
        words = [f"wrong horse {n}" for n in range(PLACES)]
        words[-1] = PASSWORD
        found = await asyncio.gather(*(desk.login("alice", word) for word in words), return_exceptions=True)
        answered = [one for one in found if isinstance(one, Unauthenticated)]
        refused = [one for one in found if isinstance(one, Refusal) and one.status == 429]
        assert len(answered) <= FREE_FAILURES + 2 and len(answered) + len(refused) == PLACES, found


async def test_an_address_does_not_take_all_places(tmp_path: Path) -> None:
    """However many logins it begins: others are heard meanwhile, and it is told to wait."""
    async with open_desk(tmp_path / "hub") as desk:
        acts = [asyncio.create_task(desk.login(f"nobody{n}", "x" * 12)) for n in range(PLACES * 2)]
        other = await desk.login("alice", PASSWORD, "198.51.100.1")
        found = await asyncio.gather(*acts, return_exceptions=True)
        assert other.account == "alice"
        assert sum(isinstance(one, Refusal) for one in found) >= PLACES
        assert not desk.people.logins._throttle._places


async def test_a_kept_token_waits_for_nobody(tmp_path: Path) -> None:
    """It cannot be guessed: somebody else's failures behind the same address do not stop it."""
    async with open_desk(tmp_path / "hub") as desk:
        kept = await desk.token("alice")
        for number in range(FREE_BY_ADDRESS + 10):
            desk.people.logins._throttle.fail(f"n{number}", "198.51.100.1")
        with pytest.raises(Refusal):
            await desk.login("bob", PASSWORD, "198.51.100.1")
        assert (await desk.login("alice", kept, "198.51.100.1")).account == "alice"


# Who asks


def said(*lines: str, name: str = "X-Forwarded-For") -> CIMultiDictProxy[str]:
    """Headers."""
    return CIMultiDictProxy(CIMultiDict([(name, line) for line in lines]))


PROXIES = parse_proxies(["10.0.0.1", "10.1.0.0/16", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "lines", "wanted"),
    [
        ("198.51.100.9", ["1.2.3.4"], "198.51.100.9"),
        ("10.0.0.2", ["1.2.3.4"], "10.0.0.2"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("::ffff:198.51.100.9", [], "198.51.100.9"),
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4, 10.1.7.7"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6", "1.2.3.4", "10.1.7.7"], "1.2.3.4"),
        ("10.0.0.1", ["10.1.7.7, 10.1.7.8"], "10.1.7.7"),
        ("10.0.0.1", ["127.0.0.1"], "127.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, nonsense, 10.1.7.7"], "10.1.7.7"),
        ("10.0.0.1", ["1.2.3.4,"], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
        ("10.0.0.1", ['"[2001:db8::1]:80"'], "2001:db8::1"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["1.2.3.4\x00"], "10.0.0.1"),
        ("10.0.0.1", ["x" * 5000], "10.0.0.1"),
        ("127.0.0.1", ["1.2.3.4"], UNLISTED),
        ("::1", ["127.0.0.1"], UNLISTED),
        ("127.0.0.1", [], "127.0.0.1"),
        ("unix", ["1.2.3.4"], "unix"),
    ],
)
def test_whom_proxies_speak_for(peer: str, lines: list[str], wanted: str) -> None:
    """The last one that a listed proxy has named; what stands before, anybody may have written."""
    assert client_address(peer, said(*lines), PROXIES) == wanted


def test_a_proxy_that_nobody_listed() -> None:
    """On this machine it is not taken for this machine; any header of its kind gives it away."""
    assert client_address("127.0.0.1", said("for=1.2.3.4", name="Forwarded"), ()) == UNLISTED
    with pytest.raises(Invalid):
        parse_proxies(["10.0.0.1", "proxy.example"])


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """A hub that believes a proxy on this machine."""
    root = tmp_path_factory.mktemp("behind") / "hub"
    copy_people(root)
    with running_hub(root, "--proxies", "127.0.0.1") as hub:
        yield hub


def forwarded(address: str, scheme: str = "https") -> dict[str, str]:
    """What a proxy adds."""
    return {"X-Forwarded-For": f"6.6.6.6, {address}", "X-Forwarded-Proto": scheme}


def test_a_hub_behind_a_proxy(behind: LiveHub) -> None:
    """Pushes and pulls of any size, with the client's address in both logs, and challenges for the client's scheme."""
    with closing(Wire(behind.port)) as wire:
        headers = {**basic("alice"), **forwarded("198.51.100.1")}
        data = os.urandom(5 << 20)
        start = wire.ask("POST", "/v2/alice/app/blobs/uploads/", b"", headers)
        put = wire.ask("PUT", f"{start.headers['location']}?digest={digest_bytes(data)}", data, headers)
        assert put.status == 201
        assert wire.ask("GET", f"/v2/alice/app/blobs/{digest_bytes(data)}", None, headers).body == data
        for scheme, wanted in (
            ("https", "https"),
            ("HTTPS", "https"),
            ("http, https", "https"),
            ("x://", "http"),
        ):
            reply = wire.ask("GET", "/v2/", None, forwarded("198.51.100.1", scheme))
            assert f'realm="{wanted}://127.0.0.1' in reply.headers["www-authenticate"]
    lines = [json.loads(line) for line in (behind.root.parent / "hub.access").read_text().splitlines()]
    assert {line["from"] for line in lines if line["path"].startswith("/v2/alice")} == {"198.51.100.1"}


def test_guesses_through_a_proxy(behind: LiveHub) -> None:
    """Are counted by client: the others behind it log in meanwhile, and a client cannot name itself anew."""
    with closing(Wire(behind.port)) as wire:

        def login(secret: str, headers: dict[str, str]) -> int:
            return wire.ask("GET", "/v2/", None, {**basic("bob", secret), **headers}).status

        tries = [login("wrong horse 7", forwarded("198.51.100.66")) for _ in range(FREE_FAILURES + 1)]
        assert tries == [401] * FREE_FAILURES + [429]
        assert login(PASSWORD, forwarded("198.51.100.66")) == 429
        lie = {"X-Forwarded-For": "198.51.100.7, 198.51.100.66"}
        assert login(PASSWORD, lie) == 429
        assert login(PASSWORD, forwarded("198.51.100.7")) == 200


def test_who_says_it_was_forwarded(tmp_path: Path) -> None:
    """Without a listed proxy gains nothing: not another address, and not this machine's."""
    copy_people(tmp_path / "hub")
    engine = tmp_path / "engine"
    data = b"a layer of somebody's own"
    algorithm, _, name = digest_bytes(data).partition(":")
    (engine / "blobs" / algorithm).mkdir(parents=True)
    (engine / "blobs" / algorithm / name).write_bytes(data)
    with running_hub(tmp_path / "hub", "--share", str(engine)) as hub, closing(Wire(hub.port)) as wire:
        path = f"/v2/alice/app/blobs/uploads/?mount={digest_bytes(data)}"
        remote = {**basic("alice"), "X-Forwarded-For": "127.0.0.1"}
        assert wire.ask("POST", path, b"", remote).status == 202
        assert wire.ask("POST", path, b"", {**basic("alice"), "Forwarded": "for=127.0.0.1"}).status == 202
        assert wire.ask("POST", path, b"", basic("alice")).status == 201
        assert wire.ask("GET", "/metrics", None, {"X-Forwarded-For": "127.0.0.1"}).status == 401
        reply = wire.ask("GET", "/v2/", None, forwarded("198.51.100.1"))
        assert 'realm="http://' in reply.headers["www-authenticate"]


# By which name


@pytest.mark.parametrize(
    ("text", "good"),
    [
        *(("hub", True), ("hub.example.com:5000", True), ("127.0.0.1:1", True), ("[::1]:5000", True)),
        *(
            ("a_b:5000", True),
            ("hub.", True),
            ("", False),
            ("hub:", False),
            ("hub:x", False),
            ("hub:123456", False),
        ),
        *(('a"b', False), ("a b", False), ("a,b", False), ("a/b", False), ("a@b", False), ("a\\b", False)),
        *(("-a", False), ("[::1", False), ("::1", False), ("a" * 300, False), ("hüb", False), ("a\n", False)),
    ],
)
def test_hosts(text: str, good: bool) -> None:
    """What may stand in a URL without meaning something else there."""
    assert is_host(text) is good


def test_names_of_this_machine() -> None:
    """Are known where only this machine reaches the hub; elsewhere it may be called anything."""
    names = local_hosts(["127.0.0.1:5000", "[::1]:5000", ":5000"], "https://hub.example.com")
    assert names is not None
    for host in (
        "localhost:5000",
        "LOCALHOST",
        "x.localhost",
        "127.0.0.1",
        "[::1]:1",
        "hub.example.com",
        "10.0.0.1",
    ):
        assert is_host(host, names), host
    for host in (
        "evil.example",
        "hub.example.com.evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
    ):
        assert not is_host(host, names), host
    assert local_hosts(["127.0.0.1:5000", "0.0.0.0:5001"], "") is None
    assert local_hosts(["hub.example.com:5000"], "") is None


def test_our_own_origin() -> None:
    """Is scheme and host, nothing more."""
    assert parse_own_origin("https://hub.example.com:8443/") == "https://hub.example.com:8443"
    assert parse_own_origin("") == ""
    for text in (
        "hub.example.com",
        "ftp://hub",
        "https://",
        "https://a/b",
        'https://a"b',
        "https://u@h",
        "javascript:1",
    ):
        with pytest.raises(Invalid):
            parse_own_origin(text)


def test_where_challenges_lead(tmp_path: Path) -> None:
    """To the origin that was set, whatever the client calls us; without one, to a host, or nowhere."""
    copy_people(tmp_path / "hub")
    with running_hub(tmp_path / "hub", "--origin", "https://hub.example.com") as hub:
        for host in (b"127.0.0.1", b"evil.example", b"hub.example.com:1"):
            reply = send_raw(hub.port, b"GET /v2/ HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
            assert reply.headers["www-authenticate"].startswith(
                'Bearer realm="https://hub.example.com/token",'
            )
        for host in (b'a",realm="http://evil', b"a b", b"", b"user@evil", b"evil/path?"):
            reply = send_raw(hub.port, b"GET /v2/ HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
            assert reply.status == 400 and "www-authenticate" not in reply.headers


def test_names_that_somebody_points_here(tmp_path: Path) -> None:
    """A web page whose name leads to this machine (DNS rebinding) reads nothing of an open hub, and writes nothing."""
    with running_hub(tmp_path / "hub", "--open") as hub:
        with closing(Wire(hub.port)) as wire:
            Repository(wire, "app").push_image("1")
        for path in (b"/v2/app/manifests/1", b"/v2/_catalog", b"/", b"/token?service=cais-hub"):
            for host, status in ((b"evil.example", 421), (b"evil.example:%d" % hub.port, 421)):
                reply = send_raw(hub.port, b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
                assert reply.status == status and b"--origin" in reply.body
        reply = send_raw(hub.port, b"GET /v2/app/manifests/1 HTTP/1.1\r\nHost: localhost:9\r\n\r\n")
        assert reply.status == 200


# Requests that are odd


@pytest.mark.parametrize(
    "line",
    [
        *(b"GET http://127.0.0.1/v2/ HTTP/1.1", b"OPTIONS * HTTP/1.1", b"CONNECT h:1 HTTP/1.1"),
        *(
            b"GET //v2/ HTTP/1.1",
            b"GET /v2/%00 HTTP/1.1",
            b"GET /v2/%ff/manifests/1 HTTP/1.1",
            b"GET /%ff HTTP/1.1",
        ),
        *(
            b"GET /v2/../v2/ HTTP/1.1",
            b"GET /v2/" + b"a/" * 3000 + b" HTTP/1.1",
            b"GET ? HTTP/1.1",
            b"FOO / HTTP/1.1",
        ),
    ],
    ids=lambda line: line[:30].decode("latin-1"),
)
def test_request_lines(behind: LiveHub, line: bytes) -> None:
    """Never are an error of ours."""
    reply = send_raw(behind.port, line + b"\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert 400 <= reply.status < 500, reply


def test_neighbours_of_our_paths(behind: LiveHub) -> None:
    """A name that only begins like one of them is somebody's page."""
    with closing(Wire(behind.port)) as wire:
        for path in ("/metrics-team", "/tokens-of-mine", "/token.d", "/metricsx/app"):
            reply = wire.ask("GET", path)
            assert b"cais_hub_requests" not in reply.body and b"access_token" not in reply.body
        assert b"cais_hub_requests" in wire.ask("GET", "/metrics?x").body
        assert wire.ask("GET", "/v2").status == 401


def test_what_the_measures_hold(behind: LiveHub) -> None:
    """Nothing that clients make up."""
    for method in (b"REPORT", b"MKCOL", b"PROPFIND", b"SEARCH"):
        send_raw(behind.port, method + b" /v2/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    with closing(Wire(behind.port)) as wire:
        text = wire.ask("GET", "/metrics").body.decode()
    assert 'method="OTHER"' in text and "PROPFIND" not in text


def test_whose_the_measures_are(behind: LiveHub) -> None:
    """This machine's, whoever asks there; from elsewhere an administrator's, by what the API takes too."""
    elsewhere = forwarded("198.51.100.1")
    with closing(Wire(behind.port)) as wire:

        def status(headers: dict[str, str]) -> int:
            return wire.ask("GET", "/metrics", None, {**elsewhere, **headers}).status

        def token(**fields: Any) -> str:
            body = json.dumps({"name": "t", **fields}).encode()
            headers = {**basic("boss"), "Content-Type": "application/json"}
            return str(json.loads(wire.ask("POST", "/api/v1/tokens", body, headers).body)["secret"])

        refused = wire.ask("GET", "/metrics", None, elsewhere)
        assert refused.status == 401 and refused.headers["www-authenticate"].startswith("Basic ")
        assert b"cais_hub" not in refused.body
        assert status({"X-Forwarded-For": "127.0.0.1, 198.51.100.1"}) == 401
        assert status(basic("boss", "wrong horse 7")) == 401
        assert [status(basic(name)) for name in ("boss", "alice")] == [200, 403]
        assert [status(bearer(token(scopes=scopes))) for scopes in ([], ["*:pull"])] == [200, 403]
        reply = wire.ask("GET", "/token?service=cais-hub", None, basic("boss"))
        assert status(bearer(json.loads(reply.body)["token"])) == 401, "clients hand these around"
        assert wire.ask("GET", "/metrics").status == 200


def test_the_measures_may_be_everybodys(tmp_path: Path) -> None:
    """If whoever started the hub says so."""
    words = ("--proxies", "127.0.0.1", "--open-metrics")
    with running_hub(tmp_path / "hub", *words) as hub, closing(Wire(hub.port)) as wire:
        reply = wire.ask("GET", "/metrics", None, forwarded("198.51.100.1"))
        assert reply.status == 200 and b"cais_hub_requests" in reply.body


def test_the_access_log(behind: LiveHub) -> None:
    """Has one line a request, whatever stands in it."""
    log = behind.root.parent / "hub.access"
    before = len(log.read_text().splitlines())
    agent = 'x"\\n{"from":"1.1.1.1"}\xff' + "y" * 3000
    request = b"GET /v2/%0aX HTTP/1.1\r\nHost: h\r\nUser-Agent: " + agent.encode("latin-1") + b"\r\n\r\n"
    send_raw(behind.port, request)
    (line,) = log.read_text().splitlines()[before:]
    entry = json.loads(line)
    assert entry["path"] == "/v2/%0aX" and entry["from"] == "127.0.0.1" and len(entry["agent"]) <= 200


def test_an_access_log_on_a_full_disk(tmp_path: Path) -> None:
    """Stops no answer."""
    with running_hub(tmp_path / "hub", "--open", "--access-log", "/dev/full") as hub:
        assert [hub.ask("GET", "/v2/")[0] for _ in range(3)] == [200] * 3
