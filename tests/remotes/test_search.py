"""Searching: Docker Hub's first API, a registry's catalogue, and lists in pages."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from cais.errors import Invalid, NotFound, Unavailable
from cais.remotes.client import Patience, Remotes
from cais.remotes.hosts import Hosts
from cais.remotes.search import Query, list_tags, parse_term, search
from cais.spec.reference import parse_reference

REMOTES = Remotes(Hosts(), Patience(1, 0.001))
NAMES = [f"team/app{number:03}" for number in range(25)]


class Catalogue:
    """A server with a catalogue in pages of ten, whose links have another host's name; ``hub``: and with a search."""

    def __init__(self) -> None:
        self.hub: dict[str, Any] | None = None
        self.raw = b""
        self.is_endless = False
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        self.asked.append(request.path_qs)
        if self.raw:
            return web.Response(body=self.raw)
        if request.path == "/v1/search":
            return web.json_response(self.hub) if self.hub else web.Response(status=404)
        key = "tags" if request.path.endswith("/tags/list") else "repositories"
        last = request.query.get("last", "")
        page = [name for name in NAMES if name > last][:10]
        headers = {}
        if page and (page[-1] != NAMES[-1] or self.is_endless):
            mark = "x" if self.is_endless else page[-1]
            headers["Link"] = f'<http://elsewhere.example{request.path}?last={mark}&n=10>; rel="next"'
        return web.json_response({key: page}, headers=headers)


@pytest.fixture
async def catalogue() -> AsyncIterator[tuple[Catalogue, str]]:
    """The server and its address."""
    server = Catalogue()
    async with AsyncExitStack() as stack:
        runner = web.ServerRunner(web.Server(server.handle))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield server, f"127.0.0.1:{runner.addresses[0][1]}"


async def test_a_catalogue_is_looked_through_page_by_page(catalogue: tuple[Catalogue, str]) -> None:
    """All pages, at the same host whatever the links say; as many results as were asked for."""
    server, address = catalogue
    found = await search(REMOTES, Query(address, "app", 100))
    assert [one.name for one in found] == NAMES
    assert len(await search(REMOTES, Query(address, "app00", 3))) == 3
    assert await search(REMOTES, Query(address, "nothing")) == []
    assert "/v2/_catalog?n=1000&last=team%2Fapp009" in server.asked


async def test_a_list_without_end_is_ended(catalogue: tuple[Catalogue, str]) -> None:
    """A server that always says the same place is not followed for ever."""
    server, address = catalogue
    server.is_endless = True
    await search(REMOTES, Query(address, "app", 100))
    assert len(server.asked) < 5


async def test_tags_come_in_pages(catalogue: tuple[Catalogue, str]) -> None:
    """For pulls of all tags."""
    assert await list_tags(REMOTES, parse_reference(f"{catalogue[1]}/a/b")) == NAMES


async def test_docker_hubs_search(catalogue: tuple[Catalogue, str]) -> None:
    """Its results, without what could do harm on a terminal."""
    server, address = catalogue
    one = {"name": "debian", "description": "Debian\x1b[31m is", "star_count": 7, "is_official": True}
    server.hub = {"num_results": 1, "results": [one, {"name": "x"}]}
    found = await search(REMOTES, Query(address, "deb&ian", 10))
    assert (found[0].name, found[0].description, found[0].star_count) == ("debian", "Debian [31m is", 7)
    assert found[0].is_official and not found[1].is_official
    assert server.asked == ["/v1/search?q=deb%26ian&n=10"]


@pytest.mark.parametrize("body", ["[]", "{", '{"results":[{"name":1}]}', '{"results":' + "[" * 9999])
async def test_a_senseless_answer_is_refused(catalogue: tuple[Catalogue, str], body: str) -> None:
    """With whose it is."""
    server, address = catalogue
    server.raw = body.encode()
    with pytest.raises(Unavailable, match=f"the answer of {address} makes no sense"):
        await search(REMOTES, Query(address, "x"))


async def test_tags_of_what_is_not_there(registry: Any) -> None:
    """A real registry's words."""
    with pytest.raises(NotFound, match="repository name not known to registry"):
        await list_tags(REMOTES, parse_reference(f"{registry.address}/none"))
    assert await list_tags(REMOTES, parse_reference(f"{registry.address}/a/b")) == ["1"]


@pytest.mark.parametrize(
    ("term", "domain", "text"),
    [
        ("debian", "docker.io", "debian"),
        ("library/debian", "docker.io", "debian"),
        ("user/app", "docker.io", "user/app"),
        ("index.docker.io/debian", "docker.io", "debian"),
        ("localhost:5000/a/b", "localhost:5000", "a/b"),
    ],
)
def test_a_term_may_name_a_registry(term: str, domain: str, text: str) -> None:
    """As references do."""
    assert parse_term(term, 25) == Query(domain, text, 25)


@pytest.mark.parametrize(
    ("term", "limit"), [("https://x/y", 25), ("", 25), ("localhost:5000/", 25), ("x", 0), ("x", 101)]
)
def test_a_wrong_search_is_refused(term: str, limit: int) -> None:
    """Before anybody is asked."""
    with pytest.raises(Invalid):
        parse_term(term, limit)
