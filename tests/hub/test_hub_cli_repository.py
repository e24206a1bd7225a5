"""``cais hub set``, ``retention`` and ``pulls``: one repository, how it is set up and how much it is used."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cais.cli.hubrepository import format_bar
from harness.apihub import ApiHub, populate, serving_hub
from harness.cargo import Pusher
from harness.hubcli import Program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """A hub with ``alice/web``."""
    with serving_hub(tmp_path_factory.mktemp("repository") / "hub") as served:
        populate(served, "alice", "bob")
        for tag in ("1", "2", "3"):
            served.push("alice/web", tag, annotations={"tag": tag})
        yield served


@pytest.fixture
def cais(served: ApiHub, tmp_path: Path) -> Program:
    """The program."""
    return Program(served.port, tmp_path)


def get(served: ApiHub) -> Any:
    """The repository's settings."""
    return served.as_("alice").get("/api/v1/repositories/{name}", name="alice/web")


def test_only_what_is_given_is_set(cais: Program, served: ApiHub, tmp_path: Path) -> None:
    """From flags, from a file and from standard input."""
    readme = tmp_path / "README.md"
    readme.write_text("# Wéb\n")
    words = ("--description", "A web", "--immutable", "v*", "--immutable", "1.*", "--private")
    assert cais.lines("set", *words, "--readme", str(readme), "alice/web", by="alice") == ["alice/web"]
    found = get(served)
    assert (found["description"], found["readme"], found["private"]) == ("A web", "# Wéb\n", True)
    assert found["immutable"] == ["v*", "1.*"]
    assert cais("set", "--readme", "-", "alice/web", by="alice", text="other\n").returncode == 0
    rules = {"rules": [{"include": ["pr-*"], "pulled_days": 14}]}
    words = ("--private=false", "--immutable", "", "--retention", json.dumps(rules))
    assert cais.lines("set", *words, "alice/web", by="alice") == ["alice/web"]
    found = get(served)
    assert (found["description"], found["readme"], found["private"]) == ("A web", "other\n", False)
    assert found["immutable"] == [] and found["retention"]["rules"][0]["include"] == ["pr-*"]
    assert cais.lines("set", "--retention", "", "alice/web", by="alice") == ["alice/web"]
    assert get(served)["retention"]["rules"] == []


def test_what_cannot_be_set(cais: Program, served: ApiHub, tmp_path: Path) -> None:
    """It is said, and nothing has changed."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    before = get(served)
    for words, message in (
        ((), "nothing to set: give --description"),
        (("--readme", str(tmp_path / "absent")), "absent: no such file or directory"),
        (("--readme", str(binary)), "it is not UTF-8"),
        (("--retention", "{"), "--retention is not JSON"),
        (("--description", "two\nlines"), "description"),
    ):
        done = cais("set", *words, "alice/web", by="alice")
        assert done.returncode == 1 and message in done.stderr and not done.stdout, (words, done)
    denied = cais("set", "--description", "mine", "alice/web", by="bob")
    assert denied.returncode == 1 and denied.stderr.startswith("http://127.0.0.1:")
    assert get(served) == before


def test_what_rules_would_remove(cais: Program, served: ApiHub) -> None:
    """And nothing is removed."""
    assert cais.lines("set", "--retention", '{"rules": [{"keep_last": 1}]}', "alice/web", by="alice")
    heading, *rows = cais.lines("retention", "alice/web", by="alice")
    assert heading.split() == ["TAG", "DIGEST"]
    assert sorted(row.split()[0] for row in rows) == ["1", "2"]
    assert all(row.split()[1].startswith("sha256:") for row in rows)
    told = cais.lines("retention", "--format", "json", "alice/web", by="alice")
    assert sorted(json.loads(line)["tag"] for line in told) == ["1", "2"]
    assert len(cais.lines("tags", "alice/web")) == 4
    denied = cais("retention", "alice/web", by="bob")
    assert denied.returncode == 1 and "alice/web" in denied.stderr


def test_pulls_by_day(cais: Program, served: ApiHub) -> None:
    """Plain lines in a pipe, bars on a terminal."""
    served.push("alice/pulled", "1")
    Pusher(served.port, ("root", served.tokens["root"])).pull("alice/pulled", "1", times=3)
    served.run(served.hub.registry.flush())
    lines = cais.lines("pulls", "--days", "5", "alice/pulled")
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert len(lines) == 5 and lines[-1] == f"{today} 3" and lines[0].endswith(" 0")
    assert len(cais.lines("pulls", "alice/pulled")) == 30
    told = [json.loads(line) for line in cais.lines("pulls", "--format", "json", "alice/pulled")]
    assert told[-1] == {"day": today, "count": 3}
    code, seen = cais.on_terminal("pulls", "--days", "5", "alice/pulled")
    *days, summary = seen.splitlines()
    assert (code, len(days), summary) == (0, 5, "3 pulls in 5 days, 3 in all")
    assert days[-1].endswith(f"3 {'█' * 60}") and days[0].endswith(" 0")


def test_pulls_of_nothing(cais: Program) -> None:
    """The hub's words."""
    absent = cais("pulls", "alice/absent")
    assert absent.returncode == 1 and "no such repository: alice/absent" in absent.stderr
    many = cais("pulls", "--days", "367", "alice/web")
    assert many.returncode == 1 and "<= 366" in many.stderr


@pytest.mark.parametrize(
    ("value", "most", "bar"),
    [(0, 0, ""), (0, 5, ""), (5, 5, "████"), (1, 1000, "▏"), (3, 8, "█▌"), (1, 4, "█"), (7, 32, "▉")],
)
def test_bars(value: int, most: int, bar: str) -> None:
    """As long as the value is large, to an eighth of a character."""
    assert format_bar(value, most, 4) == bar
