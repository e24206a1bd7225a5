"""What images a registry offers: Docker Hub's search, or the names in a registry's catalogue."""

from collections.abc import AsyncIterator
from typing import TypeVar
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import msgspec

from cais.errors import Invalid, NotFound, Unavailable
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.remotes.client import Remotes
from cais.remotes.hosts import Host
from cais.remotes.refusals import clean_text, describe_body
from cais.remotes.transport import Ask, Transport, read_body
from cais.spec.reference import DEFAULT_DOMAIN, Reference

T = TypeVar("T")

SEARCH_HOST = "index.docker.io"
MAX_RESULTS = 100
_LIMIT = 4 << 20
_PAGE = 1000
_MAX_PAGES = 200


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One repository."""

    name: str
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class _Answer(msgspec.Struct, frozen=True):
    results: tuple[Found, ...] = ()


class _Catalog(msgspec.Struct, frozen=True):
    repositories: tuple[str, ...] | None = None


class _Tags(msgspec.Struct, frozen=True):
    tags: tuple[str, ...] | None = None


class Query(msgspec.Struct, frozen=True):
    """What to look for. ``domain`` is the registry, ``text`` what names or descriptions have."""

    domain: str
    text: str
    limit: int = 25


def parse_term(term: str, limit: int) -> Query:
    """``[registry/]text``. Raises Invalid in dockerd's words."""
    if not 1 <= limit <= MAX_RESULTS:
        raise Invalid(f"limit {limit} is outside the range of [1, 100]")
    if "://" in term:
        raise Invalid(f'invalid repository name: repository name ("{term}") should not have a scheme')
    first, slash, rest = term.partition("/")
    is_domain = slash and ("." in first or ":" in first or first == "localhost")
    domain, text = (first, rest) if is_domain else (DEFAULT_DOMAIN, term)
    if domain in (SEARCH_HOST, DEFAULT_DOMAIN):
        domain = DEFAULT_DOMAIN
        text = text.removeprefix("library/")
    if not text:
        raise Invalid("invalid search: give a text to look for")
    return Query(domain, text, limit)


async def search(remotes: Remotes, query: Query, credentials: Credentials = ANONYMOUS) -> list[Found]:
    """What the registry finds: by its own search, or where it has none by its catalogue's names.

    Raises NotFound for a registry that has neither, Unauthenticated, Unavailable.
    """
    name = SEARCH_HOST if query.domain == DEFAULT_DOMAIN else query.domain
    host = remotes.hosts.host(name)
    transport = Transport(remotes.hosts, credentials, "registry:catalog:*")
    try:
        found = await _search(transport, host, query)
        if found is None:
            found = [
                Found(name=name) async for name in list_repositories(transport, host) if query.text in name
            ]
    finally:
        await transport.close()
    return found[: query.limit]


async def _search(transport: Transport, host: Host, query: Query) -> list[Found] | None:
    """Docker Hub's first API: ``/v1/search``; None if the registry has no such thing."""
    target = f"/v1/search?{urlencode({'q': query.text, 'n': query.limit})}"
    async with transport.send(host, Ask("GET", target)) as response:
        body = await read_body(response, _LIMIT)
        if response.status in (404, 405) and query.domain != DEFAULT_DOMAIN:
            return None
        _check(response.status, body, query.domain)
    return [_cleaned(one) for one in _decode(body, _Answer, query.domain).results]


async def list_repositories(transport: Transport, host: Host) -> AsyncIterator[str]:
    """Every name of the catalogue, page by page (distribution spec 1.0, "Listing Repositories")."""
    async for body in _pages(transport, host, f"_catalog?n={_PAGE}"):
        for name in _decode(body, _Catalog, host.name).repositories or ():
            yield name


async def list_tags(
    remotes: Remotes, reference: Reference, credentials: Credentials = ANONYMOUS
) -> list[str]:
    """Every tag of a repository. Raises NotFound, Unauthenticated, Unavailable."""
    transport = Transport(remotes.hosts, credentials, f"repository:{reference.path}:pull")
    host = remotes.hosts.origin(reference.domain)
    found: list[str] = []
    try:
        async for body in _pages(transport, host, f"{reference.path}/tags/list?n={_PAGE}"):
            found += _decode(body, _Tags, host.name).tags or ()
    finally:
        await transport.close()
    return list(dict.fromkeys(found))


async def _pages(transport: Transport, host: Host, path: str) -> AsyncIterator[bytes]:
    """The bodies of a list and of what ``Link: <…>; rel="next"`` leads to (RFC 8288), at the same host only."""
    for _ in range(_MAX_PAGES):
        async with transport.send(host, Ask("GET", path)) as response:
            body = await read_body(response, _LIMIT)
            _check(response.status, body, host.name)
            link = response.links["next"]["url"] if "next" in response.links else None
            here = response.url
        yield body
        if link is None:
            return
        # Only its query counts: a registry behind a proxy may not know its own address.
        query = parse_qs(urlsplit(str(link)).query)
        last = query.get("last", [""])[0]
        path = f"{path.partition('?')[0]}?n={_PAGE}&last={quote(last, safe='')}"
        if not last or here.query.get("last") == last:
            return
    raise Unavailable(f"the list of {host.name} has no end")


def _check(status: int, body: bytes, name: str) -> None:
    if status == 200:
        return
    said = describe_body(body)
    words = f": {said}" if said else ""
    if status in (401, 403, 404):
        raise NotFound(f"cannot list what {name} has: HTTP status {status}{words}")
    raise Unavailable(f"Unexpected status code {status} from {name}{words}")


def _decode(body: bytes, kind: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unavailable(f"the answer of {name} makes no sense: {error}") from error


def _cleaned(one: Found) -> Found:
    """Strangers wrote it, terminals show it."""
    return msgspec.structs.replace(one, name=clean_text(one.name), description=clean_text(one.description))
