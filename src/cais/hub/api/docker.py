"""What Docker's clients and tools for Docker Hub ask: ``/v1/search``, and a part of ``/v2/`` that is no registry.

Field names are those of Docker Hub's answers (docs.docker.com, "Docker HUB API"; moby, api/types/registry/search.go).
"""

from collections.abc import Callable
from typing import Literal
from urllib.parse import urlencode

import msgspec

from cais.errors import NotFound
from cais.hub.api.answers import as_time
from cais.hub.api.services import Ask
from cais.hub.images import TagRow
from cais.hub.search import Repository
from cais.registry.catalog import ROOT_NAMESPACE
from cais.registry.naming import parse_tag


class Ping(msgspec.Struct, frozen=True, kw_only=True):
    """``standalone`` true would have clients send an empty name and password where they have none."""

    standalone: bool = False


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """A line of ``docker search``."""

    name: str
    description: str
    star_count: int = 0
    is_official: bool
    is_automated: bool = False
    is_trusted: bool = False
    pull_count: int


class SearchResults(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``docker search``."""

    query: str
    num_results: int
    num_pages: int
    page: int
    page_size: int
    results: list[SearchResult]


class HubResult(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that a search found."""

    repo_name: str
    repo_owner: str
    short_description: str
    star_count: int = 0
    pull_count: int
    is_official: bool
    is_automated: bool = False


class HubResults(msgspec.Struct, frozen=True, kw_only=True):
    """A page of what a search found. ``count``: on all pages; for a token with limits, on those up to here, and one
    more if there is a next."""

    count: int
    next: str | None
    previous: str | None
    results: list[HubResult]


class HubRepository(msgspec.Struct, frozen=True, kw_only=True):
    """A repository."""

    user: str
    name: str
    namespace: str
    repository_type: Literal["image"] = "image"
    status: int = 1
    status_description: Literal["active"] = "active"
    description: str
    full_description: str = ""
    is_private: bool
    is_automated: bool = False
    star_count: int = 0
    pull_count: int
    last_updated: str | None
    date_registered: str | None
    storage_size: int


class HubRepositories(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a namespace's repositories. ``count``: as of a search."""

    count: int
    next: str | None
    previous: str | None
    results: list[HubRepository]


class HubImage(msgspec.Struct, frozen=True, kw_only=True):
    """One platform's image of a tag."""

    architecture: str
    features: str = ""
    variant: str | None
    digest: str
    os: str
    os_features: str = ""
    os_version: str | None = None
    size: int
    status: Literal["active"] = "active"
    last_pulled: str | None
    last_pushed: str | None


class HubTag(msgspec.Struct, frozen=True, kw_only=True):
    """A tag."""

    name: str
    digest: str
    media_type: str
    content_type: Literal["image"] = "image"
    full_size: int
    last_updated: str | None
    tag_status: Literal["active"] = "active"
    tag_last_pulled: str | None
    tag_last_pushed: str | None
    v2: bool = True
    images: list[HubImage]


class HubTags(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a repository's tags, the newest first. ``count``: on all pages."""

    count: int
    next: str | None
    previous: str | None
    results: list[HubTag]


async def ping(ask: Ask) -> Ping:
    """``GET /v1/_ping``: what the engine asks before it searches."""
    return Ping()


async def search_v1(ask: Ask) -> SearchResults:
    """``GET /v1/search``."""
    text, page, count = ask.query["q"], ask.query["page"], ask.query["n"]
    found = await _search(ask, text, page, count)
    return SearchResults(
        query=text,
        num_results=found.total,
        num_pages=-(-found.total // count),
        page=page,
        page_size=count,
        results=[
            SearchResult(
                name=row.name,
                description=row.description,
                is_official=row.namespace == ROOT_NAMESPACE,
                pull_count=row.pulls,
            )
            for row in found.rows
        ],
    )


async def search_v2(ask: Ask) -> HubResults:
    """``GET /v2/search/repositories/``."""
    text, page, count = ask.query["query"], ask.query["page"], ask.query["page_size"]
    found = await _search(ask, text, page, count)
    results = [
        HubResult(
            repo_name=row.name,
            repo_owner=row.namespace,
            short_description=row.description,
            pull_count=row.pulls,
            is_official=row.namespace == ROOT_NAMESPACE,
        )
        for row in found.rows
    ]
    following, previous = _links(ask, page, found.more)
    return HubResults(count=found.total, next=following, previous=previous, results=results)


async def list_repositories(ask: Ask) -> HubRepositories:
    """``GET /v2/repositories/{namespace}/``."""
    page, count = ask.query["page"], ask.query["page_size"]
    search, namespace = ask.services.search, ask.path["namespace"]
    rows = search.in_namespace(namespace, ask.caller, "", page * count + 1)[(page - 1) * count :]
    found = await _show(ask, rows, page, count, lambda: search.count_in_namespace(namespace, ask.caller))
    if not found.rows and page == 1:
        raise NotFound(f"no such namespace: {namespace}")
    following, previous = _links(ask, page, found.more)
    results = [_describe(row) for row in found.rows]
    return HubRepositories(count=found.total, next=following, previous=previous, results=results)


async def get_repository(ask: Ask) -> HubRepository:
    """``GET /v2/repositories/{namespace}/{name}/``."""
    row = _find(ask)
    readme = ask.services.database.read_one("SELECT readme FROM repositories WHERE name = ?", row.name)
    return msgspec.structs.replace(_describe(row), full_description=readme[0] if readme else "")


async def list_tags(ask: Ask) -> HubTags:
    """``GET /v2/repositories/{namespace}/{name}/tags/``."""
    row, page, count = _find(ask), ask.query["page"], ask.query["page_size"]
    images = ask.services.images
    found = await images.list_tags(row.name, ask.query["name"], count=count + 1, offset=(page - 1) * count)
    total = images.count_tags(row.name, ask.query["name"])
    following, previous = _links(ask, page, len(found) > count)
    results = [await _describe_tag(ask, row, tag) for tag in found[:count]]
    return HubTags(count=total, next=following, previous=previous, results=results)


async def get_tag(ask: Ask) -> HubTag:
    """``GET /v2/repositories/{namespace}/{name}/tags/{tag}/``."""
    row = _find(ask)
    name = parse_tag(ask.path["tag"])
    record = await ask.services.registry.catalog.find_manifest(row.name, name)
    times = ask.services.database.read_one(
        "SELECT t.pushed_ns, m.pulled_ns FROM repositories r JOIN tags t ON t.repository = r.id AND t.name = ? "
        "JOIN manifests m ON m.repository = r.id AND m.digest = t.digest WHERE r.name = ?",
        name,
        row.name,
    )
    if record is None or times is None:
        raise NotFound(f"no such tag: {row.name}:{name}")
    tag = TagRow(
        name=name,
        digest=record.digest,
        pushed_ns=times[0],
        pulled_ns=times[1],
        size=record.total,
        media_type=record.media_type,
        artifact_type=record.artifact_type,
        platforms=(),
    )
    return await _describe_tag(ask, row, tag)


class Shown(msgspec.Struct, frozen=True):
    """A page of repositories: those that the caller may see, how many there are on all pages, whether more follow."""

    rows: list[Repository]
    total: int
    more: bool


async def _search(ask: Ask, text: str, page: int, count: int) -> Shown:
    search = ask.services.search
    rows = search.search(text, ask.caller, count + 1, (page - 1) * count)
    return await _show(ask, rows, page, count, lambda: search.count(text, ask.caller))


async def _show(
    ask: Ask, rows: list[Repository], page: int, count: int, count_all: Callable[[], int]
) -> Shown:
    """``rows``: of the page, and one more if there is one. A token with limits is shown less than its account may see,
    and a count of all would tell it of the rest: for it those count that it has come across."""
    shown = await ask.only_visible(rows[:count])
    more = len(rows) > count
    if ask.caller.grants is None and len(shown) == len(rows[:count]):
        return Shown(shown, count_all(), more)
    return Shown(shown, (page - 1) * count + len(shown) + more, more)


def _find(ask: Ask) -> Repository:
    """The repository of the path; ``library/x`` means ``x`` where there is no repository of the longer name."""
    namespace, name = ask.path["namespace"], ask.path["name"]
    for full in (f"{namespace}/{name}", name if namespace == ROOT_NAMESPACE else ""):
        row = ask.services.search.find(full) if full else None
        if row is not None and ask.services.guard.may(ask.caller, full, "pull"):
            return row
    raise NotFound(f"no such repository: {namespace}/{name}")


def _links(ask: Ask, page: int, more: bool) -> tuple[str | None, str | None]:
    """Where the next and the previous page are."""
    host = ask.request.headers.get("Host", "")
    start = f"{ask.request.scheme}://{host}" if host else ""
    path = ask.request.raw_path.partition("?")[0]

    def link(number: int) -> str:
        return f"{start}{path}?{urlencode({**ask.query, 'page': number})}"

    return link(page + 1) if more else None, link(page - 1) if page > 1 else None


def _describe(row: Repository) -> HubRepository:
    return HubRepository(
        user=row.namespace,
        name=row.name.removeprefix(f"{row.namespace}/"),
        namespace=row.namespace,
        description=row.description,
        is_private=row.private,
        pull_count=row.pulls,
        last_updated=as_time(row.updated_ns),
        date_registered=as_time(row.created_ns),
        storage_size=row.size,
    )


async def _describe_tag(ask: Ask, row: Repository, tag: TagRow) -> HubTag:
    tagged = await ask.services.images.find(row.name, tag.digest)
    pairs = [(member.platform, member.digest, member.size) for member in tagged.platforms]
    if not tagged.members:
        pairs = [(tagged.image.platform if tagged.image else "", tag.digest, tag.size)]
    pushed, pulled = as_time(tag.pushed_ns), as_time(tag.pulled_ns)
    images = []
    for platform, digest, size in pairs:
        os, _, rest = platform.partition("/")
        architecture, _, variant = rest.partition("/")
        images.append(
            HubImage(
                architecture=architecture or "unknown",
                variant=variant or None,
                digest=digest,
                os=os or "unknown",
                size=size,
                last_pulled=pulled,
                last_pushed=pushed,
            )
        )
    return HubTag(
        name=tag.name,
        digest=tag.digest,
        media_type=tag.media_type,
        full_size=tag.size,
        last_updated=pushed,
        tag_last_pulled=pulled,
        tag_last_pushed=pushed,
        images=images,
    )
