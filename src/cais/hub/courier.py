"""Delivers what happened to the webhooks: the audit log is the outbox, and every webhook has its place in it.

At least once: the place moves on when a receiver has taken an event, in the same transaction that notes the delivery.
Who is killed between the receiver's answer and that, delivers again. In order: of one webhook, an event is tried until
it is taken or given up, and only then the next. Each webhook has a task of its own while it has something to do, so a
slow receiver holds up nobody else's events.
"""

import asyncio
import contextlib
import functools
import logging
import os
import random
import sqlite3
import time
from collections.abc import AsyncIterator

import aiohttp

from cais import __version__
from cais.hub.webhooks import ACTIONS, KEPT_DELIVERIES, Webhook, find_webhook, format_event, sign_body
from cais.registry.addresses import PrivateAddress, open_connector
from cais.registry.base import Event
from cais.registry.catalog import ROOT_NAMESPACE, note
from cais.registry.database import Database

log = logging.getLogger(__name__)
POLL = 0.5
"""Seconds between two looks at the audit log."""
WINDOW = 2000
"""Events that are looked through at a time: reading is on the event loop."""
PARALLEL = 200
"""Deliveries at the same time; whoever waits for a place has not begun, and its time does not run."""
KEEP_EVERY = 10_000
"""Events of others after which a webhook's place is written down though it was told nothing."""
TRIES = 15
MAX_AGE = 24 * 3600.0
"""Tries of one event, and seconds since the first of them, after which it is given up."""
MAX_FAILURES = 3 * TRIES
"""Tries without a success after which a webhook is disabled."""
MAX_PAUSE = 3 * 3600.0
LEAST, MOST = 0.75, 1.25
"""Parts of a pause: webhooks that failed together are not told together again."""
MAX_ANSWER = 4096
"""Bytes that are read of an answer: nobody looks at it."""
NO_ADDRESS = "there is no public address of this name"
"""Also for private ones: else names of this network could be tried."""


class Courier:
    """``run`` it. ``first_pause``: seconds after the first failure; ``timeout``: for one delivery, of which a third for
    the connection; ``poll``: between two looks at the audit log; ``resolver``: asked for addresses instead of the
    system's."""

    def __init__(
        self,
        database: Database,
        *,
        allow_private: bool = False,
        first_pause: float = 5.0,
        timeout: float = 15.0,
        poll: float = POLL,
        resolver: aiohttp.abc.AbstractResolver | None = None,
    ) -> None:
        self._db = database
        self._allow_private = allow_private
        self._first_pause = first_pause
        self._poll = poll
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=timeout / 3)
        self._resolver = resolver
        self._seen: dict[int, int] = {}
        self._busy: dict[int, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(PARALLEL)

    async def run(self) -> None:
        """Until it is cancelled."""
        async with self._open_session() as session:
            try:
                while True:
                    try:
                        self._start_due(session)
                    except Exception:
                        log.exception("cannot look for webhooks")
                    await asyncio.sleep(self._poll)
            finally:
                tasks = list(self._busy.values())
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _open_session(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = open_connector(allow_private=self._allow_private, resolver=self._resolver, limit=0)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": f"Cais-Hub/{__version__}", "Content-Type": "application/json"},
        ) as session:
            yield session

    def _start_due(self, session: aiohttp.ClientSession) -> None:
        newest, now = self._newest(), time.time_ns()
        # No pause is longer: one that seems so was begun before the clock was set back.
        longest = now + int(MAX_PAUSE * MOST * 1e9)
        for id, event in self._db.read(
            "SELECT id, event FROM webhooks WHERE NOT disabled AND (next_ns <= ? OR next_ns > ?)",
            now,
            longest,
        ):
            if id not in self._busy and max(event, self._seen.get(id, 0)) < newest:
                task = self._busy[id] = asyncio.create_task(self._serve(session, id), name=f"webhook {id}")
                task.add_done_callback(functools.partial(self._end, id))

    def _end(self, id: int, _: asyncio.Task[None]) -> None:
        del self._busy[id]

    async def _serve(self, session: aiohttp.ClientSession, id: int) -> None:
        """Deliver what there is, until there is nothing or a pause is due."""
        try:
            while True:
                found = find_webhook(self._db, id)
                if found is None or found[0].disabled:
                    self._seen.pop(id, None)
                    return
                webhook, secret = found
                event = await self._next_event(webhook)
                if event is None:
                    return
                async with self._places:
                    status, error = await self._post(session, webhook, secret, event)
                await self._note(webhook, event, status, error)
                if error:
                    return
        except Exception:
            log.exception("webhook %d failed", id)

    async def _next_event(self, webhook: Webhook) -> Event | None:
        """The first after its place that it is to be told of."""
        place, newest = max(webhook.event, self._seen.get(webhook.id, 0)), self._newest()
        actions = webhook.actions or ACTIONS
        marks = ",".join("?" * len(actions))
        inside, names = _scope(webhook)
        while place < newest:
            end = min(place + WINDOW, newest)
            row = self._db.read_one(
                "SELECT id, at_ns, action, repository, account, target, tag FROM events "
                f"WHERE id > ? AND id <= ? AND action IN ({marks}) AND ({inside}) ORDER BY id LIMIT 1",
                place,
                end,
                *actions,
                *names,
            )
            if row:
                id, at_ns, action, repository, account, target, tag = row
                return Event(
                    id=id,
                    at_ns=at_ns,
                    action=action,
                    repository=repository,
                    account=account,
                    target=target,
                    tag=tag,
                )
            place = self._seen[webhook.id] = end
            await asyncio.sleep(0)
        if place - webhook.event >= KEEP_EVERY:
            await self._db.write(
                lambda db: db.execute("UPDATE webhooks SET event = ? WHERE id = ?", (place, webhook.id))
            )
        return None

    def _newest(self) -> int:
        row = self._db.read_one("SELECT MAX(id) FROM events")
        return int(row[0] or 0) if row else 0

    async def _post(
        self, session: aiohttp.ClientSession, webhook: Webhook, secret: str, event: Event
    ) -> tuple[int, str]:
        """Status and what went wrong; empty: nothing."""
        body = format_event(event)
        headers = {
            "X-Cais-Event": event.action,
            "X-Cais-Delivery": f"{webhook.id}-{event.id}",
            "X-Cais-Signature-256": sign_body(secret, body),
        }
        try:
            # No redirect: it would send what happens here to whom nobody named.
            async with session.post(webhook.url, data=body, headers=headers, allow_redirects=False) as reply:
                await reply.content.read(MAX_ANSWER)
                good = 200 <= reply.status < 300
                return reply.status, "" if good else f"the answer was {reply.status}"
        except TimeoutError:
            return 0, "there was no answer in time"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return 0, _describe(error)

    async def _note(self, webhook: Webhook, event: Event, status: int, error: str) -> None:
        now = time.time_ns()

        def act(db: sqlite3.Connection) -> None:
            tries, first = db.execute(
                "SELECT COUNT(*) + 1, COALESCE(MIN(at_ns), ?) FROM deliveries WHERE webhook = ? AND event = ?",
                (now, webhook.id, event.id),
            ).fetchone()
            given_up = bool(error) and (tries >= TRIES or now - first >= MAX_AGE * 1e9)
            failures = webhook.failures + 1 if error else 0
            pause = min(self._first_pause * 2.0 ** min(failures - 1, 30), MAX_PAUSE) if error else 0.0
            changed = db.execute(
                "UPDATE webhooks SET event = MAX(event, ?), failures = ?, next_ns = ? WHERE id = ?",
                (
                    event.id if given_up or not error else 0,
                    failures,
                    now + int(pause * random.uniform(LEAST, MOST) * 1e9) if error else 0,
                    webhook.id,
                ),
            )
            if not changed.rowcount:
                return  # removed meanwhile
            text = f"{error}: given up" if given_up else error
            db.execute(
                "INSERT INTO deliveries (webhook, event, at_ns, status, error) VALUES (?, ?, ?, ?, ?)",
                (webhook.id, event.id, now, status, text[:500]),
            )
            db.execute(
                "DELETE FROM deliveries WHERE webhook = ? AND id <= (SELECT id FROM deliveries WHERE webhook = ? "
                "ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (webhook.id, webhook.id, KEPT_DELIVERIES),
            )
            if failures >= MAX_FAILURES:
                _disable(db, webhook, failures)

        await self._db.write(act)


def _scope(webhook: Webhook) -> tuple[str, tuple[str, ...]]:
    """The condition on an event's repository."""
    if webhook.repository:
        return "repository = ?", (webhook.repository,)
    short = " OR (repository <> '' AND instr(repository, '/') = 0)"
    text = "repository >= ? AND repository < ?" + (short if webhook.namespace == ROOT_NAMESPACE else "")
    return text, (f"{webhook.namespace}/", f"{webhook.namespace}0")


def _disable(db: sqlite3.Connection, webhook: Webhook, failures: int) -> None:
    db.execute("UPDATE webhooks SET disabled = 1 WHERE id = ?", (webhook.id,))
    detail = f"webhook {webhook.id} disabled after {failures} failures"
    note(db, Event(action="webhook", target=webhook.namespace, detail=detail))


def _describe(error: Exception) -> str:
    """In words that tell nothing of the hub's own network."""
    if isinstance(error, aiohttp.ClientConnectorDNSError) or isinstance(
        getattr(error, "os_error", None), PrivateAddress
    ):
        return NO_ADDRESS
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "its certificate is not good"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return f"cannot connect: {os.strerror(number) if number else 'no answer'}"
    return f"the exchange failed: {type(error).__name__}"
