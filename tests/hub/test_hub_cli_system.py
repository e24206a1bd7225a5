"""``cais hub collect``, ``audit``, ``stats``, ``config``, ``scrub`` and ``damaged``: for who administers the hub."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cais.cli.hubstate import parse_age
from harness.apihub import ApiHub, populate, serving_hub
from harness.hubcli import Program
from harness.wire import sha256

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """A hub with ``root``, ``alice`` and an upstream."""
    upstream = ("other=https://me:secret@registry.example.com",)
    folder = tmp_path_factory.mktemp("system") / "hub"
    with serving_hub(folder, upstream=upstream, max_blob=5 << 30, collect_untagged=True) as served:
        populate(served, "alice")
        yield served


@pytest.fixture
def cais(served: ApiHub, tmp_path: Path) -> Program:
    """The program."""
    return Program(served.port, tmp_path)


def test_collect_and_audit(served: ApiHub, cais: Program) -> None:
    """What an administrator does now and then."""
    served.push("alice/audited", "1")
    assert "Total reclaimed space: " in cais("collect", by="root").stdout
    assert json.loads(cais("collect", "--format", "json", by="root").stdout)["strays"] == 0
    events = cais("audit", "--limit", "150", "alice", by="alice").stdout
    assert events.splitlines()[0].split() == ["WHEN", "WHO", "ACTION", "WHAT"]
    assert "push" in events and "alice/audited:1" in events
    assert len(cais("audit", "--limit", "3", by="root").stdout.splitlines()) == 4


def test_the_log_is_filtered(served: ApiHub, cais: Program) -> None:
    """By who did it and what, in the hub and in a namespace."""
    served.push("alice/logged", "1")
    template = "{{.Account}} {{.Action}}"
    assert cais("robot", "create", "--action", "pull", "alice", "noted", by="alice").returncode == 0
    by_alice = ("audit", "--account", "alice", "--format", template)
    assert "alice robot" in cais.lines(*by_alice, by="root")
    assert {line.split()[0] for line in cais.lines(*by_alice, "alice", by="alice")} == {"alice"}
    pushes = cais.lines("audit", "--action", "push", "--format", template, "alice", by="alice")
    assert pushes and set(pushes) == {"root push"}
    assert cais.lines("audit", "--account", "nobody", "--format", template, by="root") == []
    denied = cais("audit", by="alice")
    assert denied.returncode == 1 and "only an administrator" in denied.stderr


def test_stats(served: ApiHub, cais: Program) -> None:
    """What is counted, for people and for programs."""
    served.push("alice/counted", "1")
    told = served.as_("root").get("/api/v1/system/stats")
    shown = {
        name: value.strip()
        for name, _, value in (line.partition(":") for line in cais.lines("stats", by="root"))
    }
    assert len(shown) == len(told) == 9
    assert shown["Tags"] == str(told["tags"]) and shown["On the disk"].endswith("B")
    assert json.loads(cais("stats", "--format", "json", by="root").stdout) == told
    assert cais.lines("stats", "--format", "{{.blobs}}", by="root") == [str(told["blobs"])]
    denied = cais("stats", by="alice")
    assert denied.returncode == 1 and "only an administrator" in denied.stderr


def test_config(served: ApiHub, cais: Program) -> None:
    """As it was started, and no secret."""
    lines = cais.lines("config", by="root")
    shown = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    told = served.as_("root").get("/api/v1/system/config")
    assert len(shown) == len(told)
    assert (shown["Grace"], shown["TLS"], shown["Largest blob"]) == ("3600s", "no", "5.37GB")
    assert (shown["Collects what has no tag"], shown["Upstreams"]) == (
        "yes",
        "other=https://registry.example.com",
    )
    assert json.loads(cais("config", "--format", "json", by="root").stdout) == told
    denied = cais("config", by="alice")
    assert denied.returncode == 1 and "only an administrator" in denied.stderr


def test_damage_is_found_and_listed(served: ApiHub, cais: Program) -> None:
    """The exit code tells it to programs; who asks later finds it in the list, by repository."""
    served.push("alice/sound", "1", layers=[b"will be damaged"])
    assert (cais.lines("scrub", "--count", "1000", by="root"), cais.lines("damaged", by="root")[1:]) == (
        [],
        [],
    )
    digest = sha256(b"will be damaged")
    (path,) = [
        each for each in served.hub.config.root.rglob(digest.removeprefix("sha256:")) if each.is_file()
    ]
    path.chmod(0o600)
    path.write_bytes(b"has been damaged")
    assert cais.lines("scrub", "--age", "24h", by="root") == []  # all were read just now
    found = cais("scrub", "--count", "1000", by="root")
    assert (found.returncode, found.stdout) == (1, f"{digest}\n"), found
    assert cais.lines("damaged", by="root")[1].split() == [digest, "alice/sound"]
    (told,) = cais.lines("damaged", "--format", "json", by="root")
    assert json.loads(told) == {"digest": digest, "repository": "alice/sound"}


def test_who_may_not_scrub(cais: Program) -> None:
    """The hub's words; what makes no sense is refused before it is asked."""
    for verb in ("scrub", "damaged"):
        denied = cais(verb, by="alice")
        assert denied.returncode == 1 and "only an administrator" in denied.stderr
    assert "<= 100000" in cais("scrub", "--count", "100001", by="root").stderr
    wrong = cais("scrub", "--age", "-1h", by="root")
    assert wrong.returncode == 125 and "it is negative" in wrong.stderr


def test_ages() -> None:
    """Durations as elsewhere, or seconds."""
    assert [parse_age(text) for text in ("0", "90", "1m30s", "24h", "1500ms")] == [0, 90, 90, 86_400, 1]
    for text in ("-5s", "soon", "", "1.5"):
        with pytest.raises(ValueError):
            parse_age(text)
