"""Fetching a URL that a client named: the source of an import."""

from collections.abc import AsyncIterator

import aiohttp

from cais.errors import Invalid, Unavailable

CHUNK = 1 << 20
_CONNECT_SECONDS = 30.0
_SILENCE_SECONDS = 60.0


async def fetch(url: str) -> AsyncIterator[bytes]:
    """The body at ``url`` (http or https; without a scheme http, as Docker). Raises ``Invalid``,
    ``Unavailable``."""
    if "://" not in url:
        url = f"http://{url}"
    if not url.startswith(("http://", "https://")):
        raise Invalid(f"unsupported protocol scheme in {url}: use http or https")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
    try:
        # The archive's own compression is the importer's business: no decoding on the way.
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=True) as session,
            session.get(url, headers={"Accept-Encoding": "identity"}) as reply,
        ):
            if reply.status != 200:
                raise Unavailable(f"failed to GET {url} with status {reply.status} {reply.reason}")
            async for part in reply.content.iter_chunked(CHUNK):
                yield part
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable(f"failed to GET {url}: {error}") from error
