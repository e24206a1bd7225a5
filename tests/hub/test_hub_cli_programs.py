"""``cais hub webhook`` and ``robot``: programs that are told what happens, and programs that log in."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cais.cli.times import parse_time
from harness.apihub import PASSWORD, ApiHub, populate, serving_hub
from harness.hub import wait_until
from harness.hubcli import Program
from harness.receiver import receiving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """A hub that may tell programs of this machine, with ``root``, ``alice`` and ``bob``."""
    with serving_hub(tmp_path_factory.mktemp("programs") / "hub", allow_private=True) as served:
        populate(served, "alice", "bob")
        yield served


@pytest.fixture
def cais(served: ApiHub, tmp_path: Path) -> Program:
    """The program."""
    return Program(served.port, tmp_path)


def test_a_webhook_is_made_with_a_secret(cais: Program, served: ApiHub) -> None:
    """The secret is all that is printed; what the receiver is sent is signed with it."""
    with receiving() as receiver:
        words = ("--action", "push", "--action", "tag", "--repository", "alice/told")
        (secret,) = cais.lines("webhook", "create", *words, "alice", receiver.url, by="alice")
        served.push("alice/other", "1")
        served.push("alice/told", "1")
        (sent,) = receiver.wait(1)
    assert sent.json["repository"] == "alice/told"
    signature = hmac.new(secret.encode(), sent.body, hashlib.sha256).hexdigest()
    assert sent.headers["x-cais-signature-256"] == f"sha256={signature}"
    listed = cais.lines("webhook", "ls", "--format", "json", "alice", by="alice")
    (found,) = [one for one in map(json.loads, listed) if one["url"] == receiver.url]
    assert sorted(found["actions"]) == ["push", "tag"] and secret not in "".join(listed)
    row = next(line for line in cais.lines("webhook", "ls", "alice", by="alice") if receiver.url in line)
    assert row.split()[:3] == [str(found["id"]), receiver.url, "alice/told"]


def test_a_webhook_with_ones_own_secret(cais: Program, served: ApiHub) -> None:
    """Who knows the secret is told the webhook's number; tries are listed, with what became of them."""
    with receiving() as receiver:
        words = ("webhook", "create", "--secret-stdin", "alice", receiver.url)
        made = cais(*words, by="alice", text="hush\n")
        assert made.returncode == 0 and "hush" not in made.stdout
        id = made.stdout.strip()
        served.push("alice/mine", "1")
        (sent, *_) = receiver.wait(1)
        signature = hmac.new(b"hush", sent.body, hashlib.sha256).hexdigest()
        assert sent.headers["x-cais-signature-256"] == f"sha256={signature}"

        def tried() -> list[str]:
            return cais.lines("webhook", "deliveries", "--limit", "1", "alice", id, by="alice")[1:]

        (row,) = wait_until(tried, "a delivery is noted")
    assert "204" in row.split()


def test_webhooks_are_stopped_and_removed(cais: Program) -> None:
    """Several at a time; afterwards there is nothing left to list."""
    ids = [
        cais(
            *("webhook", "create", "--secret-stdin", "bob", f"http://127.0.0.1:1/{name}"), by="bob", text="x"
        )
        for name in "ab"
    ]
    numbers = [done.stdout.strip() for done in ids]

    def disabled() -> list[str]:
        return cais.lines("webhook", "ls", "--format", "{{.ID}} {{.Disabled}}", "bob", by="bob")

    assert cais.lines("webhook", "disable", "bob", *numbers, by="bob") == numbers
    assert disabled() == [f"{number} yes" for number in numbers]
    assert cais.lines("webhook", "enable", "bob", numbers[0], by="bob") == numbers[:1]
    assert disabled() == [f"{numbers[0]} ", f"{numbers[1]} yes"]
    assert cais.lines("webhook", "rm", "bob", *numbers, by="bob") == numbers
    assert disabled() == []


def test_what_goes_wrong_with_webhooks(cais: Program) -> None:
    """The hub's words, for each act."""
    for words, message in (
        (("create", "alice", "ftp://x"), "http"),
        (("create", "--action", "pull", "alice", "http://127.0.0.1:1/"), "actions"),
        (("ls", "bob"), "you may not do this in namespace bob"),
        (("rm", "alice", "99999"), "no such webhook"),
        (("disable", "alice", "99999"), "no such webhook"),
        (("enable", "alice", "99999"), "no such webhook"),
        (("deliveries", "alice", "99999"), "no such webhook"),
        (("deliveries", "--limit", "101", "alice", "1"), "<= 100"),
        (("deliveries", "alice"), "want: cais hub webhook deliveries NAMESPACE ID"),
    ):
        done = cais("webhook", *words, by="alice")
        assert done.returncode == 1 and message in done.stderr and not done.stdout, (words, done)


def test_a_robot_is_made_and_removed(cais: Program, served: ApiHub) -> None:
    """Its secret is all of the output, its name stands beside it."""
    before = cais.lines("robot", "ls", "alice", by="alice")
    made = cais("robot", "create", "--action", "pull", "--days", "3", "alice", "ci", by="alice")
    assert made.returncode == 0 and "robot alice.ci," in made.stderr, made
    assert whoami(served, made.stdout.strip()) == "alice.ci"
    (token,) = served.as_("root").get("/api/v1/tokens", query={"account": "alice.ci"})["tokens"]
    assert parse_time(token["expires"]) - parse_time(token["created"]) == pytest.approx(3 * 86_400, abs=60)
    rows = cais.lines("robot", "ls", "--format", "{{.Name}} {{.Role}}", "alice", by="alice")
    assert "alice.ci write" in rows and len(rows) == len(before)
    assert cais.lines("robot", "rm", "alice", "ci", by="alice") == ["ci"]
    assert cais.lines("robot", "ls", "alice", by="alice") == before


def test_a_robots_secret_is_renewed(cais: Program, served: ApiHub) -> None:
    """The one before ends, the rights stay; the new one may end by itself."""
    words = ("create", "--action", "push", "alice", "deploy")
    first = cais("robot", *words, by="alice").stdout.strip()
    assert whoami(served, first) == "alice.deploy"
    renewed = cais("robot", "renew", "--days", "3", "alice", "deploy", by="alice")
    assert renewed.returncode == 0 and "robot alice.deploy," in renewed.stderr, renewed
    assert (whoami(served, first), whoami(served, renewed.stdout.strip())) == ("", "alice.deploy")
    (token,) = served.as_("root").get("/api/v1/tokens", query={"account": "alice.deploy"})["tokens"]
    assert token["scopes"] == ["alice/*:push"]
    assert parse_time(token["expires"]) - parse_time(token["created"]) == pytest.approx(3 * 86_400, abs=60)


def whoami(served: ApiHub, secret: str) -> str:
    """Whose token this is; empty: nobody's."""
    said = served.send("GET", "/api/v1/account", headers={"Authorization": f"Bearer {secret}"})
    return said.json["name"] if said.status == 200 else ""


def test_robots_are_removed_by_either_name(cais: Program) -> None:
    """And nobody else is: a person's name may look like a robot's."""
    for name in ("one", "two"):
        assert cais("robot", "create", "--action", "push", "bob", name, by="bob").returncode == 0
    assert cais.lines("robot", "rm", "bob", "bob.one", "two", by="bob") == ["bob.one", "two"]
    added = cais("account", "add", "--password-stdin", "bob.junior", by="root", text=PASSWORD)
    assert added.returncode == 0, added.stderr
    assert cais("member", "add", "bob", "bob.junior", by="bob").returncode == 0
    person = cais("robot", "rm", "bob", "junior", by="bob")
    assert person.returncode == 1 and person.stderr == "bob.junior is no robot: use cais hub member rm\n"
    assert cais.lines("robot", "ls", "bob", by="bob") == ["NAME      ROLE"]
    assert "bob.junior" in "".join(cais.lines("member", "ls", "bob", by="bob"))


def test_what_goes_wrong_with_robots(cais: Program) -> None:
    """The hub's words, for each act; rights are not guessed."""
    for words, message in (
        (("create", "alice", "x"), "--action pull, push or delete"),
        (("create", "--action", "admin", "alice", "x"), "actions"),
        (("create", "--action", "pull", "bob", "x"), "you may not do this in namespace bob"),
        (("ls", "bob"), "no member of namespace bob"),
        (("renew", "alice", "nobody"), "alice.nobody"),
        (("renew", "bob", "x"), "you may not do this in namespace bob"),
        (("rm", "alice", "nobody"), "no such member of alice: alice.nobody"),
    ):
        done = cais("robot", *words, by="alice")
        assert done.returncode == 1 and message in done.stderr and not done.stdout, (words, done)
