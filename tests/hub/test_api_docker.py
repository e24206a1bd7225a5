"""What Docker's clients and tools for Docker Hub ask of the hub, in the forms that they read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cais.remotes.auth import Credentials
from cais.remotes.client import Patience, Remotes
from cais.remotes.hosts import Hosts
from cais.remotes.search import Query, search
from harness.apihub import PASSWORD, ApiHub, Client, limit_token, populate, serving_hub

CONFIG = b'{"architecture":"arm64","variant":"v8","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
HUB = "/v2/repositories/{namespace}/"
SEARCH = "/v2/search/repositories/"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """A hub with some repositories of ``alice``, one of them private, and one without a namespace."""
    with serving_hub(tmp_path_factory.mktemp("docker") / "hub") as served:
        populate(served, "alice")
        for name in ("alice/one", "alice/two", "alice/three/deep", "tool", "alice/secret"):
            served.push(name, "1", config=CONFIG, layers=[])
        alice = served.as_("alice")
        alice.ask("PATCH /api/v1/repositories/{name}", {"private": True}, name="alice/secret")
        alice.ask("PATCH /api/v1/repositories/{name}", {"description": "The one"}, name="alice/one")
        yield served


def test_docker_search(served: ApiHub) -> None:
    """The fields that moby reads; what has no namespace is official; anonymous clients must not say that they are
    somebody without a name."""
    ping = served.send("GET", "/v1/_ping")
    assert ping.json == {"standalone": False}
    assert ping.headers["x-docker-registry-standalone"] == "false"
    found = served.as_().get("/v1/search", query={"q": "one", "n": 25})
    assert (found["query"], found["num_results"], found["page_size"]) == ("one", 1, 25)
    assert found["results"] == [
        {
            "name": "alice/one",
            "description": "The one",
            "star_count": 0,
            "is_official": False,
            "is_automated": False,
            "is_trusted": False,
            "pull_count": 0,
        }
    ]
    assert served.as_().get("/v1/search", query={"q": "tool"})["results"][0]["is_official"] is True
    assert served.as_().get("/v1/search", query={"q": "secret"})["results"] == []
    assert served.as_("alice").get("/v1/search", query={"q": "secret"})["num_results"] == 1


async def test_the_engine_searches(served: ApiHub) -> None:
    """With its own client, as ``cais search HOST/term`` does."""
    remotes = Remotes(Hosts(), Patience(1, 0.001))
    found = await search(remotes, Query(f"127.0.0.1:{served.port}", "one", 25))
    assert [(one.name, one.description) for one in found] == [("alice/one", "The one")]


async def test_the_engine_searches_where_one_must_log_in(tmp_path: Path) -> None:
    """It gets itself a token, and finds what its account may see."""
    with serving_hub(tmp_path / "hub", anonymous_pull=False) as served:
        populate(served, "alice")
        served.push("alice/mine", "1")
        remotes = Remotes(Hosts(), Patience(1, 0.001))
        query = Query(f"127.0.0.1:{served.port}", "mine", 25)
        found = await search(remotes, query, Credentials("alice", PASSWORD))
        assert [one.name for one in found] == ["alice/mine"]


def test_search_pages_like_docker_hub(served: ApiHub) -> None:
    """``next`` leads on until it is null, and ``previous`` back."""
    first = served.as_().get(SEARCH, query={"query": "alice", "page_size": 2})
    assert (len(first["results"]), first["previous"]) == (2, None)
    origin = f"http://127.0.0.1:{served.port}"
    assert first["next"].startswith(f"{origin}{SEARCH}?")
    rest = served.send("GET", first["next"].removeprefix(origin)).json
    assert (len(rest["results"]), rest["next"], rest["count"]) == (1, None, 3)
    assert served.send("GET", rest["previous"].removeprefix(origin)).json == first
    names = [one["repo_name"] for one in first["results"] + rest["results"]]
    assert sorted(names) == ["alice/one", "alice/three/deep", "alice/two"]


@pytest.mark.parametrize(("who", "count"), [("", 3), ("alice", 4), ("root", 4)])
def test_counts_are_of_all_pages(served: ApiHub, who: str, count: int) -> None:
    """On every page, of what the caller may know of; as many as ``next`` leads to."""
    client = served.as_(who)
    for page in range(1, count + 1):
        paged = {"page": page, "page_size": 1}
        found = client.get(SEARCH, query={"query": "alice", **paged})
        listed = client.get(HUB, namespace="alice", query=paged)
        assert [each["count"] for each in (found, listed)] == [count, count]
        assert [each["next"] is None for each in (found, listed)] == [page == count] * 2
        first = client.get("/v1/search", query={"q": "alice", "page": page, "n": 1})
        assert (first["num_results"], first["num_pages"]) == (count, count)
    two = client.get("/v1/search", query={"q": "alice", "n": 2})
    assert two["num_pages"] == 2
    everything = client.get(SEARCH, query={"query": "", "page_size": 1})
    assert everything["count"] >= 4, "the most pulled, where nothing was asked for"


def test_a_token_with_limits_is_not_told_how_many_there_are(served: ApiHub) -> None:
    """Only of those that it may see: the others are there, and it must not know of them."""
    headers = {"Authorization": f"Bearer {limit_token(served, 'alice', 'alice/one:pull')}"}
    limited = Client(served, headers)
    for page in (1, 2):
        found = limited.get(HUB, namespace="alice", query={"page": page, "page_size": 10})
        assert found["count"] == len(found["results"]) + 10 * (page - 1)
        if page == 1:
            assert [one["name"] for one in found["results"]] == ["one"]
    assert limited.get(SEARCH, query={"query": "one", "page_size": 10})["count"] == 1
    assert limited.get(HUB, namespace="alice", query={"page_size": 1})["count"] == 2, (
        "this one, and perhaps more"
    )


def test_counts_of_tags(served: ApiHub) -> None:
    """Of all that have the word in their name, on every page."""
    for tag in ("1.0", "1.1", "1.2", "edge"):
        served.push("bulk/tags", tag, config=CONFIG, layers=[])
    where = {"namespace": "bulk", "name": "tags"}
    for name, count in (("", 4), ("1.", 3), ("edge", 1), ("no", 0)):
        for page in range(1, count + 1):
            query = {"name": name, "page": page, "page_size": 1}
            found = served.as_().get(f"{HUB}{{name}}/tags/", **where, query=query)
            assert (found["count"], found["next"] is None) == (count, page == count)
            assert (found["previous"] is None) == (page == 1)


def test_a_repository_like_docker_hubs(served: ApiHub) -> None:
    """By namespace and name, with and without the slash at the end; ``library/`` may stand before what has none."""
    one = served.as_().get(f"{HUB}{{name}}/", namespace="alice", name="one")
    assert (one["user"], one["name"], one["description"], one["is_private"]) == (
        *("alice", "one", "The one"),
        False,
    )
    assert served.send("GET", "/v2/repositories/alice/one").json == one
    assert served.as_().get(f"{HUB}{{name}}/", namespace="alice", name="three/deep")["name"] == "three/deep"
    assert served.as_().get(f"{HUB}{{name}}/", namespace="library", name="tool")["namespace"] == "library"
    assert served.as_().ask(f"GET {HUB}{{name}}/", namespace="alice", name="secret").status == 404
    listed = served.as_().get(HUB, namespace="alice")
    assert [one["name"] for one in listed["results"]] == ["one", "three/deep", "two"]
    assert served.as_().ask(f"GET {HUB}", namespace="nobody").status == 404


def test_tags_like_docker_hubs(served: ApiHub) -> None:
    """Each with its images: architecture, os, digest, size."""
    where = {"namespace": "alice", "name": "one"}
    tags = served.as_().get(f"{HUB}{{name}}/tags/", **where)
    assert (tags["count"], tags["next"]) == (1, None)
    tag = tags["results"][0]
    assert served.as_().get(f"{HUB}{{name}}/tags/{{tag}}/", **where, tag="1") == tag
    assert (tag["name"], tag["full_size"]) == ("1", len(CONFIG)) and tag["last_updated"].endswith("Z")
    image = tag["images"][0]
    assert (image["os"], image["architecture"], image["variant"]) == ("linux", "arm64", "v8")
    assert (image["digest"], image["size"]) == (tag["digest"], tag["full_size"])
    assert served.as_().get(f"{HUB}{{name}}/tags/", **where, query={"name": "x"})["results"] == []
    assert served.as_().ask(f"GET {HUB}{{name}}/tags/{{tag}}/", **where, tag="2").status == 404
    query = {"page_size": 100, "ordering": "last_updated"}
    assert served.as_().get(f"{HUB}{{name}}/tags/", **where, query=query)["count"] == 1


def test_a_repository_that_is_called_so(served: ApiHub) -> None:
    """A repository below ``repositories/`` is pushed, listed and pulled like any other."""
    digest = served.push("repositories/some/thing", "x", config=CONFIG, layers=[])
    pulled = served.send("GET", "/v2/repositories/some/thing/manifests/x")
    assert pulled.headers["docker-content-digest"] == digest
    listed = served.send("GET", "/v2/repositories/some/thing/tags/list").json
    assert listed == {"name": "repositories/some/thing", "tags": ["x"]}


def test_an_image_whose_configuration_is_no_text(served: ApiHub) -> None:
    """It is pushed and shown as what it is: something without a configuration."""
    served.push("other/binary", "1", config=b'{"os": "\xff"}', layers=[])
    path = "/api/v1/repositories/{name}/-/tags/{tag}"
    assert served.as_().get(path, name="other/binary", tag="1")["image"]["config"] is None
    assert served.as_().get(f"{HUB}{{name}}/tags/", namespace="other", name="binary")["count"] == 1
