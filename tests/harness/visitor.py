"""A browser without eyes: cookies, forms and links of the hub's pages, over plain HTTP."""

import html
import http.client
import http.cookies
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode

_CSRF = re.compile(r'name="csrf" value="([^"]+)"')
_VOID = frozenset(
    {"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)


@dataclass(frozen=True)
class Page:
    """An answer."""

    status: int
    headers: dict[str, str]
    set_cookies: tuple[str, ...]
    text: str

    @property
    def location(self) -> str:
        """Where it leads."""
        return self.headers.get("location", "")

    @property
    def words(self) -> str:
        """What one reads, without marks, in one line."""
        bare = re.sub(r"<(style|script)\b.*?</\1>", " ", self.text, flags=re.DOTALL)
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", bare)).split())


@dataclass
class Visitor:
    """Keeps cookies from one request to the next."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Page:
        """One request with the cookies there are."""
        sent = {"Host": f"127.0.0.1:{self.port}", **(headers or {})}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, sent)
            reply = connection.getresponse()
            found = tuple(value for name, value in reply.getheaders() if name.lower() == "set-cookie")
            for text in found:
                for name, morsel in http.cookies.SimpleCookie(text).items():
                    self.cookies.pop(name, None)
                    if morsel.value:
                        self.cookies[name] = morsel.value
            headers_found = {name.lower(): value for name, value in reply.getheaders()}
            return Page(reply.status, headers_found, found, reply.read().decode("utf-8", "replace"))
        finally:
            connection.close()

    def get(self, path: str) -> Page:
        """A page."""
        return self.send("GET", path)

    def post(
        self, path: str, fields: Mapping[str, str] | None = None, *, on: str = "", **headers: str
    ) -> Page:
        """A form, with the secret of the page ``on`` where it stands (else: the path). Header names with ``_``."""
        page = self.get(on or path)
        match = _CSRF.search(page.text)
        assert match, f"no form on {on or path}: {page.status}"
        return self.raw_post(path, {"csrf": match[1], **(fields or {})}, **headers)

    def raw_post(self, path: str, fields: Mapping[str, str], **headers: str) -> Page:
        """A form as it stands."""
        sent = {"Content-Type": "application/x-www-form-urlencoded"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("POST", path, urlencode(fields).encode(), sent)

    def log_in(self, name: str, password: str) -> None:
        """By the form. Fails the test unless it works."""
        page = self.post("/login", {"name": name, "password": password})
        assert page.status == 303, page.words


class Outline(HTMLParser):
    """The parts of a page that tests ask about: whether all is closed, ids, labels, headings, links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.problems: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.inline: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        if self.stack:
            self.problems.append(f"not closed: {self.stack}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "a":
            self.links.append(values.get("href", ""))
        else:
            for name in ("src", "href", "data", "poster", "srcset", "action"):
                if values.get(name, "/").startswith(("http:", "https:", "//")):
                    self.outside.append(values[name])
        self.inline += [f"{tag} {name}" for name in values if name == "style" or name.startswith("on")]
        if tag == "script" and "src" not in values:
            self.inline.append("script")
        if tag not in _VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser: ``<path/>`` of a picture."""
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        if not self.stack or self.stack.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing at line {self.getpos()[0]}")
