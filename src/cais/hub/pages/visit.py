"""One request to the pages: who makes it, with which form, and whether it may change something.

A change is believed when three things agree: the form has the session's secret (or, before there is a session, that
of a SameSite=Strict cookie), the browser does not say that another site sent it (Sec-Fetch-Site, Origin), and the
session's cookie came along, which is SameSite=Lax.
"""

import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from aiohttp import web

from cais.errors import Denied, Invalid
from cais.hub.sessions import Session
from cais.registry.base import Caller

SESSION_COOKIE = "cais_session"
FORM_COOKIE = "cais_form"
MAX_BODY = 256 << 10
_SECURE_PREFIX = "__Host-"

Fields = Mapping[str, Sequence[str]]


class Visit(msgspec.Struct, kw_only=True):
    """What a view gets. ``csrf`` goes into every form; ``cookie``: the session's, as it came."""

    request: web.BaseRequest
    method: str
    path: str
    query: Fields
    caller: Caller
    secure: bool
    csrf: str = ""
    cookie: str = ""
    form: Fields = {}
    session: Session | None = None
    new_form_cookie: str = ""

    @property
    def host(self) -> str:
        """As the browser calls this hub: what image names begin with."""
        return self.request.host

    @property
    def is_member(self) -> bool:
        """Whether somebody has logged in."""
        return self.session is not None

    def get(self, name: str, default: str = "") -> str:
        """A field of the query."""
        return next(iter(self.query.get(name, ())), default)

    def number(self, name: str, default: int = 0, most: int = 1 << 40) -> int:
        """A number of the query; what is none is the default."""
        text = self.get(name)
        return min(int(text), most) if text.isascii() and text.isdigit() and len(text) < 20 else default

    def field(self, name: str) -> str:
        """A field of the form, with ends of lines as they are everywhere but in forms."""
        return next(iter(self.form.get(name, ())), "").replace("\r\n", "\n")

    def checked(self, name: str) -> bool:
        """Whether a box of the form was ticked."""
        return bool(self.form.get(name))


def read_visit(
    request: web.BaseRequest, find_session: Callable[[str], Session | None], *, open: bool
) -> Visit:
    """The request without its body. ``open``: there are no accounts, everybody is an administrator."""
    path, _, query = request.raw_path.partition("?")
    secure = request.scheme == "https"
    cookie = request.cookies.get(cookie_name(SESSION_COOKIE, secure), "")
    session = find_session(cookie) if cookie and not open else None
    address = request.remote or "unix"
    if open:
        caller = Caller(address=address, admin=True)
    elif session:
        account = session.account
        caller = Caller(account=account.name, admin=account.admin, address=address, kind="session")
    else:
        caller = Caller(address=address)
    form_cookie = request.cookies.get(cookie_name(FORM_COOKIE, secure), "")
    new = "" if form_cookie or session else secrets.token_urlsafe(24)
    return Visit(
        request=request,
        method="GET" if request.method == "HEAD" else request.method,
        path=unquote(path, errors="replace"),
        query=parse_query(query),
        caller=caller,
        secure=secure,
        csrf=session.csrf if session else form_cookie or new,
        cookie=cookie,
        session=session,
        new_form_cookie=new,
    )


def parse_query(text: str) -> dict[str, list[str]]:
    """Fields of a query or form. Raises Invalid."""
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=500)
    except ValueError:
        raise Invalid("too many fields") from None


async def read_form(visit: Visit) -> None:
    """Read the form that was posted into the visit, and check that it comes from a page of ours. Raises Denied,
    Invalid."""
    check_origin(visit.request)
    data = bytearray()
    while piece := await visit.request.content.readany():
        data += piece
        if len(data) > MAX_BODY:
            raise Invalid(f"a form has {MAX_BODY} bytes at most")
    visit.form = parse_query(data.decode("utf-8", "replace"))
    known = visit.csrf if not visit.new_form_cookie else ""
    if not known or not hmac.compare_digest(visit.field("csrf").encode(), known.encode()):
        raise Denied(
            "this form is too old, or not from this hub: go back, load the page again and try once more"
        )


def check_origin(request: web.BaseRequest) -> None:
    """Raises Denied where the browser says that another site's page sent the request.

    Our own forms are sent with ``Origin: null``, as Referrer-Policy is no-referrer: then Sec-Fetch-Site has the word.
    """
    site = request.headers.get("Sec-Fetch-Site", "")
    origin = request.headers.get("Origin", "")
    foreign = origin not in ("", "null") and urlsplit(origin).netloc != request.host
    if foreign or site not in ("", "same-origin", "none"):
        raise Denied("the request comes from another site's page")


def cookie_name(name: str, secure: bool) -> str:
    """With HTTPS, browsers hold us to Secure and the path / by the name's prefix (RFC 6265bis, section 4.1.3)."""
    return _SECURE_PREFIX + name if secure else name


def set_cookie(visit: Visit, reply: web.StreamResponse, name: str, value: str, **how: str | int) -> None:
    """A cookie that scripts do not see; with an empty value it goes."""
    reply.set_cookie(
        cookie_name(name, visit.secure),
        value,
        path="/",
        httponly=True,
        secure=visit.secure,
        samesite=str(how.get("samesite", "Lax")),
        max_age=int(how.get("max_age", 0)) if value else 0,
    )


def safe_next(text: str) -> str:
    """Where to go after a login: a page of ours, else the front page. A backslash is a slash to browsers."""
    ours = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if ours else "/"
