"""The registries that cached repositories come from: how they are written in settings, and connections to them."""

import functools
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote, urlsplit

import msgspec

from cais.errors import Invalid, NotFound, Unavailable
from cais.registry.addresses import open_connector
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.remotes.client import Patience, Repository, read_seconds
from cais.remotes.hosts import DOCKER_HUB, Host, Hosts
from cais.remotes.refusals import make_refusal
from cais.remotes.transport import Ask, Transport
from cais.spec.digest import Digest
from cais.spec.reference import DEFAULT_DOMAIN, Reference, is_path, parse_reference

PATIENCE = Patience(attempts=3, first=0.3, longest=5.0)
"""A client waits meanwhile, and asks again by itself."""
LINES = 64
"""Repositories whose connections and tokens are kept for the next request."""
_HUB_NAMES = (DEFAULT_DOMAIN, "index.docker.io", DOCKER_HUB)


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream: repositories below ``prefix/`` are those of ``domain`` whose names start with ``path``."""

    prefix: str
    domain: str
    """As references name it: ``docker.io``, ``ghcr.io``, ``127.0.0.1:5000``."""
    base: str
    """Scheme and host."""
    path: str = ""
    """Empty, or with a slash at its end."""
    credentials: Credentials = ANONYMOUS

    def covers(self, repository: str) -> bool:
        """Whether the repository is one of these."""
        return repository.startswith(self.prefix + "/")

    def refer(self, repository: str, ref: Digest | str = "") -> Reference:
        """What the repository, and a tag or digest in it, is there. Docker Hub's names of one part get ``library/``."""
        name = self.path + repository.removeprefix(self.prefix + "/")
        if self.domain == DEFAULT_DOMAIN:
            name = parse_reference(f"{self.domain}/{name}").path
        digest = ref if isinstance(ref, Digest) else None
        return Reference(self.domain, name, None if digest else ref or None, digest)


def parse_origin(text: str) -> Origin:
    """``prefix=url``, the URL perhaps with ``user:password@`` and a path. Raises Invalid, without the password."""
    prefix, equals, url = text.partition("=")
    if not equals or not is_path(prefix):
        raise Invalid(
            f"invalid upstream {prefix[:100]!r}: want prefix=url, such as docker.io=https://docker.io"
        )
    try:
        parts = urlsplit(url)
        authority = parts.netloc.rpartition("@")[2]
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = None
    path = parts.path.strip("/") if good else ""
    if not good or (path and not is_path(path)) or parts.query or parts.fragment:
        raise Invalid(
            f"invalid upstream {prefix!r}: want http:// or https:// and a host, perhaps with a repository's path"
        )
    is_hub = authority in _HUB_NAMES
    return Origin(
        prefix=prefix,
        domain=DEFAULT_DOMAIN if is_hub else authority,
        base=f"{parts.scheme}://{DOCKER_HUB if is_hub else authority}",
        path=f"{path}/" if path else "",
        credentials=Credentials(unquote(parts.username or ""), unquote(parts.password or "")),
    )


class Line:
    """Connections for one repository of an origin, and the tokens they need."""

    def __init__(self, origin: Origin, transport: Transport) -> None:
        self.users = 0
        self._origin = origin
        self.transport = transport
        self._host = Host(origin.base.partition("://")[2], (origin.base,))

    def repository(self, reference: Reference) -> Repository:
        """To ask for what ``reference`` names. It is not entered: the connections are ours, and stay."""
        return Repository(reference, (self._host,), self.transport, PATIENCE, self._origin.credentials)

    async def blob_size(self, reference: Reference, digest: Digest) -> int:
        """How many bytes the origin says the blob has. Raises NotFound, Forbidden, Unavailable."""
        ask = Ask("HEAD", f"{reference.path}/blobs/{digest}", is_pinned=True)
        async with self.transport.send(self._host, ask) as response:
            if response.status == 404:
                raise NotFound(f"no blob {digest} in {reference.familiar_name}")
            if response.status != 200:
                after = read_seconds(response.headers.get("Retry-After", ""))
                secrets = self._origin.credentials.secrets()
                raise make_refusal(response.status, b"", reference, secrets=secrets, after=after)
            if response.content_length is None:
                raise Unavailable(f"{self._origin.domain} does not say how large blob {digest} is")
            return response.content_length


class Lines:
    """Lines to origins, kept for the next request. ``close`` them."""

    def __init__(self, *, allow_private: bool) -> None:
        self._connect = functools.partial(open_connector, allow_private=allow_private)
        self._hosts = Hosts()
        self._lines: OrderedDict[tuple[str, str], Line] = OrderedDict()

    @asynccontextmanager
    async def open(self, origin: Origin, reference: Reference) -> AsyncIterator[Line]:
        """The line for the reference's repository; no other closes it while it is used."""
        key = (origin.prefix, reference.path)
        line = self._lines.get(key)
        if line is None:
            scope = f"repository:{reference.path}:pull"
            transport = Transport(self._hosts, origin.credentials, scope, connect=self._connect)
            line = self._lines[key] = Line(origin, transport)
        self._lines.move_to_end(key)
        line.users += 1
        try:
            yield line
        finally:
            line.users -= 1
            await self._close_old()

    async def _close_old(self) -> None:
        idle = [key for key, line in self._lines.items() if not line.users]
        for key in idle[: max(len(self._lines) - LINES, 0)]:
            await self._lines.pop(key).transport.close()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        lines, self._lines = self._lines, OrderedDict()
        for line in lines.values():
            await line.transport.close()
