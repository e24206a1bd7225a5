"""HTTP to the servers of one repository: TLS, proxies, authorization, redirects, and errors with their reason."""

import asyncio
import errno
import os
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from yarl import URL

from cais.errors import Denied, Unavailable
from cais.remotes.auth import ANONYMOUS, Credentials, TokenReply, TokenRequest, authenticate, parse_challenges
from cais.remotes.hosts import Host, Hosts, find_proxy
from cais.remotes.refusals import Interrupted, clean_text

AGENT = "cais/0.1"
_CONNECT_SECONDS = 30.0
_SILENCE_SECONDS = 60.0
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_ERROR_LIMIT = 64 << 10
_FIELD_LIMIT = 64 << 10
"""Bytes of one header field: the signed addresses that registries redirect to are long."""
_BUFFER = 1 << 20


class Ask(msgspec.Struct, frozen=True):
    """One request: ``path`` from the server's ``/v2/`` on, or with a slash before it from its root. ``is_pinned``: what
    comes is known by its digest, so it may be fetched from wherever the server says. ``url``: where a server has told
    us to go (``find_location``), in the place of ``path``. ``body``: ``size`` bytes, opened anew for each attempt."""

    method: str
    path: str
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    is_pinned: bool = False
    url: URL | None = None
    body: Callable[[], bytes | AsyncIterable[bytes]] | None = None
    size: int = 0


class Transport:
    """Connections for one repository, and the tokens they need; ``close`` it. Belongs to one event loop.

    ``scope``: what tokens are for if the registry does not say; ``extra``: what they are for in any case.
    ``offline``: ask token servers for a refresh token too, and keep it as ``refresh_token``.
    ``connect``: makes what decides which addresses may be connected to; without, all may.
    """

    def __init__(
        self,
        hosts: Hosts,
        credentials: Credentials,
        scope: str = "",
        *,
        extra: str = "",
        offline: bool = False,
        connect: Callable[[], aiohttp.BaseConnector] | None = None,
    ) -> None:
        self._hosts = hosts
        self._credentials = credentials
        self._scope = scope
        self._extra = extra
        self._offline = offline
        self._connect = connect
        self.refresh_token = ""
        self._session: aiohttp.ClientSession | None = None
        self._authorizations: dict[str, str] = {}
        self._bases: dict[str, str] = {}
        self._tls: dict[str, ssl.SSLContext] = {}
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        if self._session:
            await self._session.close()

    @asynccontextmanager
    async def send(self, host: Host, ask: Ask) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, authorized and redirected; its body is read in the block.

        Raises Interrupted for what breaks, in the block too; Unauthenticated, Denied, Unavailable, Invalid.
        """
        url = ""
        try:
            response = await self._send(host, ask)
            url = _show(response.url)
            try:
                yield response
            finally:
                response.release()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _explain(ask.method, url or host.name, error) from error

    async def _send(self, host: Host, ask: Ask) -> aiohttp.ClientResponse:
        response = await self._reach(host, ask)
        if response.status == 401 and _is_own(host, response.url):
            used = response.request_info.headers.get("Authorization", "")
            await self._authorize(host, response, used)
            response = await self._reach(host, ask)
        for _ in range(_MAX_REDIRECTS):
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                return response
            response = await self._redirect(host, ask, response)
        response.release()
        raise Unavailable(f"stopped after {_MAX_REDIRECTS} redirects: {_show(response.url)}")

    async def _reach(self, host: Host, ask: Ask) -> aiohttp.ClientResponse:
        """The host's own answer, by the first of its bases that answers at all."""
        known = self._bases.get(host.name)
        bases = (known,) if known else self._hosts.order_bases(host)
        headers = dict(ask.headers)
        if host.name in self._authorizations:
            headers["Authorization"] = self._authorizations[host.name]
        if ask.url:
            return await self._go(host, ask, headers)
        for base in bases:
            url = f"{base}{ask.path}" if ask.path[:1] == "/" else f"{base}/v2/{host.prefix}{ask.path}"
            try:
                response = await self._request(ask.method, url, headers, host, ask)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if base == bases[-1]:
                    raise _explain(ask.method, url, error) from error
            else:
                self._bases[host.name] = self._hosts.answered[host.name] = base
                return response
        raise AssertionError("a host has a base")

    async def _go(self, host: Host, ask: Ask, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """The answer from where the host has sent us; who we are is told to the host itself only."""
        assert ask.url
        if not _is_own(host, ask.url):
            headers.pop("Authorization", None)
        other = host if ask.url.authority == host.name else self._hosts.host(ask.url.authority)
        try:
            return await self._request(ask.method, ask.url, headers, other, ask)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _explain(ask.method, _show(ask.url), error) from error

    async def _redirect(
        self, host: Host, ask: Ask, response: aiohttp.ClientResponse
    ) -> aiohttp.ClientResponse:
        response.release()
        target = find_location(response, is_pinned=ask.is_pinned)
        headers = dict(ask.headers)
        if target.origin() == response.url.origin():
            # Never to another server: the storage behind a registry must not learn its token.
            sent = response.request_info.headers.get("Authorization")
            headers |= {"Authorization": sent} if sent else {}
        other = host if target.authority == response.url.authority else self._hosts.host(target.authority)
        try:
            return await self._request(ask.method, target, headers, other, ask)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _explain(ask.method, _show(target), error) from error

    async def _authorize(self, host: Host, response: aiohttp.ClientResponse, used: str) -> None:
        """Have an authorization for ``host`` other than the one ``used`` in vain. One caller asks, the rest wait."""
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        secure = response.url.scheme == "https"
        response.release()
        async with self._lock:
            if self._authorizations.get(host.name, "") != used:
                return
            credentials = ANONYMOUS if host.is_mirror else self._credentials
            talk = authenticate(
                challenges,
                credentials,
                scope=self._scope,
                secure=secure,
                extra=self._extra,
                offline=self._offline,
            )
            try:
                question = next(talk)
                while True:
                    question = talk.send(await self._ask_token_server(question))
            except StopIteration as end:
                self._authorizations[host.name] = end.value.value
                self.refresh_token = end.value.refresh_token

    async def _ask_token_server(self, question: TokenRequest) -> TokenReply:
        url = URL(question.url)
        method = "POST" if question.form else "GET"
        form = question.form.encode()
        ask = Ask(method, "", body=(lambda: form) if form else None, size=len(form))
        try:
            response = await self._request(
                method, url, question.headers, self._hosts.host(url.authority), ask
            )
            try:
                return TokenReply(response.status, await read_body(response, _ERROR_LIMIT))
            finally:
                response.release()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _explain(method, _show(url), error) from error

    async def _request(
        self, method: str, url: str | URL, headers: Mapping[str, str], host: Host, ask: Ask
    ) -> aiohttp.ClientResponse:
        """One exchange, nothing followed. ``host``: whose certificate is wanted; ``ask``: whose body is sent."""
        url = url if isinstance(url, URL) else URL(url, encoded=True)
        tls: ssl.SSLContext | bool = True
        if url.scheme == "https":
            if host.name not in self._tls:
                self._tls[host.name] = await asyncio.to_thread(self._hosts.make_tls, host)
            tls = self._tls[host.name]
        # Bytes as they are stored: a digest is over those.
        sent = {**headers, "Accept-Encoding": "identity", "User-Agent": AGENT}
        if ask.body:
            sent["Content-Length"] = str(ask.size)
        return await self._open().request(
            method,
            url,
            headers=sent,
            data=ask.body() if ask.body else None,
            ssl=tls,
            proxy=find_proxy(str(url)),
            allow_redirects=False,
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No trust_env: it would also send what stands in root's ~/.netrc.
            self._session = aiohttp.ClientSession(
                connector=self._connect() if self._connect else None,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=_BUFFER,
                max_field_size=_FIELD_LIMIT,
            )
        return self._session


def find_location(response: aiohttp.ClientResponse, *, is_pinned: bool = False) -> URL:
    """Where an answer sends us (RFC 9110 section 10.2.2).

    Raises Unavailable for no server, Denied for one without TLS; ``is_pinned``: what comes from there is verified.
    """
    name = response.url.authority
    try:
        target = response.url.join(URL(response.headers["Location"], encoded=True))
        server = target.host and target.scheme in ("http", "https")
    except (KeyError, ValueError):
        server = None
    if not server:
        raise Unavailable(f"{name} redirects to where nobody can be asked")
    if response.url.scheme == "https" and target.scheme == "http" and not is_pinned:
        raise Denied(f"{name} redirects to {clean_text(target.host or '')} without TLS")
    return target


def _is_own(host: Host, url: URL) -> bool:
    """Whether ``url`` is at the host itself, spoken to as it may be."""
    return any(URL(base, encoded=True).origin() == url.origin() for base in host.bases)


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, at most ``limit`` bytes of it; one byte more tells that there is more."""
    parts: list[bytes] = []
    left = limit + 1
    while left > 0 and (part := await response.content.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _show(url: URL) -> str:
    """The address without its query, in which storage servers put signatures."""
    return clean_text(str(url.with_query(None).with_fragment(None).with_user(None)))


def _explain(method: str, url: str, error: Exception) -> Interrupted:
    """What happened, as Go's HTTP client puts it: scripts know these texts."""
    start = f'{method.title()} "{url}": '
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = f"tls: failed to verify certificate: x509: {error.certificate_error}"
        case aiohttp.ClientConnectorDNSError():
            reason = f"dial tcp: lookup {error.host}: no such host"
        case aiohttp.ClientSSLError():
            reason = f"tls: {error.os_error.strerror or error.os_error}"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno or 0
            words = os.strerror(number).lower() if number > 0 else str(error.os_error)
            reason = f"dial tcp {error.host}:{error.port}: connect: {words}"
        case TimeoutError():
            reason = "i/o timeout"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return Interrupted(f"{start}unexpected EOF")
        case OSError(errno=errno.ECONNRESET):
            return Interrupted(f"{start}connection reset by peer")
        case aiohttp.ClientConnectionError():
            # While we were sending. Its own words have the address with its query, which may be signed.
            number = getattr(error, "errno", None) or errno.EPIPE
            return Interrupted(f"{start}write: {os.strerror(number).lower()}")
        case _:
            return Interrupted(f"{start}{clean_text(str(error)) or type(error).__name__}")
    return Interrupted(start + reason, is_answered=False)
