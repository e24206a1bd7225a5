"""Debian's Chromium, driven by Playwright: every request to another host, every error of a script or of the content
policy, and everything that keeps people from using a page fails the test.

    with chromium() as browser, watched(browser, hub.url) as window:
        window.goto("/")
        window.check_accessible()
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = "/usr/bin/chromium"
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
MAX_PICTURE = 150_000
"""Bytes of a picture in the pages of docs/."""
DESK, PHONE = (1100, 760), (360, 740)
_RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


def why_not() -> str:
    """Why there is no browser here; empty: there is one."""
    if not shutil.which(CHROMIUM):
        return "needs /usr/bin/chromium: install chromium"
    if find_spec("playwright") is None or find_spec("axe_playwright_python") is None:
        return "needs playwright and axe-playwright-python: run scripts/setup --dev"
    return ""


@contextmanager
def chromium(*, netns: int = 0, folder: Path | None = None) -> Iterator[Any]:
    """A started browser. ``netns``: a process in whose network namespace it runs, by a program made in ``folder``."""
    if reason := why_not():
        pytest.skip(reason)
    api = pytest.importorskip("playwright.sync_api")
    program = CHROMIUM
    if netns:
        assert folder is not None
        wrapper = folder / "chromium"
        wrapper.write_text(f'#!/bin/sh\nexec nsenter --net=/proc/{netns}/ns/net {CHROMIUM} "$@"\n')
        wrapper.chmod(0o755)
        program = str(wrapper)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Window:
    """A page in a context of its own, with what went wrong in it."""

    page: Any
    url: str
    problems: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    """Parts of messages that a test expects, such as that of a 404."""

    def goto(self, path: str, status: int = 200) -> None:
        """Open a page of the hub. Fails the test for another status."""
        reply = self.page.goto(self.url + path)
        assert reply is not None and reply.status == status, (path, reply and reply.status)

    def path(self) -> str:
        """Where it is now, from the host on."""
        parts = urlsplit(self.page.url)
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def text(self) -> str:
        """What one reads in the main part."""
        return " ".join(self.page.locator("main").inner_text().split())

    def press(self, *keys: str) -> None:
        """One after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def focused(self) -> str:
        """The label, or else the text or name, of the element that has the focus."""
        script = "e => (e.getAttribute('aria-label') || e.innerText || e.name || e.tagName).trim()"
        found: str = self.page.evaluate(f"({script})(document.activeElement)")
        return " ".join(found.split())

    def check_fits(self) -> None:
        """Nothing is wider than the window."""
        wide = self.page.evaluate(
            "() => [document.documentElement.scrollWidth, window.innerWidth, [...document.querySelectorAll('body *')]"
            ".filter(e => e.getBoundingClientRect().right > window.innerWidth + 1 && !e.closest('.scroll, pre, svg'))"
            ".map(e => e.outerHTML.slice(0, 120))]"
        )
        assert wide[0] <= wide[1] and not wide[2], (self.path(), wide)

    def check_accessible(self, *, contrast_only: bool = False) -> None:
        """By axe: WCAG 2.2 A and AA, and good practice. What it finds fails the test at the end."""
        axe = Path(_axe_folder()) / "axe.min.js"
        self.page.evaluate(axe.read_text() + ";0")
        rules = {"type": "tag", "values": list(_RULES)}
        if contrast_only:
            rules = {"type": "rule", "values": ["color-contrast"]}
        found = self.page.evaluate("rules => axe.run(document, {runOnly: rules})", rules)
        for each in found["violations"]:
            nodes = [node["html"][:200] for node in each["nodes"]]
            self.problems.append(f"axe: {self.path()}: {each['help']} ({each['id']}): {nodes}")

    def picture(self, name: str, *, whole: bool = False) -> None:
        """For docs/: written where CAIS_PICTURES is set."""
        if os.environ.get("CAIS_PICTURES"):
            target = PICTURES / f"hub-{name}.png"
            self.page.screenshot(path=target, full_page=whole, animations="disabled")
            assert target.stat().st_size < MAX_PICTURE, f"{target} has {target.stat().st_size} bytes"


@contextmanager
def watched(browser: Any, url: str, *, size: tuple[int, int] = DESK, **how: Any) -> Iterator[Window]:
    """A window on the hub at ``url``. ``how``: Playwright's settings of a context, such as ``color_scheme``."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **how)
    try:
        page = context.new_page()
        page.set_default_timeout(15_000)
        window = Window(page, url)
        ours = urlsplit(url).netloc

        def route(route: Any) -> None:
            if urlsplit(route.request.url).netloc == ours:
                route.continue_()
            else:
                window.problems.append(f"asks another host: {route.request.url}")
                route.abort()

        context.route("**/*", route)
        page.on("pageerror", lambda error: window.problems.append(f"script: {error}"))
        page.on(
            "dialog", lambda dialog: (window.problems.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        page.on(
            "console",
            lambda said: (
                said.type in ("error", "warning") and window.problems.append(f"console: {said.text}")
            ),
        )
        yield window
    finally:
        context.close()
    left = [text for text in window.problems if not any(part in text for part in window.allowed)]
    assert not left, left


def _axe_folder() -> str:
    spec = find_spec("axe_playwright_python")
    assert spec and spec.submodule_search_locations
    return spec.submodule_search_locations[0]
