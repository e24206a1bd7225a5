"""The pages' room: from a path to the view that answers it, and what goes wrong as a page too."""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar
from urllib.parse import quote

from aiohttp import web

from cais.errors import (
    AlreadyExists,
    CaisError,
    Conflict,
    Corrupt,
    Denied,
    Invalid,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from cais.hub.pages import account, contents, front, hooks, login, namespace, repository, system, tag
from cais.hub.pages.assets import PREFIX
from cais.hub.pages.site import Services, Site
from cais.hub.pages.visit import Visit, read_form, read_visit
from cais.hub.pages.words import namespace_url, repository_url
from cais.registry.refusal import Refusal
from cais.spec.reference import is_path

log = logging.getLogger(__name__)
T = TypeVar("T")
View = Callable[[Site, Visit], Awaitable[web.Response]]
NamedView = Callable[[Site, Visit, str], Awaitable[web.Response]]
RefView = Callable[[Site, Visit, str, str], Awaitable[web.Response]]

_REFERENCE = re.compile(r"/r/(?P<name>[^:@]+?)(?:[:@](?P<ref>[^/]+))?(?:/-/(?P<verb>[a-z]+))?/?")
_NAMESPACE = re.compile(r"/n/(?P<name>[^/]+?)(?:/-/(?P<verb>[a-z-]+))?/?")
_PASTED = re.compile(r"/(?P<name>[^:@]+?)(?:[:@](?P<ref>[^/]+))?/?")
_STATUS = {
    Invalid: 400,
    Unauthenticated: 401,
    Denied: 403,
    NotFound: 404,
    AlreadyExists: 409,
    Conflict: 409,
    Unavailable: 503,
    Corrupt: 500,
}
_TITLES = {
    400: "That does not work",
    401: "Log in first",
    403: "You may not do that",
    404: "There is nothing here",
    405: "That is not done here",
    409: "That does not fit what is here",
    429: "Too many tries",
    500: "Something went wrong",
    503: "Not now",
}

PLAIN: Mapping[tuple[str, str], View] = {
    ("GET", "/"): front.show_front,
    ("GET", "/search"): front.show_search,
    ("GET", "/login"): login.show_login,
    ("POST", "/login"): login.log_in,
    ("POST", "/logout"): login.log_out,
    ("GET", "/signup"): login.show_signup,
    ("POST", "/signup"): login.sign_up,
    ("GET", "/account"): account.show_account,
    ("POST", "/account/password"): account.change_password,
    ("POST", "/account/namespaces"): account.add_namespace,
    ("GET", "/account/tokens"): account.show_tokens,
    ("POST", "/account/tokens"): account.add_token,
    ("POST", "/account/tokens/remove"): account.remove_token,
    ("GET", "/system"): system.show_system,
    ("POST", "/system/collect"): system.collect,
    ("GET", "/system/accounts"): system.show_accounts,
    ("POST", "/system/accounts"): system.add_account,
    ("POST", "/system/accounts/disable"): system.disable_account,
    ("GET", "/audit"): system.show_audit,
}
OF_REPOSITORY: Mapping[tuple[str, str], NamedView] = {
    ("GET", ""): repository.show_repository,
    ("GET", "settings"): repository.show_settings,
    ("POST", "settings"): repository.save_settings,
    ("POST", "readme"): repository.save_readme,
    ("POST", "retention"): repository.save_retention,
    ("POST", "delete"): repository.delete_repository,
    ("GET", "compare"): contents.show_comparison,
}
OF_REFERENCE: Mapping[tuple[str, str], RefView] = {
    ("GET", ""): tag.show_tag,
    ("GET", "files"): contents.show_files,
    ("GET", "attachment"): tag.show_attachment,
    ("POST", "delete"): tag.delete_tag,
}
OF_NAMESPACE: Mapping[tuple[str, str], NamedView] = {
    ("GET", ""): namespace.show_namespace,
    ("GET", "members"): namespace.show_members,
    ("POST", "members"): namespace.set_member,
    ("POST", "robots"): namespace.add_robot,
    ("POST", "secret"): namespace.renew_robot,
    ("GET", "settings"): namespace.show_settings,
    ("POST", "settings"): namespace.save_settings,
    ("POST", "quota"): namespace.save_quota,
    ("POST", "retention"): namespace.save_retention,
    ("GET", "webhooks"): hooks.show_webhooks,
    ("POST", "webhooks"): hooks.add_webhook,
    ("POST", "webhook"): hooks.change_webhook,
    ("GET", "audit"): namespace.show_audit,
}
_BEFORE_LOGIN = {"/login", "/signup", "/logout"}


class Pages:
    """Answers everything that no other room does; never raises but for cancellation and a client that has gone."""

    def __init__(self, services: Services) -> None:
        self._site = Site(services)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to ``request``."""
        if request.raw_path == "/favicon.ico":
            return self._site.assets.answer(self._site.assets.url("icon.svg"), "")
        if request.raw_path.startswith(PREFIX) and request.method in ("GET", "HEAD"):
            return self._site.assets.answer(request.raw_path, request.headers.get("Accept-Encoding", ""))
        visit = None
        try:
            services = self._site.services
            visit = read_visit(request, services.people.sessions.find, open=self._site.is_open)
            return await self._answer(visit)
        except ConnectionError:
            raise
        except Exception as error:
            if visit is None:
                return web.Response(status=400, text="the request makes no sense\n")
            return self._fail(visit, error)

    async def _answer(self, visit: Visit) -> web.Response:
        if visit.method not in ("GET", "POST"):
            raise Refusal("UNSUPPORTED", f"{visit.method} is not done here")
        must_log_in = not self._site.is_open and not self._site.services.anonymous and not visit.is_member
        if must_log_in and visit.path not in _BEFORE_LOGIN:
            raise Unauthenticated("log in to see what is here")
        act = self._find(visit)
        if visit.method == "POST":
            await read_form(visit)
        return await act()

    def _find(self, visit: Visit) -> Callable[[], Awaitable[web.Response]]:
        """The view of the path, with what the path says. Raises NotFound; Refusal UNSUPPORTED for the method."""
        site, path = self._site, visit.path
        plain = PLAIN.get((visit.method, path))
        if plain is not None:
            return lambda: plain(site, visit)
        if match := _REFERENCE.fullmatch(path):
            name, ref, verb = match["name"], match["ref"], match["verb"] or ""
            if ref is not None:
                view = _choose(OF_REFERENCE, visit, verb)
                return lambda: view(site, visit, name, ref)
            named = _choose(OF_REPOSITORY, visit, verb)
            return lambda: named(site, visit, name)
        if match := _NAMESPACE.fullmatch(path):
            name, named = match["name"], _choose(OF_NAMESPACE, visit, match["verb"] or "")
            return lambda: named(site, visit, name)
        if any(known == path for _, known in PLAIN):
            raise Refusal("UNSUPPORTED", f"{visit.method} is not done here")
        return lambda: self._lead(visit)

    async def _lead(self, visit: Visit) -> web.Response:
        """What one pastes behind the host's name as it stands in commands (``team/app:1``) leads to its page."""
        match = _PASTED.fullmatch(visit.path)
        if match and visit.method == "GET" and is_path(match["name"]):
            name, ref = match["name"], match["ref"] or ""
            if self._site.search.find(name) and self._site.may(visit.caller, name, "pull"):
                return self._site.go(repository_url(name, ref))
            if not ref and "/" not in name and namespace.exists(self._site, visit, name):
                return self._site.go(namespace_url(name))
        raise NotFound("no such page, or you may not see it")

    def _fail(self, visit: Visit, error: Exception) -> web.Response:
        """An error as a page. Who has not logged in and would have to, is asked to; what went wrong inside is told
        to the log only."""
        if isinstance(error, Refusal):
            status = error.status
        else:
            status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
        if status == 401 and visit.method == "GET" and visit.path not in _BEFORE_LOGIN:
            return self._site.go(f"/login?next={quote(visit.request.raw_path, safe='')}")
        if status == 500:
            log.error("a page failed", exc_info=error)
        told = isinstance(error, CaisError) and status != 500
        text = str(error) if told else "The log of the hub says what."
        return self._site.page(
            visit, "error.html", status=status, title=_TITLES.get(status, _TITLES[400]), text=text
        )


def _choose(table: Mapping[tuple[str, str], T], visit: Visit, verb: str) -> T:
    found = table.get((visit.method, verb))
    if found is None:
        if any(known == verb for _, known in table):
            raise Refusal("UNSUPPORTED", f"{visit.method} is not done here")
        raise NotFound("no such page")
    return found
