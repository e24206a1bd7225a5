"""The hub's pages in Debian's Chromium: a day with docker, the keyboard, eyes that see little, names that do harm.

CAIS_PICTURES=1 writes the pictures of docs/hub.md.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.apihub import ApiHub, serving_hub
from harness.browser import PHONE, Window, chromium, watched
from harness.cargo import Layered, Pusher
from harness.quay import stock

pytestmark = pytest.mark.slow
TIMETABLE = "/r/harbour/timetable"
FOREIGN = "img, iframe, script:not([src]), [onerror], [onload], [href^='javascript' i], [style]"
"""What no page has, but one into which foreign text has come as HTML."""
PAGES = (
    "/",
    "/search?q=harbour",
    TIMETABLE,
    f"{TIMETABLE}:latest",
    f"{TIMETABLE}:3.0/-/files?layer=2&path=usr",
    f"{TIMETABLE}/-/compare?tag=1.0&tag=3.0",
    f"{TIMETABLE}/-/settings",
    "/n/harbour",
    "/n/harbour/-/members",
    "/n/harbour/-/settings",
    "/n/harbour/-/webhooks",
    "/n/harbour/-/audit",
    "/account",
    "/account/tokens",
    "/system",
    "/system/accounts",
    "/audit",
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """One with people and images."""
    with serving_hub(Path(tmp_path_factory.mktemp("hub")) / "root", signup=True) as served:
        stock(served)
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for all tests of this file."""
    with chromium() as found:
        yield found


@pytest.fixture
def window(browser: Any, hub: ApiHub) -> Iterator[Window]:
    """Of somebody who has not logged in."""
    with watched(browser, f"http://127.0.0.1:{hub.port}") as found:
        yield found


def log_in(hub: ApiHub, window: Window, name: str) -> None:
    """With a session that is made inside."""
    value, _ = hub.run(hub.hub.people.sessions.open(name))
    window.page.context.add_cookies([{"name": "cais_session", "value": value, "url": window.url}])


# Everybody can use it


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible(browser: Any, hub: ApiHub, scheme: str) -> None:
    """Axe finds nothing against WCAG 2.2 AA on any page, by day and by night."""
    with watched(browser, f"http://127.0.0.1:{hub.port}", color_scheme=scheme) as window:
        for path in ("/login", "/signup"):
            window.goto(path)
            window.check_accessible()
        log_in(hub, window, "root")
        for path in PAGES:
            window.goto(path)
            window.page.evaluate("() => document.querySelectorAll('details').forEach(e => e.open = true)")
            window.check_accessible(contrast_only=scheme == "dark")


def test_pages_fit_a_phone(browser: Any, hub: ApiHub) -> None:
    """At 360 pixels nothing sticks out, and axe is content with the cards that rows of tables become."""
    with watched(browser, f"http://127.0.0.1:{hub.port}", size=PHONE) as window:
        log_in(hub, window, "root")
        for path in PAGES:
            window.goto(path)
            window.check_fits()
            if window.page.locator("[data-label]").count():
                window.check_accessible()


def test_search_as_one_types(window: Window) -> None:
    """The slash leads to the field; results come while one types, are spoken, and arrows walk through them."""
    window.goto("/")
    window.press("/")
    assert window.page.locator("#q").evaluate("e => e === document.activeElement")
    window.page.keyboard.type("harb")
    window.page.get_by_role("heading", name="Found for “harb”").wait_for()
    window.page.get_by_text("4 results").wait_for(state="attached")
    window.press("ArrowDown")
    assert "harbour/timetable" in window.focused()
    window.press("ArrowDown")
    assert "harbour/timetable" not in window.focused() and "harbour/" in window.focused()
    window.press("ArrowUp", "ArrowUp")
    assert window.page.locator("#q").evaluate("e => e === document.activeElement")
    window.page.keyboard.type("our/tim")
    window.page.get_by_text("1 result", exact=True).wait_for(state="attached")
    window.press("ArrowDown", "Enter")
    window.page.wait_for_url(f"**{TIMETABLE}")


def test_clearing_the_search_brings_the_front_page_back(window: Window) -> None:
    """Popular images again."""
    window.goto("/")
    window.page.fill("#q", "zzzzz")
    window.page.get_by_text("Nothing has all of these words").wait_for()
    window.page.fill("#q", "")
    window.page.get_by_role("heading", name="Popular images").wait_for()


def test_the_keyboard_reaches_everything(window: Window) -> None:
    """The first stop skips to the content; from there links and buttons come in the order of the page."""
    window.goto(TIMETABLE)
    window.press("Tab")
    assert window.focused() == "Skip to the content"
    window.press("Enter", "Tab")
    assert window.focused() == "harbour"
    seen = []
    for _ in range(60):
        seen.append(window.focused())
        window.press("Tab")
    places = [seen.index(text) for text in ("Copy: docker pull", "Show", "latest", "Compare two")]
    assert places == sorted(places)


def test_without_scripts_everything_works(browser: Any, hub: ApiHub) -> None:
    """Search, tags, files, comparing: by links and forms; no button that would do nothing."""
    with watched(browser, f"http://127.0.0.1:{hub.port}", java_script_enabled=False) as window:
        window.goto("/")
        window.page.fill("#q", "timetable")
        window.page.get_by_role("button", name="Search").click()
        window.page.get_by_role("link", name="harbour/timetable").click()
        assert window.path() == TIMETABLE
        assert not window.page.locator("button.copy").first.is_visible()
        window.page.get_by_label("Compare 1.0").check()
        window.page.get_by_label("Compare 3.0").check()
        window.page.get_by_role("button", name="Compare two").click()
        assert "/usr/bin/curl removed" in window.text() or "/usr/bin/curl added" in window.text()


def test_colours_are_chosen_and_stay(browser: Any, hub: ApiHub) -> None:
    """Automatic, light, dark; on the next page too."""
    with watched(browser, f"http://127.0.0.1:{hub.port}", color_scheme="light") as window:
        ground = "() => getComputedStyle(document.body).backgroundColor"
        window.goto("/")
        day = window.page.evaluate(ground)
        window.page.locator("#theme").click()
        assert window.page.evaluate(ground) == day
        window.page.locator("#theme").click()
        night = window.page.evaluate(ground)
        assert night != day
        window.goto(TIMETABLE)
        assert window.page.evaluate(ground) == night
        window.page.locator("#theme").click()
        assert window.page.evaluate(ground) == day


def test_commands_are_copied(browser: Any, hub: ApiHub) -> None:
    """As they stand there; the button says that it is done."""
    with watched(browser, f"http://127.0.0.1:{hub.port}", permissions=["clipboard-read"]) as window:
        window.goto(TIMETABLE)
        button = window.page.get_by_label("Copy: docker pull", exact=True)
        button.click()
        window.page.get_by_text("Copied").wait_for()
        text = window.page.evaluate("() => navigator.clipboard.readText()")
        assert text == f"docker pull 127.0.0.1:{hub.port}/harbour/timetable:latest"


def test_nothing_foreign_runs(browser: Any, hub: ApiHub) -> None:
    """README, labels, instructions, file names, annotations and settings that try are text on every page."""
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg onload=alert(3)>{{7*7}}"
    pusher = Pusher(hub.port, ("root", hub.tokens["root"]))
    name = "alder/evil"
    how = {
        "config": {
            "Labels": {"org.opencontainers.image.description": evil, evil: evil},
            "Env": [f"A={evil}"],
            "Cmd": [evil],
            "User": evil,
            "ExposedPorts": {evil: {}},
            "WorkingDir": "javascript:alert(4)",
        },
        "empty": (f"ENV {evil}",),
        "annotations": {evil: evil},
    }
    layer = Layered(
        f"RUN /bin/sh -c {evil}", {evil.replace("/", "_"): evil, "link": f"-> {evil}", "\u202egpj.exe": ""}
    )
    image = pusher.image(name, "1", [layer], **how)
    pusher.image(name, "2", [Layered(evil, {f"{evil}2".replace("/", "_"): ""})], **{**how, "config": {}})
    pusher.attach(name, image, f'{{"packages": [{{"name": {evil!r}}}]}}'.encode(), "application/spdx+json")
    pusher.attach(
        name, image, evil.encode(), evil[:20], artifact_type="text/html", annotations={"predicateType": evil}
    )
    readme = f"# {evil}\n\n![x](https://evil.example/x.png) <iframe src=https://evil.example>\n\n[x](javascript:alert(5))"
    hub.run(_set_readme(hub, name, readme))
    url = f"/r/{name}"
    with watched(browser, f"http://127.0.0.1:{hub.port}") as window:
        log_in(hub, window, "root")
        for path in (
            url,
            f"{url}:1",
            f"{url}:1/-/files",
            f"{url}:1/-/files?layer=1",
            f"{url}/-/compare?tag=1&tag=2",
            f"{url}/-/settings",
            "/search?q=onerror",
            "/search?q=" + "%3Cimg%20src=x%20onerror=alert(1)%3E",
            "/n/alder",
            "/n/alder/-/audit",
            "/",
        ):
            window.goto(path)
            assert window.page.locator(FOREIGN).count() == 0, path
        window.goto("/")
        window.page.fill("#q", "onerror")
        window.page.get_by_role("heading", name="Found for “onerror”").wait_for()
        assert "alder/evil" in window.text()


async def _set_readme(hub: ApiHub, name: str, text: str) -> None:
    await hub.hub.database.write(
        lambda db: db.execute("UPDATE repositories SET readme = ? WHERE name = ?", (text, name))
    )


def test_pictures(browser: Any, hub: ApiHub) -> None:
    """What docs/hub.md shows is what these pages look like; and that they can be shown at all."""
    url = f"http://127.0.0.1:{hub.port}"
    with watched(browser, url, size=(980, 720), color_scheme="light") as window:
        window.goto("/")
        window.picture("front")
        window.goto(TIMETABLE)
        window.picture("repository", whole=True)
        window.goto(f"{TIMETABLE}:3.0")
        window.picture("tag")
        window.goto(f"{TIMETABLE}/-/compare?tag=1.0&tag=3.0")
        window.picture("compare")
    with watched(browser, url, size=(980, 720), color_scheme="dark") as window:
        window.goto("/")
        window.picture("front-dark")
    with watched(browser, url, size=PHONE, color_scheme="light") as window:
        window.goto(f"{TIMETABLE}:latest")
        window.picture("phone")
