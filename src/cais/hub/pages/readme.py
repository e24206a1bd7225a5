"""A repository's README: Markdown as safe HTML. Nothing in it makes the browser ask another host."""

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from cais.hub.repositories import MAX_README

_SCHEMES = ("http", "https", "mailto")
_DOWN = 2
"""Levels that headings go down: the page has a heading, and the section another."""
_REL = "nofollow noopener noreferrer"


def is_safe_link(url: str) -> bool:
    """Links lead to other pages by http, https or mail; never anything that the browser would run or the hub's own
    pages would be fooled by."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme.lower() in _SCHEMES and (parts.scheme.lower() == "mailto" or bool(parts.netloc))


def _make_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 20})
    parser.enable(["table", "strikethrough"])
    # The parser's own: what it refuses stays text. Its type is a method's, and this one needs no self.
    parser.validateLink = is_safe_link  # type: ignore[method-assign]
    return parser


_PARSER = _make_parser()


@lru_cache(64)
def render_readme(text: str) -> Markup:
    """HTML that may stand in a page as it is."""
    tokens = _PARSER.parse(text[:MAX_README])
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + _DOWN, 6)}"
        token.attrs.pop("style", None)  # a table's alignment; the pages allow no inline style
        if token.children:
            token.children = _link_images(token.children)
    text = _PARSER.renderer.render(tokens, _PARSER.options, {})
    # What scrolls is reached by the keyboard too. Foreign text has no "<" left by now.
    return Markup(text.replace("<pre>", '<pre tabindex="0">'))


def _link_images(tokens: Sequence[Token]) -> list[Token]:
    """Images become links to them; in a link, their text. All links say nothing about where one came from."""
    answer: list[Token] = []
    inside = 0
    for token in tokens:
        if token.type == "link_open":
            inside += 1
            token.attrSet("rel", _REL)
        elif token.type == "link_close":
            inside -= 1
        if token.type != "image":
            answer.append(token)
            continue
        label = Token("text", "", 0, content=token.content or "image")
        if inside:
            answer.append(label)
        else:
            opened = Token("link_open", "a", 1, attrs={"href": str(token.attrGet("src") or ""), "rel": _REL})
            answer += [opened, label, Token("link_close", "a", -1)]
    return answer
