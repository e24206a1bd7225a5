"""The pure parts of hub/pages: words, pictures, README, and the contrasts of its colours."""

import itertools
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.hub.compare import flatten_config
from cais.hub.images import Layer
from cais.hub.pages import words
from cais.hub.pages.assets import FOLDER
from cais.hub.pages.charts import HEIGHT, STRIP, WIDTH, nice_top, place_crates, plot_pulls
from cais.hub.pages.readme import render_readme
from cais.hub.pages.rules import describe_rule
from cais.hub.pages.visit import safe_next
from cais.registry.retention import Rule
from cais.spec.digest import digest_bytes
from cais.spec.image import parse_image_config

# Words


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_600, "1.00 MB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_sizes_have_three_digits(count: int, text: str) -> None:
    """In steps of a thousand, as registries and disks count."""
    assert words.format_size(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (1234, "1\u202f234"), (12_345, "12.3 k"), (4_500_000, "4.5 M"), (2 * 10**9, "2.0 G")],
)
def test_counts(count: int, text: str) -> None:
    """Large ones are rounded."""
    assert words.format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (7200, "2 hours ago"),
        (86_400, "1 day ago"),
        (86_400 * 45, "1 month ago"),
        (86_400 * 800, "2 years ago"),
        (-5, "just now"),
    ],
)
def test_times_ago(seconds: int, text: str) -> None:
    """In the largest unit that fits; a clock that is ahead does no harm."""
    now = 2_000_000_000 * 10**9
    assert words.format_ago(now - seconds * 10**9, now) == text


def test_never() -> None:
    """A time of 0 is none."""
    assert words.format_ago(0) == "never" and words.format_time(0) == words.format_iso(0) == ""


def test_what_cannot_be_seen_is_shown() -> None:
    """Control characters, lone surrogates and marks that turn the writing; letters of all scripts stay."""
    assert words.visible("a\x1b[31m\u202egnp.exe\ud800") == "a\\u001b[31m\\u202egnp.exe\\ud800"
    assert words.visible("naïve 港 πλοίο\nline\ttab") == "naïve 港 πλοίο\nline\ttab"


def test_modes_are_shown_as_by_ls() -> None:
    """With the bits that matter for safety."""
    assert words.format_mode(0o755) == "rwxr-xr-x"
    assert words.format_mode(0o4755) == "rwsr-xr-x" and words.format_mode(0o1777) == "rwxrwxrwt"
    assert words.format_mode(0o2644) == "rw-r-Sr--"


def test_crates_have_letters_and_colours() -> None:
    """Always the same for a name."""
    assert [words.mark_letters(n) for n in ("a/web-server", "busybox", "x/y", "a/b_c.d")] == [
        "WS",
        "BU",
        "Y",
        "BC",
    ]
    assert words.mark_colour("a/b") == words.mark_colour("a/b") < 6


def test_urls_of_pages() -> None:
    """Of a tag with a colon, of a digest with an at sign."""
    assert words.repository_url("a/b") == "/r/a/b"
    assert words.repository_url("a/b", "1.0", "files") == "/r/a/b:1.0/-/files"
    assert words.repository_url("a/b", "sha256:ab") == "/r/a/b@sha256:ab"


@given(st.text())
def test_a_login_leads_only_here(text: str) -> None:
    """Whatever stands in ``next``: a path of this host."""
    found = safe_next(text)
    assert found[0] == "/" and not re.match(r"/[/\\]", found) and "\\" not in found and found.isprintable()


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(), "Of all tags: keep every one."),
        (
            Rule(exclude=("v*",), pushed_days=90),
            "Of all tags, but not v*: remove those pushed more than 90 days ago.",
        ),
        (
            Rule(include=("pr-*", "x"), pulled_days=14, pushed_days=1, keep_last=2),
            "Of tags like pr-* or x: remove those pushed more than 1 days ago and not used for 14 days, "
            "except the newest 2.",
        ),
    ],
)
def test_rules_are_sentences(rule: Rule, text: str) -> None:
    """That say what they do."""
    assert describe_rule(rule) == text


def test_a_configuration_is_lines() -> None:
    """Variables and labels each by itself."""
    data = b'{"rootfs":{"type":"layers","diff_ids":[]},"config":{"Env":["A=1=2"],"Labels":{"l":"v"},"Cmd":["a b","c"]}}'
    found = flatten_config(parse_image_config(data))
    assert found == {"variable A": "1=2", "label l": "v", "cmd": '["a b","c"]'}


# Pictures


def test_a_bar_for_each_day() -> None:
    """The tallest reaches no further than the top; all are inside."""
    plot = plot_pulls([(19_000 + n, n * 3) for n in range(30)])
    assert len(plot.bars) == 30 and plot.total == sum(n * 3 for n in range(30)) and plot.unit == "day"
    assert all(
        b.x >= 0 and b.x + b.width <= WIDTH and b.y >= 0 and b.y + b.height <= HEIGHT for b in plot.bars
    )
    assert plot.bars[-1].height == max(b.height for b in plot.bars) > plot.bars[1].height > 0


def test_a_year_is_weeks() -> None:
    """Of a year, a bar a week, none of them shorter than a week."""
    plot = plot_pulls([(19_000 + n, 1) for n in range(365)])
    assert len(plot.bars) == 52 and {b.count for b in plot.bars} == {7} and plot.unit == "week"


def test_nothing_was_pulled() -> None:
    """The plot is empty, and still one."""
    plot = plot_pulls([(19_000 + n, 0) for n in range(30)])
    assert plot.total == 0 and not any(b.height for b in plot.bars) and plot.ticks[-1][1] == 2
    assert plot_pulls([]).bars == ()


@given(st.integers(0, 10**12))
def test_the_top_of_a_plot_reads_well(most: int) -> None:
    """Even, not below what there is, and not far above."""
    top = nice_top(most)
    assert top % 2 == 0 and most <= top <= max(2, most * 2.5)


@given(st.lists(st.integers(0, 10**11), max_size=127))
def test_crates_stand_side_by_side(sizes: list[int]) -> None:
    """All of them can be seen, in order, none on another, and together as wide as the quay."""
    layers = [
        Layer(number=n, digest=digest_bytes(b"x"), media_type="", size=size)
        for n, size in enumerate(sizes, 1)
    ]
    crates = place_crates(layers)
    assert len(crates) == len(sizes)
    assert all(crate.width > 2 for crate in crates)
    for one, other in itertools.pairwise(crates):
        assert abs(one.x + one.width - other.x) < 0.05
    if crates:
        assert crates[0].x == 0 and abs(crates[-1].x + crates[-1].width - STRIP) < 0.1


# README


class Found(HTMLParser):
    """Elements and attributes of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name == "href"]


ALLOWED = {
    *(
        "a",
        "blockquote",
        "br",
        "code",
        "em",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "li",
        "ol",
        "p",
        "pre",
        "s",
        "strong",
    ),
    *("table", "tbody", "td", "th", "thead", "tr", "ul"),
}


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![x](https://evil.example/x.png)",
        "![x](javascript:alert(1))",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](java\tscript:alert(1))",
        "[x](&#106;avascript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](vbscript:x)",
        "[x](file:///etc/passwd)",
        "[x](//evil.example/)",
        "[x](/logout)",
        "[x](https:evil)",
        '<https://ok.example/"onmouseover=alert(1)>',
        "[![badge](https://evil.example/b.svg)](https://ok.example/)",
        '[x](https://ok.example/ "\'onclick=alert(1) \\"")',
        "```html\n<script>alert(1)</script>\n```",
        '```"onclick=alert(1)\nx\n```',
        "| a |\n|:-:|\n| <b>x</b> |",
        "# <iframe src=x>",
        "<!-- --><style>*{}</style>",
        "a\n\n<div style=x>\n\nb",
        "[x][y]\n\n[y]: javascript:alert(1)",
    ],
)
def test_a_readme_brings_nothing_dangerous(text: str) -> None:
    """No element, attribute or address but the harmless ones."""
    found = Found(render_readme(text))
    assert found.tags <= ALLOWED, found.tags
    assert found.attributes <= {"href", "rel", "title", "class", "start", "tabindex"}, found.attributes
    assert all(re.match(r"(https?://|mailto:)", link) for link in found.links), found.links


@given(st.text(alphabet=st.sampled_from("<>\"'`[]()!&;:#*_|-\n \\/=javscript:htp.on"), max_size=120))
def test_no_readme_brings_anything_dangerous(text: str) -> None:
    """Whatever somebody writes."""
    found = Found(render_readme(text))
    assert found.tags <= ALLOWED
    assert found.attributes <= {"href", "rel", "title", "class", "start", "tabindex"}
    assert all(re.match(r"(https?://|mailto:)", link, re.IGNORECASE) for link in found.links), found.links


def test_a_readme_is_markdown() -> None:
    """Headings go below the page's own; links say nothing of where one came from; pictures become links."""
    text = render_readme(
        "# One\n\n**b** ~~s~~ [l](https://e.example/) ![p](https://e.example/p.png)\n\n1. x\n\n|a|\n|-|\n|1|"
    )
    assert "<h3>One</h3>" in text and "<strong>b</strong>" in text and "<s>s</s>" in text
    rel = 'rel="nofollow noopener noreferrer"'
    assert f'<a href="https://e.example/" {rel}>l</a>' in text
    assert f'<a href="https://e.example/p.png" {rel}>p</a>' in text
    assert "<table>" in text and "<ol>" in text


def test_a_picture_in_a_link_is_its_text() -> None:
    """A link in a link would be none."""
    text = render_readme("[![badge](https://b.example/b.svg)](https://e.example/)")
    assert text.count("<a ") == 1 and ">badge</a>" in text


# Colours

PAIRS = [
    *(
        (ink, ground, 4.5)
        for ink in ("ink", "quiet", "water", "water-deep", "rust")
        for ground in ("sea", "deck")
    ),
    *((ink, "code", 4.5) for ink in ("ink", "quiet", "water", "rust", "good")),
    *((ink, "wash", 4.5) for ink in ("ink", "water-deep", "water")),
    ("on-water", "water", 4.5),
    ("on-water", "water-deep", 4.5),
    ("on-rust", "rust", 4.5),
    ("good", "deck", 4.5),
    ("good", "sea", 4.5),
    ("ink", "sky", 4.5),
    ("quiet", "sky", 4.5),
    *(("on-crate", f"c{n}", 4.5) for n in range(6)),
    *(("edge", ground, 3.0) for ground in ("sea", "deck")),
    *(("lamp", ground, 3.0) for ground in ("sea", "deck", "code", "wash")),
    ("water", "line", 3.0),
]
"""Text and its ground (WCAG 2.2, 1.4.3), edges of fields and the ring of the focus (1.4.11)."""


def colours() -> dict[str, tuple[str, str]]:
    """The style sheet's named colours: by day and by night."""
    text = (FOLDER / "hub.css").read_text()
    return {
        name: (day, night)
        for name, day, night in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", text)
    }


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("night", [0, 1], ids=["day", "night"])
@pytest.mark.parametrize(("ink", "ground", "least"), PAIRS)
def test_contrast(ink: str, ground: str, least: float, night: int) -> None:
    """Of every pair that stands on each other."""
    named = colours()
    high, low = sorted((luminance(named[ink][night]), luminance(named[ground][night])), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= least


def test_every_colour_has_a_name() -> None:
    """Rules use names only: else the test above would not see them."""
    text = (FOLDER / "hub.css").read_text()
    rules = text[text.index("}") :]
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|rgb\(|hsl\(", rules) == []
