"""Who calls the API: by Authorization, or by the session of a browser that has logged in."""

import hmac

from aiohttp import web

from cais.errors import Denied, Unauthenticated
from cais.hub.api.route import Route
from cais.hub.api.services import Services
from cais.hub.pages.visit import SESSION_COOKIE, cookie_name
from cais.registry.base import Caller

CSRF_HEADER = "X-CSRF-Token"


async def identify(services: Services, request: web.BaseRequest, route: Route) -> Caller:
    """The caller, who may call this route at all. Raises Unauthenticated, Denied, Refusal TOOMANYREQUESTS."""
    address = request.remote or "unix"
    if route.access == "open":
        return Caller(address=address)
    authorization = request.headers.get("Authorization", "")
    cookie = "" if authorization or services.config.open else _read_cookie(request)
    if cookie:
        caller = _by_session(services, request, cookie, address)
    else:
        caller = await services.gate.identify(authorization, address)
    if caller.kind == "bearer" and route.group != "docker":
        # It was made for a client to pull and push with, and may be seen by more eyes than a password.
        raise Unauthenticated("want a password or a kept token: a registry token is for the registry")
    _check_access(route, caller, anonymous=services.config.anonymous_pull)
    return caller


def _read_cookie(request: web.BaseRequest) -> str:
    return request.cookies.get(cookie_name(SESSION_COOKIE, request.scheme == "https"), "")


def _by_session(services: Services, request: web.BaseRequest, cookie: str, address: str) -> Caller:
    session = services.people.sessions.find(cookie)
    if session is None:
        raise Unauthenticated("the session has ended: log in again")
    if request.method not in ("GET", "HEAD"):
        sent = request.headers.get(CSRF_HEADER, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(sent, session.csrf.encode()):
            raise Denied(f"the header {CSRF_HEADER} is not the session's")
    account = session.account
    return Caller(account=account.name, admin=account.admin, kind="session", address=address)


def _check_access(route: Route, caller: Caller, *, anonymous: bool) -> None:
    if not (caller.account or caller.admin) and not (route.access == "anyone" and anonymous):
        raise Unauthenticated("log in, or send a token")
    if route.access in ("person", "admin") and caller.grants is not None:
        raise Denied("a token with limits may not do this")
    if route.access == "admin" and not caller.admin:
        raise Denied("only an administrator of the hub may do this")
