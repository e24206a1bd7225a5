"""Retention: which tags go is a pure question, and carrying it out loses nothing else."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.errors import Invalid
from cais.registry.collect import Collector
from cais.registry.retention import (
    DAY,
    Removed,
    Retention,
    Rule,
    Tag,
    apply,
    format_retention,
    parse_retention,
    plan,
)
from harness.serving import Served, serving
from harness.wire import MANIFEST, Repository, Wire, format_index

NOW = 1_000 * DAY
PATTERNS = st.sampled_from(["*", "v*", "pr-?", "*1", "[a-m]*", "latest"])
NAMES = st.sampled_from(["latest", "v1", "v2", "pr-1", "pr-2", "main", "dev", "old1", "x"])
RULES = st.builds(
    Rule,
    include=st.lists(PATTERNS, min_size=1, max_size=2).map(tuple),
    exclude=st.lists(PATTERNS, max_size=2).map(tuple),
    keep_last=st.integers(0, 3),
    pushed_days=st.sampled_from([0, 1, 7, 0.5]),
    pulled_days=st.sampled_from([0, 1, 30]),
)
RETENTIONS = st.builds(Retention, st.lists(RULES, max_size=3).map(tuple))
TAGS = st.lists(
    st.builds(
        Tag,
        name=NAMES,
        digest=st.sampled_from(["a", "b"]),
        pushed_ns=st.integers(980, 1000).map(lambda day: day * DAY),
        pulled_ns=st.one_of(st.just(0), st.integers(990, 1000).map(lambda day: day * DAY)),
        is_immutable=st.booleans(),
    ),
    unique_by=lambda tag: tag.name,
)


@given(TAGS, RETENTIONS)
def test_what_must_stay_stays(tags: list[Tag], retention: Retention) -> None:
    """Immutable tags, those that no rule selects, and the newest ones of each rule."""
    gone = plan(tags, retention, NOW)
    assert len(set(gone)) == len(gone) and set(gone) <= set(tags)
    for tag in gone:
        rule = next(rule for rule in retention.rules if rule.selects(tag.name))
        same = [
            other
            for other in tags
            if not other.is_immutable
            and rule is next((each for each in retention.rules if each.selects(other.name)), None)
        ]
        newer = [other for other in same if (other.pushed_ns, other.name) > (tag.pushed_ns, tag.name)]
        assert not tag.is_immutable and rule.removes
        assert len(newer) >= rule.keep_last
        assert NOW - tag.pushed_ns >= max(rule.pushed_days, rule.pulled_days) * DAY
        assert not tag.pulled_ns or NOW - tag.pulled_ns >= rule.pulled_days * DAY


@given(TAGS, RETENTIONS)
def test_what_must_go_goes(tags: list[Tag], retention: Retention) -> None:
    """Of what is left after a plan a second one removes nothing; and nothing that went depends on the order."""
    gone = plan(tags, retention, NOW)
    assert plan([tag for tag in tags if tag not in gone], retention, NOW) == []
    assert plan(tags[::-1], retention, NOW) == gone


@given(TAGS, RETENTIONS, st.integers(0, 50))
def test_time_only_adds(tags: list[Tag], retention: Retention, days: int) -> None:
    """What goes today would go on every later day."""
    assert set(plan(tags, retention, NOW)) <= set(plan(tags, retention, NOW + days * DAY))


@given(RETENTIONS)
def test_rules_survive_being_stored(retention: Retention) -> None:
    """What is written is what is read; and an empty list is not the absence of rules."""
    text = format_retention(retention)
    assert parse_retention(text) == retention and text != "{}"


def tag(name: str, pushed: float, pulled: float = 0) -> Tag:
    """A tag that was pushed and pulled so many days ago."""
    return Tag(name, "sha256:x", int(NOW - pushed * DAY), int(NOW - pulled * DAY) if pulled else 0)


@pytest.mark.parametrize(
    ("rule", "gone"),
    [
        ({"keep_last": 2}, ["d", "c", "b"]),
        ({"keep_last": 2, "exclude": ["b", "c"]}, ["d"]),
        ({"pushed_days": 10}, ["d", "c"]),
        ({"pulled_days": 5}, ["c", "b"]),
        ({"pulled_days": 5, "pushed_days": 10}, ["c"]),
        ({"pulled_days": 5, "include": ["b", "e"]}, ["b"]),
        ({"keep_last": 4, "pushed_days": 10}, ["d"]),
        ({"pushed_days": 20}, ["d"]),
        ({"pushed_days": 20.001}, []),
        ({}, []),
    ],
)
def test_rules_in_examples(rule: dict[str, object], gone: list[str]) -> None:
    """Age by push, by pull, by number, and together; at the age itself a tag is old."""
    tags = [tag("a", 1), tag("b", 7), tag("c", 12, 6), tag("d", 20, 1), tag("e", 0)]
    found = plan(tags, parse_retention(json.dumps({"rules": [rule]})), NOW)
    assert [each.name for each in found] == gone


def test_the_first_rule_that_selects_decides() -> None:
    """One that removes nothing protects, and what it selects does not count for the others."""
    rules = Retention((Rule(include=("v*",)), Rule(keep_last=1)))
    assert [each.name for each in plan([tag("v1", 9), tag("a", 5), tag("b", 4)], rules, NOW)] == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"rule": []}',
        '{"rules": [{"keep": 1}]}',
        '{"rules": [{"keep_last": -1}]}',
        '{"rules": [{"keep_last": "1"}]}',
        '{"rules": [{"pushed_days": -0.1}]}',
        '{"rules": [{"include": "v*"}]}',
        '{"rules": [{"include": [""]}]}',
        json.dumps({"rules": [{"include": ["x" * 201]}]}),
        json.dumps({"rules": [{"exclude": ["x"] * 51}]}),
        json.dumps({"rules": [{}] * 51}),
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    """Before it is stored: a misspelt rule must not be one that keeps or removes everything."""
    with pytest.raises(Invalid, match="invalid retention"):
        parse_retention(text)


# Carrying it out


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A registry."""
    with serving(tmp_path) as served:
        yield served


@pytest.fixture
def repository(served: Served) -> Iterator[Repository]:
    """In the namespace ``team``."""
    with closing(Wire(served.port)) as wire:
        yield Repository(wire, "team/app")


def set_rules(served: Served, table: str, name: str, text: str) -> None:
    """Store a repository's or a namespace's rules."""
    if table == "namespaces":
        statement = "INSERT INTO namespaces (retention, name, created_ns) VALUES (?, ?, 0)"
    else:
        statement = "UPDATE repositories SET retention = ? WHERE name = ?"
    served.run(served.database.write(lambda db: db.execute(statement, (text, name))))


def run(served: Served, *, days: float = 0, dry_run: bool = False) -> list[Removed]:
    """Apply the rules in so many days."""
    now = time.time_ns() + int(days * DAY)
    return served.run(apply(served.registry, served.database, now, dry_run=dry_run))


def test_tags_go_with_what_only_they_had(served: Served, repository: Repository) -> None:
    """The tag, the manifest without another name, and after the collector its layers; what shares a manifest or a
    layer with it stays. The audit log says who it was."""
    first = repository.push_image("old", [b"one", b"shared"])
    second = repository.push_image("older", [b"two", b"shared"])
    repository.push_manifest(repository.images[second], "new")
    set_rules(served, "repositories", "team/app", '{"rules":[{"exclude":["new"],"pushed_days":3}]}')
    assert run(served, days=2) == []
    would = run(served, days=4, dry_run=True)
    assert len(repository.ask("GET", "tags/list").json["tags"]) == 3
    assert (
        run(served, days=4)
        == would
        == [
            Removed("team/app", "old", first),
            Removed("team/app", "older", second),
        ]
    )
    assert repository.ask("GET", "tags/list").json["tags"] == ["new"]
    assert repository.ask("GET", f"manifests/{first}").brief == (404, "MANIFEST_UNKNOWN")
    assert repository.ask("GET", f"manifests/{second}").status == 200
    collector = Collector(served.registry, 0.0, 3600.0)
    for _ in range(3):
        served.run(collector.collect())
    left = [len(path.read_bytes()) for path in (served.root / "content" / "blobs" / "sha256").iterdir()]
    assert sorted(left)[:3] == [2, 3, 6] and len(left) == 4  # {}, two, shared, and the manifest
    events = served.database.read(
        "SELECT action, tag, target FROM events WHERE account = 'retention' ORDER BY id"
    )
    assert events == [("untag", "old", first), ("untag", "older", second), ("delete", "", first)]


def test_an_index_goes_with_its_manifests(served: Served, repository: Repository) -> None:
    """But for those that have a tag or another index."""
    alone, tagged, shared = (repository.push_image(tag, [tag.encode()]) for tag in ("", "keep-me", "s"))
    images = repository.images
    repository.ask("DELETE", "manifests/s")
    index = "application/vnd.oci.image.index.v1+json"
    for name, parts in (("multi", (alone, tagged, shared)), ("keep-multi", (shared,))):
        data = format_index([images[digest] for digest in parts])
        assert repository.ask("PUT", f"manifests/{name}", data, {"Content-Type": index}).status == 201
    set_rules(served, "repositories", "team/app", '{"rules":[{"exclude":["keep-*"],"pushed_days":1}]}')
    assert [each.tag for each in run(served, days=2)] == ["multi"]
    found = [repository.ask("GET", f"manifests/{digest}").status for digest in (alone, tagged, shared)]
    assert found == [404, 200, 200]


def test_a_repositorys_own_rules_win(served: Served, repository: Repository) -> None:
    """Over its namespace's, and an empty list keeps all; a repository without rules has its namespace's."""
    for name in ("app", "free", "plain"):
        Repository(repository.wire, f"team/{name}").push_image("1", [name.encode()])
    Repository(repository.wire, "others/app").push_image("1", [b"x"])
    set_rules(served, "namespaces", "team", '{"rules":[{"pushed_days":1}]}')
    set_rules(served, "repositories", "team/app", '{"rules":[{"pushed_days":10}]}')
    set_rules(served, "repositories", "team/free", format_retention(Retention()))
    assert [each.repository for each in run(served, days=2)] == ["team/plain"]
    assert [each.repository for each in run(served, days=11)] == ["team/app"]


def test_immutable_tags_stay(served: Served, repository: Repository) -> None:
    """By the repository's patterns and by the namespace's."""
    for name in ("v1", "w1", "x1"):
        repository.push_image(name, [name.encode()])
    set_rules(served, "namespaces", "team", '{"rules":[{"keep_last":0,"pushed_days":1}]}')
    served.run(
        served.database.write(
            lambda db: (
                db.execute("UPDATE repositories SET immutable = '[\"v*\"]'"),
                db.execute("UPDATE namespaces SET immutable = '[\"w*\"]'"),
            )
        )
    )
    assert [each.tag for each in run(served, days=2)] == ["x1"]


def test_a_pull_counts_at_once(served: Served, repository: Repository) -> None:
    """Also one whose count is not written down yet, and memory forgets what has gone."""
    repository.push_image("a", [b"a"])
    repository.push_image("b", [b"b"])
    served.run(served.database.write(lambda db: db.execute("UPDATE tags SET pushed_ns = 1")))
    assert repository.ask("GET", "manifests/a").status == 200
    assert repository.ask("HEAD", "manifests/b").status == 200
    set_rules(served, "repositories", "team/app", '{"rules":[{"pulled_days":1}]}')
    assert [each.tag for each in run(served)] == ["b"]
    assert repository.ask("GET", "manifests/b", headers={"Accept": MANIFEST}).status == 404
