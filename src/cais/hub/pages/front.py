"""The first page, and what one types into its search."""

from aiohttp import web

from cais.hub.pages.site import Site
from cais.hub.pages.visit import Visit
from cais.hub.search import MAX_QUERY

POPULAR = 12
PAGE = 20
MOST = 2000
"""Results that one may page through: nobody reads on, and robots would."""


async def show_front(site: Site, visit: Visit) -> web.Response:
    """GET ``/``."""
    account = visit.caller.account
    return site.page(
        visit,
        "front.html",
        popular=site.search.popular(visit.caller, POPULAR),
        namespaces=site.people.namespaces.list_namespaces(account) if account else [],
        signup=site.people.accounts.signup,
    )


async def show_search(site: Site, visit: Visit) -> web.Response:
    """GET ``/search``; with ``partial=1`` the list alone, for the script that asks while one types."""
    text = visit.get("q")[:MAX_QUERY].strip()
    offset = visit.number("from", most=MOST)
    found = site.search.search(text, visit.caller, PAGE + 1, offset)
    return site.page(
        visit,
        "_results.html" if visit.get("partial") else "search.html",
        text=text,
        found=found[:PAGE],
        offset=offset,
        following=offset + PAGE if len(found) > PAGE and offset + PAGE < MOST else 0,
        previous=max(offset - PAGE, 0) if offset else None,
    )
