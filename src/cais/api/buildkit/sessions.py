"""Clients' sessions: a connection on which the client is the server, with its files, secrets, agents and credentials.

A client opens it with ``POST /session`` (or ``Control.Session``) and names it in its builds.
"""

import asyncio
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from cais.errors import NotFound
from cais.grpc.calls import Channel

WAIT_SECONDS = 5.0
"""How long a build waits for its session: both are opened at once."""


class Session(msgspec.Struct):
    """One client's. ``methods``: paths of what it offers, in lower case; ``shared_key``: the same for the same folder
    of the same client, over builds; ``is_old``: its docker is from before version 23."""

    id: str
    name: str
    shared_key: str
    methods: frozenset[str]
    channel: Channel
    is_old: bool = False
    lost: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    def offers(self, path: str) -> bool:
        """Whether the client said that it has this method."""
        return path.lower() in self.methods


class Sessions:
    """All that are open."""

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def accept(self, headers: Mapping[str, tuple[str, ...]]) -> Session:
        """A session as its headers describe it (``x-docker-expose-session-…``, names in lower case); its channel still
        needs a connection."""

        def first(name: str) -> str:
            return next(iter(headers.get(f"x-docker-expose-session-{name}", ())), "")

        methods = frozenset(path.lower() for path in headers.get("x-docker-expose-session-grpc-method", ()))
        id = first("uuid")
        channel = Channel(on_lost=lambda: self._close(id))
        session = Session(id, first("name"), first("sharedkey"), methods, channel)
        self._open[id] = session
        self._wake()
        return session

    def _close(self, id: str) -> None:
        session = self._open.pop(id, None)
        if session is not None:
            session.lost.set()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def get(self, id: str) -> Session:
        """The session; waits for one that is about to be opened. Raises NotFound."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while id not in self._open:
                    await self._changed.wait()
        except TimeoutError:
            raise NotFound(f"no active session for {id}: did the client go away?") from None
        return self._open[id]

    @contextmanager
    def silent(self) -> Iterator[Session]:
        """One that offers nothing, for a client that has none; open for the time of the block."""
        id = uuid.uuid4().hex
        session = Session(id, "", "", frozenset(), Channel())
        self._open[id] = session
        try:
            yield session
        finally:
            del self._open[id]

    def close(self) -> None:
        """End all."""
        for session in list(self._open.values()):
            session.channel.connection.close()
