"""hub/pages: which forms are believed, and what they do."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from cais.hub.pages.pages import OF_NAMESPACE, OF_REFERENCE, OF_REPOSITORY, PLAIN
from cais.registry.base import Event
from harness.apihub import PASSWORD, ApiHub, serving_hub
from harness.apihub import ROOT as ROOT_CALLER
from harness.cargo import Pusher
from harness.quay import logged_in, push, stock
from harness.visitor import Outline, Visitor

TIMETABLE = "/r/harbour/timetable"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """One with people and images, for tests that spoil nothing for each other."""
    with serving_hub(Path(tmp_path_factory.mktemp("hub")) / "root", signup=True, grace=0.0) as served:
        stock(served)
        served.run(served.hub.people.robots.add("harbour", "pilot", ["pull"], 0, ROOT_CALLER))
        yield served


@pytest.fixture
def stranger(hub: ApiHub) -> Visitor:
    """Somebody who has not logged in."""
    return Visitor(hub.port)


@pytest.fixture
def root(hub: ApiHub) -> Visitor:
    """The hub's administrator."""
    return logged_in(hub, "root")


@pytest.fixture
def owner(hub: ApiHub) -> Visitor:
    """Who administers the namespace ``harbour``, and nothing else."""
    return logged_in(hub, "harbour")


# Forms


def test_logging_in_and_out(hub: ApiHub) -> None:
    """The session's cookie is out of scripts' reach; after logging out it is worth nothing."""
    visitor = Visitor(hub.port)
    page = visitor.post("/login", {"name": "harbour", "password": PASSWORD, "next": "/account/tokens"})
    assert (page.status, page.location) == (303, "/account/tokens")
    (cookie,) = page.set_cookies
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    before = dict(visitor.cookies)
    assert visitor.get("/account").status == 200
    assert visitor.post("/logout", on="/account").location == "/"
    assert "cais_session" not in visitor.cookies
    assert Visitor(hub.port, before).get("/account").status == 303


@pytest.mark.parametrize("listed", ["127.0.0.1", "127.0.0.0/8"])
def test_behind_https_cookies_are_for_https_only(tmp_path: Path, listed: str) -> None:
    """A proxy that is believed says so, by itself or as one of its network; who signs up is who it names."""
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "6.6.6.6, 198.51.100.7"}
    with serving_hub(tmp_path / "hub", signup=True, proxies=(listed,)) as served:
        visitor = Visitor(served.port)
        page = visitor.send("GET", "/login", headers=headers)
        (cookie,) = page.set_cookies
        assert cookie.startswith("__Host-cais_form=") and "Secure" in cookie and "SameSite=Strict" in cookie
        csrf = cookie.partition("=")[2].partition(";")[0]
        form = urlencode({"csrf": csrf, "name": "somebody", "password": PASSWORD}).encode()
        form_headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert visitor.send("POST", "/signup", form, headers={**headers, **form_headers}).status == 303
        addresses = served.sql("SELECT address FROM events WHERE action = 'account' AND target = 'somebody'")
        assert addresses == [("198.51.100.7",)]


def test_a_proxy_that_nobody_listed_says_nothing(tmp_path: Path) -> None:
    """Neither that the browser spoke HTTPS, nor who it is."""
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "198.51.100.7"}
    with serving_hub(tmp_path / "hub", signup=True, proxies=("10.0.0.0/8",)) as served:
        (cookie,) = Visitor(served.port).send("GET", "/login", headers=headers).set_cookies
        assert cookie.startswith("cais_form=") and "Secure" not in cookie


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\nb"]
)
def test_a_login_leads_to_no_other_site(hub: ApiHub, target: str) -> None:
    """Whatever ``next`` says."""
    page = Visitor(hub.port).post("/login", {"name": "harbour", "password": PASSWORD, "next": target})
    assert page.location == "/"


def test_a_wrong_password_says_no_more_than_that(hub: ApiHub) -> None:
    """The same words for a name that is not there; and the name stays in the form."""
    visitor = Visitor(hub.port)
    pages = [
        visitor.post("/login", {"name": name, "password": "wrong wrong wrong"})
        for name in ("harbour", "nobody")
    ]
    assert [page.status for page in pages] == [401, 401]
    assert all("the name or the password is wrong" in page.words for page in pages)
    assert 'value="harbour"' in pages[0].text
    token = visitor.post("/login", {"name": "harbour", "password": hub.tokens["harbour"]})
    assert token.status == 401, "a token opens no session"


FORMS = {
    f"{TIMETABLE}/-/readme": {"readme": "spoiled"},
    f"{TIMETABLE}/-/settings": {"visibility": "private"},
    f"{TIMETABLE}/-/delete": {"confirm": "harbour/timetable"},
    f"{TIMETABLE}/-/retention": {"keep": "1"},
    f"{TIMETABLE}:1.0/-/delete": {},
    "/n/harbour/-/members": {"account": "alder", "role": "admin"},
    "/n/harbour/-/robots": {"robot": "r2", "pull": "1", "days": "30"},
    "/n/harbour/-/secret": {"robot": "harbour.pilot", "days": "30"},
    "/n/harbour/-/settings": {"visibility": "private"},
    "/n/harbour/-/quota": {"quota": "1"},
    "/n/harbour/-/retention": {"keep": "1"},
    "/n/harbour/-/webhooks": {"url": "https://example.com/", "push": "1"},
    "/n/harbour/-/webhook": {"id": "1", "do": "remove"},
    "/account/password": {"old": PASSWORD, "password": "another password", "again": "another password"},
    "/account/namespaces": {"name": "stolen"},
    "/account/tokens": {"name": "t", "pull": "1", "days": "0"},
    "/account/tokens/remove": {"id": "1"},
    "/system/collect": {},
    "/system/accounts": {"name": "intruder", "password": "long enough 123", "admin": "1"},
    "/system/accounts/disable": {"name": "harbour", "disabled": "1"},
    "/logout": {},
}
"""Every form that changes something, with fields that would."""


def test_the_list_of_forms_is_whole() -> None:
    """A new form must be in the tests below."""
    count = sum(
        method == "POST"
        for table in (PLAIN, OF_REPOSITORY, OF_REFERENCE, OF_NAMESPACE)
        for method, _ in table
    )
    assert count == len(FORMS) + 2  # login and signup


@pytest.mark.parametrize("path", FORMS)
def test_a_form_without_the_sessions_secret_changes_nothing(hub: ApiHub, root: Visitor, path: str) -> None:
    """None, a made-up one, another's: refused before anything is looked at."""
    before = hub.state()
    _, other = hub.run(hub.hub.people.sessions.open("alder"))
    sessions = hub.state()["sessions"]
    for csrf in ("", "guess", other.csrf):
        assert root.raw_post(path, {"csrf": csrf, **FORMS[path]}).status == 403
    assert {**hub.state(), "sessions": []} == {**before, "sessions": []}
    assert hub.state()["sessions"] == sessions


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Origin": "null"},
    ],
    ids=str,
)
def test_a_form_that_another_site_sent_changes_nothing(
    hub: ApiHub, root: Visitor, path: str, headers: dict[str, str]
) -> None:
    """Even with the right secret."""
    csrf = hub.hub.people.sessions.find
    session = hub.run(_find(csrf, root.cookies["cais_session"]))
    before = hub.state()
    assert root.raw_post(path, {"csrf": session, **FORMS[path]}, **headers).status == 403
    assert hub.state() == before


async def _find(find: object, value: str) -> str:
    assert callable(find)
    found = find(value)
    assert found is not None
    return str(found.csrf)


@pytest.mark.parametrize("path", ["/login", "/signup"])
def test_forms_before_a_session_want_their_cookie(hub: ApiHub, path: str) -> None:
    """Another site can neither log somebody in as it likes, nor make accounts through their browser."""
    fields = {"name": "harbour", "password": PASSWORD}
    visitor = Visitor(hub.port)
    assert visitor.raw_post(path, {"csrf": "x", **fields}).status == 403
    page = visitor.get(path)
    (cookie,) = page.set_cookies
    assert "SameSite=Strict" in cookie and "HttpOnly" in cookie
    assert visitor.raw_post(path, {"csrf": "x", **fields}).status == 403
    assert visitor.post(path, fields, Sec_Fetch_Site="cross-site").status == 403


@pytest.mark.parametrize("path", [path for path in FORMS if path[:3] in ("/r/", "/n/", "/sy")])
def test_forms_ask_for_rights_too(hub: ApiHub, path: str) -> None:
    """Somebody with a session and its secret, but without the right: nothing of others' changes."""
    nautilus = logged_in(hub, "nautilus")
    csrf = hub.run(_find(hub.hub.people.sessions.find, nautilus.cookies["cais_session"]))
    before = hub.state()
    assert nautilus.raw_post(path, {"csrf": csrf, **FORMS[path]}).status in (403, 404)
    assert hub.state() == before


def test_a_form_that_is_too_long_is_refused(root: Visitor) -> None:
    """Before it fills the memory."""
    page = root.raw_post(f"{TIMETABLE}/-/readme", {"readme": "x" * (300 << 10)})
    assert page.status == 400


# What forms do


def test_signing_up(hub: ApiHub) -> None:
    """A session and a namespace; a name that is taken, or no name, keeps the form."""
    visitor = Visitor(hub.port)
    for name, password, said in (
        ("harbour", "long enough 123", "taken"),
        ("No", "long enough 123", "invalid name"),
        ("newcomer", "short", "10 characters"),
    ):
        page = visitor.post("/signup", {"name": name, "password": password})
        assert page.status == 400 and said in page.words
    page = visitor.post("/signup", {"name": "newcomer", "password": "long enough 123"})
    assert page.location == "/account" and "newcomer" in visitor.get("/account").words
    assert visitor.get("/n/newcomer/-/members").status == 200


def test_the_first_account_is_made_with_the_code(tmp_path: Path) -> None:
    """Nobody else may sign up where that is not allowed."""
    with serving_hub(tmp_path / "hub") as served:
        visitor = Visitor(served.port)
        assert "Code of the first start" in visitor.get("/signup").words
        wrong = visitor.post("/signup", {"name": "boss", "password": "long enough 123", "code": "guess"})
        assert wrong.status == 400
        page = visitor.get(f"/signup?code={served.hub.invitation}")
        assert f'value="{served.hub.invitation}"' in page.text
        fields = {"name": "boss", "password": "long enough 123", "code": served.hub.invitation}
        assert visitor.post("/signup", fields).location == "/account"
        assert visitor.get("/system").status == 200
        assert "made by an administrator" in Visitor(served.port).get("/signup").words


def test_the_readme_is_written_by_who_may_push(hub: ApiHub, owner: Visitor, stranger: Visitor) -> None:
    """And has a limit."""
    push(hub, "harbour/written")
    url = "/r/harbour/written"
    page = owner.post(f"{url}/-/readme", {"readme": "# Hello\r\n\r\n*there*"}, on=f"{url}/-/settings")
    assert page.location == url and "<em>there</em>" in stranger.get(url).text
    long = owner.post(f"{url}/-/readme", {"readme": "x" * 66_000}, on=f"{url}/-/settings")
    assert long.status == 400 and "65536 bytes" in long.words
    member = logged_in(hub, "alder")
    hub.run(hub.hub.people.namespaces.set_member("harbour", "alder", "write", ROOT_CALLER))
    assert member.post(f"{url}/-/readme", {"readme": "mine"}, on=f"{url}/-/settings").status == 303
    assert 'action="/r/harbour/written/-/delete"' not in member.get(f"{url}/-/settings").text
    hub.run(hub.hub.people.namespaces.set_member("harbour", "alder", "", ROOT_CALLER))


def test_tags_and_repositories_are_deleted_and_space_is_freed(
    hub: ApiHub, owner: Visitor, root: Visitor
) -> None:
    """The tag first, then all of it; the collection says how much came free."""
    for tag in ("1", "2"):
        push(hub, "harbour/short-lived", tag)
    url = "/r/harbour/short-lived"
    assert owner.post(f"{url}:1/-/delete", on=f"{url}:1").location == url
    assert owner.get(f"{url}:1").status == 404 and owner.get(f"{url}:2").status == 200
    wrong = owner.post(f"{url}/-/delete", {"confirm": "other"}, on=f"{url}/-/settings")
    assert wrong.status == 400 and owner.get(url).status == 200
    gone = owner.post(f"{url}/-/delete", {"confirm": "harbour/short-lived"}, on=f"{url}/-/settings")
    assert gone.location == "/n/harbour" and owner.get(url).status == 404
    pages = [root.post("/system/collect", on="/system") for _ in range(3)]
    assert any(re.search(r"[1-9][\d.]* k?B freed", page.words) for page in pages)
    assert "collect" in root.get("/audit?action=collect").words


def test_a_digest_is_deleted_with_its_tags(hub: ApiHub, owner: Visitor) -> None:
    """The manifest and every name of it."""
    push(hub, "harbour/by-digest", "1")
    push(hub, "harbour/by-digest", "2")
    url = "/r/harbour/by-digest"
    digest = hub.sql(
        "SELECT digest FROM tags t JOIN repositories r ON r.id = t.repository WHERE r.name = ?", url[3:]
    )
    link = f"{url}@{digest[0][0]}"
    assert owner.post(f"{link}/-/delete", on=link).location == url
    assert owner.get(f"{url}:1").status == owner.get(f"{url}:2").status == 404


def test_immutable_tags_stay(hub: ApiHub, owner: Visitor) -> None:
    """The page says why."""
    push(hub, "harbour/fixed", "v1")
    url = "/r/harbour/fixed"
    settings = {"visibility": "public", "immutable": "v*\r\nrelease-?\r\n"}
    assert owner.post(f"{url}/-/settings", settings).status == 303
    assert "v*\nrelease-?" in owner.get(f"{url}/-/settings").text
    page = owner.post(f"{url}:v1/-/delete", on=f"{url}:v1")
    assert page.status == 409 and "immutable" in page.words
    bad = owner.post(f"{url}/-/settings", {"visibility": "public", "immutable": "a b"})
    assert bad.status == 400


def test_tokens_are_made_shown_once_and_removed(hub: ApiHub, owner: Visitor) -> None:
    """With limits; the secret logs in at the registry until it is removed."""
    fields = {"name": "build server", "pattern": "harbour/*", "pull": "1", "push": "1", "days": "30"}
    page = owner.post("/account/tokens", fields)
    found = re.search(r"cais_[\w-]{40,}", page.text)
    assert page.status == 200 and found
    assert found[0] not in owner.get("/account/tokens").text
    assert "harbour/*:pull,push" in owner.get("/account/tokens").words
    pusher = Pusher(hub.port, ("harbour", found[0]))
    assert pusher.ask("GET", "/v2/")[0] == 200
    id = re.search(r'name="id" value="(\d+)"', owner.get("/account/tokens").text)
    assert id and owner.post("/account/tokens/remove", {"id": id[1]}, on="/account/tokens").status == 303
    assert pusher.ask("GET", "/v2/")[0] == 401
    assert owner.post("/account/tokens", {"name": "none", "days": "30"}).status == 400
    assert owner.post("/account/tokens", {"name": "none", "pull": "1", "days": "31"}).status == 400


def test_members_and_robots(hub: ApiHub, owner: Visitor) -> None:
    """A role is given, changed and taken; a robot's secret is shown once; the last administrator stays."""
    url = "/n/harbour/-/members"
    assert owner.post(url, {"account": "nautilus", "role": "read"}).status == 303
    assert ("nautilus", "person", "read") in hub.hub.people.namespaces.list_members("harbour")
    assert owner.post(url, {"account": "nautilus", "remove": "1"}).status == 303
    assert owner.post(url, {"account": "nobody", "role": "read"}).status == 404
    assert owner.post(url, {"account": "harbour", "remove": "1"}).status == 409
    fields = {"robot": "ci", "pull": "1", "days": "90"}
    page = owner.post("/n/harbour/-/robots", fields, on=url)
    found = re.search(r"cais_[\w-]{40,}", page.text)
    assert found and Pusher(hub.port, ("harbour.ci", found[0])).ask("GET", "/v2/")[0] == 200
    assert "New secret for harbour.ci" in owner.get(url).text
    assert owner.post("/n/harbour/-/secret", {"robot": "harbour.ci", "days": "31"}, on=url).status == 400
    page = owner.post("/n/harbour/-/secret", {"robot": "harbour.ci", "days": "90"}, on=url)
    renewed = re.search(r"cais_[\w-]{40,}", page.text)
    assert renewed and Pusher(hub.port, ("harbour.ci", renewed[0])).ask("GET", "/v2/")[0] == 200
    assert Pusher(hub.port, ("harbour.ci", found[0])).ask("GET", "/v2/")[0] == 401
    assert renewed[0] not in owner.get(url).text


def test_webhooks(hub: ApiHub, owner: Visitor) -> None:
    """Added with a secret that is shown once, stopped, started, removed; private addresses are refused."""
    url = "/n/harbour/-/webhooks"
    page = owner.post(url, {"url": "https://ci.example.com/hook", "push": "1"})
    assert page.status == 200 and "shown only this once" in page.words
    assert owner.post(url, {"url": "http://127.0.0.1/", "push": "1"}).status == 400
    assert owner.post(url, {"url": "https://ci.example.com/hook"}).status == 400
    (id,) = (hook.id for hook in hub.hub.webhooks.list_webhooks("harbour", ROOT_CALLER))
    assert "None yet" in owner.get(f"{url}?of={id}").words
    for do, said in (("disable", "stopped"), ("enable", "in order")):
        assert owner.post("/n/harbour/-/webhook", {"id": str(id), "do": do}, on=url).status == 303
        assert said in owner.get(url).words
    assert owner.post("/n/harbour/-/webhook", {"id": str(id), "do": "remove"}, on=url).status == 303
    assert "Nobody is told" in owner.get(url).words


def test_retention_rules(hub: ApiHub, owner: Visitor) -> None:
    """Added, read as sentences, tried, removed; for a repository and for a namespace."""
    push(hub, "harbour/many", "pr-1")
    push(hub, "harbour/many", "pr-2")
    for url in ("/r/harbour/many/-", "/n/harbour/-"):
        rule = {"include": "pr-*", "keep": "1", "exclude": ""}
        assert owner.post(f"{url}/retention", rule, on=f"{url}/settings").status == 303
        assert "Of tags like pr-*: remove all, except the newest 1." in owner.get(f"{url}/settings").words
    assert "1 tags would go: pr-1" in owner.get("/r/harbour/many/-/settings?preview=1").words
    assert owner.get("/r/harbour/many:pr-1").status == 200
    for url in ("/r/harbour/many/-", "/n/harbour/-"):
        assert owner.post(f"{url}/retention", {"remove": "0"}, on=f"{url}/settings").status == 303
        assert "pr-*: remove" not in owner.get(f"{url}/settings").words
        for number in ("0", "x", "9" * 5000):  # Python makes no number of the last
            assert owner.post(f"{url}/retention", {"remove": number}, on=f"{url}/settings").status == 400
        assert owner.post(f"{url}/retention", {"keep": "-1"}, on=f"{url}/settings").status == 400


def test_quotas_are_set_by_administrators_of_the_hub(hub: ApiHub, owner: Visitor, root: Visitor) -> None:
    """In megabytes; the namespace's page shows how much is used."""
    url = "/n/nautilus/-"
    assert root.post(f"{url}/quota", {"quota": "5"}, on=f"{url}/settings").status == 303
    assert hub.hub.people.namespaces.get("nautilus", ROOT_CALLER).quota == 5_000_000
    assert "5.00 MB" in root.get("/n/nautilus").words and 'class="gauge"' in root.get("/n/nautilus").text
    assert 'action="/n/harbour/-/quota"' not in owner.get("/n/harbour/-/settings").text
    assert root.post(f"{url}/quota", {"quota": "much"}, on=f"{url}/settings").status == 400
    assert root.post(f"{url}/quota", {"quota": "0"}, on=f"{url}/settings").status == 303


def test_accounts_are_added_and_disabled(hub: ApiHub, root: Visitor) -> None:
    """Who is disabled has no session any more; the last administrator stays."""
    url = "/system/accounts"
    assert root.post(url, {"name": "temp", "password": "long enough 123"}).status == 303
    temp = logged_in(hub, "temp")
    assert temp.get("/account").status == 200
    assert root.post(f"{url}/disable", {"name": "temp", "disabled": "1"}, on=url).status == 303
    assert temp.get("/account").status == 303 and "disabled" in root.get(url).words
    assert root.post(f"{url}/disable", {"name": "temp", "disabled": "0"}, on=url).status == 303
    assert root.post(f"{url}/disable", {"name": "root", "disabled": "1"}, on=url).status == 409


def test_the_password_is_changed(hub: ApiHub) -> None:
    """With the old one; other sessions end, this browser has a new one."""
    hub.run(hub.hub.people.accounts.add("changing", PASSWORD, ROOT_CALLER))
    visitor, elsewhere = Visitor(hub.port), logged_in(hub, "changing")
    visitor.log_in("changing", PASSWORD)
    new = {"password": "another long one", "again": "another long one"}
    assert visitor.post("/account/password", {"old": "wrong wrong 1", **new}, on="/account").status == 401
    assert (
        visitor.post("/account/password", {"old": PASSWORD, **new, "again": "x"}, on="/account").status == 400
    )
    page = visitor.post("/account/password", {"old": PASSWORD, **new}, on="/account")
    assert page.location == "/account?saved=password" and visitor.get("/account").status == 200
    assert elsewhere.get("/account").status == 303


def test_the_log_says_who_did_what(hub: ApiHub, owner: Visitor, root: Visitor) -> None:
    """Of the hub to administrators, page by page; of a namespace to its own, and nothing of others."""
    for number in range(60):
        event = Event(action="test", account="alder", target=str(number))
        hub.run(hub.hub.registry.catalog.add_event(event))
    page = root.get("/audit")
    assert "Older" in page.words
    older = next(link for link in Outline(page.text).links if "before=" in link)
    assert root.get(f"/audit{older}").status == 200
    own = owner.get("/n/harbour/-/audit").words
    assert "harbour/timetable" in own and "nautilus/sonar" not in own
    assert "harbour/timetable" not in root.get("/audit?account=alder").words
