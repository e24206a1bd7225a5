"""``/token`` of a real hub, as Docker's clients ask it and as nobody should."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest

from harness.accounts import PASSWORD, basic, bearer, copy_people, open_desk
from harness.hub import LiveHub, running_hub
from harness.wire import Reply, Wire, send_raw

pytestmark = pytest.mark.slow
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """With its people, and nothing pushed."""
    root = tmp_path_factory.mktemp("tokens") / "hub"
    copy_people(root)
    with running_hub(root) as hub:
        yield hub


@pytest.fixture
def wire(hub: LiveHub) -> Iterator[Wire]:
    """A connection to it."""
    with closing(Wire(hub.port)) as wire:
        yield wire


def ask(wire: Wire, headers: dict[str, str] | None = None, **query: str | list[str]) -> Reply:
    """GET ``/token``."""
    return wire.ask("GET", "/token?" + urlencode({"service": "cais-hub", **query}, doseq=True), None, headers)


def post(wire: Wire, headers: dict[str, str] | None = None, **form: str) -> Reply:
    """POST ``/token``."""
    body = urlencode({"service": "cais-hub", "client_id": "test", **form}).encode()
    return wire.ask("POST", "/token", body, {**FORM, **(headers or {})})


def access(reply: Reply) -> dict[str, list[str]]:
    """What a token that was given is good for."""
    assert reply.status == 200, reply
    claims = jwt.decode(reply.json["token"], options={"verify_signature": False})
    return {entry["name"]: entry["actions"] for entry in claims["access"]}


def test_the_whole_exchange(wire: Wire) -> None:
    """A challenge, a token for what it says, and what the token opens."""
    refused = wire.ask("POST", "/v2/alice/app/blobs/uploads/", b"")
    assert refused.brief == (401, "UNAUTHORIZED")
    assert refused.headers["www-authenticate"] == (
        f'Bearer realm="http://127.0.0.1:{wire.port}/token",service="cais-hub",'
        'scope="repository:alice/app:pull,push"'
    )
    reply = ask(wire, basic("alice"), account="alice", scope="repository:alice/app:pull,push")
    assert access(reply) == {"alice/app": ["pull", "push"]}
    assert reply.headers["cache-control"] == "no-store" and reply.json["expires_in"] >= 60
    assert reply.json["token"] == reply.json["access_token"] and reply.json["issued_at"].endswith("Z")
    with_token = bearer(reply.json["token"])
    assert wire.ask("POST", "/v2/alice/app/blobs/uploads/", b"", with_token).status == 202
    assert wire.ask("GET", "/v2/", None, with_token).status == 200
    again = wire.ask("POST", "/v2/alice/other/blobs/uploads/", b"", with_token)
    assert again.status == 401 and "alice/other" in again.headers["www-authenticate"]


def test_what_docker_login_asks(wire: Wire) -> None:
    """``/v2/`` refuses nobody in particular, the token server knows the password, and the token is let in."""
    assert wire.ask("GET", "/v2/").headers["www-authenticate"].startswith("Bearer realm=")
    query: dict[str, Any] = {"account": "alice", "client_id": "docker", "offline_token": "true"}
    token = ask(wire, basic("alice"), **query).json["token"]
    assert wire.ask("GET", "/v2/", None, bearer(token)).status == 200
    wrong = ask(wire, basic("alice", "wrong horse 7"), **query)
    assert wrong.brief == (401, "UNAUTHORIZED") and wrong.headers["www-authenticate"] == 'Basic realm="cais"'
    assert wire.ask("GET", "/v2/", None, basic("alice")).status == 200


def test_who_says_nothing(wire: Wire) -> None:
    """Gets a token that is good for what is public."""
    assert access(ask(wire, scope="repository:alice/app:pull,push")) == {"alice/app": []}
    token = ask(wire).json["token"]
    assert wire.ask("GET", "/v2/", None, bearer(token)).status == 200
    assert wire.ask("POST", "/v2/alice/app/blobs/uploads/", b"", bearer(token)).status == 401


def test_forms(wire: Wire) -> None:
    """OAuth2's: by password, or with a kept token as a refresh token."""
    scope = "repository:alice/app:pull repository:bob/app:push"
    reply = post(wire, grant_type="password", username="alice", password=PASSWORD, scope=scope)
    assert access(reply) == {"alice/app": ["pull"], "bob/app": []}
    assert post(wire, grant_type="password", username="alice", password="wrong horse 7").status == 401
    for form in ({}, {"grant_type": "x"}, {"grant_type": ""}):
        assert post(wire, basic("alice"), **form).status == 400
    for token in ("", "x", "cais_x", "cais_\u00e9"):
        assert post(wire, basic("alice"), grant_type="refresh_token", refresh_token=token).status == 401


async def test_kept_tokens(tmp_path: Path) -> None:
    """Are good by either way, for no more than they say, and what comes of them buys nothing new."""
    async with open_desk(tmp_path / "hub") as desk:
        kept = await desk.token("alice", "alice/a*:pull,push")
        robot, secret = await desk.people.robots.add("bob", "ci", ["pull"], 0, await desk.login("bob"))
    with running_hub(tmp_path / "hub") as hub, closing(Wire(hub.port)) as wire:
        wanted = ["repository:alice/app:*", "repository:alice/own:pull", "repository:bob/x:pull"]
        for reply in (
            ask(wire, basic("alice", kept), scope=wanted),
            ask(wire, bearer(kept), scope=wanted),
            post(wire, grant_type="refresh_token", refresh_token=kept, scope=" ".join(wanted)),
            post(wire, grant_type="password", username="alice", password=kept, scope=" ".join(wanted)),
        ):
            assert access(reply) == {"alice/app": ["pull", "push"], "alice/own": [], "bob/x": []}
            token = reply.json["token"]
            assert ask(wire, bearer(token), scope=wanted).status == 401
            assert post(wire, grant_type="refresh_token", refresh_token=token).status == 401
            assert wire.ask("POST", "/v2/alice/own/blobs/uploads/", b"", bearer(token)).status == 401
        assert ask(wire, basic("bob", kept)).status == 401
        assert access(ask(wire, basic(robot, secret), scope=["repository:bob/x:*", wanted[0]])) == {
            "bob/x": ["pull"],
            "alice/app": [],
        }
        assert wire.ask("POST", "/v2/alice/a/blobs/uploads/", b"", basic("alice", kept)).status == 202
        denied = wire.ask("POST", "/v2/alice/own/blobs/uploads/", b"", basic("alice", kept))
        assert denied.brief == (403, "DENIED")


def test_a_token_for_another_service(wire: Wire) -> None:
    """Is not given, whatever its name looks like."""
    for service in ("", "other", "cais-hub ", "CAIS-HUB", "cais-hub\0", "cais-hüb", "registry.docker.io"):
        reply = wire.ask("GET", "/token?" + urlencode({"service": service}), None, basic("alice"))
        assert reply.status == 400, service
    assert wire.ask("GET", "/token").status == 400


def test_scopes_in_any_number(wire: Wire) -> None:
    """Of many, the first fifty count; of odd ones, those that are none do not; a star opens what the account may."""
    names = [f"alice/{'x' * 20}{number}" for number in range(200)]
    scope = " ".join(f"repository:{name}:pull" for name in names)
    found = access(post(wire, grant_type="password", username="alice", password=PASSWORD, scope=scope))
    assert list(found) == names[:50]
    long = ",".join(["pull", "push"] * 6)
    odd = [
        "repository:alice/app:*",
        "repository:*:pull",
        "registry:catalog:*",
        "repository:alice/b:" + long,
        "x",
        "",
    ]
    found = access(ask(wire, basic("alice"), scope=odd))
    assert found == {"catalog": ["*"], "alice/app": ["delete", "pull", "push"], "alice/b": ["pull", "push"]}
    same = ["repository:alice/app:pull", "repository:alice/app:push"]
    assert access(ask(wire, basic("alice"), scope=same)) == {"alice/app": ["pull", "push"]}


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"&&&===",
            b"\xff\xfe=\xff",
            b"grant_type=%ff&service=%ff",
            b"a=1&" * 1000,
            b"\0",
            b"grant_type",
        ),
        *(b"[" * 1000, b"x" * (1 << 20), b"service=cais-hub&grant_type=password&username=%00&password=%00"),
        b"service=cais-hub&grant_type=refresh_token&refresh_token=" + b"A" * 60_000,
        b"service=cais-hub&grant_type=password&username=" + b"A" * 60_000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_forms_that_are_garbage(wire: Wire, body: bytes) -> None:
    """Are refused, by a hub that goes on."""
    assert wire.ask("POST", "/token", body, FORM).status in (400, 401, 413)
    assert wire.ask("GET", "/v2/").status == 401


def test_a_form_without_an_end(wire: Wire) -> None:
    """Is not read to where it ends: the connection is."""
    reply = wire.ask("POST", "/token", b"x" * (16 << 20), FORM)
    assert reply.status == 400 and reply.headers["connection"] == "close"


@pytest.mark.parametrize(
    "value", ["Basic", "Basic é", "Basic ÿ!", "Basic YQ==", "Bearer cais_ÿ", "Bearer ÿ", "x y"]
)
def test_authorization_that_is_garbage(hub: LiveHub, value: str) -> None:
    """Also in bytes that are no text: 401, and the way to do better."""
    for path, challenge in (
        (b"/token?service=cais-hub", "Basic"),
        (b"/v2/", "Bearer"),
        (b"/v2/a/tags/list", "Bearer"),
    ):
        for encoding in ("latin-1", "utf-8"):
            header = b"Authorization: " + value.encode(encoding)
            reply = send_raw(hub.port, b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n" + header + b"\r\n\r\n")
            assert reply.status == 401, (path, value, reply)
            assert reply.headers["www-authenticate"].startswith(challenge)


def test_other_methods_and_paths(wire: Wire) -> None:
    """There is one page, for GET and POST; a name that begins like it is somebody's."""
    for method in ("PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
        assert wire.ask(method, "/token?service=cais-hub", None, basic("alice")).status == 400
    assert b"token" not in wire.ask("GET", "/tokens-of-mine?service=cais-hub").body[:100]


@pytest.mark.parametrize(
    "path",
    [
        *('/v2/a"b/tags/list', "/v2/a%22,x=%22b/tags/list", "/v2/a%0d%0aSet-Cookie:%20x=1/tags/list"),
        *("/v2/a%0aX-Y:1/manifests/1", "/v2/A/tags/list", "/v2/../../token/tags/list", "/v2/a%00b/tags/list"),
        *("/v2/" + "a" * 300 + "/tags/list", "/v2/%ff/tags/list", "/v2/é/tags/list"),
    ],
)
def test_names_in_challenges(hub: LiveHub, path: str) -> None:
    """What is no repository's name never gets into a header."""
    reply = send_raw(hub.port, b"GET " + path.encode() + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    assert reply.status in (400, 404), reply
    assert not {"www-authenticate", "set-cookie", "x-y"} & set(reply.headers)


def test_what_the_logs_hold(hub: LiveHub, wire: Wire) -> None:
    """No password and no token, whether right or wrong, in a header, a query or a form."""
    token = ask(wire, basic("alice")).json["token"]
    wire.ask("GET", "/v2/", None, bearer(token))
    ask(wire, basic("alice", "s3cret-in-basic"))
    wire.ask("GET", "/token?service=cais-hub&password=s3cret-in-query")
    post(wire, grant_type="password", username="alice", password="s3cret-in-form")
    text = (hub.root.parent / "hub.access").read_text() + (hub.root.parent / "hub.log").read_text()
    lines = [json.loads(line) for line in (hub.root.parent / "hub.access").read_text().splitlines()]
    assert {"/token", "/v2/"} <= {line["path"] for line in lines}
    for secret in ("s3cret", PASSWORD, token):
        assert secret not in text
