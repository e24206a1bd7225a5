"""Webhooks of a namespace: who is told of what, and how it went."""

from aiohttp import web

from cais.errors import Invalid
from cais.hub.namespaces import Namespace
from cais.hub.pages.namespace import need_administered
from cais.hub.pages.site import Site
from cais.hub.pages.visit import Visit
from cais.hub.pages.words import namespace_url
from cais.hub.webhooks import ACTIONS

DELIVERIES = 20


async def show_webhooks(site: Site, visit: Visit, name: str) -> web.Response:
    """GET ``/n/<name>/-/webhooks``; with ``of`` the deliveries of one."""
    return _page(site, visit, need_administered(site, visit, name))


def _page(site: Site, visit: Visit, space: Namespace, secret: str = "", made: str = "") -> web.Response:
    webhooks = site.services.webhooks
    of = visit.number("of")
    found = webhooks.list_webhooks(space.name, visit.caller)
    deliveries = webhooks.list_deliveries(space.name, of, visit.caller, DELIVERIES) if of else []
    return site.page(
        visit,
        "webhooks.html",
        space=space,
        webhooks=found,
        of=of,
        deliveries=deliveries,
        actions=ACTIONS,
        secret=secret,
        made=made,
    )


async def add_webhook(site: Site, visit: Visit, name: str) -> web.Response:
    """POST ``/n/<name>/-/webhooks``: its secret is on this page, and never again."""
    space = need_administered(site, visit, name)
    actions = [action for action in ACTIONS if visit.checked(action)]
    if not actions:
        raise Invalid("choose what the webhook is told of")
    made, secret = await site.services.webhooks.add(
        name,
        visit.field("url").strip(),
        visit.caller,
        repository=visit.field("repository").strip(),
        actions=actions,
    )
    return _page(site, visit, space, secret, made.url)


async def change_webhook(site: Site, visit: Visit, name: str) -> web.Response:
    """POST ``/n/<name>/-/webhook``: remove it, or enable it again, or disable it."""
    need_administered(site, visit, name)
    text = visit.field("id")
    id = int(text) if text.isdecimal() and len(text) < 18 else 0
    match visit.field("do"):
        case "remove":
            await site.services.webhooks.remove(name, id, visit.caller)
        case "enable" | "disable" as what:
            await site.services.webhooks.enable(name, id, visit.caller, enabled=what == "enable")
        case _:
            raise Invalid("choose what to do with the webhook")
    return site.go(namespace_url(name, "webhooks"))
