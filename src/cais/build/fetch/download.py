"""Files behind URLs: fetched once, and asked for again only as far as the server says that they have changed."""

import asyncio
import base64
import hashlib
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO, cast
from weakref import WeakValueDictionary

import aiohttp
from yarl import URL

from cais.build.fetch.sources import UrlSource, show_url, split_credentials
from cais.build.fetch.store import Body, Fetched, FetchedStore
from cais.errors import CaisError, Corrupt, Denied, Invalid, NotFound, Unavailable
from cais.images.feed import feed
from cais.remotes.hosts import find_proxy
from cais.remotes.refusals import clean_text
from cais.remotes.transport import AGENT, find_location

MAX_BYTES = 64 << 30
"""Of one file."""
_CONNECT_SECONDS = 30.0
_SILENCE_SECONDS = 60.0
_MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_TRIES = 3
_PAUSE = 0.3
_PASSING = (408, 429, 500, 502, 503, 504)
_BUFFER = 1 << 20

Pin = tuple[str, str]
"""Algorithm and hexadecimal digits of what a file must be."""


class _Interrupted(Unavailable):
    """May succeed when it is tried again."""


class Downloads:
    """One engine's; belongs to one event loop. ``close`` it."""

    def __init__(self, store: FetchedStore, *, max_bytes: int = MAX_BYTES) -> None:
        self.store = store
        self._max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        if self._session:
            await self._session.close()

    async def get(self, source: UrlSource, target: Path, pin: Pin | None = None) -> tuple[Body, bool]:
        """The file, which gets the name ``target``, too, and whether it came just now. ``pin``: what is here and is
        just that need not be asked for.

        Raises NotFound, Denied, Unavailable, Invalid (too large, not what ``pin`` says), OSError.
        """
        lock = self._locks.setdefault(source.url, asyncio.Lock())
        async with lock:
            known = self._find(source, pin)
            if known and pin and pin[0] == "sha256":
                body, is_new = known, False
            else:
                body, is_new = await self._ask(source, known, is_pinned=pin is not None)
            # At once: from here on nobody can take it away.
            self.store.take(body, target)
        if pin:
            found = await asyncio.to_thread(hash_file, target, pin[0])
            if found != pin[1]:
                raise Invalid(
                    f"digest mismatch for {source.show()}: {pin[0]}:{found} (expected: {pin[0]}:{pin[1]})"
                )
        return body, is_new

    def _find(self, source: UrlSource, pin: Pin | None) -> Body | None:
        if pin and pin[0] == "sha256":
            return self.store.find_digest(pin[1])
        return self.store.find(source.url)

    async def _ask(self, source: UrlSource, known: Body | None, *, is_pinned: bool) -> tuple[Body, bool]:
        for attempt in range(_TRIES):
            try:
                async with self._open(source, known, is_pinned=is_pinned) as response:
                    if response.status == 304 and known:
                        return known, False
                    _check_status(source, response)
                    return await self._keep(source, response), True
            except _Interrupted:
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(_PAUSE * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _keep(self, source: UrlSource, response: aiohttp.ClientResponse) -> Body:
        """Store the body as it comes."""
        if (response.content_length or 0) > self._max_bytes:
            raise self._too_large(source)
        content, size = hashlib.sha256(), 0
        temporary = self.store.temporary()
        try:
            with temporary.open("xb", buffering=0) as file:

                def consume(data: bytes) -> None:
                    content.update(data)
                    write_all(cast(BinaryIO, file), data)

                async for size in feed(response.content.iter_any(), consume):
                    if size > self._max_bytes:
                        raise self._too_large(source)
            facts = Fetched(
                url=source.show(),
                digest=content.hexdigest(),
                size=size,
                etag=_text(response, "ETag"),
                last_modified=_text(response, "Last-Modified"),
                name=_file_name(response),
                mtime=_parse_time(_text(response, "Last-Modified")),
                created_ns=time.time_ns(),
            )
            return self.store.put(source.url, facts, temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def _too_large(self, source: UrlSource) -> CaisError:
        return Invalid(f"{source.show()} is larger than {self._max_bytes} bytes")

    @asynccontextmanager
    async def _open(
        self, source: UrlSource, known: Body | None, *, is_pinned: bool
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, redirects followed; what breaks, in the block too, is _Interrupted."""
        headers = {"Accept-Encoding": "identity", "User-Agent": AGENT}
        if known and known.facts.etag:
            headers["If-None-Match"] = known.facts.etag
        elif known and known.facts.last_modified:
            headers["If-Modified-Since"] = known.facts.last_modified
        plain, user, password = split_credentials(source.url)
        url = URL(plain)
        # Who we are is told to the server that was named, and to no other one that it sends us to.
        own = {**headers, "Authorization": basic(user, password)} if user or password else headers
        origin = url.origin()
        try:
            for _ in range(_MAX_REDIRECTS + 1):
                response = await self._request(url, own if url.origin() == origin else headers)
                async with response:
                    if response.status not in _REDIRECTS or "Location" not in response.headers:
                        yield response
                        return
                    url = find_location(response, is_pinned=is_pinned)
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ssl.SSLError) as error:
            raise _explain(source, error) from error
        raise Unavailable(f"cannot fetch {source.show()}: stopped after {_MAX_REDIRECTS} redirects")

    async def _request(self, url: URL, headers: dict[str, str]) -> aiohttp.ClientResponse:
        if self._session is None:
            # No trust_env: it would also send what stands in root's ~/.netrc.
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=_BUFFER,
            )
        if self._tls is None and url.scheme == "https":
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return await self._session.get(
            url,
            headers=headers,
            ssl=self._tls or True,
            proxy=find_proxy(str(url)),
            allow_redirects=False,
        )


def basic(user: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _check_status(source: UrlSource, response: aiohttp.ClientResponse) -> None:
    status = response.status
    if 200 <= status < 300 and status != 206:
        return
    reason = clean_text(response.reason or "")
    text = f"cannot fetch {source.show()}: invalid response status {status}{f' {reason}' if reason else ''}"
    if status in (404, 410):
        raise NotFound(text)
    if status in (401, 403):
        raise Denied(text)
    raise _Interrupted(text) if status in _PASSING else Unavailable(text)


def _explain(source: UrlSource, error: Exception) -> Unavailable:
    start = f"cannot fetch {source.show()}: "
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return Unavailable(f"{start}its certificate cannot be verified: {error.certificate_error}")
        case aiohttp.ClientConnectorDNSError():
            return _Interrupted(f"{start}no such host: {error.host}")
        case aiohttp.InvalidURL():
            return Unavailable(f"{start}the address is not valid")
        case TimeoutError():
            return _Interrupted(f"{start}the server does not answer")
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError():
            return _Interrupted(f"{start}the connection ended too early")
    # The error's own words may have the address with all that is secret in it.
    words = clean_text(str(error)).replace(source.url, source.show())
    return _Interrupted(start + (words or type(error).__name__))


def _text(response: aiohttp.ClientResponse, header: str) -> str:
    text = response.headers.get(header, "")
    return text if text.isascii() and text.isprintable() and len(text) < 1024 else ""


def _file_name(response: aiohttp.ClientResponse) -> str:
    """What Content-Disposition (RFC 6266) calls the file, without folders."""
    disposition = response.content_disposition
    name = (disposition.filename or "") if disposition else ""
    base = name.rpartition("/")[2]
    return base if base not in (".", "..") and "\0" not in base and len(base) < 256 else ""


def _parse_time(text: str) -> int:
    """Seconds of an HTTP date; 0 if it is none."""
    with suppress(ValueError, OverflowError):
        moment = parsedate_to_datetime(text)
        return max(0, int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()))
    return 0


def hash_file(path: Path, algorithm: str) -> str:
    """The digest of a whole file; for a thread. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def check_body(body: Body, path: Path) -> None:
    """Raises Corrupt if the bytes at ``path`` are not what was fetched; for a thread."""
    if hash_file(path, "sha256") != body.facts.digest:
        raise Corrupt(f"what was fetched from {show_url(body.facts.url)} is damaged on disk: build again")


def write_all(file: BinaryIO, data: bytes) -> None:
    """All of ``data``, however little is taken at once. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
