"""A hub in the test's own process, the people who use it, and a client that holds every answer to the description."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import uvloop
from aiohttp import web
from jsonschema import Draft202012Validator

from cais.hub.config import HubConfig
from cais.hub.hub import Hub
from cais.registry.base import Caller
from harness.wire import Repository, Wire

T = TypeVar("T")
DEADLINE = 30.0
PASSWORD = "correct horse battery"
ROOT = Caller(account="root", admin=True, kind="password", address="test")
_STATE = {
    "accounts": "SELECT name, password, kind, admin, disabled, stamp FROM accounts ORDER BY id",
    "namespaces": "SELECT * FROM namespaces",
    "members": "SELECT m.namespace, a.name, m.role FROM members m JOIN accounts a ON a.id = m.account",
    "tokens": "SELECT t.id, a.name, t.hash, t.scopes, t.expires_ns FROM tokens t JOIN accounts a ON a.id = t.account",
    "sessions": "SELECT * FROM sessions",
    "webhooks": "SELECT id, namespace, repository, url, secret, actions, disabled FROM webhooks",
    "repositories": "SELECT name, private, description, readme, immutable, retention, size FROM repositories",
    "manifests": "SELECT r.name, m.digest FROM manifests m JOIN repositories r ON r.id = m.repository",
    "tags": "SELECT r.name, t.name, t.digest FROM tags t JOIN repositories r ON r.id = t.repository",
    "links": "SELECT r.name, l.digest FROM links l JOIN repositories r ON r.id = l.repository",
    "events": "SELECT id, action, repository, account, target FROM events",
}


@dataclass(frozen=True, slots=True)
class Said:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """Of a failure; empty: it is none."""
        return str(self.json["error"]["kind"]) if self.status >= 400 else ""


@dataclass(frozen=True)
class ApiHub:
    """A hub that listens on ``port`` of loopback, and its inside."""

    port: int
    hub: Hub
    loop: asyncio.AbstractEventLoop

    def run(self, act: Coroutine[Any, Any, T]) -> T:
        """Do something on the hub's own loop."""
        return asyncio.run_coroutine_threadsafe(act, self.loop).result(DEADLINE)

    def sql(self, text: str, *values: Any) -> list[Any]:
        """Rows, read between two acts of the hub's loop."""

        async def read() -> list[Any]:
            return self.hub.database.read(text, *values)

        return self.run(read())

    def state(self) -> dict[str, list[Any]]:
        """All that is on record but for who looked at what."""
        return {name: self.sql(text) for name, text in _STATE.items()}

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Said:
        """One request as it stands."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in {"Content-Length": str(len(body or b"")), **(headers or {})}.items():
                connection.putheader(name, value)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.endheaders(body)  # refused before it was all sent: the answer is there
            reply = connection.getresponse()
            return Said(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    @cached_property
    def document(self) -> dict[str, Any]:
        """The description, as clients get it."""
        found: dict[str, Any] = self.send("GET", "/openapi.json").json
        return found

    def check(self, operation: dict[str, Any], said: Said) -> None:
        """Fails the test unless the description has this answer."""
        described = operation["responses"].get(str(said.status))
        assert described, (operation["operationId"], said)
        content = described.get("content")
        if content is None:
            assert said.body == b"", said
            return
        (kind,) = content
        assert said.headers["content-type"] == kind, said
        if kind != "application/json":
            return
        schema = {**content["application/json"]["schema"], "components": self.document["components"]}
        Draft202012Validator(schema).validate(said.json)

    def push(self, name: str, tag: str, **fields: Any) -> str:
        """An image, by the hub's administrator; its digest."""
        with contextlib.closing(_AuthorizedWire(self.port, self.tokens["root"])) as wire:
            return Repository(wire, name).push_image(tag, **fields)

    tokens: dict[str, str] = field(default_factory=dict)
    """Of accounts; see ``populate``."""

    def as_(self, name: str = "") -> "Client":
        """A client that calls with the token of ``name``; empty: without any."""
        return Client(self, {"Authorization": f"Bearer {self.tokens[name]}"} if name else {})


class _AuthorizedWire(Wire):
    """The registry's side, with a token."""

    def __init__(self, port: int, token: str) -> None:
        super().__init__(port)
        self._token = token

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        return super().ask(method, path, body, {"Authorization": f"Bearer {self._token}", **(headers or {})})


@dataclass(frozen=True, slots=True)
class Client:
    """Calls operations by the path that the description gives them."""

    hub: ApiHub
    headers: dict[str, str]

    def ask(self, words: str, body: Any = None, *, query: Any = None, **path: str | int) -> Said:
        """``words``: method and path with its braces, which ``path`` fills. The answer must fit the description."""
        method, template = words.split()
        target = template
        for name, value in path.items():
            target = target.replace(f"{{{name}}}", quote(str(value), safe="/"))
        if query:
            target += "?" + urlencode(query)
        headers = dict(self.headers)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        said = self.hub.send(method, target, data, headers)
        self.hub.check(self.hub.document["paths"][template][method.lower()], said)
        return said

    def get(self, words: str, *, query: Any = None, **path: str | int) -> Any:
        """What a GET that must succeed says."""
        said = self.ask(f"GET {words}", query=query, **path)
        assert said.status == 200, said
        return said.json


@contextlib.contextmanager
def serving_hub(root: Path, **settings: Any) -> Iterator[ApiHub]:
    """A hub on ``root``."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="hub")
    thread.start()
    try:
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
            config = HubConfig(root=root, access_log=root.parent / f"{root.name}.log", **settings)
            started = asyncio.run_coroutine_threadsafe(_start(config, listening), loop)
            hub, listener, server = started.result(DEADLINE)
            served = ApiHub(listening.getsockname()[1], hub, loop)
            try:
                yield served
            finally:
                served.run(_stop(hub, listener, server))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE)
        loop.close()


async def _start(
    config: HubConfig, listening: socket.socket
) -> tuple[Hub, "web.Server[Any]", asyncio.Server]:
    hub = await Hub.start(config)
    listener = web.Server(hub.server, access_log=None, auto_decompress=False, lingering_time=0)
    return hub, listener, await asyncio.get_running_loop().create_server(listener, sock=listening)


async def _stop(hub: Hub, listener: "web.Server[Any]", server: asyncio.Server) -> None:
    server.close()
    await listener.shutdown(1.0)
    await hub.stop()


def populate(served: ApiHub, *names: str) -> None:
    """An administrator ``root`` and other accounts, each with a token of its own."""
    served.run(_populate(served, names))


async def _populate(served: ApiHub, names: tuple[str, ...]) -> None:
    people = served.hub.people
    await asyncio.gather(
        *(people.accounts.add(name, PASSWORD, ROOT, admin=name == "root") for name in ("root", *names))
    )
    for name in ("root", *names):
        by = Caller(account=name, kind="password")
        _, served.tokens[name] = await people.tokens.add(name, "test", [], 0, by)


def limit_token(served: ApiHub, account: str, *scopes: str, expired: bool = False) -> str:
    """Another token of an account."""
    by = Caller(account=account, kind="password")
    token, secret = served.run(served.hub.people.tokens.add(account, "limited", scopes, 60, by))
    if expired:
        served.run(
            served.hub.database.write(
                lambda db: db.execute("UPDATE tokens SET expires_ns = 1 WHERE id = ?", (token.id,))
            )
        )
    return secret
