"""Accounts: who may make them, log in, and do what; and that none of it can be had by a detour."""

import asyncio
import os
import sqlite3
import time
from pathlib import Path

import bcrypt
import pytest

from cais.errors import AlreadyExists, CaisError, Conflict, Denied, Invalid, NotFound, Unauthenticated
from cais.hub.htpasswd import Htpasswd, parse_htpasswd
from cais.hub.kepttokens import MAX_TOKENS
from cais.hub.names import RESERVED, is_name
from cais.hub.namespaces import MAX_NAMESPACES
from cais.hub.sessions import MAX_SESSIONS
from cais.registry.base import Caller
from cais.registry.catalog import ROOT_NAMESPACE
from cais.registry.refusal import Refusal
from harness.accounts import ADDRESS, PASSWORD, open_desk

pytestmark = pytest.mark.slow
CHEAP = bcrypt.hashpw(b"file password", bcrypt.gensalt(4)).decode()


async def refused(act: object, kind: type[CaisError] = Denied) -> bool:
    """Whether it is refused in this way, and in no other."""
    try:
        await act  # type: ignore[misc]
    except kind:
        return True
    return False


def test_names() -> None:
    """Lower-case ASCII letters and digits, single separators inside, nothing that the hub needs itself."""
    for name in ("al", "a1", "alice-b", "a.b_c-d", "a" * 39):
        assert is_name(name), name
    for name in (
        "",
        "a",
        "Alice",
        "a" * 40,
        "-a",
        "a-",
        "a--b",
        "a..b",
        "a/b",
        "a b",
        "alice\n",
        "aли",
        "ａｂ",
        "ß2",
    ):
        assert not is_name(name), name
    for name in ("..", "_ab", "al\0", "al\u200b", "ı2", *RESERVED):
        assert not is_name(name), name


# Making accounts


async def test_the_first_account_needs_the_code(tmp_path: Path) -> None:
    """Who has it is an administrator, once; nothing else passes for it."""
    async with open_desk(tmp_path / "hub", populated=False) as desk:
        code = desk.people.accounts.invitation()
        assert code and len(code) >= 16
        for wrong in ("", "-", code[:-1], code + "x", "\ud800"):
            assert await refused(desk.people.accounts.sign_up("mallory", PASSWORD, wrong, ADDRESS)), wrong
        made = await desk.people.accounts.sign_up("boss", PASSWORD, code, ADDRESS)
        assert made.admin and desk.people.accounts.invitation() is None
        for wrong in (code, "-", ""):
            assert await refused(desk.people.accounts.sign_up("mallory", PASSWORD, wrong, ADDRESS)), wrong
        await desk.people.accounts.prepare()
        assert desk.people.accounts.invitation() is None


async def test_the_code_is_good_for_one(tmp_path: Path) -> None:
    """Also for two that come at the same moment."""
    async with open_desk(tmp_path / "hub", populated=False, signup=True) as desk:
        code = desk.people.accounts.invitation() or ""
        acts = (desk.people.accounts.sign_up(f"first{n}", PASSWORD, code, ADDRESS) for n in range(3))
        found = await asyncio.gather(*acts, return_exceptions=True)
        assert sorted(type(one).__name__ for one in found) == ["Account", "Denied", "Denied"]
        assert len(desk.people.accounts.list_accounts()) == 1


async def test_signing_up_makes_no_administrator(tmp_path: Path) -> None:
    """Whatever the code says where anybody may sign up."""
    async with open_desk(tmp_path / "hub", signup=True) as desk:
        for name, code in (("dave1", ""), ("dave2", "-"), ("dave3", "None")):
            assert not (await desk.people.accounts.sign_up(name, PASSWORD, code, ADDRESS)).admin


async def test_names_that_nobody_may_take(tmp_path: Path) -> None:
    """Names of the htpasswd file, of administrators, of other registries, of namespaces and robots, and of namespaces
    that are there by their repositories alone."""
    file = tmp_path / "htpasswd"
    file.write_text(f"dave:{CHEAP}\n")
    async with open_desk(
        tmp_path / "hub", signup=True, htpasswd=file, admins=["erin"], taken=["docker.io"]
    ) as desk:
        bob = await desk.login("bob")
        await desk.people.namespaces.add("team", await desk.login("alice"))
        await desk.people.robots.add("team", "ci", ["pull"], 0, await desk.login("alice"))
        await desk.make_repository("pushed-before/app")
        for name in (
            "dave",
            "erin",
            "docker.io",
            "team",
            "team.ci",
            "pushed-before",
            "alice",
            ROOT_NAMESPACE,
        ):
            kinds = (AlreadyExists, Invalid)
            with pytest.raises(kinds):
                await desk.people.accounts.sign_up(name, PASSWORD, "", f"192.0.2.{len(name)}")
            with pytest.raises(kinds):
                await desk.people.namespaces.add(name, bob)
        assert desk.people.namespaces.role("bob", "pushed-before") == ""
        await desk.people.namespaces.add("pushed-before", await desk.login("boss"))
        with pytest.raises(AlreadyExists):
            await desk.people.namespaces.add("docker.io", await desk.login("boss"))


async def test_only_administrators_make_accounts(tmp_path: Path) -> None:
    """And not with a token that has limits."""
    async with open_desk(tmp_path / "hub") as desk:
        limited = await desk.login("boss", await desk.token("boss", "*:pull,push,delete"))
        for by in (await desk.login("alice"), limited, Caller()):
            assert await refused(desk.people.accounts.add("dave", PASSWORD, by))
            assert await refused(desk.people.accounts.disable("bob", by, disabled=True))
        assert (await desk.people.accounts.add("dave", PASSWORD, await desk.login("boss"))).kind == "person"


async def test_signing_up_again_and_again(tmp_path: Path) -> None:
    """Nobody makes accounts without end from one address."""
    names = [f"erin{number}" for number in range(30)]
    async with open_desk(tmp_path / "hub", signup=True, admins=names) as desk:
        for name in names:
            assert await refused(
                desk.people.accounts.sign_up(name, PASSWORD, "", "2001:db8::1"), AlreadyExists
            )
        with pytest.raises(Refusal) as caught:
            await desk.people.accounts.sign_up("dave", PASSWORD, "", "2001:db8::2")
        assert caught.value.status == 429 and int(caught.value.headers["Retry-After"]) > 0


# Passwords


@pytest.mark.parametrize(
    "password", ["short", "aaaaaaaaaaaaa", "x" * 40 + "yzw" * 11, "nul\0nul\0nul", "\ud800abcdefghijk"]
)
async def test_passwords_that_are_no_good(tmp_path: Path, password: str) -> None:
    """Too short, one letter, more than the 72 bytes that bcrypt reads, null characters, no text."""
    async with open_desk(tmp_path / "hub") as desk:
        with pytest.raises(Invalid):
            await desk.people.accounts.add("dave", password, await desk.login("boss"))


async def test_bytes_behind_the_seventy_second(tmp_path: Path) -> None:
    """A password of exactly 72 bytes is good; with anything behind it, it is another one."""
    async with open_desk(tmp_path / "hub") as desk:
        password = "é" * 32 + "abcdefgh"
        await desk.people.accounts.add("dave", password, await desk.login("boss"))
        assert (await desk.login("dave", password)).account == "dave"
        for wrong in (password + "x", password + "\0", password[:-1]):
            assert await refused(desk.login("dave", wrong), Unauthenticated)


async def test_a_new_password(tmp_path: Path) -> None:
    """Ends the old one, sessions and registry tokens; kept tokens stay."""
    async with open_desk(tmp_path / "hub") as desk:
        alice = await desk.login("alice")
        cookie, _ = await desk.people.sessions.open("alice")
        kept = await desk.token("alice")
        jwt, _ = desk.signer.sign("alice", {}, desk.people.accounts.get("alice").stamp)
        assert (await desk.gate.identify(f"Bearer {jwt}", ADDRESS)).account == "alice"
        await desk.people.accounts.change_password("alice", "another horse 8", alice)
        assert await refused(desk.login("alice"), Unauthenticated)
        assert await refused(desk.gate.identify(f"Bearer {jwt}", ADDRESS), Unauthenticated)
        assert desk.people.sessions.find(cookie) is None
        assert (await desk.login("alice", kept)).kind == "token"
        assert (await desk.login("alice", "another horse 8")).kind == "password"


async def test_who_changes_passwords(tmp_path: Path) -> None:
    """Its owner by password or session, and administrators; no token of any kind, and no robot has one."""
    async with open_desk(tmp_path / "hub") as desk:
        whole, limited = await desk.token("alice"), await desk.token("alice", "alice/*:pull")
        boss_limited = await desk.login("boss", await desk.token("boss", "*:pull"))
        jwt, _ = desk.signer.sign("alice", {}, desk.people.accounts.get("alice").stamp)
        for by in (
            await desk.login("bob"),
            await desk.login("alice", whole),
            await desk.login("alice", limited),
            await desk.gate.identify(f"Bearer {jwt}", ADDRESS),
            boss_limited,
            Caller(),
        ):
            assert await refused(desk.people.accounts.change_password("alice", "another horse 8", by)), by
        robot, _ = await desk.people.robots.add("alice", "ci", ["pull"], 0, await desk.login("alice"))
        assert await refused(
            desk.people.accounts.change_password(robot, "another horse 8", await desk.login("boss")), Invalid
        )


async def test_a_password_where_no_token_will_do(tmp_path: Path) -> None:
    """To prove that it is the person and not just their browser."""
    async with open_desk(tmp_path / "hub") as desk:
        kept = await desk.token("alice")
        assert (await desk.people.logins.login("alice", kept, ADDRESS)).kind == "token"
        assert await refused(desk.people.logins.login("alice", kept, ADDRESS, tokens=False), Unauthenticated)


# Disabling


async def test_a_disabled_account(tmp_path: Path) -> None:
    """Nothing of it works any more: password, kept and registry tokens, sessions, roles; enabled, it does again."""
    async with open_desk(tmp_path / "hub") as desk:
        boss = await desk.login("boss")
        kept = await desk.token("alice")
        cookie, _ = await desk.people.sessions.open("alice")
        jwt, _ = desk.signer.sign("alice", {}, desk.people.accounts.get("alice").stamp)
        await desk.gate.identify(f"Bearer {jwt}", ADDRESS)
        await desk.people.accounts.disable("alice", boss, disabled=True)
        assert await refused(desk.login("alice"), Unauthenticated)
        assert await refused(desk.login("alice", kept), Unauthenticated)
        for token in (kept, jwt):
            assert await refused(desk.gate.identify(f"Bearer {token}", ADDRESS), Unauthenticated)
        assert (
            desk.people.sessions.find(cookie) is None and desk.people.namespaces.role("alice", "alice") == ""
        )
        assert await refused(desk.people.sessions.open("alice"))
        await desk.people.accounts.disable("alice", boss, disabled=False)
        assert (await desk.login("alice")).account == "alice" and (await desk.login("alice", kept)).account


async def test_the_last_administrator(tmp_path: Path) -> None:
    """Cannot be disabled; with a second one, either can."""
    async with open_desk(tmp_path / "hub") as desk:
        boss = await desk.login("boss")
        assert await refused(desk.people.accounts.disable("boss", boss, disabled=True), Conflict)
        await desk.people.accounts.add("boss2", PASSWORD, boss, admin=True)
        await desk.people.accounts.disable("boss", boss, disabled=True)
        boss2 = await desk.login("boss2")
        assert await refused(desk.people.accounts.disable("boss2", boss2, disabled=True), Conflict)


# Tokens


async def test_who_makes_tokens(tmp_path: Path) -> None:
    """Who has shown the password: a token of any kind would make itself one without its limits."""
    async with open_desk(tmp_path / "hub") as desk:
        jwt, _ = desk.signer.sign(
            "alice", {"alice/app": frozenset({"pull"})}, desk.people.accounts.get("alice").stamp
        )
        callers = [
            await desk.login("alice", await desk.token("alice")),
            await desk.login("alice", await desk.token("alice", "alice/*:pull")),
            await desk.gate.identify(f"Bearer {jwt}", ADDRESS),
            await desk.login("bob"),
            Caller(account="alice"),
        ]
        for by in callers:
            assert await refused(desk.people.tokens.add("alice", "t", [], 0, by)), by
        session = Caller(account="alice", kind="session")
        assert (await desk.people.tokens.add("alice", "t", [], 0, session))[0].account == "alice"


async def test_tokens_have_bounds(tmp_path: Path) -> None:
    """Of name, scopes, life and number."""
    async with open_desk(tmp_path / "hub") as desk:
        alice = await desk.login("alice")
        for name, scopes, seconds in (
            ("", [], 0),
            ("n" * 101, [], 0),
            ("t", ["alice/*:pull"] * 51, 0),
            ("t", ["alice/*"], 0),
            ("t", ["alice/*:admin"], 0),
            ("t", ["Alice/*:pull"], 0),
            ("t", ["alice/app:pull\n"], 0),
            ("t", [], -1),
            ("t", [], 1 << 63),
        ):
            assert await refused(desk.people.tokens.add("alice", name, scopes, seconds, alice), Invalid)
        for number in range(MAX_TOKENS):
            await desk.execute(
                "INSERT INTO tokens (account, name, hash, scopes, expires_ns, created_ns) "
                "SELECT id, 't', ?, '[]', 0, 1 FROM accounts WHERE name = 'alice'",
                f"h{number}",
            )
        assert await refused(desk.people.tokens.add("alice", "t", [], 0, alice), Conflict)


async def test_tokens_end(tmp_path: Path) -> None:
    """When their time is over, and at once when they are removed, with the registry tokens that came of them."""
    async with open_desk(tmp_path / "hub") as desk:
        alice = await desk.login("alice")
        token, secret = await desk.people.tokens.add("alice", "t", [], 3600, alice)
        assert desk.people.tokens.find(secret) and desk.people.tokens.find(secret, "alice")
        assert desk.people.tokens.find(secret, "bob") is None and desk.people.tokens.find(secret[:-1]) is None
        jwt, _ = desk.signer.sign("alice", {}, desk.people.accounts.get("alice").stamp)
        await desk.execute("UPDATE tokens SET expires_ns = ? WHERE id = ?", time.time_ns() - 1, token.id)
        assert desk.people.tokens.find(secret) is None
        await desk.gate.identify(f"Bearer {jwt}", ADDRESS)
        await desk.people.tokens.remove("alice", token.id, alice)
        assert await refused(desk.gate.identify(f"Bearer {jwt}", ADDRESS), Unauthenticated)
        assert await refused(desk.people.tokens.remove("alice", token.id, alice), NotFound)


async def test_who_removes_tokens(tmp_path: Path) -> None:
    """Nobody else's, and no token with limits any, not even an administrator's."""
    async with open_desk(tmp_path / "hub") as desk:
        token, secret = await desk.people.tokens.add("alice", "t", [], 0, await desk.login("alice"))
        for by in (
            await desk.login("bob"),
            await desk.login("boss", await desk.token("boss", "*:pull")),
            await desk.login("alice", await desk.token("alice", "alice/*:pull")),
        ):
            assert await refused(desk.people.tokens.remove("alice", token.id, by))
        assert await refused(desk.people.tokens.remove("bob", token.id, await desk.login("bob")), NotFound)
        assert desk.people.tokens.find(secret)


async def test_when_a_token_was_used(tmp_path: Path) -> None:
    """Is on record soon after."""
    async with open_desk(tmp_path / "hub") as desk:
        secret = await desk.token("alice")
        assert desk.people.tokens.list_tokens("alice")[0].used_ns == 0
        before = time.time_ns()
        await desk.login("alice", secret)
        await desk.people.tokens.flush()
        assert desk.people.tokens.list_tokens("alice")[0].used_ns >= before


async def test_secrets_are_not_in_the_database(tmp_path: Path) -> None:
    """Neither kept tokens nor cookies nor passwords, so that a backup opens nothing."""
    async with open_desk(tmp_path / "hub") as desk:
        secret, (cookie, _) = await desk.token("alice"), await desk.people.sessions.open("alice")
        data = b"".join(path.read_bytes() for path in desk.root.glob("hub.db*"))
        assert b"alice" in data
        for word in (secret, cookie, PASSWORD):
            assert word.encode() not in data


# Robots


async def test_a_robot_may_what_its_token_says(tmp_path: Path) -> None:
    """In its namespace; it administers nothing, makes nothing, and gives itself nothing."""
    async with open_desk(tmp_path / "hub") as desk:
        alice = await desk.login("alice")
        name, secret = await desk.people.robots.add("alice", "ci", ["pull", "push"], 0, alice)
        await desk.people.namespaces.set_member("bob", name, "write", await desk.login("bob"))
        robot = await desk.login(name, secret)
        may = desk.gate.may
        assert may(robot, "alice/app", "push") and may(robot, "alice/a/b", "pull")
        assert not may(robot, "alice/app", "delete") and not may(robot, "bob/app", "push")
        assert not may(robot, "alicex/app", "push")
        people = desk.people
        for act in (
            people.tokens.add(name, "t", [], 0, robot),
            people.namespaces.add("team", robot),
            people.namespaces.set_member("alice", "bob", "admin", robot),
            people.namespaces.change("alice", robot, {"private": True}),
            people.accounts.change_password(name, "another horse 8", robot),
            people.robots.add("alice", "ci2", ["pull"], 0, robot),
            people.accounts.add("dave", PASSWORD, robot),
            people.sessions.open(name),
        ):
            assert await refused(act)
        assert await refused(people.namespaces.set_member("alice", name, "admin", alice), Invalid)


async def test_who_makes_robots(tmp_path: Path) -> None:
    """Administrators of the namespace, for that namespace, with a name that nobody has."""
    async with open_desk(tmp_path / "hub") as desk:
        alice, bob = await desk.login("alice"), await desk.login("bob")
        await desk.people.namespaces.set_member("alice", "bob", "write", alice)
        assert await refused(desk.people.robots.add("alice", "ci", ["pull"], 0, bob))
        for name, actions in (
            ("C I", ["pull"]),
            ("ci", []),
            ("ci", ["admin"]),
            ("ci", ["pull,push:x"]),
            ("", ["pull"]),
        ):
            assert await refused(desk.people.robots.add("alice", name, actions, 0, alice), Invalid)
        await desk.people.robots.add("alice", "ci", ["pull"], 0, alice)
        assert await refused(desk.people.robots.add("alice", "ci", ["pull"], 0, alice), AlreadyExists)


async def test_a_robot_is_made_with_its_token_or_not_at_all(tmp_path: Path) -> None:
    """What cannot be made whole leaves nothing behind, neither an account nor a member, and can be made again."""
    async with open_desk(tmp_path / "hub") as desk:
        alice = await desk.login("alice")
        await desk.execute(
            "CREATE TRIGGER full BEFORE INSERT ON tokens BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
        with pytest.raises(sqlite3.IntegrityError, match="no room"):
            await desk.people.robots.add("alice", "ci", ["pull"], 0, alice)
        assert await refused(desk.people.robots.add("alice", "ci", ["pull"], -1, alice), Invalid)
        assert desk.people.accounts.find("alice.ci") is None
        assert [name for name, _, _ in desk.people.namespaces.list_members("alice")] == ["alice"]
        await desk.execute("DROP TRIGGER full")
        name, secret = await desk.people.robots.add("alice", "ci", ["pull"], 0, alice)
        assert (await desk.login(name, secret)).account == name


async def test_a_new_secret_ends_the_old_one(tmp_path: Path) -> None:
    """At once, with the registry tokens that it got; what the robot may stays, and it has one token, as before."""
    async with open_desk(tmp_path / "hub") as desk:
        alice, robots = await desk.login("alice"), desk.people.robots
        name, old = await robots.add("alice", "ci", ["pull", "push"], 0, alice)
        jwt, _ = desk.signer.sign(name, {}, desk.people.accounts.get(name).stamp)
        assert await refused(robots.renew("alice", name, -1, alice), Invalid)
        assert (await desk.login(name, old)).account == name
        new = await robots.renew("alice", name, 3600, alice)
        assert await refused(desk.login(name, old), Unauthenticated)
        assert await refused(desk.gate.identify(f"Bearer {jwt}", ADDRESS), Unauthenticated)
        robot = await desk.login(name, new)
        assert [desk.gate.may(robot, "alice/app", act) for act in ("pull", "push", "delete")] == [1, 1, 0]
        (token,) = desk.people.tokens.list_tokens(name)
        assert token.expires_ns == token.created_ns + 3600 * 10**9
        await desk.execute("UPDATE tokens SET expires_ns = 1 WHERE id = ?", token.id)
        assert (await desk.login(name, await robots.renew("alice", name, 0, alice))).account == name


async def test_a_robot_that_is_removed_ends(tmp_path: Path) -> None:
    """With its token and those that it got, once it is no member anywhere; and its name is free. A person goes on."""
    async with open_desk(tmp_path / "hub") as desk:
        alice, people = await desk.login("alice"), desk.people
        name, secret = await people.robots.add("alice", "ci", ["pull"], 0, alice)
        jwt, _ = desk.signer.sign(name, {}, people.accounts.get(name).stamp)
        bob = await desk.login("bob")
        await people.namespaces.set_member("bob", name, "read", bob)
        await people.namespaces.set_member("alice", name, "", alice)
        assert (await desk.login(name, secret)).account == name
        await people.namespaces.set_member("bob", name, "", bob)
        assert await refused(desk.login(name, secret), Unauthenticated)
        _, new = await people.robots.add("alice", "ci", ["pull"], 0, alice)
        assert (await desk.login(name, new)).account == name
        assert await refused(desk.gate.identify(f"Bearer {jwt}", ADDRESS), Unauthenticated)
        await people.namespaces.set_member("alice", "bob", "read", alice)
        await people.namespaces.set_member("alice", "bob", "", alice)
        assert (await desk.login("bob")).account == "bob"


async def test_whose_secret_who_may_renew(tmp_path: Path) -> None:
    """Robots' of the namespace, by its administrators. ``team.ci.x`` is of ``team``, as it was made there, also when
    ``team.ci`` made it a member: whoever administers that would have the secret to team otherwise."""
    async with open_desk(tmp_path / "hub") as desk:
        alice, bob, boss = await desk.login("alice"), await desk.login("bob"), await desk.login("boss")
        people, renew = desk.people, desk.people.robots.renew
        await people.namespaces.add("team", alice)
        await people.namespaces.add("team.ci", bob)
        robot, secret = await people.robots.add("team", "ci.x", ["pull"], 0, alice)
        await people.namespaces.set_member("team.ci", robot, "write", bob)
        limited = await desk.login("alice", await desk.token("alice", "*:pull"))
        for by in (bob, limited, Caller(), await desk.login(robot, secret)):
            assert await refused(renew("team", robot, 0, by)), by
        for namespace, account, by in (
            ("team.ci", robot, bob),
            ("team", "alice", alice),
            ("team", "team.nobody", alice),
            ("alice", robot, alice),
        ):
            assert await refused(renew(namespace, account, 0, by), NotFound), account
        assert (await desk.login(robot, secret)).account == robot
        secret = await renew("team", robot, 0, boss)
        await people.namespaces.set_member("team", robot, "", alice)
        assert await refused(renew("team", robot, 0, alice), NotFound), "it was sent away"
        assert (await desk.login(robot, secret)).account == robot


async def test_no_robot_logs_in_by_a_password(tmp_path: Path) -> None:
    """Not with an empty one, and not by a line in the htpasswd file that came later."""
    file = tmp_path / "htpasswd"
    file.write_text("")
    async with open_desk(tmp_path / "hub", htpasswd=file) as desk:
        name, _ = await desk.people.robots.add("alice", "ci", ["pull"], 0, await desk.login("alice"))
        file.write_text(f"{name}:{CHEAP}\n")
        for secret in ("", "file password", "-"):
            assert await refused(desk.login(name, secret), Unauthenticated)


# Namespaces and members


async def test_what_members_may(tmp_path: Path) -> None:
    """By their role, until it is taken from them."""
    async with open_desk(tmp_path / "hub") as desk:
        alice, bob = await desk.login("alice"), await desk.login("bob")
        await desk.make_repository("alice/app", private=True)
        wanted = {"": "", "read": "pull", "write": "pull push delete", "admin": "pull push delete admin"}
        for role in ("read", "write", "admin", ""):
            await desk.people.namespaces.set_member("alice", "bob", role, alice)
            may = [a for a in ("pull", "push", "delete", "admin") if desk.gate.may(bob, "alice/app", a)]
            assert may == wanted[role].split()
            assert await refused(desk.people.namespaces.set_member("alice", "carol", "read", bob)) is (
                role != "admin"
            )


async def test_the_last_administrator_of_a_namespace(tmp_path: Path) -> None:
    """Stays, whether it leaves, is made less, or only disabled ones are left; others can go at any time."""
    async with open_desk(tmp_path / "hub") as desk:
        alice, boss = await desk.login("alice"), await desk.login("boss")
        await desk.people.namespaces.add("team", alice)
        for role in ("", "read"):
            assert await refused(desk.people.namespaces.set_member("team", "alice", role, alice), Conflict)
        await desk.people.namespaces.set_member("team", "bob", "admin", alice)
        await desk.people.accounts.disable("bob", boss, disabled=True)
        assert await refused(desk.people.namespaces.set_member("team", "alice", "", alice), Conflict)
        await desk.people.namespaces.set_member("team", "carol", "admin", alice)
        await desk.people.namespaces.set_member("team", "alice", "", alice)
        assert (
            desk.people.namespaces.role("alice", "team") == ""
            and desk.people.namespaces.role("carol", "team") == "admin"
        )


async def test_ones_own_namespace(tmp_path: Path) -> None:
    """Cannot be taken from who it is named after, by nobody whom they trusted."""
    async with open_desk(tmp_path / "hub") as desk:
        await desk.people.namespaces.set_member("alice", "bob", "admin", await desk.login("alice"))
        for by in (await desk.login("bob"), await desk.login("boss"), await desk.login("alice")):
            for role in ("", "read"):
                assert await refused(desk.people.namespaces.set_member("alice", "alice", role, by), Conflict)


async def test_members_of_nothing(tmp_path: Path) -> None:
    """An unknown namespace, account or role is refused, by an administrator too."""
    async with open_desk(tmp_path / "hub") as desk:
        boss = await desk.login("boss")
        assert await refused(desk.people.namespaces.set_member("nowhere", "bob", "admin", boss), NotFound)
        assert await refused(desk.people.namespaces.set_member("alice", "nobody", "read", boss), NotFound)
        assert await refused(desk.people.namespaces.set_member("alice", "bob", "owner", boss), Invalid)
        assert await refused(
            desk.people.namespaces.set_member("alice", "bob", "read", await desk.login("bob"))
        )


async def test_namespaces_have_an_end(tmp_path: Path) -> None:
    """Nobody but administrators takes names without end."""
    async with open_desk(tmp_path / "hub") as desk:
        for number in range(MAX_NAMESPACES):
            await desk.execute("INSERT INTO namespaces (name, created_ns) VALUES (?, 1)", f"n{number}x")
            await desk.execute(
                "INSERT INTO members SELECT ?, id, 'admin' FROM accounts WHERE name IN ('alice', 'boss')",
                f"n{number}x",
            )
        assert await refused(desk.people.namespaces.add("more", await desk.login("alice")), Conflict)
        await desk.people.namespaces.add("more", await desk.login("boss"))


async def test_settings_are_what_they_should_be(tmp_path: Path) -> None:
    """A value of another type, or out of bounds, would fail those who read it later, far away."""
    async with open_desk(tmp_path / "hub") as desk:
        alice, boss = await desk.login("alice"), await desk.login("boss")
        for key, value in (
            ("description", 7),
            ("description", "x" * 1001),
            ("private", "yes"),
            ("immutable", "v*"),
            ("immutable", [1]),
            ("immutable", ["v"] * 51),
            ("retention", ["keep"]),
            ("retention", {"keep": 3}),
            ("quota", -1),
            ("quota", 1 << 64),
            ("name", "x"),
        ):
            by = boss if key == "quota" else alice
            assert await refused(desk.people.namespaces.change("alice", by, {key: value}), Invalid), key
        assert await refused(desk.people.namespaces.change("alice", alice, {"quota": 0}))
        assert await refused(desk.people.namespaces.change("bob", alice, {"private": True}))
        good = {
            "description": "d",
            "private": True,
            "immutable": ["v*"],
            "retention": {"rules": [{"keep_last": 3}]},
        }
        await desk.people.namespaces.change("alice", alice, good)
        found = desk.people.namespaces.get("alice", alice)
        assert found.private and found.description == "d"


# Sessions


async def test_sessions(tmp_path: Path) -> None:
    """Each has its own value, ends with a logout or its time, and of too many the oldest goes."""
    async with open_desk(tmp_path / "hub") as desk:
        made = [await desk.people.sessions.open("alice") for _ in range(MAX_SESSIONS + 1)]
        assert len({value for value, _ in made}) == len({s.csrf for _, s in made}) == len(made)
        assert desk.people.sessions.find(made[0][0]) is None
        alive = [value for value, _ in made if desk.people.sessions.find(value)]
        assert len(alive) == MAX_SESSIONS
        await desk.people.sessions.close(alive[0])
        assert desk.people.sessions.find(alive[0]) is None and desk.people.sessions.find(alive[1])
        await desk.execute("UPDATE sessions SET expires_ns = ?", time.time_ns() - 1)
        assert desk.people.sessions.find(alive[1]) is None
        for value in ("", "x", "\udcff", "cais_x"):
            assert desk.people.sessions.find(value) is None
        await desk.people.sessions.open("alice")
        assert desk.database.read_one("SELECT COUNT(*) FROM sessions") == (1,)


# The htpasswd file


async def test_a_user_of_the_file(tmp_path: Path) -> None:
    """Gets an account at the first login, also when several requests come at once, and is what --admin says."""
    file = tmp_path / "htpasswd"
    file.write_text(f"# users\ndave:{CHEAP}\nerin:{CHEAP}\n")
    async with open_desk(tmp_path / "hub", htpasswd=file, admins=["erin"]) as desk:
        assert await refused(desk.login("dave", "wrong password"), Unauthenticated)
        assert desk.people.accounts.find("dave") is None
        found = await asyncio.gather(*(desk.login("dave", "file password") for _ in range(4)))
        assert {(one.account, one.admin) for one in found} == {("dave", False)}
        assert desk.people.namespaces.role("dave", "dave") == "admin"
        assert (await desk.login("erin", "file password")).admin
        await desk.people.accounts.disable("dave", await desk.login("boss"), disabled=True)
        assert await refused(desk.login("dave", "file password"), Unauthenticated)


def test_the_file_changes(tmp_path: Path) -> None:
    """What stands in it now counts: a new line, a changed one, a removed one, no file."""
    file = tmp_path / "htpasswd"
    users = Htpasswd(file, is_name)
    assert users.find("dave") is None
    file.write_text(f"dave:{CHEAP}\n")
    assert users.find("dave") == CHEAP and users.cost == 4
    other = bcrypt.hashpw(b"x", bcrypt.gensalt(5)).decode()
    new = tmp_path / "new"
    new.write_text(f"dave:{other}\n")
    new.replace(file)
    assert users.find("dave") == other and users.cost == 5
    os.truncate(file, 0)
    assert users.find("dave") is None and users.cost == 0
    file.write_text(f"dave:{CHEAP}\n")
    assert users.find("dave") == CHEAP
    file.unlink()
    assert users.find("dave") is None


def test_hostile_lines() -> None:
    """Cost nobody anything: no hash of another kind, none that takes hours, no name that the hub needs, no bytes."""
    lines = [
        f"dave:{CHEAP}",
        f"dave:{CHEAP.replace('$04$', '$05$')}",
        "md5:$apr1$abcdefgh$0123456789012345678901",
        "sha:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "plain:secret",
        f"slow:{CHEAP.replace('$04$', '$31$')}",
        f"low:{CHEAP.replace('$04$', '$03$')}",
        f"Upper:{CHEAP}",
        f"v2:{CHEAP}",
        f":{CHEAP}",
        "nothing",
        f"extra:{CHEAP}:comment",
        f"year:{CHEAP.replace('$2b$', '$2y$')}  ",
        "",
        "# comment",
    ]
    found, bad = parse_htpasswd("\r\n".join(lines).encode() + b"\n\xff\xfe:x\n", is_name)
    assert list(found) == ["dave", "extra", "year"] and found["dave"] == CHEAP
    assert bad == [3, 4, 5, 6, 7, 8, 9, 10, 11, 16]


async def test_a_line_that_only_looks_like_a_hash(tmp_path: Path) -> None:
    """Is nobody's password, and nobody's accident."""
    file = tmp_path / "htpasswd"
    file.write_text("dave:$2y$05$" + "a" * 53 + "\n")
    async with open_desk(tmp_path / "hub", htpasswd=file) as desk:
        assert await refused(desk.login("dave", "whatever it is"), Unauthenticated)


def test_a_file_too_large(tmp_path: Path) -> None:
    """Has nobody in it, rather than all of it in memory."""
    file = tmp_path / "htpasswd"
    file.write_bytes(f"dave:{CHEAP}\n".encode() + b"#" * (2 << 20))
    assert Htpasswd(file, is_name).find("dave") is None
