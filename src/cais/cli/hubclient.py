"""A hub as the command line talks to it: which one, as whom, and what it said."""

from __future__ import annotations

import os
from binascii import b2a_base64

from cais.cli.buildshow import clean
from cais.cli.credentials import find_auth
from cais.cli.failure import Failure, Refused, Unreachable
from cais.cli.host import Host, Tls, open_socket
from cais.cli.http import Connection, Response, escape, format_target
from cais.cli.login import parse_key
from cais.cli.wirejson import parse_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, TypeVar

    from cais.cli.flags import Flags, Row

    Query = Iterable[tuple[str, object]]
    T = TypeVar("T")

DEFAULT_HUB = "http://127.0.0.1:5000"
"""Where ``cais hub serve`` listens if it is not told."""
HUB_ROWS: tuple[Row, ...] = (
    ("cacert", "", "string", "File of the authority that signed the hub's certificate"),
    ("hub", "", "string", "Hub to talk to: http[s]://host[:port] (CAIS_HUB)"),
)
FORMAT_ROW: Row = ("format", "", "string", "Go template, or json: what the hub said, a line each")
_LOCAL = ("localhost", "127.", "[::1]")
_PORTS = {"http": "80", "https": "443"}


class Hub:
    """One hub. ``address`` is host[:port] as it was given, which is also what images' names begin with."""

    __slots__ = ("_cacert", "_connection", "_port", "_scheme", "address", "auth")

    def __init__(self, text: str, cacert: str = "") -> None:
        """Raises Failure for what is no address."""
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "http" if text.startswith(_LOCAL) else "https", text
        self.address = rest.rstrip("/")
        _, colon, port = self.address.rpartition(":")
        has_port = colon and "]" not in port
        if (
            scheme not in _PORTS
            or not self.address
            or "/" in self.address
            or (has_port and not port.isdigit())
        ):
            raise Failure(f"invalid hub {text!r}: want http://host:port or https://host")
        self._scheme = scheme
        self._port = "" if has_port else f":{_PORTS[scheme]}"
        self._cacert = cacert
        self._connection: Connection | None = None
        self.auth: dict[str, str] = {}
        """An AuthConfig, see ``credentials``."""

    def __str__(self) -> str:
        return f"{self._scheme}://{self.address}"

    def call(self, method: str, path: str, query: Query = (), body: Any = None) -> Any:
        """What the hub answers below its API: a JSON value, None where it has nothing to say. Raises Failure with the
        hub's own words."""
        return self._ask(Response.json, method, path, query, body)

    def read(self, path: str, query: Query = ()) -> bytes:
        """A document, as it is. Raises Failure."""
        return self._ask(Response.read, "GET", path, query)

    def _ask(
        self, take: Callable[[Response], T], method: str, path: str, query: Query, body: Any = None
    ) -> T:
        try:
            if self._connection is None or not self._connection.idle:
                self._connection = Connection(self._open(), self.address)
            target = format_target(f"/api/v1{path}", query)
            return take(self._connection.send(method, target, body, self._fields()))
        except Refused as refused:
            raise Failure(f"{self}: {_words(refused)}") from None
        except Unreachable as error:
            raise Failure(f"cannot reach the hub at {self}: {error.__cause__ or error}") from None
        except ValueError:
            raise Failure(f"what answers at {self} is no hub") from None

    def pages(self, path: str, key: str, query: Mapping[str, object] | None = None) -> Iterator[Any]:
        """Entries of a list, page after page."""
        for page in self.answers(path, query):
            yield from page[key]

    def answers(self, path: str, query: Mapping[str, object] | None = None) -> Iterator[Any]:
        """Whole pages of a list, for what else they say."""
        last = ""
        while True:
            page = self.call("GET", path, {"n": 100, **(query or {}), "last": last}.items())
            yield page
            last = page["next"]
            if not last:
                return

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _open(self) -> Any:
        tls = Tls(self._cacert, "", "", verify=True) if self._scheme == "https" else None
        return open_socket(Host(str(self), "tcp", self.address + self._port, given=True, tls=tls))

    def _fields(self) -> list[tuple[str, str]]:
        if token := self.auth.get("identitytoken") or self.auth.get("registrytoken"):
            return [("Authorization", f"Bearer {token}")]
        if not self.auth:
            return []
        pair = f"{self.auth.get('username', '')}:{self.auth.get('password', '')}".encode()
        return [("Authorization", f"Basic {b2a_base64(pair, newline=False).decode()}")]


def choose_hub(flags: Flags, *, known: bool = True) -> Hub:
    """The hub of ``--hub``, else of CAIS_HUB, else the one on this machine. ``known``: with what is kept for it."""
    hub = Hub(flags.text("hub") or os.environ.get("CAIS_HUB", "") or DEFAULT_HUB, flags.text("cacert"))
    if known:
        hub.auth = find_auth(parse_key(hub.address))
    return hub


def choose_repository(flags: Flags, text: str) -> tuple[Hub, str]:
    """The hub, and a name in it. The name may begin with the hub's address; where no hub was given, it then says which
    one is meant."""
    first, slash, rest = text.partition("/")
    given = flags.text("hub") or os.environ.get("CAIS_HUB", "")
    if slash and not given and ("." in first or ":" in first or first == "localhost"):
        hub = Hub(first, flags.text("cacert"))
        hub.auth = find_auth(parse_key(hub.address))
        return hub, rest
    hub = choose_hub(flags)
    return hub, rest if slash and first == hub.address else text


def choose_image(flags: Flags, text: str) -> tuple[Hub, str, str]:
    """The hub, the repository's path in its API, and the tag or digest in it, which must be there. Raises Failure."""
    hub, name = choose_repository(flags, text)
    name, tag, digest = split_reference(name)
    if not (tag or digest):
        raise Failure(f"{text} has no tag: want REPOSITORY:TAG or REPOSITORY@DIGEST")
    return hub, f"/repositories/{escape(name)}/-", digest or tag


def split_reference(text: str) -> tuple[str, str, str]:
    """Name, tag and digest of ``NAME[:TAG]`` or ``NAME@DIGEST``; what is not there is empty."""
    name, _, digest = text.partition("@")
    head, colon, tag = name.rpartition(":")
    return (head, tag, "") if colon and not digest else (name, "", digest)


def _words(refused: Refused) -> str:
    """The message in the hub's JSON, else the status: what is no hub answers with pages."""
    try:
        return clean(str(parse_json(refused.message)["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return f"HTTP status {refused.status}"
