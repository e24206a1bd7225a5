"""Webhooks: addresses that are told what happens in a namespace. Kept here, told by ``courier``.

What is sent is JSON, by POST (all fields are always there, and empty where they mean nothing)::

    {"id": 7, "action": "push", "repository": "team/app", "tag": "1", "digest": "sha256:…", "account": "alice",
     "at": "2026-08-01T12:00:00Z"}

with ``X-Cais-Event`` (the action), ``X-Cais-Delivery`` (the same for every try of the same event: who has seen it, has
seen it) and ``X-Cais-Signature-256``: ``sha256=`` and the HMAC of the body with the webhook's secret.
"""

import hashlib
import hmac
import ipaddress
import secrets
import sqlite3
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from cais.errors import Conflict, Invalid, NotFound
from cais.hub.namespaces import Namespaces
from cais.registry.addresses import is_public
from cais.registry.base import Caller, Event
from cais.registry.catalog import namespace_of, note
from cais.registry.database import Database, Row
from cais.spec.image import format_time_ns
from cais.spec.reference import is_path

ACTIONS = ("push", "tag", "untag", "delete")
"""What can be told of: the registry's events."""
MAX_WEBHOOKS = 20
"""Of one namespace."""
MAX_URL, MAX_SECRET = 1000, 200
KEPT_DELIVERIES = 100
_FIELDS = "id, namespace, repository, url, actions, disabled, event, failures, next_ns, created_ns"


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """One, without its secret. ``repository`` empty: all of the namespace; ``event``: the last that was told or given
    up; ``failures``: tries since one succeeded; ``next_ns``: not before then."""

    id: int
    namespace: str
    repository: str
    url: str
    actions: tuple[str, ...]
    disabled: bool
    event: int
    failures: int
    next_ns: int
    created_ns: int


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One try. ``status`` is HTTP's, 0: there was no answer; ``error`` is empty if it succeeded."""

    id: int
    event: int
    at_ns: int
    status: int
    error: str


class Webhooks:
    """For administrators of namespaces. ``allow_private``: also addresses that are not of the public Internet."""

    def __init__(self, database: Database, namespaces: Namespaces, *, allow_private: bool = False) -> None:
        self._db = database
        self._namespaces = namespaces
        self._allow_private = allow_private

    def list_webhooks(self, namespace: str, by: Caller) -> list[Webhook]:
        """The oldest first. Raises Denied."""
        self._namespaces.need_role(by, namespace, "admin")
        rows = self._db.read(f"SELECT {_FIELDS} FROM webhooks WHERE namespace = ? ORDER BY id", namespace)
        return list(map(read_webhook, rows))

    async def add(
        self,
        namespace: str,
        url: str,
        by: Caller,
        *,
        repository: str = "",
        actions: Sequence[str] = (),
        secret: str = "",
    ) -> tuple[Webhook, str]:
        """A webhook for what happens from now on, and its secret, which is made up if none is given and not shown
        again. ``actions``: of ACTIONS, none: all. Raises Denied, NotFound, Invalid, Conflict: too many."""
        self._namespaces.need_role(by, namespace, "admin")
        check_url(url, allow_private=self._allow_private)
        if repository and not (is_path(repository) and namespace_of(repository) == namespace):
            raise Invalid(f"repository {repository[:100]!r} is not one of namespace {namespace}")
        if not set(actions) <= set(ACTIONS):
            raise Invalid(f"a webhook is told of {', '.join(ACTIONS)}")
        if len(secret) > MAX_SECRET or not secret.isascii():
            raise Invalid(f"a secret has {MAX_SECRET} characters of ASCII at most")
        secret = secret or secrets.token_urlsafe(32)
        kept = (namespace, repository, url, secret, msgspec.json.encode(sorted(set(actions))).decode())

        def act(db: sqlite3.Connection) -> Row:
            if not db.execute("SELECT 1 FROM namespaces WHERE name = ?", (namespace,)).fetchone():
                raise NotFound(f"no such namespace: {namespace}")
            (count,) = db.execute(
                "SELECT COUNT(*) FROM webhooks WHERE namespace = ?", (namespace,)
            ).fetchone()
            if count >= MAX_WEBHOOKS:
                raise Conflict(f"namespace {namespace} has {count} webhooks: remove one first")
            note(db, _event(by, namespace, f"{_host(url)} added"))
            row: Row = db.execute(
                "INSERT INTO webhooks (namespace, repository, url, secret, actions, created_ns, event) VALUES "
                f"(?, ?, ?, ?, ?, ?, (SELECT MAX(id) FROM events)) RETURNING {_FIELDS}",
                (*kept, time.time_ns()),
            ).fetchone()
            return row

        return read_webhook(await self._db.write(act, durable=True)), secret

    async def remove(self, namespace: str, id: int, by: Caller) -> None:
        """With its deliveries. Raises Denied, NotFound."""
        self._namespaces.need_role(by, namespace, "admin")

        def act(db: sqlite3.Connection) -> None:
            key = (id, namespace)
            row = db.execute("SELECT url FROM webhooks WHERE id = ? AND namespace = ?", key).fetchone()
            if row is None:
                raise NotFound(f"no such webhook: {id}")
            db.execute("DELETE FROM webhooks WHERE id = ?", (id,))
            note(db, _event(by, namespace, f"{_host(row[0])} removed"))

        await self._db.write(act, durable=True)

    async def enable(self, namespace: str, id: int, by: Caller, *, enabled: bool) -> None:
        """Begin again where it stopped, or stop. Idempotent. Raises Denied, NotFound."""
        self._namespaces.need_role(by, namespace, "admin")

        def act(db: sqlite3.Connection) -> None:
            row = db.execute(
                "UPDATE webhooks SET disabled = ?, failures = 0, next_ns = 0 WHERE id = ? AND namespace = ? "
                "RETURNING url",
                (not enabled, id, namespace),
            ).fetchone()
            if row is None:
                raise NotFound(f"no such webhook: {id}")
            note(db, _event(by, namespace, f"{_host(row[0])} {'enabled' if enabled else 'disabled'}"))

        await self._db.write(act, durable=True)

    def list_deliveries(self, namespace: str, id: int, by: Caller, count: int = 50) -> list[Delivery]:
        """The newest first; of older ones than KEPT_DELIVERIES nothing is known. Raises Denied, NotFound."""
        self._namespaces.need_role(by, namespace, "admin")
        if not self._db.read_one("SELECT 1 FROM webhooks WHERE id = ? AND namespace = ?", id, namespace):
            raise NotFound(f"no such webhook: {id}")
        rows = self._db.read(
            "SELECT id, event, at_ns, status, error FROM deliveries WHERE webhook = ? ORDER BY id DESC LIMIT ?",
            id,
            count,
        )
        return [
            Delivery(id=number, event=event, at_ns=at, status=status, error=error)
            for number, event, at, status, error in rows
        ]


def check_url(url: str, *, allow_private: bool) -> None:
    """Raises Invalid for what cannot be a webhook's address. Names are looked up when they are used: only then can
    their addresses be judged."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    clean = url.isascii() and url.isprintable() and not set(url) & set(' "<>\\^`{|}')
    if not clean or len(url) > MAX_URL or parts.scheme not in ("http", "https") or not host or port == 0:
        raise Invalid(f"want an http or https address of up to {MAX_URL} characters")
    if "@" in parts.netloc or parts.fragment:
        raise Invalid("the address has no user, no password and no fragment: the signature says who it is")
    if not allow_private and _is_address(host) and not is_public(host):
        raise Invalid("the address is not public, and private ones are not allowed here")


def format_event(event: Event) -> bytes:
    """The body of a delivery."""
    return msgspec.json.encode(
        {
            "id": event.id,
            "action": event.action,
            "repository": event.repository,
            "tag": event.tag,
            "digest": event.target if ":" in event.target else "",
            "account": event.account,
            "at": format_time_ns(event.at_ns),
        }
    )


def sign_body(secret: str, body: bytes) -> str:
    """The signature's header. Who receives it compares it in constant time."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def read_webhook(row: Row) -> Webhook:
    """A row of the fields that this room reads."""
    id, namespace, repository, url, actions, disabled, event, failures, next_ns, created_ns = row
    return Webhook(
        id=id,
        namespace=namespace,
        repository=repository,
        url=url,
        actions=tuple(msgspec.json.decode(actions)),
        disabled=bool(disabled),
        event=event,
        failures=failures,
        next_ns=next_ns,
        created_ns=created_ns,
    )


def find_webhook(database: Database, id: int) -> tuple[Webhook, str] | None:
    """A webhook and its secret."""
    row = database.read_one(f"SELECT {_FIELDS}, secret FROM webhooks WHERE id = ?", id)
    return (read_webhook(row[:-1]), row[-1]) if row else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _host(url: str) -> str:
    """What of an address may stand in a log: its path may be a secret."""
    return urlsplit(url).netloc


def _event(by: Caller, namespace: str, detail: str) -> Event:
    return Event(action="webhook", account=by.account, address=by.address, target=namespace, detail=detail)
