"""The pages name only what is there: links, files, commands, rooms, scripts."""

import ast
import re
from pathlib import Path

import pytest

from cais.cli.commands import GROUPS, SHORT, VERBS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
# `src/…`, `tests/…`, `runtime/client.py`; a lone `x.py` is a file of some room.
PATH = re.compile(r"\.?[\w-]+(?:/[\w.-]+)+|[\w-]+\.py")
COMMAND = re.compile(r"(?:^|[\s(;|&/\"])cais((?: [a-z-]+\b(?![:./=]))+)", re.MULTILINE)
FOLDERS = {"src", "tests", "scripts", "docs", "bench", ".ci"}
ROOMS = {
    path.name for path in (ROOT / "src" / "cais").iterdir() if path.is_dir() and path.name != "__pycache__"
}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code(page: Path) -> list[str]:
    """The spans and blocks of code of a page."""
    return [block or span for block, span in CODE.findall(page.read_text())]


@each_page
def test_links_lead_to_files(page: Path) -> None:
    """Every relative link of a page has a target."""
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target


@each_page
def test_files_named_are_there(page: Path) -> None:
    """Every path into the project that a page names in code exists, from the top or from the package."""
    for name in filter(PATH.fullmatch, code(page)):
        if "/" not in name:
            assert list(ROOT.glob(f"src/cais/**/{name}")), name
        elif name.partition("/")[0] in FOLDERS | ROOMS:
            assert (ROOT / name).exists() or (ROOT / "src" / "cais" / name).exists(), name


@each_page
def test_scripts_named_can_be_run(page: Path) -> None:
    """Every script of a page, blocks included, is an executable file."""
    for name in re.findall(r"\bscripts/(\w+)", page.read_text()):
        assert (ROOT / "scripts" / name).stat().st_mode & 0o100, name


@each_page
def test_commands_named_are_known(page: Path) -> None:
    """Every `cais VERB` of a page is in the command table."""
    for words in (found.split() for text in code(page) for found in COMMAND.findall(text)):
        if words[0].startswith("-"):
            continue
        name = " ".join(words[:2]) if words[0] in GROUPS else words[0]
        assert name in VERBS or name in SHORT, f"cais {name}"


def test_the_readme_names_every_page() -> None:
    """No page is out of reach of the README."""
    linked = LINK.findall((ROOT / "README.md").read_text())
    assert {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")} <= set(linked)


def test_the_room_table_is_the_tested_one() -> None:
    """The rows of the architecture page are those that test_layering.py holds; planned rooms are in italics."""
    rows = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        if found := re.match(r"\| (\d) \| ([^|]+) \|", line):
            rows[int(found[1])] = found[2]
    source = ast.parse((ROOT / "tests" / "test_layering.py").read_text())
    (value,) = (
        node.value for node in source.body if isinstance(node, ast.Assign) and _is_named(node, "ROWS")
    )
    tested = ast.literal_eval(value)
    assert [set(re.findall(r"`(\w+)`", rows[number])) for number in sorted(rows, reverse=True)] == tested
    for name in set().union(*tested):
        planned = any(f"*`{name}`*" in row for row in rows.values())
        package = ROOT / "src" / "cais" / name
        assert planned != (package.is_dir() or package.with_suffix(".py").exists()), name


def _is_named(node: ast.Assign, name: str) -> bool:
    target = node.targets[0]
    return isinstance(target, ast.Name) and target.id == name
