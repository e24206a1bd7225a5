"""What all pages share: the services behind them, the templates, and the headers that keep browsers safe."""

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from aiohttp import web
from markupsafe import Markup, escape

from cais.errors import Denied, NotFound, Unauthenticated
from cais.hub.attachments import Attachments
from cais.hub.audit import Audit
from cais.hub.files import Files
from cais.hub.gate import AccountGate
from cais.hub.images import Images
from cais.hub.pages import words
from cais.hub.pages.assets import Assets
from cais.hub.pages.readme import render_readme
from cais.hub.pages.visit import FORM_COOKIE, Visit, set_cookie
from cais.hub.people import People
from cais.hub.repositories import Repositories
from cais.hub.search import Repository, Search
from cais.hub.webhooks import Webhooks
from cais.registry.base import Caller
from cais.registry.collect import Collector
from cais.registry.database import Database
from cais.registry.registry import Registry

log = logging.getLogger(__name__)
TEMPLATES = Path(__file__).parent / "templates"
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
_FORM_SECONDS = 24 * 3600


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """What the pages ask. ``guard`` is None for a hub without accounts, where everybody may do everything."""

    name: str
    people: People
    guard: AccountGate | None
    search: Search
    registry: Registry
    database: Database
    collector: Collector
    webhooks: Webhooks
    images: Images
    attachments: Attachments
    files: Files
    repositories: Repositories
    audit: Audit
    anonymous: bool = True


class Site:
    """Made once. Views ask it who may do what, for services, and to render."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.people = services.people
        self.search = services.search
        self.registry = services.registry
        self.images = services.images
        self.attachments = services.attachments
        self.files = services.files
        self.repositories = services.repositories
        self.audit = services.audit
        self.assets = Assets()
        self._rendering = asyncio.Lock()
        self._templates = _make_environment(self.assets)

    @property
    def is_open(self) -> bool:
        """Whether there are no accounts."""
        return self.services.guard is None

    # Rights

    def may(self, caller: Caller, repository: str, action: str) -> bool:
        """Whether the caller may do this with the repository."""
        guard = self.services.guard
        return guard is None or guard.may(caller, repository, action)

    def need_repository(self, visit: Visit, name: str, action: str = "pull") -> Repository:
        """The repository, if the caller may do this. Raises NotFound for what it may not know of, Denied,
        Unauthenticated (log in first)."""
        found = self.search.find(name)
        if found is None or not self.may(visit.caller, name, "pull"):
            raise NotFound(f"no such repository: {name}")
        if not self.may(visit.caller, name, action):
            if not visit.is_member:
                raise Unauthenticated("log in to do this")
            raise Denied(f"you may not do this with {name}")
        return found

    def need_member(self, visit: Visit) -> str:
        """The name of who has logged in. Raises Unauthenticated."""
        if not visit.is_member:
            raise Unauthenticated("log in to see this page")
        return visit.caller.account

    def need_admin(self, visit: Visit) -> None:
        """Raises Unauthenticated, Denied unless it is an administrator of the hub."""
        if not visit.caller.admin:
            if not visit.is_member:
                raise Unauthenticated("log in to see this page")
            raise Denied("this page is for administrators of the hub")

    async def readme(self, name: str) -> Markup | None:
        """The repository's README as HTML, if it has one; one at a time and off the event loop, as there are texts that
        take Markdown seconds. Raises NotFound."""
        text = self.repositories.readme(name)
        if not text:
            return None
        async with self._rendering:
            return await asyncio.to_thread(render_readme, text)

    # Answers

    def page(self, visit: Visit, template: str, *, status: int = 200, **values: Any) -> web.Response:
        """An HTML page."""
        csrf = _CsrfField(visit.csrf)
        text = self._templates.get_template(template).render(
            visit=visit, site=self, hub=self.services.name, csrf=csrf, now_ns=time.time_ns(), **values
        )
        reply = web.Response(
            status=status,
            body=text.encode("utf-8", "replace"),
            content_type="text/html",
            charset="utf-8",
            headers={
                **SECURITY,
                "Cache-Control": "no-store" if visit.session else "no-cache",
                "Vary": "Cookie",
            },
        )
        if csrf.used and visit.new_form_cookie:
            set_cookie(
                visit, reply, FORM_COOKIE, visit.new_form_cookie, samesite="Strict", max_age=_FORM_SECONDS
            )
        return reply

    def go(self, url: str) -> web.Response:
        """To another page of ours, after a form (303) so that loading again sends nothing twice."""
        return web.Response(status=303, headers={**SECURITY, "Location": url, "Cache-Control": "no-store"})

    def download(self, data: bytes, name: str) -> web.Response:
        """A document as a file: the browser must not show it as a page of ours."""
        headers = {
            **SECURITY,
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f'attachment; filename="{name}"',
        }
        return web.Response(body=data, headers=headers)


class _CsrfField:
    """``{{ csrf }}`` in a form: the hidden field. Whether a page has one says whether it needs the cookie."""

    def __init__(self, value: str) -> None:
        self._value = value
        self.used = False

    def __html__(self) -> str:
        self.used = True
        return f'<input type="hidden" name="csrf" value="{escape(self._value)}">'


def _make_environment(assets: Assets) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    filters: Mapping[str, Any] = {
        "size": words.format_size,
        "count": words.format_count,
        "ago": words.format_ago,
        "time": words.format_time,
        "iso": words.format_iso,
        "mode": words.format_mode,
        "short": words.short_digest,
        "visible": words.visible,
        "letters": words.mark_letters,
        "colour": words.mark_colour,
        "when": _when,
        "parts": _parts,
    }
    environment.filters.update(filters)
    environment.globals.update(
        asset=assets.url, repository_url=words.repository_url, namespace_url=words.namespace_url
    )
    return environment


def _parts(name: str) -> Markup:
    """A name that may be broken behind its slashes."""
    return Markup("/<wbr>").join(name.split("/"))


def _when(time_ns: int) -> Markup:
    """A time as an element: how long ago, and exactly when in its title."""
    if not time_ns:
        return Markup('<span class="quiet">never</span>')
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        words.format_iso(time_ns), words.format_time(time_ns), words.format_ago(time_ns)
    )
