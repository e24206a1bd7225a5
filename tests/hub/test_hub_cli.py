"""``cais hub …`` as people type it, against a hub that runs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cais.cli.failure import Failure
from cais.cli.hubclient import Hub, split_reference
from harness.apihub import PASSWORD, ApiHub, populate, serving_hub
from harness.cargo import Layered, Pusher
from harness.hubcli import SOURCE, Program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """A hub with ``root`` and ``alice``."""
    with serving_hub(tmp_path_factory.mktemp("cli") / "hub") as served:
        populate(served, "alice")
        yield served


@pytest.fixture
def cais(served: ApiHub, tmp_path: Path) -> Program:
    """The program."""
    return Program(served.port, tmp_path)


def test_login_is_kept_like_dockers(served: ApiHub, cais: Program, tmp_path: Path) -> None:
    """By the hub's address in config.json; a wrong password is not kept."""
    wrong = cais("login", "-u", "alice", "-p", "wrong password")
    assert wrong.returncode == 1 and "the name or the password is wrong" in wrong.stderr
    assert not (tmp_path / "nobody" / ".docker").exists()
    done = cais("namespace", "ls", by="alice")
    assert (done.returncode, done.stdout.split()[4:6]) == (0, ["alice", "admin"])
    config = json.loads((tmp_path / "alice" / ".docker" / "config.json").read_text())
    assert list(config["auths"]) == [f"127.0.0.1:{served.port}"]


def test_images_are_found_shown_and_deleted(served: ApiHub, cais: Program) -> None:
    """search, ls, tags, inspect and rm, by people and by programs."""
    served.push("alice/web", "1")
    digest = served.push("alice/web", "2", layers=[b"two"])
    served.as_("alice").ask("PATCH /api/v1/repositories/{name}", {"description": "A web"}, name="alice/web")
    found = cais("search", "web")
    assert found.stdout.splitlines()[0].split() == ["NAME", "DESCRIPTION", "PULLS", "UPDATED"]
    assert "alice/web   A web" in found.stdout
    listed = cais("ls", "alice", "--format", "json")
    assert "alice/web" in [json.loads(line)["name"] for line in listed.stdout.splitlines()]
    tags = cais("tags", "alice/web")
    assert [line.split()[0] for line in tags.stdout.splitlines()] == ["TAG", "1", "2"]
    named = cais(
        "tags", "--format", "{{.Name}} {{.Digest}}", "--no-trunc", f"127.0.0.1:{served.port}/alice/web"
    )
    assert f"2 {digest}\n" in named.stdout
    shown = json.loads(cais("inspect", "alice/web", "alice/web:2", f"alice/web@{digest}").stdout)
    assert [one.get("tags") for one in shown] == [2, ["2"], ["2"]]
    assert cais("inspect", "--format", "{{.description}}", "alice/web").stdout == "A web\n"
    refused = cais("rm", "alice/web:1")
    assert refused.returncode == 1 and "log in" in refused.stderr
    assert cais("rm", "alice/web:1", by="alice").stdout == "Deleted: alice/web:1\n"
    asked = cais("rm", "alice/web", by="alice", text="n\n")
    assert asked.returncode == 1 and "with all its tags" in asked.stdout
    assert cais("rm", "--force", "alice/web", by="alice").returncode == 0
    gone = cais("inspect", "alice/web")
    assert gone.returncode == 1 and "no such repository: alice/web" in gone.stderr


def test_the_most_pulled_are_found_without_words(served: ApiHub, cais: Program) -> None:
    """The first of them first, and not more than are asked for."""
    for name, times in (("alice/few", 1), ("alice/lots", 5)):
        served.push(name, "1")
        Pusher(served.port, ("root", served.tokens["root"])).pull(name, "1", times)
    served.run(served.hub.registry.flush())
    assert cais.lines("search", "--format", "{{.Name}} {{.Pulls}}", "--limit", "2") == [
        "alice/lots 5",
        "alice/few 1",
    ]
    many = cais("search", "--limit", "101")
    assert many.returncode == 1 and "<= 100" in many.stderr


def test_tags_tell_platforms_and_last_pulls(served: ApiHub, cais: Program) -> None:
    """Of an index all its platforms; a tag that nobody pulled says so."""
    pusher = Pusher(served.port, ("root", served.tokens["root"]))
    layer = Layered("COPY", {"a": b"a"})
    members = [
        pusher.image("alice/multi", "", [layer], architecture=machine) for machine in ("amd64", "arm64")
    ]
    pusher.index("alice/multi", "2", members)
    pusher.image("alice/multi", "1", [layer], architecture="s390x")
    pusher.pull("alice/multi", "2")
    served.run(served.hub.registry.flush())
    heading, one, two = cais.lines("tags", "alice/multi")
    assert heading.split() == ["TAG", "DIGEST", "SIZE", "PLATFORMS", "PUSHED", "PULLED"]
    assert "linux/s390x" in one and one.endswith("never")
    assert "linux/amd64, linux/arm64" in two and two.endswith("ago")
    absent = cais("tags", "alice/absent")
    assert absent.returncode == 1 and "no such repository: alice/absent" in absent.stderr


def test_long_lists_are_whole(served: ApiHub, cais: Program) -> None:
    """More than a page."""
    digest = served.push("alice/many", "x")

    def act(db: Any) -> None:
        rows = [(f"t{number:03}", digest) for number in range(250)]
        db.executemany(
            "INSERT INTO tags SELECT id, ?, ?, 1 FROM repositories WHERE name = 'alice/many'", rows
        )

    served.run(served.hub.database.write(act))
    tags = cais("tags", "alice/many", "--format", "{{.Name}}")
    assert len(tags.stdout.splitlines()) == 251


def test_tokens(cais: Program, served: ApiHub) -> None:
    """Only the secret is on the output of the one that makes it, and it works until it is removed."""
    made = cais("token", "create", "--scope", "alice/*:pull", "--days", "3", "ci", by="alice")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    bearer = {"Authorization": f"Bearer {secret}"}
    assert served.send("GET", "/api/v1/account", headers=bearer).json["name"] == "alice"
    listed = [
        json.loads(line) for line in cais("token", "ls", "--format", "json", by="alice").stdout.splitlines()
    ]
    mine = next(one for one in listed if one["name"] == "ci")
    assert mine["scopes"] == ["alice/*:pull"] and mine["expires"] and secret not in json.dumps(listed)
    assert cais("token", "rm", str(mine["id"]), by="alice").returncode == 0
    assert served.send("GET", "/api/v1/account", headers=bearer).status == 401


def test_namespaces_and_members(cais: Program, served: ApiHub) -> None:
    """They are made with their settings, changed by what is given, and filled with people."""
    made = cais("namespace", "create", "--private", "--description", "Ours", "team", by="alice")
    assert made.stdout == "team\n"
    assert cais("namespace", "set", "--quota", "1g", "team", by="alice").returncode == 1
    assert cais("namespace", "set", "--quota", "1g", "--immutable", "v*", "team", by="root").returncode == 0
    shown = served.as_("alice").get("/api/v1/namespaces/{namespace}", namespace="team")
    assert (shown["private"], shown["quota"], shown["immutable"]) == (True, 1 << 30, ["v*"])
    assert cais("namespace", "set", "team", by="alice").stderr.startswith("nothing to set")
    assert "1.07GB" in cais("namespace", "ls", "team", by="alice").stdout
    assert cais("member", "add", "team", "root", "write", by="alice").returncode == 0
    assert cais("member", "ls", "team", by="alice").stdout.splitlines()[2].split() == [
        "root",
        "person",
        "write",
    ]
    assert cais("member", "rm", "team", "root", by="alice").returncode == 0
    last = cais("member", "rm", "team", "alice", by="alice")
    assert last.returncode == 1 and "administrator" in last.stderr


def test_accounts(cais: Program) -> None:
    """By administrators; the password comes from standard input."""
    added = cais("account", "add", "--password-stdin", "dora", by="root", text=PASSWORD + "\n")
    assert added.stdout == "dora\n", added.stderr
    assert cais("account", "disable", "dora", by="root").returncode == 0
    listed = cais("account", "ls", "--format", "{{.Name}} {{.Disabled}}", by="root").stdout
    assert "dora yes\n" in listed and "alice \n" in listed
    assert cais("account", "enable", "dora", by="root").returncode == 0
    refused = cais("account", "ls", by="alice")
    assert refused.returncode == 1 and "only an administrator" in refused.stderr
    assert "use --password-stdin" in cais("account", "add", "eve", by="root").stderr


def test_what_goes_wrong_is_said(cais: Program) -> None:
    """No hub there, no such act, other arguments, no address."""
    absent = cais("ls", "--hub", "http://127.0.0.1:1")
    assert absent.returncode == 1 and absent.stderr.startswith("cannot reach the hub at http://127.0.0.1:1: ")
    unknown = cais("token", "make", "x")
    assert unknown.returncode == 1 and "want create, ls, rm" in unknown.stderr
    few = cais("member", "add", "team")
    assert few.returncode == 1 and "NAMESPACE ACCOUNT [read|write|admin]" in few.stderr
    assert "invalid hub" in cais("ls", "--hub", "ftp://x").stderr
    assert "Traceback" not in absent.stderr + unknown.stderr + few.stderr


def test_the_tools_are_there(cais: Program) -> None:
    """backup, restore and import say how they are used; nothing of theirs is read here."""
    for act in ("backup", "restore", "import"):
        done = cais(act, "--help")
        assert done.returncode == 0 and f"cais hub {act}" in done.stdout


@pytest.mark.parametrize(
    ("text", "url", "address"),
    [
        ("localhost:5000", "http://localhost:5000", "localhost:5000"),
        ("127.0.0.1", "http://127.0.0.1", "127.0.0.1"),
        ("[::1]:5000/", "http://[::1]:5000", "[::1]:5000"),
        ("hub.example.com", "https://hub.example.com", "hub.example.com"),
        ("http://hub.example.com:80", "http://hub.example.com:80", "hub.example.com:80"),
    ],
)
def test_addresses_of_hubs(text: str, url: str, address: str) -> None:
    """Without a scheme, only this machine's are asked without encryption."""
    hub = Hub(text)
    assert (str(hub), hub.address) == (url, address)


@pytest.mark.parametrize("text", ["", "ftp://x", "http://", "http://x/y", "http://x:port", "x:"])
def test_what_is_no_address(text: str) -> None:
    """It is refused before anything is sent."""
    with pytest.raises(Failure, match="invalid hub"):
        Hub(text)


def test_references_are_split() -> None:
    """A tag stands behind the last colon, a digest behind the at sign."""
    assert split_reference("a/b") == ("a/b", "", "")
    assert split_reference("a/b:1") == ("a/b", "1", "")
    assert split_reference("a/b@sha256:00") == ("a/b", "", "sha256:00")


def test_the_verbs_import_little() -> None:
    """Nothing that a fast start cannot afford; sockets and TLS come only when a connection is made."""
    names = sorted(path.stem for path in (SOURCE / "cais" / "cli").glob("hub*.py"))
    assert len(names) > 5
    script = f"import sys\nfor name in {names}: __import__('cais.cli.' + name)\nprint(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    costly = {"re", "typing", "json", "dataclasses", "socket", "ssl", "argparse", "subprocess", "pathlib"}
    assert not costly & set(done.stdout.split())
