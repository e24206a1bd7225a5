"""The API's door: who is let in, which bodies are read, which methods are done, and how it refuses."""

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cais.errors import NotFound
from cais.hub.api.app import MAX_BODY
from cais.hub.api.failures import Refused
from cais.hub.api.route import Route, Router
from harness.apihub import PASSWORD, ApiHub, Client, populate, serving_hub
from harness.wire import Wire

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """A hub with ``root`` and ``alice``."""
    with serving_hub(tmp_path_factory.mktemp("door") / "hub") as served:
        populate(served, "alice")
        served.push("alice/app", "1")
        yield served


@pytest.fixture
def token(served: ApiHub) -> dict[str, str]:
    """Alice's, with the type of a body."""
    return {"Authorization": f"Bearer {served.tokens['alice']}", **JSON}


def make(method: str, path: str) -> Route:
    """A route that nobody calls."""

    async def act(ask: object) -> None:
        raise AssertionError(ask)

    return Route(method=method, path=path, act=act, summary="", access="open", group="x")


@pytest.mark.parametrize(
    ("path", "template", "values"),
    [
        ("/r", "/r", {}),
        ("/r/a", "/r/{name}", {"name": "a"}),
        ("/r/a/b/c", "/r/{name}", {"name": "a/b/c"}),
        ("/r/a%2Fb", "/r/{name}", {"name": "a/b"}),
        ("/r/a/b/-/tags", "/r/{name}/-/tags", {"name": "a/b"}),
        ("/r/tags/-/tags/tags", "/r/{name}/-/tags/{tag}", {"name": "tags", "tag": "tags"}),
        ("/r/a/-b/c-", "/r/{name}", {"name": "a/-b/c-"}),
        ("/h/a/b/", "/h/{namespace}/{name}/", {"namespace": "a", "name": "b"}),
        ("/h/a/b", "/h/{namespace}/{name}/", {"namespace": "a", "name": "b"}),
    ],
)
def test_routes_are_found(path: str, template: str, values: dict[str, str]) -> None:
    """A name has slashes, and what stands behind /-/ is none of it."""
    paths = ("/r", "/r/{name}", "/r/{name}/-/tags", "/r/{name}/-/tags/{tag}", "/h/{namespace}/{name}/")
    route, found = Router([make("GET", each) for each in paths]).find("HEAD", path)
    assert (route.path, found) == (template, values)


@pytest.mark.parametrize(
    "path", ["/", "/r/", "/r/a/-/", "/r/a/-/other", "/r//a", "/r/a/", "/r/%ff", "/R", ""]
)
def test_other_paths_are_no_routes(path: str) -> None:
    """Empty parts, unknown verbs, bytes that are no text."""
    with pytest.raises(NotFound):
        Router([make("GET", "/r/{name}"), make("GET", "/r/{name}/-/tags")]).find("GET", path)


def test_a_method_that_is_not_there() -> None:
    """405 names those that are; the same row twice is a mistake in the table."""
    with pytest.raises(Refused) as refused:
        Router([make("GET", "/r"), make("PATCH", "/r")]).find("PUT", "/r")
    assert (refused.value.status, refused.value.headers["Allow"]) == (405, "GET, HEAD, PATCH")
    with pytest.raises(ValueError, match="twice"):
        Router([make("GET", "/r"), make("GET", "/r")])


def test_methods_on_the_wire(served: ApiHub) -> None:
    """Also those that nobody has heard of."""
    for method in ("POST", "OPTIONS", "TRACE", "PROPFIND"):
        said = served.send(method, "/api/v1/search")
        assert (said.status, said.kind, said.headers["allow"]) == (405, "method_not_allowed", "GET, HEAD")
    assert served.send("GET", "/api/v1/nothing").kind == "not_found"
    assert served.send("GET", "/api/v2/search").kind == "not_found"


def test_every_get_is_there_as_head(served: ApiHub, token: dict[str, str]) -> None:
    """With the same headers and no body."""
    for path in ("/api/v1/repositories/alice/app/-/tags/1", "/api/v1/repositories/x/y", "/openapi.json"):
        got, head = (served.send(method, path, headers=token) for method in ("GET", "HEAD"))
        assert head.body == b"" and head.status == got.status
        assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.body))


def test_a_body_that_is_too_large(served: ApiHub, token: dict[str, str]) -> None:
    """Refused by what it says, and by what comes where it says nothing."""
    body = b'{"description": "' + b"x" * MAX_BODY + b'"}'
    path = "/api/v1/repositories/alice/app"
    assert served.send("PATCH", path, body, token).kind == "too_large"
    with closing(Wire(served.port)) as wire:
        assert wire.ask("PATCH", path, [body[:1000], body[1000:]], token).status == 413


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"description": 1}',
        b'{"nobody": 1}',
        b'{"description": "\xff"}',
        b'{"description": "\\ud800"}',
        b'{"description": "a\\u0000b"}',
        b'{"description": "a\\n"}',
        b'{"description": "' + b"x" * 201 + b'"}',
        b"[" * 500_000,
        b'{"retention": ' + b'{"rules": [' * 50_000,
        b'{"immutable": [' + b'"x",' * 100_000 + b'"x"]}',
        b'{"private": 1e999999}',
        b'{"private": ' + b"9" * 100_000 + b"}",
    ],
    ids=lambda body: str(body[:30]),
)
def test_bodies_that_are_refused(served: ApiHub, token: dict[str, str], body: bytes) -> None:
    """No JSON, not the type, not the bounds, too deep, too many: 400 with a reason, and nothing is changed."""
    before = served.sql("SELECT * FROM repositories")
    said = served.send("PATCH", "/api/v1/repositories/alice/app", body, token)
    assert (said.status, said.kind) == (400, "invalid")
    assert served.sql("SELECT * FROM repositories") == before


def test_a_form_is_no_json(served: ApiHub, token: dict[str, str]) -> None:
    """What another site's page could make a browser send is refused, whatever it says."""
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", ""):
        said = served.send("PATCH", "/api/v1/repositories/alice/app", b"{}", {**token, "Content-Type": kind})
        assert said.kind == "unsupported_media_type"
    charset = {**token, "Content-Type": "application/json; charset=utf-8"}
    assert served.send("PATCH", "/api/v1/repositories/alice/app", b"{}", charset).status == 200


@pytest.mark.parametrize(
    "query", ["n=0", "n=101", "n=x", "n=1.5", "page=0", "n=9" * 50, "what=1", "q=%00", "q=%ff"]
)
def test_parameters_that_are_refused(served: ApiHub, query: str) -> None:
    """Out of bounds, of another type, unknown, no text."""
    assert served.send("GET", f"/api/v1/search?{query}").kind == "invalid"


def test_who_says_nothing_and_who_lies(served: ApiHub) -> None:
    """401 says how to do better, but not so that a browser asks for the password by itself."""
    for headers in (
        {},
        {"Authorization": "Bearer cais_nonsense"},
        {"Authorization": "Basic !"},
        {"Cookie": "x=y"},
    ):
        said = served.send("GET", "/api/v1/account", headers=headers)
        assert (said.status, said.kind) == (401, "unauthenticated")
        assert said.headers["www-authenticate"].startswith("Bearer ")


def test_a_registry_token_is_for_the_registry(served: ApiHub) -> None:
    """It says who its account is, and still may not act for it here."""
    basic = {"Authorization": "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()}
    scope = "repository:alice/app:pull,push,delete"
    made = served.send("GET", f"/token?service=cais-hub&scope={scope}", headers=basic).json["token"]
    client = Client(served, {"Authorization": f"Bearer {made}"})
    assert client.ask("POST /api/v1/tokens", {"name": "more"}).status == 401
    assert client.ask("DELETE /api/v1/repositories/{name}", name="alice/app").status == 401
    assert client.get("/v1/search", query={"q": "app"})["num_results"] >= 0


def test_a_browser_needs_its_secret_to_change(served: ApiHub) -> None:
    """The cookie alone reads; with the session's secret it changes; another's secret does not help."""
    value, session = served.run(served.hub.people.sessions.open("alice"))
    _, other = served.run(served.hub.people.sessions.open("root"))
    cookie = {"Cookie": f"cais_session={value}", **JSON}
    path = "/api/v1/repositories/alice/app"
    assert served.send("GET", "/api/v1/account", headers=cookie).json["name"] == "alice"
    for secret in ("", "wrong", other.csrf, "\xe9"):
        said = served.send("PATCH", path, b'{"description": "x"}', {**cookie, "X-CSRF-Token": secret})
        assert (said.status, said.kind) == (403, "denied")
    right = {**cookie, "X-CSRF-Token": session.csrf}
    assert served.send("PATCH", path, b'{"description": "by cookie"}', right).status == 200
    made = served.send("POST", "/api/v1/tokens", b'{"name": "by cookie"}', right)
    assert made.status == 201
    served.run(served.hub.people.sessions.close(value))
    assert served.send("GET", "/api/v1/account", headers=cookie).status == 401


def test_who_guesses_waits(tmp_path: Path) -> None:
    """429, and for how long."""
    with serving_hub(tmp_path / "hub") as served:
        populate(served)
        wrong = {"Authorization": "Basic " + base64.b64encode(b"root:wrong").decode()}
        statuses = [served.send("GET", "/api/v1/account", headers=wrong).status for _ in range(6)]
        assert statuses == [401] * 5 + [429]
        said = served.send("GET", "/api/v1/account", headers=wrong)
        assert said.kind == "too_many_requests" and int(said.headers["retry-after"]) >= 1


def test_a_hub_that_shows_nothing_to_strangers(tmp_path: Path) -> None:
    """Without anonymous pulls there are no anonymous searches; Docker's clients are told where to get a token."""
    with serving_hub(tmp_path / "hub", anonymous_pull=False) as served:
        populate(served)
        served.push("root/app", "1")
        assert served.as_().ask("GET /api/v1/search").status == 401
        assert served.as_().ask("GET /api/v1/repositories/{name}", name="root/app").status == 401
        said = served.as_().ask("GET /v1/search", query={"q": "app"})
        assert said.status == 401
        challenge = f'Bearer realm="http://127.0.0.1:{served.port}/token",service="cais-hub"'
        assert said.headers["www-authenticate"] == challenge
        assert served.as_().get("/v1/_ping") and served.as_().get("/healthz")
        assert served.as_("root").get("/v1/search", query={"q": "app"})["num_results"] == 1


def test_an_open_hub(tmp_path: Path) -> None:
    """Without accounts everybody administers it, and nobody has an account."""
    with serving_hub(tmp_path / "hub", open=True) as served:
        nobody = served.as_()
        assert nobody.get("/api/v1/system/config")["open"] is True
        assert nobody.ask("GET /api/v1/account").status == 404
        assert nobody.ask("POST /api/v1/tokens", {"name": "x"}).status in (403, 404)
        assert nobody.ask("POST /api/v1/system/collect").status == 200
        assert json.loads(served.send("GET", "/v2/").body) == {}


def test_the_answer_is_kept_by_nobody(served: ApiHub) -> None:
    """No cache may keep what only one may see, and no browser may take it for a page."""
    for path in ("/api/v1/search", "/api/v1/account"):
        headers = served.send("GET", path).headers
        assert headers["cache-control"] == "no-store" and headers["content-type"] == "application/json"
    assert served.send("GET", "/api/v1/search").headers["x-content-type-options"] == "nosniff"
