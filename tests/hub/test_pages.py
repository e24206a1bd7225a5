"""hub/pages over plain HTTP: who sees what, and that nothing foreign becomes a page's own."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.apihub import PASSWORD, ApiHub, serving_hub
from harness.quay import logged_in, push, stock
from harness.visitor import Outline, Visitor

TIMETABLE = "/r/harbour/timetable"
PAGES = (
    "/",
    "/search?q=harbour",
    "/search?q=nothing-has-this",
    TIMETABLE,
    f"{TIMETABLE}?days=365&order=name&tag=1",
    f"{TIMETABLE}:latest",
    f"{TIMETABLE}:3.0",
    f"{TIMETABLE}:3.0/-/files",
    f"{TIMETABLE}:3.0/-/files?layer=4&path=usr/bin",
    f"{TIMETABLE}/-/compare?tag=1.0&tag=3.0",
    f"{TIMETABLE}/-/settings",
    f"{TIMETABLE}/-/settings?preview=1",
    "/n/harbour",
    "/n/harbour/-/members",
    "/n/harbour/-/settings",
    "/n/harbour/-/webhooks",
    "/n/harbour/-/audit",
    "/n/library",
    "/account",
    "/account/tokens",
    "/system",
    "/system/accounts",
    "/audit",
    "/audit?account=root&action=push",
)
"""What an administrator can look at."""
PUBLIC = tuple(p for p in PAGES if not re.search(r"settings|members|webhooks|audit|account|system", p))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """One with people and images, for tests that spoil nothing for each other."""
    with serving_hub(Path(tmp_path_factory.mktemp("hub")) / "root", signup=True, grace=0.0) as served:
        stock(served)
        yield served


@pytest.fixture
def stranger(hub: ApiHub) -> Visitor:
    """Somebody who has not logged in."""
    return Visitor(hub.port)


@pytest.fixture
def root(hub: ApiHub) -> Visitor:
    """The hub's administrator."""
    return logged_in(hub, "root")


@pytest.fixture
def owner(hub: ApiHub) -> Visitor:
    """Who administers the namespace ``harbour``, and nothing else."""
    return logged_in(hub, "harbour")


# Every page


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_well_formed_and_its_own(root: Visitor, path: str) -> None:
    """All is closed, ids are unique, one heading first and no level left out, nothing inline, nothing from outside."""
    page = root.get(path)
    assert page.status == 200, page.words
    outline = Outline(page.text)
    assert outline.problems == [] and outline.inline == [] and outline.outside == []
    assert len(set(outline.ids)) == len(outline.ids), outline.ids
    assert outline.headings[0] == 1 and outline.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(outline.headings)), outline.headings
    assert {"main", "header", "nav", "footer"} <= set(outline.tags)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_keeps_browsers_on_the_safe_side(root: Visitor, path: str) -> None:
    """Headers: nothing runs or loads but the hub's own, no frames, nothing is kept of what one saw logged in."""
    headers = root.get(path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


def test_links_lead_to_pages(root: Visitor) -> None:
    """All links of all pages that stay here, followed once."""
    found = {
        link.partition("#")[0]
        for path in PAGES
        for link in Outline(root.get(path).text).links
        if link.startswith("/")
    }
    assert len(found) > 60
    assert {link: root.get(link).status for link in found if root.get(link).status != 200} == {}


@pytest.mark.parametrize("path", PUBLIC)
def test_everybody_sees_what_is_public(stranger: Visitor, path: str) -> None:
    """Without logging in, and without a form to change anything."""
    page = stranger.get(path)
    assert page.status == 200 and 'method="post"' not in page.text
    assert page.set_cookies == ()


@pytest.mark.parametrize("path", sorted(set(PAGES) - set(PUBLIC)))
def test_a_stranger_is_asked_to_log_in(stranger: Visitor, path: str) -> None:
    """And comes back to where they wanted to go."""
    page = stranger.get(path)
    assert page.status == 303 and page.location.startswith("/login?next=%2F"), page.words


@pytest.mark.parametrize(
    "path", ["/system", "/audit", "/system/accounts", "/n/nautilus/-/members", "/n/alder/-/audit"]
)
def test_who_may_not_is_told(owner: Visitor, path: str) -> None:
    """Somebody who has logged in and has no right to it."""
    page = owner.get(path)
    assert page.status == 403 and "You may not do that" in page.words


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/r/", 404),
        ("/r/none/none", 404),
        (f"{TIMETABLE}:none", 404),
        (f"{TIMETABLE}:not a tag", 404),
        (f"{TIMETABLE}@sha256:{'0' * 64}", 404),
        (f"{TIMETABLE}@sha256:zz", 400),
        (f"{TIMETABLE}/-/nothing", 404),
        (f"{TIMETABLE}:3.0/-/files?path=none", 404),
        (f"{TIMETABLE}:3.0/-/files?layer=99", 404),
        (f"{TIMETABLE}:3.0/-/attachment?blob=x", 404),
        (f"{TIMETABLE}/-/compare?tag=1.0", 400),
        (f"{TIMETABLE}/-/compare?tag=1.0&tag=2.0&tag=3.0", 400),
        (f"{TIMETABLE}/-/delete", 405),
        ("/n/none", 404),
        ("/static/../hub.css", 404),
        ("/%00", 404),
        ("/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/r/%ff%fe", 404),
        (f"/?{'a=1&' * 600}", 400),
    ],
)
def test_what_is_not_there(stranger: Visitor, path: str, status: int) -> None:
    """A page says so."""
    page = stranger.get(path.replace(" ", "%20"))
    assert page.status == status, page.words


def test_paths_that_are_pasted_lead_to_pages(stranger: Visitor) -> None:
    """As they stand in commands."""
    for path, target in (
        ("/harbour/timetable:3.0", f"{TIMETABLE}:3.0"),
        ("/harbour/timetable", TIMETABLE),
        ("/busybox", "/r/busybox"),
        ("/harbour", "/n/harbour"),
    ):
        assert (stranger.get(path).status, stranger.get(path).location) == (303, target)


def test_static_files_may_be_kept_for_a_year(stranger: Visitor) -> None:
    """Their names change with what is in them; packed for who can unpack."""
    page = stranger.get("/")
    for url in re.findall(r'"(/static/[^"]+)"', page.text):
        found = stranger.get(url)
        assert found.status == 200 and "immutable" in found.headers["cache-control"]
        assert re.search(r"\.[0-9a-f]{12}\.", url)
    css = next(u for u in re.findall(r'"(/static/[^"]+)"', page.text) if u.endswith(".css"))
    packed = stranger.send("GET", css, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < 8_000


# What pages say


def test_a_repository_page_says_what_there_is(stranger: Visitor) -> None:
    """Tags with platforms and sizes, commands with this host's name, the README, pulls by day."""
    page = stranger.get(TIMETABLE)
    host = f"127.0.0.1:{stranger.port}"
    assert f"docker pull {host}/harbour/timetable:latest" in page.words
    for text in ("linux/amd64", "linux/arm64", "1.0", "2.0", "3.0", "Which ships come"):
        assert text in page.words
    assert page.text.count('class="bar"') >= 29 and "in 30 days" in page.words
    assert "<b>when</b>" not in page.text and "<strong>when</strong>" in page.text
    assert "Settings" not in page.words


def test_a_tag_page_says_what_made_each_layer(stranger: Visitor) -> None:
    """Instructions as the Dockerfile had them, a crate each, and what is attached."""
    page = stranger.get(f"{TIMETABLE}:3.0")
    assert (
        "RUN apt-get update && apt-get install" in page.words
        and "# buildkit" not in page.words.split("Manifest")[0]
    )
    assert page.text.count('<g class="crate') == 4
    for text in (
        "Bill of materials SPDX",
        "libssl3",
        "Signature cosign",
        "this image",
        "VERSION 3.0",
        "nobody",
    ):
        assert text in page.words, text


def test_a_platform_of_an_index_can_be_chosen(stranger: Visitor) -> None:
    """The links of its page keep it."""
    page = stranger.get(f"{TIMETABLE}:latest?platform=linux/arm64")
    assert "Platform linux/arm64" in page.words and "platform=linux/arm64" in page.text


def test_files_can_be_browsed(stranger: Visitor) -> None:
    """Of the whole image, where what was removed is gone, and of a layer, where it is what the layer does."""
    whole = stranger.get(f"{TIMETABLE}:3.0/-/files?path=usr/bin")
    assert "curl" not in whole.words
    layer = stranger.get(f"{TIMETABLE}:3.0/-/files?layer=4&path=usr/bin")
    assert "curl removed" in layer.words
    assert "curl" in stranger.get(f"{TIMETABLE}:2.0/-/files?path=usr/bin").words
    assert "→ sh" in stranger.get(f"{TIMETABLE}:2.0/-/files?path=bin").words


def test_two_tags_can_be_compared(stranger: Visitor) -> None:
    """Files and settings, each way."""
    page = stranger.get(f"{TIMETABLE}/-/compare?from=1.0&to=3.0")
    assert "/usr/bin/curl removed" in page.words and "/srv/timetable/zones.json added" in page.words
    assert "/srv/timetable/serve changed" in page.words and "variable VERSION 1.0 3.0" in page.words
    back = stranger.get(f"{TIMETABLE}/-/compare?from=3.0&to=1.0")
    assert "/usr/bin/curl added" in back.words
    assert "Files The same." in stranger.get(f"{TIMETABLE}/-/compare?from=3.0&to=3.0").words


def test_an_attachment_is_a_file_not_a_page(stranger: Visitor) -> None:
    """Whatever it says it is, the browser saves it."""
    page = stranger.get(f"{TIMETABLE}:3.0")
    link = next(link for link in Outline(page.text).links if "/-/attachment" in link)
    found = stranger.get(link)
    assert found.status == 200 and found.headers["content-type"] == "application/octet-stream"
    assert found.headers["content-disposition"].startswith("attachment;")


def test_search_finds_by_name_description_and_label(hub: ApiHub, stranger: Visitor) -> None:
    """And the part alone, for the script."""
    push(hub, "alder/labelled", config={"Labels": {"vendor": "Zephyrine"}})
    for text, name in (
        ("tide", "harbour/tide-tables"),
        ("shallow", "harbour/buoy"),
        ("zephyrine", "alder/labelled"),
    ):
        assert name in stranger.get(f"/search?q={text}").words
    part = stranger.get("/search?q=tide&partial=1")
    assert "<html" not in part.text and 'data-count="1"' in part.text and "harbour/tide-tables" in part.words


# Who sees what


def test_a_private_repository_is_not_there_for_strangers(
    hub: ApiHub, stranger: Visitor, owner: Visitor
) -> None:
    """Not its page, its tags, its files, a search, its namespace's page or a pasted path; its members see it."""
    push(hub, "harbour/secret-cargo")
    page = owner.post(
        "/r/harbour/secret-cargo/-/settings", {"visibility": "private", "description": "hidden hold"}
    )
    assert page.status == 303, page.words
    other = logged_in(hub, "nautilus")
    for path in ("", ":1", ":1/-/files", "/-/settings", "/-/compare?from=1&to=1"):
        for visitor in (stranger, other):
            assert visitor.get(f"/r/harbour/secret-cargo{path}").status == 404, path
        assert owner.get(f"/r/harbour/secret-cargo{path}").status == 200, path
    for path in ("/search?q=secret-cargo", "/search?q=hidden+hold", "/n/harbour", "/"):
        assert "harbour/secret-cargo" not in stranger.get(path).words
        assert "harbour/secret-cargo" not in other.get(path).words
    assert stranger.get("/harbour/secret-cargo").status == 404
    assert "harbour/secret-cargo" in owner.get("/search?q=secret-cargo").words
    assert "harbour/secret-cargo" in owner.get("/n/harbour").words


def test_a_private_namespace_is_not_there_for_strangers(hub: ApiHub, stranger: Visitor) -> None:
    """As long as nothing public is in it."""
    alder = logged_in(hub, "alder")
    assert alder.post("/account/namespaces", {"name": "hidden"}, on="/account").location == "/n/hidden"
    assert alder.post("/n/hidden/-/settings", {"visibility": "private"}).status == 303
    assert stranger.get("/n/hidden").status == 404 and stranger.get("/hidden").status == 404
    assert alder.get("/n/hidden").status == 200


def test_a_hub_for_members_shows_strangers_nothing(tmp_path: Path) -> None:
    """Without anonymous pulls every page wants a login."""
    with serving_hub(tmp_path / "hub", anonymous_pull=False) as served:
        stock(served)
        visitor = Visitor(served.port)
        for path in PUBLIC:
            assert visitor.get(path).location.startswith("/login?next="), path
        assert visitor.get("/login").status == 200
        visitor.log_in("alder", PASSWORD)
        assert visitor.get(TIMETABLE).status == 200


def test_without_accounts_all_may_do_all(tmp_path: Path) -> None:
    """No login; deleting through forms, which want the cookie's secret all the same."""
    with serving_hub(tmp_path / "hub", open=True, grace=0.0) as served:
        stock(served, accounts=False)
        visitor = Visitor(served.port)
        assert "Log in" not in visitor.get("/").words and visitor.get("/login").status == 404
        for path in (p for p in PAGES if not re.search("account|members|webhooks|/n/harbour/-/settings", p)):
            assert visitor.get(path).status == 200, path
        assert visitor.raw_post(f"{TIMETABLE}:1.0/-/delete", {"csrf": ""}).status == 403
        assert Visitor(served.port).raw_post(f"{TIMETABLE}:1.0/-/delete", {"csrf": "x"}).status == 403
        assert visitor.post(f"{TIMETABLE}:1.0/-/delete", on=f"{TIMETABLE}:1.0").location == TIMETABLE
        assert visitor.get(f"{TIMETABLE}:1.0").status == 404
        assert "freed" in visitor.post("/system/collect", on="/system").words


def test_an_empty_hub_says_how_to_begin(tmp_path: Path) -> None:
    """With commands."""
    with serving_hub(tmp_path / "hub", open=True) as served:
        page = Visitor(served.port).get("/")
        assert (
            "The quay is empty" in page.words
            and f"docker push 127.0.0.1:{served.port}/team/app:1" in page.words
        )
