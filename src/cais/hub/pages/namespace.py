"""A namespace: its repositories; for its administrators its members, robots, settings and log."""

from aiohttp import web

from cais.errors import Invalid, NotFound
from cais.hub.namespaces import Namespace
from cais.hub.pages.account import LIVES, read_life
from cais.hub.pages.rules import describe_rule, read_change
from cais.hub.pages.site import Site
from cais.hub.pages.visit import Visit
from cais.hub.pages.words import namespace_url
from cais.hub.repositories import check_patterns
from cais.hub.rights import ROLES
from cais.hub.tokens import ACTIONS
from cais.registry.catalog import ROOT_NAMESPACE

REPOSITORIES = 50
EVENTS = 50
_MB = 1_000_000


def find(site: Site, visit: Visit, name: str) -> Namespace:
    """The namespace, if the caller may know of it: as a member, or as it has something to show. Raises NotFound."""
    seen = bool(site.search.in_namespace(name, visit.caller, "", 1))
    try:
        found = site.people.namespaces.get(name, visit.caller)
    except NotFound:
        if not seen:
            raise
        # A hub without accounts has repositories only.
        return Namespace(name=name, role="admin" if visit.caller.admin else "")
    if not (seen or found.role or not found.private):
        raise NotFound(f"no such namespace: {name}")
    return found


def exists(site: Site, visit: Visit, name: str) -> bool:
    """Whether there is one that the caller may know of."""
    try:
        find(site, visit, name)
    except NotFound:
        return False
    return True


async def show_namespace(site: Site, visit: Visit, name: str) -> web.Response:
    """GET ``/n/<name>``."""
    found = find(site, visit, name)
    repositories = site.search.in_namespace(name, visit.caller, visit.get("after")[:255], REPOSITORIES + 1)
    return site.page(
        visit,
        "namespace.html",
        space=found,
        repositories=repositories[:REPOSITORIES],
        following=repositories[REPOSITORIES - 1].name if len(repositories) > REPOSITORIES else "",
        root=name == ROOT_NAMESPACE,
    )


def need_administered(site: Site, visit: Visit, name: str) -> Namespace:
    """The namespace, for who administers it. Raises NotFound, Unauthenticated, Denied."""
    found = find(site, visit, name)
    if not site.is_open:
        site.need_member(visit)
    site.people.namespaces.need_role(visit.caller, name, "admin")
    return found


async def show_members(site: Site, visit: Visit, name: str) -> web.Response:
    """GET ``/n/<name>/-/members``."""
    return _members_page(site, visit, need_administered(site, visit, name))


def _members_page(
    site: Site, visit: Visit, space: Namespace, secret: str = "", robot: str = ""
) -> web.Response:
    return site.page(
        visit,
        "members.html",
        space=space,
        members=site.people.namespaces.list_members(space.name),
        roles=tuple(ROLES),
        actions=ACTIONS,
        lives=LIVES,
        secret=secret,
        robot=robot,
    )


async def set_member(site: Site, visit: Visit, name: str) -> web.Response:
    """POST ``/n/<name>/-/members``: give, change or take a role."""
    need_administered(site, visit, name)
    role = visit.field("role")
    if not role and not visit.checked("remove"):
        raise Invalid("choose a role")
    role = "" if visit.checked("remove") else role
    await site.people.namespaces.set_member(name, visit.field("account").strip(), role, visit.caller)
    return site.go(namespace_url(name, "members"))


async def add_robot(site: Site, visit: Visit, name: str) -> web.Response:
    """POST ``/n/<name>/-/robots``: its secret is on this page, and never again."""
    space = need_administered(site, visit, name)
    actions = [action for action in ACTIONS if visit.checked(action)]
    if not actions:
        raise Invalid("choose what the robot may do")
    robot, secret = await site.people.robots.add(
        name, visit.field("robot").strip(), actions, read_life(visit), visit.caller
    )
    return _members_page(site, visit, space, secret, robot)


async def renew_robot(site: Site, visit: Visit, name: str) -> web.Response:
    """POST ``/n/<name>/-/secret``: a robot's new one is on this page, and never again."""
    space = need_administered(site, visit, name)
    robot = visit.field("robot")
    secret = await site.people.robots.renew(name, robot, read_life(visit), visit.caller)
    return _members_page(site, visit, space, secret, robot)


async def show_settings(site: Site, visit: Visit, name: str) -> web.Response:
    """GET ``/n/<name>/-/settings``."""
    space = need_administered(site, visit, name)
    return site.page(
        visit,
        "namespace_settings.html",
        space=space,
        immutable=site.repositories.namespace_immutable(name),
        saved=visit.get("saved"),
        rules=[describe_rule(rule) for rule in site.repositories.namespace_retention(name).rules],
    )


async def save_settings(site: Site, visit: Visit, name: str) -> web.Response:
    """POST ``/n/<name>/-/settings``."""
    need_administered(site, visit, name)
    patterns = [line.strip() for line in visit.field("immutable").splitlines() if line.strip()]
    values = {
        "description": visit.field("description").strip()[:200],
        "private": visit.field("visibility") == "private",
        "immutable": check_patterns(patterns),
    }
    await site.people.namespaces.change(name, visit.caller, values)
    return site.go(namespace_url(name, "settings") + "?saved=1")


async def save_quota(site: Site, visit: Visit, name: str) -> web.Response:
    """POST ``/n/<name>/-/quota``: by administrators of the hub, in megabytes."""
    site.need_admin(visit)
    text = visit.field("quota").strip() or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise Invalid("a quota is a number of megabytes; 0: no limit")
    await site.people.namespaces.change(name, visit.caller, {"quota": int(text) * _MB})
    return site.go(namespace_url(name, "settings") + "?saved=1")


async def save_retention(site: Site, visit: Visit, name: str) -> web.Response:
    """POST ``/n/<name>/-/retention``."""
    need_administered(site, visit, name)
    rules = read_change(visit, site.repositories.namespace_retention(name))
    await site.people.namespaces.change(name, visit.caller, {"retention": rules})
    return site.go(namespace_url(name, "settings") + "?saved=1#retention")


async def show_audit(site: Site, visit: Visit, name: str) -> web.Response:
    """GET ``/n/<name>/-/audit``."""
    space = need_administered(site, visit, name)
    events, following = site.audit.read(namespace=name, before=visit.number("before"), count=EVENTS)
    return site.page(
        visit, "audit.html", space=space, events=events, following=following, before=visit.number("before")
    )
