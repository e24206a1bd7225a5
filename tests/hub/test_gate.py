"""The gate: whom it believes, what it allows, and everything that only looks like a token."""

import base64
import itertools
import json
import re
import secrets
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.errors import Denied, Invalid, Unauthenticated
from cais.hub.gate import parse_basic
from cais.hub.tokens import (
    CATALOG,
    LEEWAY,
    LIFE,
    Signer,
    load_key,
    make_secret,
    matches,
    merge_grants,
    parse_grant,
    parse_scope,
)
from cais.registry.base import Caller
from cais.registry.origins import parse_origin
from harness.accounts import ADDRESS, Desk, open_desk

KEY = b"k" * 32


async def identify(desk: Desk, token: str) -> Caller:
    """Who a bearer of the token is."""
    return await desk.gate.identify(f"Bearer {token}", ADDRESS)


async def exchange(desk: Desk, caller: Caller, *scopes: str) -> Caller:
    """Who it is by the registry token that it gets for these scopes."""
    account = desk.people.accounts.find(caller.account)
    grants = desk.gate.decide(caller, scopes)
    token, _ = desk.signer.sign(caller.account, grants, account.stamp if account else 0)
    return await identify(desk, token)


# Patterns and scopes


@given(st.text("ab*/", max_size=8), st.text("ab/", max_size=8))
def test_patterns(pattern: str, name: str) -> None:
    """A star is anything; all else is itself: what a regular expression would say."""
    wanted = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None
    assert matches(pattern, name) is wanted


def test_a_pattern_full_of_stars() -> None:
    """Costs next to nothing, whatever the name: anybody may have such a token."""
    began = time.process_time()
    for _ in range(1000):
        assert not matches("*a" * 120 + "*b", "a" * 250)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "pull",
            "team/*",
            "team/*:",
            ":pull",
            "team/*:admin",
            "team/*:pull,",
            "team/*:*",
            "Team/*:pull",
        ),
        *("team/*:pull push", "team/*:pull\n", "te am:pull", "tëam:pull", "team/*:PULL", "a" * 256 + ":pull"),
    ],
)
def test_limits_that_are_none(text: str) -> None:
    """Are refused when the token is made, not ignored when it is used."""
    with pytest.raises(Invalid):
        parse_grant(text)


def test_several_limits_of_one_pattern() -> None:
    """Add up."""
    assert merge_grants(["a/*:pull", "a/*:push", "b:pull"]) == {"a/*": {"pull", "push"}, "b": {"pull"}}


def test_scopes() -> None:
    """Of repositories only, for actions that there are; a star stands for all of these, in a name for nothing."""
    everything = {"pull", "push", "delete"}
    assert parse_scope("repository:a/b:pull,push") == ("a/b", {"pull", "push"})
    assert parse_scope("repository:a/b:*") == ("a/b", everything)
    assert parse_scope("repository(plugin):a/b:*") == ("a/b", everything)
    assert parse_scope("repository:a/b:admin,pull") == ("a/b", {"pull"})
    for text in (
        "repository:*:pull",
        "repository:a/*:pull",
        "repository:a/b:",
        "repository:A:pull",
        "repository:a:pull\n",
        'repository:a",x="b:pull',
        "repository:../a:pull",
        "registry:catalog:*",
        "repository:" + "a" * 256 + ":pull",
        "",
    ):
        assert parse_scope(text) is None, text


# What is allowed


async def test_who_may_what(tmp_path: Path) -> None:
    """All kinds of callers with all kinds of repositories."""
    async with open_desk(tmp_path / "hub") as desk:
        for name, private in (("alice/open", False), ("alice/own", True), ("root-level", False)):
            await desk.make_repository(name, private=private)
        await desk.people.namespaces.set_member("alice", "bob", "read", await desk.login("alice"))
        callers = {
            "nobody": Caller(),
            "carol": await desk.login("carol"),
            "bob": await desk.login("bob"),
            "alice": await desk.login("alice"),
            "boss": await desk.login("boss"),
        }
        wanted = {
            ("nobody", "alice/open"): "pull",
            ("carol", "alice/open"): "pull",
            ("bob", "alice/open"): "pull",
            ("bob", "alice/own"): "pull",
            ("bob", "alice/new"): "pull",
            **{("alice", name): "pull push delete" for name in ("alice/open", "alice/own", "alice/new")},
            **{
                ("boss", name): "pull push delete"
                for name in ("alice/open", "alice/own", "alice/new", "root-level")
            },
            **{(who, "root-level"): "pull" for who in ("nobody", "carol", "bob", "alice")},
        }
        for who, name in itertools.product(
            callers, ("alice/open", "alice/own", "alice/new", "root-level", "alicex/a")
        ):
            may = [a for a in ("pull", "push", "delete") if desk.gate.may(callers[who], name, a)]
            expected = "pull push delete" if who == "boss" else wanted.get((who, name), "")
            assert may == expected.split(), (who, name)


async def test_a_hub_that_nobody_pulls_from_anonymously(tmp_path: Path) -> None:
    """Shows nothing to who has not logged in, and public repositories to who has."""
    async with open_desk(tmp_path / "hub", anonymous=False) as desk:
        await desk.make_repository("alice/open")
        anonymous = await exchange(desk, Caller(), "repository:alice/open:pull")
        for caller in (Caller(), anonymous):
            assert not desk.gate.may(caller, "alice/open", "pull")
            assert await desk.gate.visible(caller, ["alice/open"]) == []
        assert desk.gate.may(await desk.login("bob"), "alice/open", "pull")


async def test_what_is_told_of_what_one_may_not(tmp_path: Path) -> None:
    """The same of a private repository and of none."""
    async with open_desk(tmp_path / "hub") as desk:
        await desk.make_repository("alice/own", private=True)
        bob = await desk.login("bob")
        told: dict[str, set[str]] = {}
        for caller, name in itertools.product((Caller(), bob), ("alice/own", "alice/none")):
            with pytest.raises((Denied, Unauthenticated)) as caught:
                await desk.gate.check(caller, name, "pull")
            words = str(caught.value).replace(name, "…")
            told.setdefault(caller.account, set()).add(f"{caught.type.__name__}: {words}")
        assert {len(words) for words in told.values()} == {1}, told


async def test_the_root_namespace(tmp_path: Path) -> None:
    """Its repositories have names of one part: its members and robots have them too."""
    async with open_desk(tmp_path / "hub") as desk:
        boss = await desk.login("boss")
        await desk.people.namespaces.set_member("library", "bob", "write", boss)
        name, secret = await desk.people.robots.add("library", "ci", ["push"], 0, boss)
        assert desk.gate.may(await desk.login("bob"), "busybox", "push")
        robot = await desk.login(name, secret)
        assert desk.gate.may(robot, "busybox", "push") and not desk.gate.may(robot, "alice/busybox", "push")


async def test_repositories_of_other_registries(tmp_path: Path) -> None:
    """Are for all who may pull; where the hub has credentials there, for accounts. Nobody need have asked before."""
    async with open_desk(tmp_path / "hub") as desk:
        origins = [parse_origin(text) for text in ("mirror=https://a.example", "own=https://u:p@b.example")]
        desk.gate.find_origin = lambda name: next((o for o in origins if o.covers(name)), None)
        await desk.make_repository("own/fetched-before")
        bob = await desk.login("bob")
        for name, by_nobody in (("mirror/a/b", True), ("own/a/b", False), ("own/fetched-before", False)):
            assert desk.gate.may(Caller(), name, "pull") is by_nobody
            assert desk.gate.may(bob, name, "pull") and not desk.gate.may(bob, name, "push")


# Limits of tokens


async def test_a_limit_is_no_right(tmp_path: Path) -> None:
    """A token allows what both its limits and its account allow, an administrator's too."""
    async with open_desk(tmp_path / "hub") as desk:
        await desk.make_repository("alice/own", private=True)
        bob = await desk.login("bob", await desk.token("bob", "*:pull,push,delete"))
        boss = await desk.login("boss", await desk.token("boss", "alice/*:pull"))
        for caller, name in ((bob, "bob/x"), (boss, "alice/own")):
            assert desk.gate.may(caller, name, "pull")
        assert desk.gate.may(bob, "bob/x", "delete") and not desk.gate.may(bob, "alice/own", "pull")
        assert not desk.gate.may(boss, "alice/own", "push") and not desk.gate.may(boss, "bob/x", "pull")
        by_token = await exchange(desk, boss, "repository:alice/own:*", "repository:bob/x:*")
        assert by_token.grants == {"alice/own": {"pull"}, "bob/x": frozenset()}


async def test_a_registry_token_is_for_what_was_asked(tmp_path: Path) -> None:
    """And for nothing else that the account may."""
    async with open_desk(tmp_path / "hub") as desk:
        caller = await exchange(desk, await desk.login("alice"), "repository:alice/a:pull")
        assert desk.gate.may(caller, "alice/a", "pull")
        assert not desk.gate.may(caller, "alice/a", "push") and not desk.gate.may(caller, "alice/b", "pull")


async def test_a_membership_that_ends(tmp_path: Path) -> None:
    """Ends what tokens given out before are good for."""
    async with open_desk(tmp_path / "hub") as desk:
        alice, bob = await desk.login("alice"), await desk.login("bob")
        await desk.make_repository("alice/own", private=True)
        await desk.people.namespaces.set_member("alice", "bob", "write", alice)
        kept = await desk.login("bob", await desk.token("bob"))
        by_token = await exchange(desk, bob, "repository:alice/own:pull,push")
        assert desk.gate.may(by_token, "alice/own", "push") and desk.gate.may(kept, "alice/own", "push")
        await desk.people.namespaces.set_member("alice", "bob", "read", alice)
        assert not desk.gate.may(by_token, "alice/own", "push") and desk.gate.may(
            by_token, "alice/own", "pull"
        )
        await desk.people.namespaces.set_member("alice", "bob", "", alice)
        for caller in (by_token, kept, bob):
            assert not desk.gate.may(caller, "alice/own", "pull")


async def test_what_a_list_shows(tmp_path: Path) -> None:
    """Without a limit, all that the account may see, if it was asked for or nothing was; with one, what is in it."""
    async with open_desk(tmp_path / "hub") as desk:
        names = ["alice/own", "alice/two", "bob/open", "bob/own"]
        for name in names:
            await desk.make_repository(name, private=name != "bob/open")
        alice = await desk.login("alice")
        limited = await desk.login("alice", await desk.token("alice", "alice/own*:pull", "alice/two:push"))
        catalog = "registry:catalog:*"
        for caller, wanted in (
            (alice, ["alice/own", "alice/two", "bob/open"]),
            (await exchange(desk, alice), ["alice/own", "alice/two", "bob/open"]),
            (await exchange(desk, alice, catalog), ["alice/own", "alice/two", "bob/open"]),
            (await exchange(desk, alice, "repository:alice/two:pull"), ["alice/two"]),
            (limited, ["alice/own"]),
            (await exchange(desk, limited), []),
            (await exchange(desk, limited, catalog), ["alice/own"]),
            (await exchange(desk, Caller()), ["bob/open"]),
            (Caller(), ["bob/open"]),
        ):
            assert await desk.gate.visible(caller, names) == wanted, caller


async def test_limits_too_long_for_a_header(tmp_path: Path) -> None:
    """Are left out of a registry token; what is in it fits."""
    async with open_desk(tmp_path / "hub") as desk:
        scopes = [f"alice/{'x' * 200}{n}*:pull" for n in range(50)]
        limited = await desk.login("alice", await desk.token("alice", *scopes))
        grants = desk.gate.decide(limited, ["registry:catalog:*"])
        assert grants and len(desk.signer.sign("alice", grants)[0]) < 6000


# Tokens that are none


def claims(**changes: Any) -> dict[str, Any]:
    """Of a good token, with changes; None: without."""
    now = int(time.time())
    good = {
        "iss": "cais-hub",
        "aud": "cais-hub",
        "sub": "alice",
        "iat": now,
        "nbf": now,
        "exp": now + 60,
        "stamp": 0,
        "access": [{"type": "repository", "name": "alice/a", "actions": ["pull"]}],
        **changes,
    }
    return {key: value for key, value in good.items() if value is not None}


def forge(header: dict[str, Any], body: Any, key: bytes = KEY) -> str:
    """Signed by hand, whatever the header says."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, body)
    ]
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        ".".join(parts).encode(), key
    )
    return ".".join((*parts, base64.urlsafe_b64encode(signature).rstrip(b"=").decode()))


def test_a_good_token() -> None:
    """Is believed, also right before and after its time, as clocks differ."""
    signer, now = Signer(KEY, "cais-hub"), int(time.time())
    for changes in ({}, {"nbf": now + LEEWAY - 5}, {"exp": now - LEEWAY + 5}, {"aud": ["cais-hub"]}):
        found = signer.read(forge({"alg": "HS256", "typ": "JWT"}, claims(**changes)))
        assert (found.account, dict(found.grants)) == ("alice", {"alice/a": {"pull"}})
    token, made = signer.sign("alice", {"a": frozenset({"pull"}), CATALOG: frozenset({"*"})}, 3)
    assert signer.read(token).stamp == 3 and signer.read(token).grants[CATALOG] == {"*"}
    body = jwt.decode(token, options={"verify_signature": False})
    assert body["exp"] == made + LIFE and body["nbf"] <= made


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"aud": "other"},
            {"aud": None},
            {"aud": []},
            {"aud": 7},
            {"iss": "other"},
            {"iss": None},
            {"sub": None},
        ),
        *(
            {"sub": 7},
            {"exp": None},
            {"nbf": None},
            {"iat": None},
            {"exp": 1},
            {"nbf": 1 << 40},
            {"exp": "soon"},
        ),
        *({"exp": [1]}, {"iat": 1 << 40}, {"stamp": None}, {"stamp": "x"}, {"stamp": []}, {"access": 7}),
        *(
            {"access": "pull"},
            {"access": [7]},
            {"access": [{}]},
            {"access": [None]},
            {"access": {"type": "repository"}},
        ),
        {"access": [{"type": "repository", "name": "a"}]},
        {"access": [{"type": "repository", "name": 7, "actions": ["pull"]}]},
        {"access": [{"type": "repository", "name": ["a"], "actions": ["pull"]}]},
        {"access": [{"type": "repository", "name": "a", "actions": "pull"}]},
        {"access": [{"type": "repository", "name": "a", "actions": {"pull": 1}}]},
        {"access": [{"type": ["repository"], "name": "a"}]},
    ],
    ids=repr,
)
def test_claims_that_are_wrong(changes: dict[str, Any]) -> None:
    """For somebody else, of somebody else, too old, too new, incomplete, of other types: though signed, no token."""
    with pytest.raises(Unauthenticated):
        Signer(KEY, "cais-hub").read(forge({"alg": "HS256"}, claims(**changes)))


@pytest.mark.parametrize(
    "header",
    [
        *(
            {"alg": "none"},
            {"alg": "None"},
            {"alg": ""},
            {},
            {"alg": None},
            {"alg": "HS512"},
            {"alg": "RS256"},
        ),
        *({"alg": "ES256"}, {"alg": "HS256", "b64": False}, {"alg": "HS256", "b64": False, "crit": ["b64"]}),
        *(
            {"alg": "HS256", "crit": ["x"]},
            {"alg": "HS256", "kid": 7},
            {"alg": "HS256", "kid": ["../../dev/null"]},
        ),
        *({"alg": ["HS256"]}, {"alg": {"HS256": 1}}, ["HS256"], "HS256", 7, None),
    ],
    ids=repr,
)
def test_headers_that_lie(header: Any) -> None:
    """No other algorithm is believed, whatever the header asks for, and no header that is none."""
    signer = Signer(KEY, "cais-hub")
    token = forge(header, claims())
    unsigned = token.rpartition(".")[0] + "."
    for text in (token, unsigned):
        with pytest.raises(Unauthenticated):
            signer.read(text)


def test_keys_in_headers() -> None:
    """Neither a key that the token brings along nor one that it names is used; the file name least of all."""
    signer = Signer(KEY, "cais-hub")
    other = b"o" * 32
    jwk = {"kty": "oct", "k": base64.urlsafe_b64encode(other).decode()}
    for extra in (
        {"jwk": jwk},
        {"kid": "/dev/null"},
        {"kid": "x' UNION SELECT 'o"},
        {"jku": "http://127.0.0.1/k"},
    ):
        for key in (other, b"", b"o"):
            with pytest.raises(Unauthenticated):
                signer.read(forge({"alg": "HS256", **extra}, claims(), key or b"\0"))
        assert signer.read(forge({"alg": "HS256", **extra}, claims())).account == "alice"


def test_a_token_changed_anywhere() -> None:
    """By one letter is no token any more, also when the good one has just been read."""
    signer = Signer(secrets.token_bytes(32), "cais-hub")
    token, _ = signer.sign("alice", {"a": frozenset({"pull"})})
    signer.read(token)
    for at in range(len(token) - 1):  # of the last letter some bits are unused
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(Unauthenticated):
            signer.read(changed)


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "\0", "é.é.é", "\udcff.e30.e30", "e30.e30.", "=.=.=", " . . "]
    + ["A" * 200_000, ".".join(["A" * 50_000] * 3)]
    + [base64.urlsafe_b64encode(b"[" * n).decode().rstrip("=") + ".e30.AA" for n in (900, 50_000)],
    ids=lambda token: token[:12],
)
def test_garbage(token: str) -> None:
    """Is refused as a token, and makes no other error."""
    with pytest.raises(Unauthenticated):
        Signer(KEY, "cais-hub").read(token)


def test_tokens_that_are_remembered() -> None:
    """Are not many, and not longer than they live."""
    signer = Signer(KEY, "cais-hub")
    for _ in range(1100):
        signer.read(signer.sign("alice", {})[0])
    assert len(signer._read) <= 1000
    short = forge({"alg": "HS256"}, claims(exp=int(time.time()) + 1 - LEEWAY))
    signer.read(short)
    assert signer._read[short][1] <= time.time() + 1


def test_the_key_file(tmp_path: Path) -> None:
    """Is made once, for its owner alone, and never taken for a key when it is none."""
    path = tmp_path / "hub.key"
    key = load_key(path)
    assert load_key(path) == key and len(key) == 32 and path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"short")
    with pytest.raises(Invalid):
        load_key(path)


# Whom it believes


async def test_tokens_of_one_kind_for_the_other(tmp_path: Path) -> None:
    """A kept token is good as a password and as a bearer; a registry token is no password, and buys no other one."""
    async with open_desk(tmp_path / "hub") as desk:
        kept = await desk.token("alice", "alice/*:pull")
        assert (await identify(desk, kept)).grants == {"alice/*": {"pull"}}
        jwt_token, _ = desk.signer.sign("alice", {})
        with pytest.raises(Unauthenticated):
            await desk.login("alice", jwt_token)
        for wrong in (make_secret(), kept[:-1], kept + "x", "cais_", "cais_\udcff"):
            with pytest.raises(Unauthenticated):
                await identify(desk, wrong)


async def test_a_token_of_nobody(tmp_path: Path) -> None:
    """An account that is not there, or not any more what it was, has no token."""
    async with open_desk(tmp_path / "hub") as desk:
        for account, stamp in (("nobody", 0), ("alice", 1), ("alice", -1), ("Alice", 0), ("alice\0", 0)):
            token, _ = desk.signer.sign(account, {}, stamp)
            with pytest.raises(Unauthenticated):
                await identify(desk, token)
        other = Signer(secrets.token_bytes(32), "cais-hub")
        with pytest.raises(Unauthenticated):
            await identify(desk, other.sign("alice", {})[0])
        token, _ = desk.signer.sign("boss", {"alice/a": frozenset({"pull"})})
        assert (await identify(desk, token)).admin
        await desk.execute("UPDATE accounts SET admin = 0 WHERE name = 'boss'")
        assert not (await identify(desk, token)).admin


@pytest.mark.parametrize(
    "value",
    [
        "Basic",
        "Basic ",
        "Basic é",
        "Basic \udcff",
        "Basic ====",
        "Basic YQ==",
        "Basic /w==",
        "Basic YTpi YTpi",
        *("Digest x", "Bearer", "Bearer ", "bearer \0", "\0", "Basic\tYTpi", "Negotiate " + "A" * 8000),
    ],
    ids=repr,
)
async def test_authorization_that_is_garbage(tmp_path: Path, value: str) -> None:
    """Is refused with words, and makes no other error."""
    async with open_desk(tmp_path / "hub") as desk:
        with pytest.raises(Unauthenticated):
            await desk.gate.identify(value, ADDRESS)


def test_basic() -> None:
    """The name ends at the first colon; all else is the password, of any letters."""

    def pack(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    assert parse_basic(pack("a:b:c")) == ("a", "b:c")
    assert parse_basic(pack(":")) == ("", "")
    assert parse_basic(f" {pack('ä:ü')} ") == ("ä", "ü")


async def test_challenges(tmp_path: Path) -> None:
    """Say where the token server is: where we are told to be found, or else where the client found us."""
    async with open_desk(tmp_path / "a") as desk:
        said = desk.gate.challenge("http://h:1", "a/b", ("pull", "push"))
        assert said == 'Bearer realm="http://h:1/token",service="cais-hub",scope="repository:a/b:pull,push"'
    async with open_desk(tmp_path / "b", origin="https://hub.example.com") as desk:
        assert desk.gate.challenge("http://h:1", "", ()) == (
            'Bearer realm="https://hub.example.com/token",service="cais-hub"'
        )
