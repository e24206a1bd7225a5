"""One's own account: namespaces, password, tokens."""

from aiohttp import web

from cais.errors import Invalid
from cais.hub.pages.login import reopen
from cais.hub.pages.site import Site
from cais.hub.pages.visit import Visit
from cais.hub.pages.words import namespace_url
from cais.hub.tokens import ACTIONS

LIVES = ((30, "30 days"), (90, "90 days"), (365, "a year"), (0, "for ever"))
_DAY = 86_400


async def show_account(site: Site, visit: Visit) -> web.Response:
    """GET ``/account``."""
    name = site.need_member(visit)
    return site.page(
        visit,
        "account.html",
        account=site.people.accounts.get(name),
        namespaces=[
            site.people.namespaces.get(n.name, visit.caller)
            for n in site.people.namespaces.list_namespaces(name)
        ],
        tokens=len(site.people.tokens.list_tokens(name)),
        saved=visit.get("saved"),
    )


async def change_password(site: Site, visit: Visit) -> web.Response:
    """POST ``/account/password``: with the old one; all sessions end but a new one of this browser."""
    name = site.need_member(visit)
    if visit.field("password") != visit.field("again"):
        raise Invalid("the two new passwords are not the same")
    await site.people.logins.login(name, visit.field("old"), visit.caller.address, tokens=False)
    await site.people.accounts.change_password(name, visit.field("password"), visit.caller)
    return await reopen(site, visit, name, "/account?saved=password")


async def add_namespace(site: Site, visit: Visit) -> web.Response:
    """POST ``/account/namespaces``."""
    site.need_member(visit)
    name = visit.field("name").strip()
    await site.people.namespaces.add(name, visit.caller)
    return site.go(namespace_url(name))


async def show_tokens(site: Site, visit: Visit) -> web.Response:
    """GET ``/account/tokens``."""
    return _tokens_page(site, visit, site.need_member(visit))


def _tokens_page(site: Site, visit: Visit, name: str, secret: str = "", made: str = "") -> web.Response:
    return site.page(
        visit,
        "tokens.html",
        tokens=site.people.tokens.list_tokens(name),
        actions=ACTIONS,
        lives=LIVES,
        secret=secret,
        made=made,
    )


async def add_token(site: Site, visit: Visit) -> web.Response:
    """POST ``/account/tokens``: the secret is on this page, and never again."""
    name = site.need_member(visit)
    pattern = visit.field("pattern").strip()
    actions = [action for action in ACTIONS if visit.checked(action)]
    if not actions:
        raise Invalid("choose what the token is good for")
    everything = pattern in ("", "*") and len(actions) == len(ACTIONS)
    scopes = [] if everything else [f"{pattern or '*'}:{','.join(actions)}"]
    title = visit.field("name").strip()
    _, secret = await site.people.tokens.add(name, title, scopes, read_life(visit), visit.caller)
    return _tokens_page(site, visit, name, secret, title)


def read_life(visit: Visit) -> int:
    """Seconds, by the form's choice of days. Raises Invalid."""
    days = visit.field("days")
    if days not in {str(number) for number, _ in LIVES}:
        raise Invalid("choose how long the token lives")
    return int(days) * _DAY


async def remove_token(site: Site, visit: Visit) -> web.Response:
    """POST ``/account/tokens/remove``."""
    name = site.need_member(visit)
    id = visit.field("id")
    await site.people.tokens.remove(name, int(id) if id.isdecimal() and len(id) < 18 else 0, visit.caller)
    return site.go("/account/tokens")
