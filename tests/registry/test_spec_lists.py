"""OCI distribution specification 1.1, "Listing Tags", "Listing Referrers", and Docker's catalog."""

from itertools import chain

import pytest

from cais.registry.base import Caller
from cais.spec.digest import parse_digest
from harness.serving import Served
from harness.wire import INDEX, MANIFEST, Repository, Wire, format_image, format_index, sha256

ABSENT = sha256(b"nobody has pushed this")
TAGS = ["1", "10", "2", "A", "B", "_x", "a", "a-b", "a.b", "a_b", "b"]
"""In the order of their bytes."""


@pytest.fixture
def tagged(repository: Repository) -> Repository:
    """One with TAGS, pushed in another order."""
    digest = repository.push_image()
    for tag in sorted(TAGS, key=lambda tag: sha256(tag.encode())):
        repository.push_manifest(repository.images[digest], tag)
    return repository


def names(replies: object) -> list[list[str]]:
    """The tags on each page."""
    return [reply.json["tags"] for reply in replies]  # type: ignore[attr-defined]


def test_tags(tagged: Repository) -> None:
    """200 with name and tags, in the order of their bytes, and no Link."""
    reply = tagged.ask("GET", "tags/list")
    assert (reply.status, reply.json) == (200, {"name": tagged.name, "tags": TAGS})
    assert reply.headers["content-type"].startswith("application/json")
    assert "link" not in reply.headers


def test_no_tags(repository: Repository) -> None:
    """The list MAY be empty: a list then, not null."""
    repository.push_image()
    assert repository.ask("GET", "tags/list").json == {"name": repository.name, "tags": []}


def test_tags_of_nobody(repository: Repository) -> None:
    """404 NAME_UNKNOWN."""
    assert repository.ask("GET", "tags/list").brief == (404, "NAME_UNKNOWN")


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10])
def test_pages_of_tags(tagged: Repository, count: int) -> None:
    """The response MUST include n tags while there are so many; Link (RFC 8288, rel=next) leads through all, once."""
    pages = names(tagged.pages(f"/v2/{tagged.name}/tags/list?n={count}"))
    assert list(chain(*pages)) == TAGS
    assert {len(page) for page in pages[:-1]} <= {count} and 0 < len(pages[-1]) <= count


def test_a_page_as_long_as_the_list_is_the_last(tagged: Repository) -> None:
    """Where nothing follows there is no Link."""
    for count in (len(TAGS), len(TAGS) + 1, 999_999_999):
        reply = tagged.ask("GET", f"tags/list?n={count}")
        assert reply.json["tags"] == TAGS and "link" not in reply.headers


def test_no_tags_asked_for(tagged: Repository) -> None:
    """When n is zero, it MUST be an empty list without a Link."""
    reply = tagged.ask("GET", "tags/list?n=0")
    assert (reply.status, reply.json["tags"]) == (200, []) and "link" not in reply.headers


@pytest.mark.parametrize("last", ["2", "A", "a.b", "a", "aa", "0", "zzz", "%20", "b"])
def test_tags_after(tagged: Repository, last: str) -> None:
    """``last`` is not included, but what follows it in the order is; it need not be a tag; n is OPTIONAL."""
    wanted = [tag for tag in TAGS if tag > (" " if last == "%20" else last)]
    assert tagged.ask("GET", f"tags/list?last={last}").json["tags"] == wanted
    assert tagged.ask("GET", f"tags/list?n=2&last={last}").json["tags"] == wanted[:2]


def test_a_page_begins_where_the_last_ended_though_tags_come_and_go(tagged: Repository) -> None:
    """``last`` is a tag and no number: one that is removed meanwhile makes nothing be missed."""
    first = tagged.ask("GET", "tags/list?n=3").json["tags"]
    tagged.ask("DELETE", f"manifests/{first[-1]}")
    tagged.ask("DELETE", f"manifests/{first[0]}")
    assert tagged.ask("GET", f"tags/list?n=3&last={first[-1]}").json["tags"] == TAGS[3:6]


@pytest.mark.parametrize("n", ["-1", "x", "1.5", "", "%2B1", "0x10", "9" * 30, "%D9%A1"])
@pytest.mark.parametrize("path", ["tags", "referrers", "catalog"])
def test_an_n_that_is_no_number(repository: Repository, n: str, path: str) -> None:
    """400, with a code that says what is wrong."""
    repository.push_image("1")
    paths = {"tags": f"/v2/{repository.name}/tags/list", "catalog": "/v2/_catalog"}
    where = paths.get(path, f"/v2/{repository.name}/referrers/{ABSENT}")
    assert repository.wire.ask("GET", f"{where}?n={n}").brief == (400, "PAGINATION_NUMBER_INVALID")


def test_a_thousand_tags_are_a_page(served: Served, repository: Repository) -> None:
    """No answer grows without end: what is more than a page is behind a Link, though nobody asked for pages."""
    digest = repository.push_image()
    every = sorted(f"t{number}" for number in range(1005))
    data = repository.images[digest]
    push = served.registry.put_manifest(
        repository.name, parse_digest(digest), MANIFEST, data, Caller(), every
    )
    served.run(push)
    pages = names(repository.pages(f"/v2/{repository.name}/tags/list"))
    assert [len(page) for page in pages] == [1000, 5] and list(chain(*pages)) == every


# Referrers


def test_referrers(repository: Repository) -> None:
    """An index of what has this subject: type, digest, size, artifactType and annotations of each."""
    subject = repository.push_image("1")
    kept = {"org.example.b": "ü", "a": ""}
    plain = repository.push_referrer(subject, 1)
    typed = repository.push_referrer(
        subject, 2, artifactType="application/vnd.example.sbom", annotations=kept
    )
    about = {"mediaType": MANIFEST, "digest": subject, "size": 2}
    index = format_index([], subject=about, annotations={"only": "this"})
    listed = repository.push_manifest(index, "", INDEX)
    repository.push_referrer(ABSENT, 3)
    reply = repository.ask("GET", f"referrers/{subject}")
    assert (reply.status, reply.headers["content-type"]) == (200, INDEX)
    assert (reply.json["schemaVersion"], reply.json["mediaType"]) == (2, INDEX)
    assert "oci-filters-applied" not in reply.headers and "link" not in reply.headers
    found = {entry.pop("digest"): entry for entry in reply.json["manifests"]}
    config = "application/vnd.oci.image.config.v1+json"
    sizes = {digest: len(data) for digest, data in repository.images.items()}
    assert found == {
        plain: {"mediaType": MANIFEST, "size": sizes[plain], "artifactType": config},
        typed: {
            "mediaType": MANIFEST,
            "size": sizes[typed],
            "artifactType": "application/vnd.example.sbom",
            "annotations": kept,
        },
        listed: {"mediaType": INDEX, "size": sizes[listed], "annotations": {"only": "this"}},
    }


def test_no_referrers(repository: Repository) -> None:
    """An empty list, never 404: of a manifest without any, of an unknown digest, of an unknown repository."""
    for subject in (ABSENT, repository.push_image("1"), "sha512:" + "0" * 128):
        reply = repository.ask("GET", f"referrers/{subject}")
        assert (reply.status, reply.json["manifests"]) == (200, [])
        assert reply.headers["content-type"] == INDEX
    nobody = Repository(repository.wire, repository.name + "/nobody")
    assert nobody.ask("GET", f"referrers/{ABSENT}").json["manifests"] == []


@pytest.mark.parametrize("digest", ["latest", "sha256:x", "md5:" + "0" * 32, "sha256:" + "A" * 64])
def test_referrers_of_what_is_no_digest(repository: Repository, digest: str) -> None:
    """A digest with invalid syntax MUST be 400."""
    assert repository.ask("GET", f"referrers/{digest}").brief == (400, "DIGEST_INVALID")


def test_referrers_are_of_one_repository(repository: Repository, other: Repository) -> None:
    """Each is in the same <name>."""
    subject = repository.push_image("1")
    other.push_referrer(subject)
    assert repository.ask("GET", f"referrers/{subject}").json["manifests"] == []


def test_referrers_come_before_the_subject_and_stay_after_it(repository: Repository) -> None:
    """Either order of pushes; and a deleted referrer is not listed any more."""
    subject = repository.push_image("", [b"the subject"])
    repository.ask("DELETE", f"manifests/{subject}")
    first, second = repository.push_referrer(subject, 1), repository.push_referrer(subject, 2)
    repository.push_image("", [b"the subject"])
    repository.ask("DELETE", f"manifests/{first}")
    found = repository.ask("GET", f"referrers/{subject}").json["manifests"]
    assert [entry["digest"] for entry in found] == [second]


def test_filtered_referrers(repository: Repository) -> None:
    """Only those of the type, and the header that says so; the type may come from the config."""
    subject = repository.push_image("1")
    kinds = ["application/vnd.example.sbom+json", "application/vnd.example.signature"]
    by_kind = {kind: repository.push_referrer(subject, n, artifactType=kind) for n, kind in enumerate(kinds)}
    by_kind["application/vnd.oci.image.config.v1+json"] = repository.push_referrer(subject, 9)
    for kind, digest in by_kind.items():
        reply = repository.ask("GET", f"referrers/{subject}?artifactType={kind.replace('+', '%2B')}")
        assert reply.headers["oci-filters-applied"] == "artifactType"
        assert [entry["digest"] for entry in reply.json["manifests"]] == [digest]
    reply = repository.ask("GET", f"referrers/{subject}?artifactType=application/none")
    assert (reply.status, reply.json["manifests"]) == (200, [])


def test_pages_of_referrers(repository: Repository) -> None:
    """A Link MUST be there when they are more than a page: it leads through all, once, and keeps the filter."""
    subject = repository.push_image("1")
    kind = "application/vnd.example+json"
    for number in range(7):
        repository.push_referrer(subject, number, artifactType=kind if number % 2 else "application/else")
    path = f"/v2/{repository.name}/referrers/{subject}"
    pages = [reply.json["manifests"] for reply in repository.pages(f"{path}?n=3")]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert len({entry["digest"] for page in pages for entry in page}) == 7
    filtered = list(repository.pages(f"{path}?n=2&artifactType={kind.replace('+', '%2B')}"))
    assert [len(reply.json["manifests"]) for reply in filtered] == [2, 1]
    assert {entry["artifactType"] for reply in filtered for entry in reply.json["manifests"]} == {kind}
    assert all(reply.headers["oci-filters-applied"] == "artifactType" for reply in filtered)


@pytest.mark.slow
def test_a_hundred_referrers_are_a_page(repository: Repository) -> None:
    """No answer grows without end, though nobody asked for pages."""
    subject = repository.push_image("1")
    about = {"mediaType": MANIFEST, "digest": subject, "size": 2}
    for number in range(103):
        data = format_image(b"{}", [b"layer"], subject=about, annotations={"n": str(number)})
        repository.push_manifest(data)
    pages = repository.pages(f"/v2/{repository.name}/referrers/{subject}")
    assert [len(reply.json["manifests"]) for reply in pages] == [100, 3]


# The catalog


def test_catalog(wire: Wire, repository: Repository, other: Repository) -> None:
    """GET /v2/_catalog (Docker's registry API): every repository once, in order, also in pages."""
    for each in (repository, other, Repository(wire, repository.name + "/deep/er")):
        each.push_image("1")
    every = wire.ask("GET", "/v2/_catalog").json["repositories"]
    assert every == sorted(set(every)) and {repository.name, other.name} < set(every)
    for count in (1, 2, 100):
        pages = [reply.json["repositories"] for reply in repository.pages(f"/v2/_catalog?n={count}")]
        assert list(chain(*pages)) == every
        assert {len(page) for page in pages[:-1]} <= {count}


def test_catalog_of_none(wire: Wire, repository: Repository) -> None:
    """n=0 is an empty list without a Link; ``last`` behind the end as well."""
    repository.push_image("1")
    for query in ("n=0", "last=zzzz"):
        reply = wire.ask("GET", f"/v2/_catalog?{query}")
        assert (reply.status, reply.json) == (200, {"repositories": []}) and "link" not in reply.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_lists_are_only_read(wire: Wire, method: str, repository: Repository) -> None:
    """Any other method than GET and HEAD is 405, and changes nothing."""
    repository.push_image("1")
    for path in ("/v2/", "/v2/_catalog", f"/v2/{repository.name}/tags/list"):
        assert wire.ask(method, path, b"").brief == (405, "UNSUPPORTED")
