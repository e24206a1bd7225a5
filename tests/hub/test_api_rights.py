"""Who may call what: each route and eight callers, and the table's status for it. Who is refused changes nothing."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from cais.hub.api.table import ROUTES
from cais.hub.webhooks import Webhook
from harness.apihub import PASSWORD, ROOT, ApiHub, Client, limit_token, populate, serving_hub
from harness.cargo import Pusher, sha256
from harness.wire import MANIFEST

CALLERS = ("anonymous", "stranger", "reader", "writer", "boss", "root", "limited", "expired")
"""``reader``, ``writer`` and ``boss`` are members of ``team``, which is private; ``root`` administers the hub;
``limited`` is a token of boss's that is good for pulling from team, ``expired`` one that was good for everything."""

TABLE = """
                                                            anon strg read writ boss root limt expd
GET    /api/v1/search                                       200  200  200  200  200  200  200  401
GET    /api/v1/popular                                      200  200  200  200  200  200  200  401
GET    /api/v1/repositories                                 200  200  200  200  200  200  200  401
GET    /api/v1/repositories/{name}                          404  404  200  200  200  200  200  401
PATCH  /api/v1/repositories/{name}                          401  404  403  200  200  200  403  401
DELETE /api/v1/repositories/{name}                          401  404  403  204  204  204  403  401
GET    /api/v1/repositories/{name}/-/tags                   404  404  200  200  200  200  200  401
GET    /api/v1/repositories/{name}/-/tags/{tag}             404  404  200  200  200  200  200  401
DELETE /api/v1/repositories/{name}/-/tags/{tag}             401  404  403  204  204  204  403  401
GET    /api/v1/repositories/{name}/-/manifests/{digest}     404  404  200  200  200  200  200  401
DELETE /api/v1/repositories/{name}/-/manifests/{digest}     401  404  403  204  204  204  403  401
GET    /api/v1/repositories/{name}/-/referrers/{digest}     404  404  200  200  200  200  200  401
GET    /api/v1/repositories/{name}/-/files/{ref}            404  404  200  200  200  200  200  401
GET    /api/v1/repositories/{name}/-/compare/{old}/{new}    404  404  200  200  200  200  200  401
GET    /api/v1/repositories/{name}/-/attachments/{ref}      404  404  200  200  200  200  200  401
GET    /api/v1/repositories/{name}/-/attachments/{ref}/{digest} 404 404 200 200 200  200  200  401
GET    /api/v1/repositories/{name}/-/attachments/{ref}/{digest}/packages 404 404 200 200 200 200 200 401
GET    /api/v1/repositories/{name}/-/retention              401  404  403  200  200  200  403  401
GET    /api/v1/repositories/{name}/-/pulls                  404  404  200  200  200  200  200  401
GET    /api/v1/namespaces                                   401  200  200  200  200  200  200  401
POST   /api/v1/namespaces                                   401  201  201  201  201  201  403  401
GET    /api/v1/namespaces/{namespace}                       404  404  200  200  200  200  200  401
PATCH  /api/v1/namespaces/{namespace}                       401  404  403  403  200  200  403  401
GET    /api/v1/namespaces/{namespace}/repositories          404  404  200  200  200  200  200  401
GET    /api/v1/namespaces/{namespace}/members               401  404  200  200  200  200  403  401
GET    /api/v1/namespaces/{namespace}/members/{account}     401  404  200  200  200  200  403  401
PUT    /api/v1/namespaces/{namespace}/members/{account}     401  404  403  403  200  200  403  401
DELETE /api/v1/namespaces/{namespace}/members/{account}     401  404  403  403  204  204  403  401
POST   /api/v1/namespaces/{namespace}/robots                401  404  403  403  201  201  403  401
POST   /api/v1/namespaces/{namespace}/robots/{account}/secret 401 404 403 403 200 200   403  401
GET    /api/v1/namespaces/{namespace}/audit                 401  404  403  403  200  200  403  401
GET    /api/v1/namespaces/{namespace}/webhooks              401  404  403  403  200  200  403  401
POST   /api/v1/namespaces/{namespace}/webhooks              401  404  403  403  201  201  403  401
PATCH  /api/v1/namespaces/{namespace}/webhooks/{id}         401  404  403  403  200  200  403  401
DELETE /api/v1/namespaces/{namespace}/webhooks/{id}         401  404  403  403  204  204  403  401
GET    /api/v1/namespaces/{namespace}/webhooks/{id}/deliveries 401 404 403 403 200 200  403  401
POST   /api/v1/signup                                       403  403  403  403  403  403  403  403
GET    /api/v1/account                                      401  200  200  200  200  200  200  401
PUT    /api/v1/account/password                             401  403  403  403  403  403  403  401
GET    /api/v1/accounts                                     401  403  403  403  403  200  403  401
POST   /api/v1/accounts                                     401  403  403  403  403  201  403  401
GET    /api/v1/accounts/{account}                           401  403  403  403  403  200  403  401
PATCH  /api/v1/accounts/{account}                           401  403  403  403  403  200  403  401
PUT    /api/v1/accounts/{account}/password                  401  403  403  403  403  204  403  401
GET    /api/v1/tokens                                       401  200  200  200  200  200  403  401
POST   /api/v1/tokens                                       401  403  403  403  403  403  403  401
DELETE /api/v1/tokens/{id}                                  401  404  404  404  404  404  403  401
GET    /api/v1/audit                                        401  403  403  403  403  200  403  401
POST   /api/v1/system/collect                               401  403  403  403  403  200  403  401
POST   /api/v1/system/scrub                                 401  403  403  403  403  200  403  401
GET    /api/v1/system/damaged                               401  403  403  403  403  200  403  401
GET    /api/v1/system/stats                                 401  403  403  403  403  200  403  401
GET    /api/v1/system/config                                401  403  403  403  403  200  403  401
GET    /openapi.json                                        200  200  200  200  200  200  200  200
GET    /healthz                                             200  200  200  200  200  200  200  200
GET    /v1/_ping                                            200  200  200  200  200  200  200  200
GET    /v1/search                                           200  200  200  200  200  200  200  401
GET    /v2/search/repositories/                             200  200  200  200  200  200  200  401
GET    /v2/repositories/{namespace}/                        404  404  200  200  200  200  200  401
GET    /v2/repositories/{namespace}/{name}/                 404  404  200  200  200  200  200  401
GET    /v2/repositories/{namespace}/{name}/tags/            404  404  200  200  200  200  200  401
GET    /v2/repositories/{namespace}/{name}/tags/{tag}/      404  404  200  200  200  200  200  401
"""
ROWS = {
    " ".join(words[:2]): list(map(int, words[2:]))
    for line in TABLE.strip().splitlines()[1:]
    if (words := line.split())
}
_numbers = itertools.count()


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """A hub with all of them. ``guest`` is who members and accounts are tried on."""
    with serving_hub(tmp_path_factory.mktemp("rights") / "hub", allow_private=True) as served:
        populate(served, "stranger", "reader", "writer", "boss", "guest")
        root = served.as_("root")
        root.ask("POST /api/v1/namespaces", {"name": "team"})
        root.ask("PATCH /api/v1/namespaces/{namespace}", {"private": True}, namespace="team")
        for name, role in (("reader", "read"), ("writer", "write"), ("boss", "admin")):
            member = "/api/v1/namespaces/{namespace}/members/{account}"
            assert root.ask(f"PUT {member}", {"role": role}, namespace="team", account=name).status == 200
        served.tokens["limited"] = limit_token(served, "boss", "team/*:pull")
        served.tokens["expired"] = limit_token(served, "boss", expired=True)
        yield served


def test_the_table_has_every_route() -> None:
    """And no other."""
    assert sorted(ROWS) == sorted(f"{route.method} {route.path}" for route in ROUTES)
    assert all(len(row) == len(CALLERS) for row in ROWS.values())


async def list_hooks(served: ApiHub) -> list[Webhook]:
    """Of team: there may be only some."""
    return served.hub.webhooks.list_webhooks("team", ROOT)


def prepare(served: ApiHub, words: str) -> tuple[dict[str, Any], Any]:
    """Something to try the route on, which is there: parameters of the path, and a body."""
    number = next(_numbers)
    digest = ""
    if "{name" in words:  # of a namespace too: a limited token sees one by what it may pull there
        digest = served.push("team/app", "1")
    member = "/api/v1/namespaces/{namespace}/members/{account}"
    if member in words:
        served.as_("root").ask(f"PUT {member}", {"role": "read"}, namespace="team", account="guest")
    path: dict[str, Any] = {"namespace": "team", "name": "app" if "/v2/" in words else "team/app"}
    path |= {
        "tag": "1",
        "ref": "1",
        "old": "1",
        "new": "1",
        "digest": digest,
        "account": "guest",
        "id": 1 << 40,
    }
    if "/attachments/" in words:
        subject = {"mediaType": MANIFEST, "digest": digest, "size": 2}
        pusher = Pusher(served.port, ("root", served.tokens["root"]))
        pusher.attach("team/app", subject, b'{"packages": []}', "application/spdx+json")
        path["digest"] = sha256(b'{"packages": []}')
    if "/robots/{account}" in words:
        path["account"], _ = served.run(served.hub.people.robots.add("team", f"r{number}", ["pull"], 0, ROOT))
    if "/webhooks/{id}" in words:
        for old in served.run(list_hooks(served)):
            served.run(served.hub.webhooks.remove("team", old.id, ROOT))
        hook, _ = served.run(served.hub.webhooks.add("team", f"http://127.0.0.1:9/{number}", ROOT))
        path["id"] = hook.id
    bodies: dict[str, Any] = {
        "PATCH /api/v1/repositories/{name}": {"description": f"number {number}"},
        "POST /api/v1/namespaces": {"name": f"made{number}"},
        "PATCH /api/v1/namespaces/{namespace}": {"description": f"number {number}"},
        f"PUT {member}": {"role": "write"},
        "POST /api/v1/namespaces/{namespace}/robots": {"name": f"r{number}", "actions": ["pull"]},
        "POST /api/v1/namespaces/{namespace}/robots/{account}/secret": {"seconds": 60},
        "POST /api/v1/namespaces/{namespace}/webhooks": {"url": f"http://127.0.0.1:9/{number}"},
        "PATCH /api/v1/namespaces/{namespace}/webhooks/{id}": {"disabled": True},
        "POST /api/v1/signup": {"name": f"made{number}", "password": PASSWORD},
        "PUT /api/v1/account/password": {"current": PASSWORD, "password": PASSWORD},
        "POST /api/v1/accounts": {"name": f"made{number}", "password": PASSWORD},
        "PATCH /api/v1/accounts/{account}": {"disabled": False},
        "PUT /api/v1/accounts/{account}/password": {"password": PASSWORD},
        "POST /api/v1/tokens": {"name": "t"},
        "POST /api/v1/system/scrub": {},
    }
    return {key: value for key, value in path.items() if f"{{{key}}}" in words}, bodies.get(words)


@pytest.mark.parametrize("words", ROWS)
def test_who_may(served: ApiHub, words: str) -> None:
    """The table is right, and who is refused has changed nothing."""
    found = []
    for name, wanted in zip(CALLERS, ROWS[words], strict=True):
        if not found or found[-1] < 400:
            path, body = prepare(served, words)
        before = served.state()
        client = Client(served, {}) if name == "anonymous" else served.as_(name)
        found.append(client.ask(words, body, **path).status)
        if wanted >= 400:
            assert served.state() == before, name
    assert found == ROWS[words]


def test_the_state_would_show_a_change(served: ApiHub) -> None:
    """What the other test compares is not always the same."""
    before = json.dumps(served.state())
    served.as_("root").ask("POST /api/v1/namespaces", {"name": f"made{next(_numbers)}"})
    assert json.dumps(served.state()) != before
