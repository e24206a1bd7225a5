"""Webhooks: what is sent, to whom, how often, in which order, and where it never goes."""

import asyncio
import hashlib
import hmac
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp.abc
import pytest

from cais.errors import CaisError, Conflict, Denied, Invalid, NotFound
from cais.hub.courier import KEEP_EVERY, MAX_FAILURES, NO_ADDRESS, TRIES, Courier
from cais.hub.webhooks import KEPT_DELIVERIES, MAX_WEBHOOKS, Delivery, Webhook, Webhooks, check_url
from cais.registry.base import Caller, Event
from cais.registry.catalog import SqliteCatalog
from harness.accounts import Desk, basic, open_desk
from harness.hub import running_hub, wait_until
from harness.receiver import Receiver, receiving
from harness.wire import Wire, describe, format_image, sha256

pytestmark = pytest.mark.slow
ALICE = Caller(account="alice", kind="session")
DEADLINE = 20.0


@asynccontextmanager
async def delivering(desk: Desk, **how: Any) -> AsyncIterator[Courier]:
    """A courier at work, in a hurry."""
    courier = Courier(desk.database, **{"allow_private": True, "first_pause": 0.01, "poll": 0.01, **how})
    task = asyncio.create_task(courier.run())
    try:
        yield courier
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def happen(desk: Desk, *tags: str, action: str = "push", repository: str = "alice/app") -> None:
    """Things that webhooks are told of."""
    for tag in tags:
        event = Event(
            action=action, repository=repository, account="alice", target=sha256(tag.encode()), tag=tag
        )
        await SqliteCatalog(desk.database).add_event(event)


async def add(desk: Desk, url: str, **how: Any) -> tuple[Webhook, str]:
    """A webhook of alice's."""
    return await Webhooks(desk.database, desk.people.namespaces, allow_private=True).add(
        "alice", url, ALICE, **how
    )


def read(desk: Desk, webhook: Webhook) -> tuple[Webhook, list[Delivery]]:
    """It and its deliveries, the oldest first, as they are now."""
    hooks = Webhooks(desk.database, desk.people.namespaces)
    (found,) = [one for one in hooks.list_webhooks("alice", ALICE) if one.id == webhook.id]
    return found, hooks.list_deliveries("alice", webhook.id, ALICE, 1000)[::-1]


async def came(receiver: Receiver, count: int) -> list[str]:
    """Tags of the first requests, once they are here."""
    return [sent.json["tag"] for sent in await asyncio.to_thread(receiver.wait, count)]


async def until(condition: Callable[[], object]) -> None:
    """Return once it holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  (a row of a database)
            await asyncio.sleep(0.005)


async def refused(act: Any, kind: type[CaisError] = Denied) -> bool:
    """Whether it is refused in this way."""
    try:
        await act
    except kind:
        return True
    return False


# Making them


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "x",
            "ftp://a.example/",
            "file:///etc/passwd",
            "gopher://a.example",
            "//a.example/",
            "https://",
        ),
        *(
            "https:///x",
            "http://user@a.example/",
            "http://u:p@a.example/",
            "http://a.example/#x",
            "http://a b/",
        ),
        *("http://a.example/\r\nX: y", "http://a.example/\0", "http://ä.example/", "http://a.example:0/"),
        *(
            "http://a.example:99999/",
            "http://a.example:x/",
            "http://a.example\\@b/",
            "http://[::1/",
            "HTTP//a",
        ),
        *("http://127.0.0.1/", "http://10.0.0.1:80/x", "http://[::1]/", "http://[::ffff:127.0.0.1]/"),
        *("http://169.254.169.254/latest/meta-data", "http://0.0.0.0/", "http://[64:ff9b::7f00:1]/"),
        "http://a.example/" + "x" * 1000,
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    """Are refused when they are set."""
    with pytest.raises(Invalid):
        check_url(url, allow_private=False)


def test_addresses() -> None:
    """Are http or https, with any port and query; where it is allowed, of this network."""
    for url in (
        "https://a.example/h?x=1&y=%20",
        "http://a.example:8080",
        "https://8.8.8.8/",
        "http://[2606:4700::1]/",
    ):
        check_url(url, allow_private=False)
    check_url("http://127.0.0.1:8080/x", allow_private=True)


async def test_who_makes_webhooks(tmp_path: Path) -> None:
    """Administrators of the namespace, and with no token that has limits; nobody sees those of others."""
    async with open_desk(tmp_path / "hub") as desk:
        hooks = Webhooks(desk.database, desk.people.namespaces)
        await desk.people.namespaces.set_member("alice", "bob", "write", await desk.login("alice"))
        made, secret = await hooks.add("alice", "https://a.example/secret-path", await desk.login("alice"))
        limited = await desk.login("alice", await desk.token("alice", "alice/*:pull,push,delete"))
        for by in (await desk.login("bob"), limited, Caller(), await desk.login("carol")):
            for act in (
                hooks.add("alice", "https://a.example", by),
                hooks.remove("alice", made.id, by),
                hooks.enable("alice", made.id, by, enabled=False),
            ):
                assert await refused(act)
            for look in (
                lambda by=by: hooks.list_webhooks("alice", by),
                lambda by=by: hooks.list_deliveries("alice", 1, by),
            ):
                with pytest.raises(Denied):
                    look()
        carol = await desk.login("carol")
        assert await refused(hooks.remove("carol", made.id, carol), NotFound)
        assert await refused(hooks.enable("carol", made.id, carol, enabled=True), NotFound)
        with pytest.raises(NotFound):
            hooks.list_deliveries("carol", made.id, carol)
        (listed,) = hooks.list_webhooks("alice", await desk.login("boss"))
        assert listed == made and secret not in repr(listed) and len(secret) >= 32
        noted = desk.database.read("SELECT account, target, detail FROM events WHERE action = 'webhook'")
        assert noted == [("alice", "alice", "a.example added")]


async def test_webhooks_have_bounds(tmp_path: Path) -> None:
    """Of number, actions, repositories and secrets; an unknown namespace has none."""
    async with open_desk(tmp_path / "hub") as desk:
        url = "https://a.example"
        for how in (
            {"repository": "bob/app"},
            {"repository": "alice"},
            {"repository": "alice/App"},
            {"repository": "alice/../bob/x"},
            {"actions": ["pull"]},
            {"actions": ["push", "member"]},
            {"secret": "x" * 201},
            {"secret": "ü" * 20},
        ):
            assert await refused(add(desk, url, **how), Invalid), how
        hooks = Webhooks(desk.database, desk.people.namespaces)
        assert await refused(hooks.add("nowhere", url, await desk.login("boss")), NotFound)
        for _ in range(MAX_WEBHOOKS):
            await add(desk, url)
        assert await refused(add(desk, url), Conflict)


# What is sent


async def test_what_is_sent(tmp_path: Path) -> None:
    """The documented shape, signed with the secret, for what happens after the webhook was made."""
    with receiving() as receiver:
        async with open_desk(tmp_path / "hub") as desk, delivering(desk):
            await happen(desk, "before")
            webhook, secret = await add(desk, receiver.url)
            await happen(desk, "after")
            (sent,) = await asyncio.to_thread(receiver.wait, 1)
            await until(lambda: read(desk, webhook)[1])
            found, deliveries = read(desk, webhook)
    wanted = "sha256=" + hmac.new(secret.encode(), sent.body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(sent.headers["x-cais-signature-256"], wanted)
    assert set(sent.json) == {"id", "action", "repository", "tag", "digest", "account", "at"}
    event = sent.json
    assert event["action"] == sent.headers["x-cais-event"] == "push" and event["repository"] == "alice/app"
    assert event["tag"] == "after" and event["digest"] == sha256(b"after") and event["account"] == "alice"
    assert event["at"].endswith("Z") and sent.headers["x-cais-delivery"] == f"{webhook.id}-{event['id']}"
    assert sent.headers["content-type"] == "application/json" and sent.path == "/hook"
    assert sent.headers["user-agent"].startswith("Cais-Hub/") and "cookie" not in sent.headers
    assert found.event == event["id"] and [(one.status, one.error) for one in deliveries] == [(204, "")]


async def test_who_is_told_of_what(tmp_path: Path) -> None:
    """Of one namespace and no neighbour's, of one repository, of some actions; never of what is no image."""
    with receiving() as everything, receiving() as some:
        async with open_desk(tmp_path / "hub") as desk, delivering(desk):
            await add(desk, everything.url)
            await add(desk, some.url, repository="alice/app", actions=["delete", "push"])
            for repository in ("alicex/app", "alice-b/app", "alice", "ali/ce", "bob/alice/app", "alice0/app"):
                await happen(desk, "foreign", repository=repository)
            for action in ("settings", "member", "password", "mount"):
                await happen(desk, "inner", action=action)
            for number, (repository, action) in enumerate(
                itertools.product(("alice/app", "alice/a/b"), ("push", "tag", "untag", "delete"))
            ):
                await happen(desk, f"{number}", repository=repository, action=action)
            assert await came(everything, 8) == list("01234567")
            assert await came(some, 2) == ["0", "3"]
            await happen(desk, "last")
            assert (await came(everything, 9))[-1] == (await came(some, 3))[-1] == "last"


async def test_the_root_namespace(tmp_path: Path) -> None:
    """Is told of repositories with names of one part."""
    with receiving() as receiver:
        async with open_desk(tmp_path / "hub") as desk, delivering(desk):
            hooks = Webhooks(desk.database, desk.people.namespaces, allow_private=True)
            await hooks.add("library", receiver.url, await desk.login("boss"))
            await happen(desk, "no", repository="alice/busybox")
            await happen(desk, "no", repository="", action="delete")
            await happen(desk, "yes", repository="busybox")
            await happen(desk, "too", repository="library/busybox")
            assert await came(receiver, 2) == ["yes", "too"]


# When it fails


async def test_again_after_a_failure(tmp_path: Path) -> None:
    """The same delivery comes again until it is taken, and the next ones wait for it."""
    with receiving() as receiver:
        receiver.answer = lambda number, sent: 500 if number < 3 else 200
        async with open_desk(tmp_path / "hub") as desk, delivering(desk):
            webhook, _ = await add(desk, receiver.url)
            await happen(desk, "a", "b", "c")
            assert await came(receiver, 6) == ["a", "a", "a", "a", "b", "c"]
            assert len({sent.headers["x-cais-delivery"] for sent in receiver.sent}) == 3
            await until(lambda: len(read(desk, webhook)[1]) == 6)
            found, deliveries = read(desk, webhook)
            assert [one.status for one in deliveries] == [500, 500, 500, 200, 200, 200]
            assert deliveries[0].error == "the answer was 500" and not deliveries[-1].error
            assert (found.failures, found.next_ns, found.disabled) == (0, 0, False)


async def test_pauses(tmp_path: Path) -> None:
    """Grow with every failure, and are not the same for everybody; they are on record, so a restart does not hurry."""
    async with open_desk(tmp_path / "hub") as desk:
        with closing(socket.create_server(("127.0.0.1", 0))) as unused:
            port = unused.getsockname()[1]
        webhook, _ = await add(desk, f"http://127.0.0.1:{port}/")
        await happen(desk, "a")
        pauses = []
        for failures in range(1, 5):
            async with delivering(desk, first_pause=100.0):
                await until(lambda failures=failures: read(desk, webhook)[0].failures == failures)
            pauses.append((read(desk, webhook)[0].next_ns - time.time_ns()) / 1e9)
            await desk.execute("UPDATE webhooks SET next_ns = 0")
        for pause, wanted in zip(pauses, (100, 200, 400, 800), strict=True):
            assert 0.7 * wanted < pause < 1.26 * wanted, pauses
        assert [one.error for one in read(desk, webhook)[1]] == ["cannot connect: Connection refused"] * 4
        await desk.execute("UPDATE webhooks SET next_ns = ?", time.time_ns() + 10**12)
        async with delivering(desk):
            other, _ = await add(desk, f"http://127.0.0.1:{port}/")
            await happen(desk, "b")
            await until(lambda: read(desk, other)[0].failures)
            assert read(desk, webhook)[0].failures == 4


async def test_a_pause_from_before_the_clock_was_set_back(tmp_path: Path) -> None:
    """Is over: nobody would be told for a day, or a year, as there is no pause of so long."""
    with receiving() as receiver:
        async with open_desk(tmp_path / "hub") as desk:
            webhook, _ = await add(desk, receiver.url)
            await desk.execute("UPDATE webhooks SET next_ns = ?", time.time_ns() + 86_400 * 10**9)
            await happen(desk, "a")
            async with delivering(desk):
                assert await came(receiver, 1) == ["a"]
                await until(lambda: read(desk, webhook)[0].next_ns == 0)


async def test_it_is_given_up(tmp_path: Path) -> None:
    """After so many tries, for the next event; after so many failures altogether, for good, until somebody enables it:
    then it goes on where it was."""
    with receiving() as receiver:
        receiver.answer = lambda number, sent: 503
        async with open_desk(tmp_path / "hub") as desk, delivering(desk, first_pause=0.0):
            webhook, _ = await add(desk, receiver.url)
            await happen(desk, "a", "b", "c", "d")
            await until(lambda: read(desk, webhook)[0].disabled)
            tags = [sent.json["tag"] for sent in receiver.sent]
            assert tags == [tag for tag in "abc" for _ in range(TRIES)] and len(tags) == MAX_FAILURES
            given_up = [one for one in read(desk, webhook)[1] if one.error.endswith("given up")]
            assert len(given_up) == 3
            noted = desk.database.read("SELECT target, detail FROM events WHERE action = 'webhook'")
            assert noted[-1] == ("alice", f"webhook {webhook.id} disabled after {MAX_FAILURES} failures")
            receiver.answer = lambda number, sent: 200
            hooks = Webhooks(desk.database, desk.people.namespaces)
            await hooks.enable("alice", webhook.id, ALICE, enabled=True)
            assert (await came(receiver, MAX_FAILURES + 1))[-1] == "d"
            await hooks.enable("alice", webhook.id, ALICE, enabled=False)
            await happen(desk, "e")
            await hooks.enable("alice", webhook.id, ALICE, enabled=True)
            assert (await came(receiver, MAX_FAILURES + 2))[-1] == "e"


async def test_a_day_is_enough(tmp_path: Path) -> None:
    """What failed first more than a day ago is given up at the next failure; what only waited is not."""
    with receiving() as receiver:
        receiver.answer = lambda number, sent: 500 if sent.json["tag"] == "a" else 200
        async with open_desk(tmp_path / "hub") as desk:
            webhook, _ = await add(desk, receiver.url)
            await happen(desk, "a", "b")
            await desk.execute("UPDATE events SET at_ns = at_ns - 400000 * 1000000000")
            for count, word in ((1, "500"), (2, "given up")):
                async with delivering(desk, first_pause=100.0):
                    await until(lambda count=count: len(read(desk, webhook)[1]) == count)
                assert read(desk, webhook)[1][-1].error.endswith(word)
                await desk.execute("UPDATE deliveries SET at_ns = at_ns - 90000 * 1000000000")
                await desk.execute("UPDATE webhooks SET next_ns = 0")
            async with delivering(desk):
                assert await came(receiver, 3) == ["a", "a", "b"]


async def test_deliveries_are_not_kept_for_ever(tmp_path: Path) -> None:
    """Only the newest."""
    with receiving() as receiver:
        async with open_desk(tmp_path / "hub") as desk, delivering(desk):
            webhook, _ = await add(desk, receiver.url)
            await happen(desk, *map(str, range(KEPT_DELIVERIES + 5)))
            await came(receiver, KEPT_DELIVERIES + 5)
            await until(lambda: read(desk, webhook)[1][-1].event == receiver.sent[-1].json["id"])
            deliveries = read(desk, webhook)[1]
            assert len(deliveries) == KEPT_DELIVERIES and deliveries[0].event == receiver.sent[5].json["id"]


async def test_a_removed_webhook(tmp_path: Path) -> None:
    """Is told nothing more, also when it goes while it is being told."""
    with receiving() as receiver, receiving() as other:
        receiver.answer = lambda number, sent: 200 if receiver.silence.wait(DEADLINE) else 500
        async with open_desk(tmp_path / "hub") as desk, delivering(desk):
            webhook, _ = await add(desk, receiver.url)
            await add(desk, other.url)
            await happen(desk, "a")
            await came(receiver, 1)
            await Webhooks(desk.database, desk.people.namespaces).remove("alice", webhook.id, ALICE)
            receiver.silence.set()
            await happen(desk, "b")
            assert await came(other, 2) == ["a", "b"]
            assert len(receiver.sent) == 1
            assert desk.database.read("SELECT * FROM deliveries WHERE webhook = ?", webhook.id) == []


async def test_a_slow_receiver(tmp_path: Path) -> None:
    """Holds up nobody else."""
    with receiving() as slow, receiving() as quick:
        slow.answer = lambda number, sent: 200 if slow.silence.wait(2 * DEADLINE) else 500
        async with open_desk(tmp_path / "hub") as desk, delivering(desk, timeout=2 * DEADLINE):
            await add(desk, slow.url)
            await add(desk, quick.url)
            await happen(desk, "a")
            await came(slow, 1)
            await happen(desk, "b", "c")
            assert await came(quick, 3) == ["a", "b", "c"]
            assert len(slow.sent) == 1


async def test_a_receiver_that_says_nothing(tmp_path: Path) -> None:
    """Has failed when the time is over."""
    with receiving() as receiver:
        receiver.answer = lambda number, sent: 200 if receiver.silence.wait(DEADLINE) else 500
        async with open_desk(tmp_path / "hub") as desk, delivering(desk, timeout=0.5, first_pause=100.0):
            webhook, _ = await add(desk, receiver.url)
            await happen(desk, "a")
            await until(lambda: read(desk, webhook)[1])
            assert [one.error for one in read(desk, webhook)[1]] == ["there was no answer in time"]


async def test_an_answer_without_an_end(tmp_path: Path) -> None:
    """Is not read: its status is enough."""
    with receiving() as receiver:
        receiver.headers = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
        receiver.body = itertools.repeat(b"\0" * 65536)
        receiver.answer = lambda number, sent: 200
        async with open_desk(tmp_path / "hub") as desk, delivering(desk):
            webhook, _ = await add(desk, receiver.url)
            await happen(desk, "a")
            await until(lambda: read(desk, webhook)[1])
            assert [(one.status, one.error) for one in read(desk, webhook)[1]] == [(200, "")]


async def test_events_of_others(tmp_path: Path) -> None:
    """In any number do not make a webhook look through them again after a restart."""
    with receiving() as receiver:
        async with open_desk(tmp_path / "hub") as desk:
            webhook, _ = await add(desk, receiver.url)
            await desk.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO events "
                "(at_ns, action, repository, account, address, target, tag, detail) "
                "SELECT 1, 'push', 'bob/app', '', '', '', '', '' FROM n",
                KEEP_EVERY + 1,
            )
            async with delivering(desk):
                await until(lambda: read(desk, webhook)[0].event > KEEP_EVERY)
                await happen(desk, "mine")
                assert await came(receiver, 1) == ["mine"]


# Where it never goes


class Changing(aiohttp.abc.AbstractResolver):
    """Answers with one address after the other, the last one for ever."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """The next."""
        self.asked += 1
        address = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [
            aiohttp.abc.ResolveResult(
                hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST
            )
        ]

    async def close(self) -> None:
        """Nothing is open."""


async def failed(desk: Desk, webhook: Webhook, **how: Any) -> list[str]:
    """The errors of its first tries, two at least."""
    async with delivering(desk, allow_private=False, **how):
        await until(lambda: len(read(desk, webhook)[1]) >= 2)
    return [one.error for one in read(desk, webhook)[1]]


async def test_private_addresses(tmp_path: Path) -> None:
    """Are not connected to, however they are written; the log tells nothing of this network."""
    with receiving() as receiver:
        async with open_desk(tmp_path / "hub") as desk:
            port = receiver.port
            for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"):
                webhook, _ = await add(desk, f"http://{host}:{port}/")
                await happen(desk, "a")
                assert set(await failed(desk, webhook)) == {NO_ADDRESS}, host
                await Webhooks(desk.database, desk.people.namespaces).remove("alice", webhook.id, ALICE)
            for address in (
                "127.0.0.1",
                "::ffff:127.0.0.1",
                "::1",
                "10.0.0.1",
                "169.254.169.254",
                "2002:7f00:1::",
            ):
                webhook, _ = await add(desk, f"http://hooks.example:{port}/")
                await happen(desk, "a")
                resolver = Changing(address)
                assert set(await failed(desk, webhook, resolver=resolver)) == {NO_ADDRESS}, address
                assert resolver.asked
                await Webhooks(desk.database, desk.people.namespaces).remove("alice", webhook.id, ALICE)
        assert receiver.sent == []


async def test_a_name_that_changes_its_mind(tmp_path: Path) -> None:
    """Public when it is looked up first, this machine at the next try (DNS rebinding): nothing arrives."""
    with receiving() as receiver:
        async with open_desk(tmp_path / "hub") as desk:
            webhook, _ = await add(desk, f"http://hooks.example:{receiver.port}/")
            await happen(desk, "a")
            # The next try comes when the first answer is not remembered any more.
            resolver = Changing("192.31.196.1", "127.0.0.1")
            async with delivering(desk, allow_private=False, resolver=resolver, timeout=0.6):
                await until(lambda: read(desk, webhook)[1])
            async with delivering(desk, allow_private=False, resolver=resolver, timeout=0.6):
                await until(lambda: len(read(desk, webhook)[1]) >= 2)
            assert resolver.asked == 2 and read(desk, webhook)[1][-1].error == NO_ADDRESS
        assert receiver.sent == []


async def test_numbers_that_are_addresses(tmp_path: Path) -> None:
    """127.1 and its relatives lead nowhere."""
    with receiving() as receiver:
        async with open_desk(tmp_path / "hub") as desk:
            for host in ("127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1."):
                webhook, _ = await add(desk, f"http://{host}:{receiver.port}/")
                await happen(desk, "a")
                assert all(await failed(desk, webhook)), host
                await Webhooks(desk.database, desk.people.namespaces).remove("alice", webhook.id, ALICE)
        assert receiver.sent == []


async def test_redirects(tmp_path: Path) -> None:
    """Are not followed: what happens here goes to whom somebody named, or nowhere."""
    with receiving() as receiver, receiving() as other:
        receiver.headers = {"Location": other.url, "Set-Cookie": "a=b"}
        for status in (301, 302, 303, 307, 308):
            receiver.answer = lambda number, sent, status=status: status
            async with open_desk(tmp_path / f"hub{status}") as desk, delivering(desk):
                webhook, _ = await add(desk, receiver.url)
                await happen(desk, "a")
                await until(lambda desk=desk, webhook=webhook: len(read(desk, webhook)[1]) >= 2)
                assert {one.error for one in read(desk, webhook)[1]} == {f"the answer was {status}"}
        assert other.sent == [] and not any("cookie" in sent.headers for sent in receiver.sent)


# A whole hub


def push(wire: Wire, name: str, tag: str) -> str:
    """An image of one layer, as alice; its digest."""
    for data in (b"{}", b"layer"):
        start = wire.ask("POST", f"/v2/{name}/blobs/uploads/", b"", basic("alice"))
        put = wire.ask("PUT", f"{start.headers['location']}?digest={sha256(data)}", data, basic("alice"))
        assert put.status == 201, put
    manifest = format_image(b"{}", [b"layer"])
    media_type = json.loads(manifest)["mediaType"]
    reply = wire.ask(
        "PUT", f"/v2/{name}/manifests/{tag}", manifest, {"Content-Type": media_type, **basic("alice")}
    )
    assert reply.status == 201, reply
    return describe(manifest)["digest"]


async def make_webhook(root: Path, url: str) -> None:
    """Before the hub starts."""
    async with open_desk(root) as desk:
        await add(desk, url)


def test_a_hub_that_is_killed(tmp_path: Path) -> None:
    """Between the push and the receiver's answer: its next process tells it, the same and in order."""
    with receiving() as receiver:
        receiver.answer = lambda number, sent: 200 if number or receiver.silence.wait(DEADLINE) else 500
        asyncio.run(make_webhook(tmp_path / "hub", receiver.url))
        with running_hub(tmp_path / "hub", "--allow-private") as hub:
            with closing(Wire(hub.port)) as wire:
                digest = push(wire, "alice/app", "1")
                push(wire, "alice/app", "2")
            receiver.wait(1)
            hub.kill()
            receiver.silence.set()
            hub.start()
            first, again, second = receiver.wait(3)
            assert (
                first.body == again.body
                and first.headers["x-cais-delivery"] == again.headers["x-cais-delivery"]
            )
            assert (again.json["tag"], again.json["digest"], second.json["tag"]) == ("1", digest, "2")
            assert hub.stop() == 0


def test_a_hub_tells_nobody_of_its_own_network(tmp_path: Path) -> None:
    """Unless its administrator allows it."""
    with receiving() as receiver:
        asyncio.run(make_webhook(tmp_path / "hub", receiver.url))
        with running_hub(tmp_path / "hub") as hub:
            with closing(Wire(hub.port)) as wire:
                push(wire, "alice/app", "1")
            wait_until(lambda: errors(tmp_path / "hub"), "a delivery that failed")
            assert hub.stop() == 0
        assert errors(tmp_path / "hub") == [NO_ADDRESS] and receiver.sent == []


def errors(root: Path) -> list[str]:
    """Of all deliveries."""

    async def look() -> list[str]:
        async with open_desk(root) as desk:
            return [error for (error,) in desk.database.read("SELECT error FROM deliveries")]

    return asyncio.run(look())
