"""Logging in and out, and making an account."""

from aiohttp import web

from cais.errors import CaisError, NotFound
from cais.hub.pages.site import Site
from cais.hub.pages.visit import SESSION_COOKIE, Visit, safe_next, set_cookie
from cais.hub.sessions import SESSION_SECONDS
from cais.registry.refusal import Refusal


async def show_login(site: Site, visit: Visit) -> web.Response:
    """GET ``/login``."""
    _need_accounts(site)
    if visit.is_member:
        return site.go(safe_next(visit.get("next")))
    return _login_page(site, visit, visit.get("next"))


def _login_page(site: Site, visit: Visit, target: str, name: str = "", error: str = "") -> web.Response:
    return site.page(
        visit,
        "login.html",
        status=401 if error else 200,
        target=safe_next(target),
        name=name,
        error=error,
        signup=site.people.accounts.signup,
    )


async def log_in(site: Site, visit: Visit) -> web.Response:
    """POST ``/login``: a new session, whatever the old one was."""
    _need_accounts(site)
    name = visit.field("name").strip()
    try:
        caller = await site.people.logins.login(
            name, visit.field("password"), visit.caller.address, tokens=False
        )
    except Refusal:
        raise
    except CaisError as error:
        return _login_page(site, visit, visit.field("next"), name, str(error))
    return await reopen(site, visit, caller.account, safe_next(visit.field("next")))


async def reopen(site: Site, visit: Visit, account: str, target: str) -> web.Response:
    """A new session in the place of the one this browser has."""
    if visit.cookie:
        await site.people.sessions.close(visit.cookie)
    value, _ = await site.people.sessions.open(account)
    reply = site.go(target)
    set_cookie(visit, reply, SESSION_COOKIE, value, max_age=SESSION_SECONDS)
    return reply


async def log_out(site: Site, visit: Visit) -> web.Response:
    """POST ``/logout``."""
    if visit.cookie:
        await site.people.sessions.close(visit.cookie)
    reply = site.go("/")
    set_cookie(visit, reply, SESSION_COOKIE, "")
    return reply


async def show_signup(site: Site, visit: Visit) -> web.Response:
    """GET ``/signup``: for everybody, or with the code of the hub's first start."""
    _need_accounts(site)
    return _signup_page(site, visit, visit.get("code"))


def _signup_page(site: Site, visit: Visit, code: str, name: str = "", error: str = "") -> web.Response:
    return site.page(
        visit,
        "signup.html",
        status=400 if error else 200,
        code=code,
        name=name,
        error=error,
        allowed=site.people.accounts.signup or bool(code),
        first=site.people.accounts.invitation() is not None,
    )


async def sign_up(site: Site, visit: Visit) -> web.Response:
    """POST ``/signup``: and logged in."""
    _need_accounts(site)
    name, code = visit.field("name").strip(), visit.field("code").strip()
    try:
        account = await site.people.accounts.sign_up(
            name, visit.field("password"), code, visit.caller.address
        )
    except Refusal:
        raise
    except CaisError as error:
        return _signup_page(site, visit, code, name, str(error))
    return await reopen(site, visit, account.name, "/account")


def _need_accounts(site: Site) -> None:
    if site.is_open:
        raise NotFound("this hub has no accounts: everybody may do everything")
