"""The HTTP API: every group of routes does what it says, and every answer fits the description (``apihub.Client``)."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cais.hub.api.system import hide_password
from harness.apihub import PASSWORD, ApiHub, Client, populate, serving_hub
from harness.wire import INDEX, format_index, sha256

REPOSITORY = "/api/v1/repositories/{name}"
NAMESPACE = "/api/v1/namespaces/{namespace}"
CONFIG = json.dumps(
    {
        "architecture": "arm64",
        "os": "linux",
        "created": "2026-01-02T03:04:05Z",
        "config": {"Cmd": ["sh"], "Labels": {"a": "b"}},
        "rootfs": {"type": "layers", "diff_ids": [sha256(b"layer")]},
        "history": [
            {"created_by": "/bin/sh -c #(nop) COPY file:x in / ", "created": "2026-01-02T03:04:05Z"},
            {"created_by": 'CMD ["sh"]', "empty_layer": True, "comment": "buildkit.dockerfile.v0"},
        ],
    }
).encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """A hub with ``root``, its administrator, and ``alice`` and ``bob``."""
    with serving_hub(tmp_path_factory.mktemp("api") / "hub", name="Test Hub", allow_private=True) as served:
        populate(served, "alice", "bob")
        yield served


@pytest.fixture
def root(served: ApiHub) -> Client:
    """The hub's administrator."""
    return served.as_("root")


@pytest.fixture
def alice(served: ApiHub) -> Client:
    """Who administers her own namespace."""
    return served.as_("alice")


@pytest.fixture
def bob(served: ApiHub) -> Client:
    """Somebody else."""
    return served.as_("bob")


# Repositories


def test_a_repository_is_shown_and_changed(served: ApiHub, alice: Client) -> None:
    """Settings that are sent change, the others stay, and the log says who did it."""
    served.push("alice/settings", "1")
    change = {"description": "Says so", "private": False, "immutable": ["v*"]}
    changed = alice.ask(f"PATCH {REPOSITORY}", change, name="alice/settings").json
    assert (changed["description"], changed["immutable"]) == ("Says so", ["v*"])
    alice.ask(f"PATCH {REPOSITORY}", {"readme": "# Words\n"}, name="alice/settings")
    shown = alice.get(REPOSITORY, name="alice/settings")
    assert (shown["description"], shown["readme"], shown["tags"]) == ("Says so", "# Words\n", 1)
    assert shown["rights"] == ["pull", "push", "delete", "admin"]
    events = alice.get(f"{NAMESPACE}/audit", namespace="alice")["events"]
    assert [(e["action"], e["account"]) for e in events[:2]] == [("settings", "alice")] * 2


def test_retention_is_kept_as_rules(served: ApiHub, alice: Client) -> None:
    """The rules come back as they were sent; none at all is the empty object that means the namespace's own."""
    served.push("alice/rules", "1")
    rules = {"rules": [{"include": ["pr-*"], "pulled_days": 14.0}]}
    assert (
        alice.ask(f"PATCH {REPOSITORY}", {"retention": rules}, name="alice/rules").json["retention"] == rules
    )
    wrong = {"rules": [{"keep_last": -1}]}
    assert alice.ask(f"PATCH {REPOSITORY}", {"retention": wrong}, name="alice/rules").status == 400
    alice.ask(f"PATCH {REPOSITORY}", {"retention": {}}, name="alice/rules")
    assert served.sql("SELECT retention FROM repositories WHERE name = 'alice/rules'") == [("{}",)]


def test_a_private_repository_is_not_there_for_others(served: ApiHub, alice: Client, bob: Client) -> None:
    """Not by its name, its tags, a search or a list; and the same words as for what does not exist."""
    served.push("alice/hidden", "1")
    alice.ask(f"PATCH {REPOSITORY}", {"private": True}, name="alice/hidden")
    for other in (bob, served.as_()):
        hidden = other.ask(f"GET {REPOSITORY}", name="alice/hidden")
        absent = other.ask(f"GET {REPOSITORY}", name="alice/absent")
        assert hidden.status == absent.status == 404
        assert hidden.body.replace(b"hidden", b"absent") == absent.body
        assert other.ask(f"GET {REPOSITORY}/-/tags/{{tag}}", name="alice/hidden", tag="1").status == 404
        assert not other.get("/api/v1/search", query={"q": "hidden"})["repositories"]
        listed = other.get("/api/v1/repositories", query={"n": 100})["repositories"]
        assert "alice/hidden" not in [one["name"] for one in listed]
        assert (
            other.ask("GET /v2/repositories/{namespace}/{name}/", namespace="alice", name="hidden").status
            == 404
        )
    assert bob.ask(f"DELETE {REPOSITORY}", name="alice/hidden").status == 404
    assert alice.get("/api/v1/search", query={"q": "hidden"})["repositories"][0]["name"] == "alice/hidden"


def test_a_repository_is_deleted(served: ApiHub, alice: Client, bob: Client) -> None:
    """By who may, once."""
    served.push("alice/gone", "1")
    assert bob.ask(f"DELETE {REPOSITORY}", name="alice/gone").kind == "denied"
    assert alice.ask(f"DELETE {REPOSITORY}", name="alice/gone").status == 204
    assert alice.ask(f"DELETE {REPOSITORY}", name="alice/gone").status == 404


def test_search_pages(served: ApiHub, bob: Client) -> None:
    """Each page has what the one before had not, and the last one says so."""
    for number in range(5):
        served.push(f"alice/paging{number}", "1")
    found: list[str] = []
    for page in (1, 2, 3):
        answer = bob.get("/api/v1/search", query={"q": "paging", "n": 2, "page": page})
        found += [one["name"] for one in answer["repositories"]]
        assert answer["more"] is (page < 3)
    assert sorted(found) == [f"alice/paging{number}" for number in range(5)]


def test_lists_go_on_where_they_ended(served: ApiHub, alice: Client) -> None:
    """``last`` is the answer's ``next``, of tags as of repositories."""
    for tag in ("a", "b", "c"):
        served.push("alice/lists", tag)
    query = {"n": 2}
    first = alice.get(f"{REPOSITORY}/-/tags", name="alice/lists", query=query)
    rest = alice.get(f"{REPOSITORY}/-/tags", name="alice/lists", query={**query, "last": first["next"]})
    assert [tag["name"] for tag in first["tags"] + rest["tags"]] == ["a", "b", "c"]
    assert (first["next"], rest["next"]) == ("b", "")
    names, last = [], ""
    while True:
        page = alice.get(f"{NAMESPACE}/repositories", namespace="alice", query={"n": 1, "last": last})
        names += [one["name"] for one in page["repositories"]]
        last = page["next"]
        if not last:
            break
    assert "alice/lists" in names and names == sorted(set(names))


def test_an_image_is_shown_with_its_instructions(served: ApiHub, bob: Client) -> None:
    """Each layer beside what made it; configuration and manifest byte for byte."""
    served.push("alice/image", "1", config=CONFIG)
    shown = bob.get(f"{REPOSITORY}/-/tags/{{tag}}", name="alice/image", tag="1")
    image = shown["image"]
    assert image["platform"] == "linux/arm64" and image["config"] == json.loads(CONFIG)
    assert [(s["instruction"], s["layer"]) for s in image["steps"]] == [("COPY", 1), ("CMD", None)]
    assert image["layers"][0]["digest"] == image["layers"][0]["diff_id"] == sha256(b"layer")
    assert shown["manifest"]["layers"][0]["digest"] == sha256(b"layer")
    same = bob.get(f"{REPOSITORY}/-/manifests/{{digest}}", name="alice/image", digest=shown["digest"])
    assert same == shown


def test_an_index_is_shown_by_platform(served: ApiHub, bob: Client) -> None:
    """The platform that is asked for, or 404; all of them are listed."""
    digest = served.push("alice/index", "arm", config=CONFIG)
    shown = bob.get(f"{REPOSITORY}/-/tags/{{tag}}", name="alice/index", tag="arm")
    data = json.loads(format_index([json.dumps(shown["manifest"]).encode()]))
    data["manifests"][0].update(digest=digest, platform={"os": "linux", "architecture": "arm64"})
    said = served.send(
        "PUT",
        "/v2/alice/index/manifests/all",
        json.dumps(data).encode(),
        {"Authorization": f"Bearer {served.tokens['root']}", "Content-Type": INDEX},
    )
    assert said.status == 201, said
    whole = bob.get(f"{REPOSITORY}/-/tags/{{tag}}", name="alice/index", tag="all")
    assert [p["platform"] for p in whole["platforms"]] == ["linux/arm64"]
    query = {"platform": "linux/arm64"}
    chosen = bob.get(f"{REPOSITORY}/-/tags/{{tag}}", name="alice/index", tag="all", query=query)
    assert chosen["image"]["digest"] == digest
    query = {"platform": "windows/amd64"}
    wrong = bob.ask(f"GET {REPOSITORY}/-/tags/{{tag}}", name="alice/index", tag="all", query=query)
    assert wrong.status == 404


def test_tags_and_manifests_are_deleted(served: ApiHub, alice: Client, bob: Client) -> None:
    """A tag leaves the manifest, a manifest takes its tags along; an immutable tag stays."""
    digest = served.push("alice/tags", "1")
    served.push("alice/tags", "2")
    assert bob.ask(f"DELETE {REPOSITORY}/-/tags/{{tag}}", name="alice/tags", tag="1").status == 403
    assert alice.ask(f"DELETE {REPOSITORY}/-/tags/{{tag}}", name="alice/tags", tag="1").status == 204
    assert alice.get(f"{REPOSITORY}/-/manifests/{{digest}}", name="alice/tags", digest=digest)["tags"] == [
        "2"
    ]
    alice.ask(f"PATCH {REPOSITORY}", {"immutable": ["2"]}, name="alice/tags")
    fixed = alice.ask(f"DELETE {REPOSITORY}/-/tags/{{tag}}", name="alice/tags", tag="2")
    assert fixed.kind == "conflict"
    alice.ask(f"PATCH {REPOSITORY}", {"immutable": []}, name="alice/tags")
    gone = alice.ask(f"DELETE {REPOSITORY}/-/manifests/{{digest}}", name="alice/tags", digest=digest)
    assert gone.status == 204
    assert alice.ask(f"GET {REPOSITORY}/-/tags/{{tag}}", name="alice/tags", tag="2").status == 404


def test_referrers_are_listed(served: ApiHub, bob: Client) -> None:
    """Of a type, and page by page."""
    digest = served.push("alice/signed", "1")
    about = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 2}
    for number in range(3):
        kind = f"application/vnd.test.{number % 2}"
        served.push("alice/signed", f"r{number}", layers=[b"%d" % number], subject=about, artifactType=kind)
    path = f"{REPOSITORY}/-/referrers/{{digest}}"
    query = {"type": "application/vnd.test.0", "n": 1}
    first = bob.get(path, name="alice/signed", digest=digest, query=query)
    rest = bob.get(path, name="alice/signed", digest=digest, query={**query, "last": first["next"]})
    found = first["referrers"] + rest["referrers"]
    assert [one["artifact_type"] for one in found] == ["application/vnd.test.0"] * 2
    assert rest["next"] == "" and found[0]["digest"] != found[1]["digest"]


def test_pulls_are_counted_by_day(served: ApiHub, bob: Client) -> None:
    """A pull is of today, which is the last of the days."""
    served.push("alice/pulled", "1")
    token = {"Authorization": f"Bearer {served.tokens['bob']}"}
    assert served.send("GET", "/v2/alice/pulled/manifests/1", headers=token).status == 200
    served.run(served.hub.registry.flush())
    pulls = bob.get(f"{REPOSITORY}/-/pulls", name="alice/pulled", query={"days": 7})
    assert pulls["total"] == 1 and [day["count"] for day in pulls["days"]] == [0] * 6 + [1]


# Namespaces


def test_a_namespace_is_made_and_changed(alice: Client, bob: Client, root: Client) -> None:
    """Who makes it administers it, and only administrators of the hub set its quota."""
    made = alice.ask("POST /api/v1/namespaces", {"name": "team-a"})
    assert (made.status, made.json["role"], made.json["quota"]) == (201, "admin", 0)
    assert bob.ask("POST /api/v1/namespaces", {"name": "team-a"}).kind == "conflict"
    assert bob.ask("POST /api/v1/namespaces", {"name": "api"}).kind == "invalid"
    assert alice.ask(f"PATCH {NAMESPACE}", {"quota": 5}, namespace="team-a").status == 403
    assert root.ask(f"PATCH {NAMESPACE}", {"quota": 5}, namespace="team-a").json["quota"] == 5
    change = {"description": "Ours", "private": True, "immutable": ["v*"]}
    changed = alice.ask(f"PATCH {NAMESPACE}", change, namespace="team-a").json
    assert {key: changed[key] for key in change} == change
    rules = {"rules": [{"exclude": ["v*"], "keep_last": 10}]}
    kept = alice.ask(f"PATCH {NAMESPACE}", {"retention": rules}, namespace="team-a").json["retention"][
        "rules"
    ]
    assert (kept[0]["exclude"], kept[0]["keep_last"]) == (["v*"], 10)
    assert bob.ask(f"GET {NAMESPACE}", namespace="team-a").status == 404
    assert "team-a" in [one["name"] for one in alice.get("/api/v1/namespaces")["namespaces"]]


def test_what_strangers_see_of_a_namespace(alice: Client, bob: Client) -> None:
    """Its words, but neither what it holds nor who is in it."""
    alice.ask("POST /api/v1/namespaces", {"name": "team-open"})
    shown = bob.get(NAMESPACE, namespace="team-open")
    assert (shown["role"], shown["quota"], shown["used"]) == ("", None, None)
    assert bob.ask(f"GET {NAMESPACE}/members", namespace="team-open").status == 403
    assert bob.ask(f"GET {NAMESPACE}/audit", namespace="team-open").status == 403


def test_members_come_and_go(alice: Client, bob: Client) -> None:
    """A role gives what it says, and is gone with the membership; the last administrator stays."""
    alice.ask("POST /api/v1/namespaces", {"name": "team-m"})
    member = f"{NAMESPACE}/members/{{account}}"
    where = {"namespace": "team-m", "account": "bob"}
    assert alice.ask(f"PUT {member}", {"role": "write"}, **where).json["role"] == "write"
    assert bob.get(member, **where) == {"name": "bob", "kind": "person", "role": "write"}
    assert bob.ask(f"PUT {member}", {"role": "admin"}, **where).status == 403
    assert alice.ask(f"PUT {member}", {"role": "owner"}, **where).status == 400
    assert alice.ask(f"PUT {member}", {"role": "read"}, namespace="team-m", account="nobody").status == 404
    last = {"namespace": "team-m", "account": "alice"}
    assert alice.ask(f"DELETE {member}", **last).kind == "conflict"
    assert alice.ask(f"DELETE {member}", **where).status == 204
    assert alice.ask(f"DELETE {member}", **where).status == 404
    assert [m["name"] for m in alice.get(f"{NAMESPACE}/members", namespace="team-m")["members"]] == ["alice"]


def test_a_robot_may_what_it_was_made_for(served: ApiHub, alice: Client) -> None:
    """Its secret is good for the registry, in the namespace, and for nothing about accounts."""
    alice.ask("POST /api/v1/namespaces", {"name": "team-r"})
    body = {"name": "ci", "actions": ["pull"], "seconds": 60}
    made = alice.ask(f"POST {NAMESPACE}/robots", body, namespace="team-r")
    assert (made.status, made.json["name"]) == (201, "team-r.ci")
    served.push("team-r/app", "1")
    robot = Client(served, {"Authorization": f"Bearer {made.json['secret']}"})
    assert robot.get(REPOSITORY, name="team-r/app")["rights"] == ["pull"]
    assert robot.ask("POST /api/v1/tokens", {"name": "more"}).status == 403
    assert robot.ask(f"DELETE {REPOSITORY}", name="team-r/app").status == 403
    assert alice.ask(f"POST {NAMESPACE}/robots", body, namespace="team-r").kind == "conflict"


def test_a_robots_secret_is_renewed(served: ApiHub, alice: Client) -> None:
    """What it may stays; the old secret ends, and the renewal is in the namespace's log."""
    alice.ask("POST /api/v1/namespaces", {"name": "team-s"})
    where: dict[str, str | int] = {"namespace": "team-s", "account": "team-s.ci"}
    body = {"name": "ci", "actions": ["pull"]}
    old = alice.ask(f"POST {NAMESPACE}/robots", body, namespace="team-s").json["secret"]
    served.push("team-s/app", "1")
    made = alice.ask(f"POST {NAMESPACE}/robots/{{account}}/secret", {"seconds": 0}, **where)
    assert (made.status, made.json["name"]) == (200, "team-s.ci") and made.json["secret"] != old
    robot = Client(served, {"Authorization": f"Bearer {made.json['secret']}"})
    assert robot.get(REPOSITORY, name="team-s/app")["rights"] == ["pull"]
    assert Client(served, {"Authorization": f"Bearer {old}"}).ask("GET /api/v1/account").status == 401
    where["account"] = "alice"
    assert alice.ask(f"POST {NAMESPACE}/robots/{{account}}/secret", {}, **where).kind == "not_found"
    events = alice.get(f"{NAMESPACE}/audit", namespace="team-s")["events"]
    assert (events[0]["action"], events[0]["detail"]) == ("robot secret", "team-s.ci")


def test_webhooks(alice: Client, bob: Client) -> None:
    """They are made, shown without their secret, stopped and removed, by the namespace's administrators."""
    alice.ask("POST /api/v1/namespaces", {"name": "team-w"})
    hooks = f"{NAMESPACE}/webhooks"
    body = {"url": "http://127.0.0.1:9/hook", "actions": ["push"]}
    made = alice.ask(f"POST {hooks}", body, namespace="team-w")
    assert made.status == 201 and made.json["secret"]
    assert bob.ask(f"POST {hooks}", body, namespace="team-w").status == 403
    assert alice.ask(f"POST {hooks}", {"url": "ftp://x"}, namespace="team-w").kind == "invalid"
    shown = alice.get(hooks, namespace="team-w")["webhooks"]
    assert shown == [made.json["webhook"]] and "secret" not in shown[0]
    where = {"namespace": "team-w", "id": shown[0]["id"]}
    assert alice.ask(f"PATCH {hooks}/{{id}}", {"disabled": True}, **where).json["disabled"] is True
    assert alice.get(f"{hooks}/{{id}}/deliveries", **where) == {"deliveries": []}
    elsewhere = {"namespace": "alice", "id": shown[0]["id"]}
    assert alice.ask(f"DELETE {hooks}/{{id}}", **elsewhere).status == 404
    assert alice.ask(f"DELETE {hooks}/{{id}}", **where).status == 204


# Accounts and tokens


def test_accounts_are_made_and_disabled(served: ApiHub, root: Client, alice: Client) -> None:
    """By administrators of the hub; who is disabled is nobody from that moment on."""
    made = root.ask("POST /api/v1/accounts", {"name": "carol", "password": PASSWORD})
    assert (made.status, made.json["admin"]) == (201, False)
    assert alice.ask("POST /api/v1/accounts", {"name": "dora", "password": PASSWORD}).status == 403
    assert root.ask("POST /api/v1/accounts", {"name": "dora", "password": "short"}).kind == "invalid"
    carol = Client(served, {"Authorization": _basic("carol", PASSWORD)})
    assert carol.get("/api/v1/account")["name"] == "carol"
    account = "/api/v1/accounts/{account}"
    assert root.ask(f"PATCH {account}", {"disabled": True}, account="carol").json["disabled"] is True
    assert carol.ask("GET /api/v1/account").status == 401
    assert root.ask(f"PATCH {account}", {"disabled": True}, account="root").kind == "conflict"
    assert alice.get(account, account="alice")["name"] == "alice"
    assert alice.ask(f"GET {account}", account="bob").body == alice.ask(f"GET {account}", account="xx").body
    names, last = [], ""
    while page := root.get("/api/v1/accounts", query={"n": 2, "last": last}):
        names += [one["name"] for one in page["accounts"]]
        if not (last := page["next"]):
            break
    assert {"alice", "bob", "carol", "root"} <= set(names) and names == sorted(set(names))


def test_signing_up_needs_the_code(served: ApiHub, tmp_path: Path) -> None:
    """The first account is an administrator's, and made with what the hub said; the code is good once."""
    assert served.as_().ask("POST /api/v1/signup", {"name": "eve", "password": PASSWORD}).status == 403
    with serving_hub(tmp_path / "new") as new:
        body = {"name": "first", "password": PASSWORD}
        assert new.as_().ask("POST /api/v1/signup", {**body, "code": "wrong"}).status == 403
        made = new.as_().ask("POST /api/v1/signup", {**body, "code": new.hub.invitation})
        assert (made.status, made.json["admin"]) == (201, True)
        again = new.as_().ask("POST /api/v1/signup", {**body, "name": "next", "code": new.hub.invitation})
        assert again.status == 403


def test_a_password_is_changed_by_who_knows_it(served: ApiHub, root: Client) -> None:
    """Neither by a token nor by a guess; an administrator sets another one."""
    root.ask("POST /api/v1/accounts", {"name": "paul", "password": PASSWORD})
    paul = Client(served, {"Authorization": _basic("paul", PASSWORD)})
    change = {"current": PASSWORD, "password": "another one 123"}
    assert paul.ask("PUT /api/v1/account/password", {**change, "current": "wrong"}).kind == "denied"
    secret = paul.ask("POST /api/v1/tokens", {"name": "t"}).json["secret"]
    token = Client(served, {"Authorization": f"Bearer {secret}"})
    assert token.ask("PUT /api/v1/account/password", change).kind == "denied"
    assert paul.ask("PUT /api/v1/account/password", change).status == 204
    assert paul.ask("GET /api/v1/account").status == 401
    reset = {"password": "the third of them"}
    assert root.ask("PUT /api/v1/accounts/{account}/password", reset, account="paul").status == 204
    again = Client(served, {"Authorization": _basic("paul", "the third of them")})
    assert again.get("/api/v1/account")["name"] == "paul"


def test_tokens_are_made_shown_once_and_ended(served: ApiHub) -> None:
    """The secret is in one answer only; a token makes no tokens; it ends when it is deleted."""
    alice = Client(served, {"Authorization": _basic("alice", PASSWORD)})
    body = {"name": "ci", "scopes": ["alice/*:pull,push"], "seconds": 3600}
    made = alice.ask("POST /api/v1/tokens", body)
    assert made.status == 201 and made.json["secret"].startswith("cais_")
    assert made.json["token"]["scopes"] == body["scopes"] and made.json["token"]["expires"]
    listed = alice.get("/api/v1/tokens")
    assert made.json["secret"] not in json.dumps(listed)
    token = Client(served, {"Authorization": f"Bearer {made.json['secret']}"})
    assert token.get("/api/v1/account")["name"] == "alice"
    assert token.ask("POST /api/v1/tokens", {"name": "x"}).status == 403
    assert token.ask("DELETE /api/v1/tokens/{id}", id=made.json["token"]["id"]).status == 403
    bob = served.as_("bob")
    assert bob.ask("DELETE /api/v1/tokens/{id}", id=made.json["token"]["id"]).status == 404
    assert bob.ask("GET /api/v1/tokens", query={"account": "alice"}).status == 403
    assert alice.ask("DELETE /api/v1/tokens/{id}", id=made.json["token"]["id"]).status == 204
    assert token.ask("GET /api/v1/account").status == 401


def test_a_token_with_limits_finds_only_what_it_is_for(served: ApiHub) -> None:
    """Searches and lists hide what it may not pull, though its account may."""
    for name in ("alice/limit-in", "alice/limit-out"):
        served.push(name, "1")
    alice = Client(served, {"Authorization": _basic("alice", PASSWORD)})
    secret = alice.ask("POST /api/v1/tokens", {"name": "l", "scopes": ["alice/limit-in:pull"]}).json["secret"]
    token = Client(served, {"Authorization": f"Bearer {secret}"})
    found = token.get("/api/v1/search", query={"q": "limit"})["repositories"]
    listed = token.get(f"{NAMESPACE}/repositories", namespace="alice", query={"n": 100})["repositories"]
    everything = token.get("/api/v1/repositories", query={"n": 100})["repositories"]
    assert [one["name"] for one in found] == ["alice/limit-in"]
    assert [one["name"] for one in listed] == [one["name"] for one in everything] == ["alice/limit-in"]
    assert token.ask(f"GET {REPOSITORY}", name="alice/limit-out").status == 404


# The hub itself


def test_the_log_is_read_page_by_page(served: ApiHub, root: Client, alice: Client) -> None:
    """No event is on two pages or on none; a namespace's has only its own."""
    served.push("alice/logged", "1")
    seen: list[int] = []
    before = 0
    while True:
        page = root.get("/api/v1/audit", query={"n": 7, "before": before})
        seen += [event["id"] for event in page["events"]]
        before = page["next"]
        if not before:
            break
    assert seen == [id for (id,) in served.sql("SELECT id FROM events ORDER BY id DESC")]
    own = alice.get(f"{NAMESPACE}/audit", namespace="alice", query={"n": 100})["events"]
    assert own and all(e["repository"].startswith("alice/") or e["target"] == "alice" for e in own)
    assert alice.ask("GET /api/v1/audit").status == 403


def test_housekeeping(served: ApiHub, root: Client, alice: Client) -> None:
    """Damage is found when it is looked for, and counted."""
    served.push("alice/damaged", "1", layers=[b"to be spoiled"])
    digest = sha256(b"to be spoiled").partition(":")[2]
    path = served.hub.config.root / "content" / "blobs" / "sha256" / digest
    path.chmod(0o600)
    path.write_bytes(b"to be SPOILED")
    assert root.ask("POST /api/v1/system/collect").json["blobs"] == 0
    scrubbed = root.ask("POST /api/v1/system/scrub", {"count": 100_000, "age": 0})
    assert scrubbed.json["damaged"] == [f"sha256:{digest}"]
    stats = root.get("/api/v1/system/stats")
    assert stats["damaged"] == 1 and stats["accounts"] >= 3 and stats["bytes"] > 0
    assert alice.ask("POST /api/v1/system/scrub", {}).status == 403


def test_the_settings_hold_no_secret(root: Client, served: ApiHub) -> None:
    """No path of a key, no password of an upstream."""
    text = json.dumps(root.get("/api/v1/system/config"))
    assert "Test Hub" in text and str(served.hub.config.root) not in text and "key" not in text
    assert hide_password("a=https://me:p@ss@host:1/x@y") == "a=https://host:1/x@y"
    assert hide_password("a=https://host/x") == "a=https://host/x"


def test_health(served: ApiHub) -> None:
    """Nobody needs to say who they are."""
    assert served.as_().get("/healthz") == {"status": "ok"}


def _basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()
