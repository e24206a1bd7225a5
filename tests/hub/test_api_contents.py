"""What is inside of images, through the API: files, what two differ in, what is attached; and what rules remove."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.apihub import ApiHub, Client, populate, serving_hub
from harness.cargo import Layered, Pusher, sha256

REPOSITORY = "/api/v1/repositories/{name}"
FILES, COMPARE = f"{REPOSITORY}/-/files/{{ref}}", f"{REPOSITORY}/-/compare/{{old}}/{{new}}"
ATTACHMENTS = f"{REPOSITORY}/-/attachments/{{ref}}"
SPDX = "application/spdx+json"
COSIGN = "application/vnd.dev.cosign.simplesigning.v1+json"
BASE = Layered("COPY base /", {"bin/sh": b"shell", "etc/": "", "etc/name": b"one", "etc/link": "-> name"})
PACKAGES = [{"name": f"p{number}", "versionInfo": "1"} for number in range(5)]
DOCUMENT = json.dumps({"packages": PACKAGES}).encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """A hub with two images of ``root/app``, for two platforms the second, and a bill of materials of the first."""
    with serving_hub(Path(tmp_path_factory.mktemp("contents")) / "hub") as served:
        populate(served, "alice")
        pusher = Pusher(served.port, ("root", served.tokens["root"]))
        one = pusher.image("root/app", "1", [BASE], config={"Env": ["A=1"], "User": "app"})
        pusher.attach("root/app", one, DOCUMENT, SPDX)
        pusher.attach("root/app", one, b'{"critical": {"image": {}}}', COSIGN, artifact_type=COSIGN)
        top = Layered(
            "RUN x", {"etc/name": b"two", "bin/.wh.sh": b"", "opt/a": b"a" * 1000, "opt/b": b"b" * 24}
        )
        members = [
            pusher.image("root/app", "", [BASE, top], config={"Env": ["A=2"]}, architecture=machine)
            for machine in ("amd64", "arm64")
        ]
        pusher.index("root/app", "2", members)
        yield served


@pytest.fixture
def alice(served: ApiHub) -> Client:
    """Who has nothing to do with it."""
    return served.as_("alice")


def names(answer: Any) -> list[str]:
    """Of files, folders with a slash."""
    return [one["name"] + "/" * (one["kind"] == "folder") for one in answer["files"]]


def test_files_of_the_whole_image_and_of_a_layer(alice: Client) -> None:
    """Whiteouts have worked in the one, and are shown in the other; each file tells its layer."""
    whole = alice.get(FILES, name="root/app", ref="2")
    assert names(whole) == ["bin/", "etc/", "opt/"]
    assert (whole["layer"], whole["broken"], whole["size"]) == (None, "", 1000 + 24 + 3)
    layer = alice.get(FILES, name="root/app", ref="2", query={"layer": 2, "path": "bin"})
    assert (names(layer), layer["layer"]) == ([".wh.sh"], 2)
    etc = alice.get(FILES, name="root/app", ref="2", query={"path": "/etc/"})
    link, name = etc["files"]
    assert (link["kind"], link["link"], link["layer"]) == ("link", "name", 1)
    assert (name["path"], name["size"], name["mode"], name["layer"]) == ("etc/name", 3, 0o644, 2)


def test_a_file_is_a_list_of_itself(alice: Client) -> None:
    """What was asked for by its whole path."""
    found = alice.get(FILES, name="root/app", ref="1", query={"path": "etc/name"})
    assert names(found) == ["name"]
    assert found["files"][0]["content"] == sha256(b"one").removeprefix("sha256:")[:32]


def test_files_go_on_where_they_ended(alice: Client) -> None:
    """Folders first, then by name, each once."""
    found, last = [], ""
    while True:
        page = alice.get(FILES, name="root/app", ref="2", query={"n": 1, "last": last})
        found += names(page)
        last = page["next"]
        if not last:
            break
    assert found == ["bin/", "etc/", "opt/"]


@pytest.mark.parametrize(
    ("query", "ref", "status"),
    [
        ({"layer": 9}, "1", 404),
        ({"path": "none"}, "1", 404),
        ({"path": "etc/name/x"}, "1", 404),
        ({"path": "../../etc/passwd"}, "1", 404),
        ({"platform": "linux/s390x"}, "2", 404),
        ({"layer": -1}, "1", 400),
        ({}, "none", 404),
        ({}, "a b", 400),
        ({}, "sha256:zz", 400),
    ],
)
def test_what_is_not_in_the_image(alice: Client, query: Any, ref: str, status: int) -> None:
    """Told as such."""
    assert alice.ask(f"GET {FILES}", name="root/app", ref=ref, query=query).status == status


def test_a_layer_that_is_none_says_so(served: ApiHub, alice: Client) -> None:
    """Any artifact may be pushed."""
    served.push("root/odd", "1")
    found = alice.get(FILES, name="root/odd", ref="1")
    assert found["files"] == [] and found["broken"].startswith("layer 1: ")


def test_two_images_are_compared(alice: Client) -> None:
    """By platform; settings, files and sums."""
    query = {"platform": "linux/arm64"}
    assert alice.ask(f"GET {COMPARE}", name="root/app", old="1", new="2", query=query).status == 404
    found = alice.get(COMPARE, name="root/app", old="1", new="2")
    assert found["shared_layers"] == 1
    settings = {one["name"]: (one["before"], one["after"]) for one in found["settings"]}
    assert settings["variable A"] == ("1", "2")
    assert settings["user"] == ("app", "")
    changes = {
        one["path"]: (one["how"], one["before"], one["after"], one["count"]) for one in found["changes"]
    }
    assert changes == {
        "bin/sh": ("removed", 5, 0, 1),
        "etc/name": ("changed", 3, 3, 1),
        "opt": ("added", 0, 1024, 3),
    }
    sums = [found[key] for key in ("added", "removed", "changed", "bytes", "broken", "next")]
    assert sums == [3, 1, 1, 1024 - 5, "", ""]


def test_changes_go_on_where_they_ended(alice: Client) -> None:
    """The sums are of all, on each page."""
    first = alice.get(COMPARE, name="root/app", old="1", new="2", query={"n": 2})
    second = alice.get(COMPARE, name="root/app", old="1", new="2", query={"n": 2, "last": first["next"]})
    assert [one["path"] for one in first["changes"] + second["changes"]] == ["bin/sh", "etc/name", "opt"]
    assert (first["added"], second["added"], second["next"]) == (3, 3, "")


def test_attachments_are_listed_and_read(served: ApiHub, alice: Client) -> None:
    """A document is a file to keep: as a page of this host it could do what its visitor may."""
    signature, sbom = alice.get(ATTACHMENTS, name="root/app", ref="1")["attachments"]
    assert (signature["kind"], signature["format"], sbom["kind"]) == ("signature", "cosign", "sbom")
    assert signature["signature"] == {"signer": "", "issuer": "", "reference": "", "names": None}
    assert sbom["signature"] is None
    path = {"name": "root/app", "ref": "1", "digest": sbom["digest"]}
    said = alice.ask(f"GET {ATTACHMENTS}/{{digest}}", **path)
    assert said.body == DOCUMENT
    assert said.headers["content-disposition"] == f'attachment; filename="sbom-{sbom["digest"][7:19]}"'
    assert said.headers["x-content-type-options"] == "nosniff"
    assert said.headers["content-security-policy"] == "sandbox"
    first = alice.get(f"{ATTACHMENTS}/{{digest}}/packages", query={"n": 3}, **path)
    rest = alice.get(f"{ATTACHMENTS}/{{digest}}/packages", query={"n": 3, "last": first["next"]}, **path)
    assert [one["name"] for one in first["packages"] + rest["packages"]] == [one["name"] for one in PACKAGES]


def test_only_what_is_attached_is_an_attachment(served: ApiHub, alice: Client) -> None:
    """Not any other blob of the repository, nor one of another image."""
    layer = alice.get(f"{REPOSITORY}/-/tags/{{tag}}", name="root/app", tag="1")["image"]["layers"][0][
        "digest"
    ]
    for ref, digest in (("1", layer), ("2", sha256(DOCUMENT)), ("1", "sha256:" + "0" * 64)):
        said = alice.ask(f"GET {ATTACHMENTS}/{{digest}}", name="root/app", ref=ref, digest=digest)
        assert (said.status, said.kind) == (404, "not_found")


def test_attachments_of_a_platform_that_is_not_there(alice: Client) -> None:
    """Are not those of another one."""
    query = {"platform": "linux/s390x"}
    assert alice.ask(f"GET {ATTACHMENTS}", name="root/app", ref="2", query=query).status == 404


def test_tags_tell_platforms_and_pulls(served: ApiHub, alice: Client) -> None:
    """As the page's table does."""
    Pusher(served.port, ("root", served.tokens["root"])).pull("root/app", "2")
    served.run(served.hub.registry.flush())
    one, two = alice.get(f"{REPOSITORY}/-/tags", name="root/app")["tags"]
    assert one["platforms"] == ["linux/amd64"] and one["pulled"] is None
    assert two["platforms"] == ["linux/amd64", "linux/arm64"] and two["pulled"] > two["pushed"]


def test_what_rules_would_remove(served: ApiHub) -> None:
    """And nothing is removed."""
    root = served.as_("root")
    for tag in ("a", "b", "c"):
        served.push("root/ruled", tag, annotations={"tag": tag})
    rules = {"rules": [{"keep_last": 1}]}
    assert root.ask(f"PATCH {REPOSITORY}", {"retention": rules}, name="root/ruled").status == 200
    removed = root.get(f"{REPOSITORY}/-/retention", name="root/ruled")["removed"]
    assert sorted(one["tag"] for one in removed) == ["a", "b"]
    assert len(root.get(f"{REPOSITORY}/-/tags", name="root/ruled")["tags"]) == 3


def test_damage_is_listed(served: ApiHub) -> None:
    """With each repository that has it."""
    root = served.as_("root")
    served.push("root/sound", "1", layers=[b"will be damaged"])
    assert root.get("/api/v1/system/damaged")["damaged"] == []
    digest = sha256(b"will be damaged")
    (path,) = [
        each for each in served.hub.config.root.rglob(digest.removeprefix("sha256:")) if each.is_file()
    ]
    path.chmod(0o600)
    path.write_bytes(b"has been damaged")
    assert root.ask("POST /api/v1/system/scrub", {"count": 1000}).json["damaged"] == [digest]
    assert root.get("/api/v1/system/damaged")["damaged"] == [{"digest": digest, "repository": "root/sound"}]


def test_the_log_is_filtered(served: ApiHub) -> None:
    """By who did it, and what."""
    root = served.as_("root")
    found = root.get("/api/v1/audit", query={"action": "push", "account": "root", "n": 100})["events"]
    assert found and {(one["action"], one["account"]) for one in found} == {("push", "root")}
    assert root.get("/api/v1/audit", query={"account": "nobody"})["events"] == []
