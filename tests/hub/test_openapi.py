"""The description and the API are the same thing; and requests made up from it break nothing."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cais.hub.api.document import make_document
from cais.hub.api.parameters import PATH
from cais.hub.api.table import ROUTES
from harness.apihub import ROOT, ApiHub, Client, Said, limit_token, populate, serving_hub
from harness.schemas import bodies, texts
from harness.wire import send_raw

pytestmark = pytest.mark.slow
METHODS = ("get", "put", "post", "patch", "delete")
DOCUMENT: dict[str, Any] = json.loads(json.dumps(make_document(ROUTES, PATH, "hub")))
COMPONENTS = DOCUMENT["components"]["schemas"]
OPERATIONS = [
    pytest.param(method, path, id=f"{method.upper()} {path}")
    for path, methods in DOCUMENT["paths"].items()
    for method in methods
]
KNOWN = (
    "team",
    "team/app",
    "app",
    "team/open",
    "stranger",
    "stranger/app",
    "guest",
    "library",
    "1",
    "2",
    "x",
)
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """A hub with something of everything."""
    with serving_hub(tmp_path_factory.mktemp("openapi") / "hub", allow_private=True) as served:
        _furnish(served)
        yield served


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """Another one, for who may change everything."""
    with serving_hub(tmp_path_factory.mktemp("broken") / "hub", allow_private=True) as served:
        _furnish(served)
        yield served


def _furnish(served: ApiHub) -> None:
    populate(served, "stranger", "boss", "guest")
    boss = served.as_("boss")
    boss.ask("POST /api/v1/namespaces", {"name": "team"})
    for name in ("team/app", "team/open", "stranger/app"):
        served.push(name, "1")
    boss.ask("PATCH /api/v1/repositories/{name}", {"private": True}, name="team/app")
    served.run(served.hub.webhooks.add("team", "http://127.0.0.1:9/", ROOT))
    served.tokens["limited"] = limit_token(served, "boss", "team/*:pull")
    served.tokens["expired"] = limit_token(served, "boss", expired=True)


# The description


def test_the_description_is_the_table(served: ApiHub) -> None:
    """Each row is described, nothing else is, and clients get this very description."""
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert {**served.document, "info": None} == {**DOCUMENT, "info": None}
    assert served.document["openapi"].startswith("3.1.")


def test_the_hub_does_what_is_described_and_nothing_else(served: ApiHub) -> None:
    """For each path, each method: 405 exactly where the description has none."""
    for path, methods in DOCUMENT["paths"].items():
        if path.startswith("/v2/"):
            continue  # other methods are the registry's there
        filled = re.sub(r"\{[a-z]+\}", "1", path)
        done = {method for method in METHODS if served.send(method.upper(), filled).status != 405}
        assert done == set(methods), path


def test_the_description_can_be_used() -> None:
    """Schemas are schemas, references lead somewhere, parameters are those of the path, names are there once."""
    for schema in COMPONENTS.values():
        Draft202012Validator.check_schema(schema)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert references == set(COMPONENTS)
    names = []
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            names.append(operation["operationId"])
            in_path = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
            assert in_path == re.findall(r"\{([a-z]+)\}", path)
            assert operation["summary"] and all(each["description"] for each in operation["parameters"])
            for response in operation["responses"].values():
                assert response["description"]
    assert len(names) == len(set(names))


def test_what_is_described_as_refused_is_refused() -> None:
    """Bodies are closed: a field that is not described does not fit."""
    for route in ROUTES:
        if route.body is not None:
            assert COMPONENTS[route.body.__name__]["additionalProperties"] is False


# Requests made up


@st.composite
def requests(draw: st.DrawFn, method: str, path: str) -> tuple[str, bytes | None]:
    """Target and body for an operation."""
    operation = DOCUMENT["paths"][path][method]
    query = []
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            schema = parameter["schema"]
            known = KNOWN if schema["type"] == "string" else ("1", "2")
            value = draw(st.sampled_from(known) | texts(schema, COMPONENTS))
            safe = draw(st.sampled_from(("", "/", "/%", "/-._~!$&'()*+,;=:@%")))
            path = path.replace(f"{{{parameter['name']}}}", quote(value, safe=safe), 1)
        elif draw(st.booleans()):
            value = draw(texts(parameter["schema"], COMPONENTS))
            query.append(f"{parameter['name']}={quote(value, safe=draw(st.sampled_from(('', '/%&=+'))))}")
    target = path + ("?" + "&".join(query) if query else "")
    if "requestBody" not in operation:
        return target, None
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    body = bodies(schema, COMPONENTS).map(lambda value: json.dumps(value).encode())
    return target, draw(st.one_of(body, body, body, st.binary(max_size=30)))


def call(client: Client, method: str, target: str, body: bytes | None) -> Said:
    """Send it."""
    headers = {**client.headers, "Content-Type": "application/json"} if body is not None else client.headers
    return client.hub.send(method.upper(), target, body, headers)


def check(said: Said, path: str) -> None:
    """It was answered, by somebody who knew what to say."""
    assert said.status < 500, said
    assert b"Traceback" not in said.body and b".py" not in said.body, said
    if path.startswith("/v2/") and said.status >= 400:
        return  # the registry answered, which has another form of failures
    if said.status >= 400:
        schema = {"$ref": "#/components/schemas/Failed", "components": DOCUMENT["components"]}
        Draft202012Validator(schema).validate(said.json)


def of_others(state: dict[str, list[Any]]) -> str:
    """What ``stranger`` has no rights in: each row begins with whose it is."""
    mine = re.compile(r"stranger(?:/.*)?\Z", re.DOTALL)
    fixed = {"root", "boss", "guest", "team", "library"}
    kept: dict[str, list[Any]] = {}
    for table, rows in state.items():
        if table in ("accounts", "namespaces", "members"):
            kept[table] = [row for row in rows if row[0] in fixed]
        elif table in ("tokens", "webhooks"):
            kept[table] = [row for row in rows if row[1] in fixed]
        elif table != "events":
            kept[table] = [row for row in rows if not mine.match(str(row[0]))]
    return repr(kept)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_callers_without_rights_change_nothing_of_others(served: ApiHub, method: str, path: str) -> None:
    """Whatever they send: never a failure of ours, never a trace, and what belongs to others is as it was."""

    @QUICK
    @given(st.sampled_from(("", "stranger", "limited", "expired")), requests(method, path))
    def holds(caller: str, request: tuple[str, bytes | None]) -> None:
        before = of_others(served.state()) if method != "get" else ""
        check(call(served.as_(caller), method, *request), path)
        assert method == "get" or of_others(served.state()) == before

    holds()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_who_may_do_everything_breaks_nothing(broken: ApiHub, method: str, path: str) -> None:
    """Also behind the checks of rights there is no failure of ours; and it still answers."""
    client = broken.as_("root")

    @QUICK
    @given(requests(method, path))
    def holds(request: tuple[str, bytes | None]) -> None:
        check(call(client, method, *request), path)

    holds()
    assert broken.as_().get("/healthz") == {"status": "ok"}


@pytest.mark.parametrize(
    "line",
    [
        b"GET /api/v1/repositories/\xff HTTP/1.1",
        b"GET /api/v1/../v1/search HTTP/1.1",
        b"GET //api/v1/search HTTP/1.1",
        b"GET http://elsewhere.example/api/v1/search HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET /api/v1/search#fragment HTTP/1.1",
        b"GET /api/v1/search?" + b"n=1&" * 500 + b" HTTP/1.1",
        b"GET /api/v1/search?q=" + b"%" * 500 + b" HTTP/1.1",
        b"GET /healthz/../api/v1/accounts HTTP/1.1",
        b"GET /v2/repositories/../../api/v1/accounts HTTP/1.1",
        b"POST /api/v1/signup HTTP/1.1",
    ],
    ids=lambda line: str(line[:60]),
)
def test_lines_that_no_client_sends(served: ApiHub, line: bytes) -> None:
    """They are answered, and get at nothing."""
    reply = send_raw(served.port, line + b"\r\nHost: hub.example\r\nConnection: close\r\n\r\n")
    assert reply.status < 500 and b"stranger" not in reply.body
