"""The whole hub, for its administrators: what it holds, accounts, the audit log, and collecting garbage by hand."""

from aiohttp import web

from cais.hub.pages.site import Site
from cais.hub.pages.visit import Visit
from cais.registry.base import Event
from cais.registry.collect import Collected

ACCOUNTS = 100
EVENTS = 50


async def show_system(site: Site, visit: Visit) -> web.Response:
    """GET ``/system``."""
    site.need_admin(visit)
    return await _system_page(site, visit)


async def _system_page(site: Site, visit: Visit, done: Collected | None = None) -> web.Response:
    damaged = await site.registry.catalog.list_damaged()
    return site.page(visit, "system.html", stock=site.audit.stock(), damaged=damaged, done=done)


async def collect(site: Site, visit: Visit) -> web.Response:
    """POST ``/system/collect``: what was freed is on this page."""
    site.need_admin(visit)
    done = await site.services.collector.collect()
    caller = visit.caller
    await site.registry.catalog.add_event(
        Event(action="collect", account=caller.account, address=caller.address, detail=f"{done.freed} bytes")
    )
    return await _system_page(site, visit, done)


async def show_accounts(site: Site, visit: Visit) -> web.Response:
    """GET ``/system/accounts``."""
    site.need_admin(visit)
    accounts = site.people.accounts.list_accounts(visit.get("after")[:50], ACCOUNTS + 1)
    return site.page(
        visit,
        "accounts.html",
        accounts=accounts[:ACCOUNTS],
        following=accounts[ACCOUNTS - 1].name if len(accounts) > ACCOUNTS else "",
    )


async def add_account(site: Site, visit: Visit) -> web.Response:
    """POST ``/system/accounts``."""
    site.need_admin(visit)
    name, password = visit.field("name").strip(), visit.field("password")
    await site.people.accounts.add(name, password, visit.caller, admin=visit.checked("admin"))
    return site.go("/system/accounts")


async def disable_account(site: Site, visit: Visit) -> web.Response:
    """POST ``/system/accounts/disable``: or enable again."""
    site.need_admin(visit)
    await site.people.accounts.disable(
        visit.field("name"), visit.caller, disabled=visit.field("disabled") == "1"
    )
    return site.go("/system/accounts")


async def show_audit(site: Site, visit: Visit) -> web.Response:
    """GET ``/audit``."""
    site.need_admin(visit)
    before = visit.number("before")
    events, following = site.audit.read(
        account=visit.get("account")[:50], action=visit.get("action")[:30], before=before, count=EVENTS
    )
    return site.page(visit, "audit.html", space=None, events=events, following=following, before=before)
