"""A repository: what it is, its tags, who pulls it; and for those who may, its settings."""

import time

from aiohttp import web

from cais.errors import Invalid
from cais.hub.images import Order
from cais.hub.pages.charts import plot_pulls
from cais.hub.pages.rules import describe_rule, read_change
from cais.hub.pages.site import Site
from cais.hub.pages.visit import Visit
from cais.hub.pages.words import namespace_url, repository_url
from cais.hub.repositories import MAX_README
from cais.registry.catalog import namespace_of
from cais.registry.retention import Removed, apply

TAGS = 15
RANGES = (30, 90, 365)
_DAY = 86_400


async def show_repository(site: Site, visit: Visit, name: str) -> web.Response:
    """GET ``/r/<name>``."""
    repository = site.need_repository(visit, name)
    order: Order = "name" if visit.get("order") == "name" else "pushed"
    text, offset = visit.get("tag")[:128], visit.number("from", most=1_000_000)
    tags = await site.images.list_tags(name, text, order=order, count=TAGS + 1, offset=offset)
    days = visit.number("days", RANGES[0])
    days = days if days in RANGES else RANGES[0]
    pulls = site.search.pulls_by_day(name, days, int(time.time()) // _DAY)
    return site.page(
        visit,
        "repository.html",
        repository=repository,
        namespace=namespace_of(name),
        readme=await site.readme(name),
        tags=tags[:TAGS],
        tag_count=site.images.count_tags(name),
        text=text,
        order=order,
        offset=offset,
        following=offset + TAGS if len(tags) > TAGS else 0,
        page_size=TAGS,
        plot=plot_pulls(pulls),
        days=days,
        ranges=RANGES,
        may_push=site.may(visit.caller, name, "push"),
        may_delete=site.may(visit.caller, name, "delete"),
        may_admin=site.may(visit.caller, name, "admin"),
    )


async def show_settings(site: Site, visit: Visit, name: str) -> web.Response:
    """GET ``/r/<name>/-/settings``: for members who may push; some of it for administrators only."""
    repository = site.need_repository(visit, name, "push")
    return site.page(
        visit,
        "repository_settings.html",
        repository=repository,
        namespace=namespace_of(name),
        readme=site.repositories.readme(name),
        immutable=site.repositories.immutable(name),
        most=MAX_README,
        may_admin=site.may(visit.caller, name, "admin"),
        saved=visit.get("saved"),
        rules=[describe_rule(rule) for rule in site.repositories.retention(name).rules],
        preview=await _preview(site, name) if visit.get("preview") else None,
    )


async def _preview(site: Site, name: str) -> list[Removed]:
    """What would go now."""
    return await apply(site.registry, site.services.database, time.time_ns(), dry_run=True, repository=name)


async def save_readme(site: Site, visit: Visit, name: str) -> web.Response:
    """POST ``/r/<name>/-/readme``."""
    site.need_repository(visit, name, "push")
    readme = visit.field("readme")
    await site.repositories.change(name, visit.caller, {"readme": readme})
    return site.go(repository_url(name))


async def save_settings(site: Site, visit: Visit, name: str) -> web.Response:
    """POST ``/r/<name>/-/settings``: description, visibility, tags that may not move."""
    site.need_repository(visit, name, "admin")
    patterns = [line.strip() for line in visit.field("immutable").splitlines() if line.strip()]
    values = {
        "description": visit.field("description").strip(),
        "private": visit.field("visibility") == "private",
        "immutable": patterns,
    }
    await site.repositories.change(name, visit.caller, values)
    return site.go(repository_url(name, verb="settings") + "?saved=1")


async def save_retention(site: Site, visit: Visit, name: str) -> web.Response:
    """POST ``/r/<name>/-/retention``."""
    site.need_repository(visit, name, "admin")
    rules = read_change(visit, site.repositories.retention(name))
    await site.repositories.change(name, visit.caller, {"retention": rules})
    return site.go(repository_url(name, verb="settings") + "?saved=1#retention")


async def delete_repository(site: Site, visit: Visit, name: str) -> web.Response:
    """POST ``/r/<name>/-/delete``: with its name typed out."""
    site.need_repository(visit, name, "admin")
    if visit.field("confirm").strip() != name:
        raise Invalid("type the repository's name to delete it")
    await site.registry.delete_repository(name, visit.caller)
    return site.go(namespace_url(namespace_of(name)))
