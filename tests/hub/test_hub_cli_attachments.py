"""``cais hub attachments``: what is said about images, as a list, as documents, as packages."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.apihub import ApiHub, populate, serving_hub
from harness.cargo import Layered, Pusher
from harness.hubcli import Program
from harness.wire import sha256

pytestmark = pytest.mark.slow
SPDX = "application/spdx+json"
COSIGN = "application/vnd.dev.cosign.simplesigning.v1+json"
PREDICATE = "https://slsa.dev/provenance/v1"
PACKAGES = [{"name": f"p{number:04}", "versionInfo": str(number)} for number in range(1100)]
SBOM = json.dumps({"packages": PACKAGES}).encode()
ARM_SBOM = json.dumps({"packages": PACKAGES[:1]}).encode()
BINARY = bytes(range(256))
SIGNATURE = json.dumps(
    {
        "critical": {
            "identity": {"docker-reference": "hub.example/app"},
            "image": {"docker-manifest-digest": "sha256:" + "0" * 64},
        }
    }
).encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """A hub with an image to which a bill of materials, a signature of another image and any bytes are attached."""
    with serving_hub(tmp_path_factory.mktemp("attached") / "hub") as served:
        populate(served)
        pusher = Pusher(served.port, ("root", served.tokens["root"]))
        image = pusher.image("root/app", "1", [Layered("COPY", {"a": b"a"})])
        pusher.attach("root/app", image, SBOM, SPDX)
        pusher.attach("root/app", image, SIGNATURE, COSIGN, artifact_type=COSIGN)
        statement = {"predicateType": PREDICATE}
        pusher.attach("root/app", image, BINARY, "application/vnd.in-toto+json", annotations=statement)
        arm = pusher.image("root/app", "", [Layered("COPY", {"a": b"b"})], architecture="arm64")
        pusher.attach("root/app", arm, ARM_SBOM, SPDX)
        pusher.index("root/app", "many", [image, arm])
        yield served


@pytest.fixture
def cais(served: ApiHub, tmp_path: Path) -> Program:
    """The program."""
    return Program(served.port, tmp_path)


def test_they_are_listed_with_what_they_claim(cais: Program) -> None:
    """And the heading says that nobody has verified it."""
    heading, *rows = cais.lines("attachments", "root/app:1")
    assert heading.split() == ["KIND", "FORMAT", "SIZE", "UNVERIFIED", "CLAIMS", "DIGEST"]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [
        ("signature", sha256(SIGNATURE)),
        ("sbom", sha256(SBOM)),
        ("provenance", sha256(BINARY)),
    ]
    assert "as hub.example/app, about ANOTHER image" in rows[0]
    assert PREDICATE in rows[2]
    told = [json.loads(line) for line in cais.lines("attachments", "--format", "json", "root/app:1")]
    assert [one["digest"] for one in told] == [row.split()[-1] for row in rows]


def test_a_document_is_the_same_to_the_byte(cais: Program) -> None:
    """In a pipe, whatever bytes it is of; of an index, for the platform that is asked for."""
    assert cais.data("attachments", "root/app:1", sha256(BINARY)) == BINARY
    platform = ("--platform", "linux/arm64")
    assert cais.data("attachments", *platform, "root/app:many", sha256(ARM_SBOM)) == ARM_SBOM


def test_a_document_does_not_act_on_a_terminal(cais: Program) -> None:
    """Nothing in it is obeyed."""
    code, seen = cais.on_terminal("attachments", "root/app:1", sha256(BINARY))
    assert code == 0 and "ABCDEFG" in seen
    assert seen.replace("\r\n", "").replace("\t", "").isprintable()


def test_packages_are_listed(cais: Program) -> None:
    """All pages of them; of an index, for the platform that is asked for."""
    heading, *rows = cais.lines("attachments", "--packages", "root/app:1", sha256(SBOM))
    assert heading.split() == ["NAME", "VERSION", "LICENSE"]
    assert [row.split() for row in rows] == [[one["name"], one["versionInfo"]] for one in PACKAGES]
    arm = ("--packages", "--platform", "linux/arm64", "root/app:many", sha256(ARM_SBOM))
    assert len(cais.lines("attachments", *arm)) == 2


def test_what_is_not_attached(cais: Program) -> None:
    """The hub's words; and what makes no sense is said before it is asked."""
    digest = "sha256:" + "0" * 64
    for words, message in (
        (("root/app:1", digest), f"no such attachment: {digest}"),
        (("--packages", "root/app:1", digest), f"no such attachment: {digest}"),
        (("root/app:2",), "no such"),
        (("--packages", "root/app:1"), "--packages needs the DIGEST"),
        (("--format", "json", "root/app:1", digest), "--format is for lists"),
        (("root/app",), "root/app has no tag"),
    ):
        done = cais("attachments", *words)
        assert done.returncode == 1 and message in done.stderr and not done.stdout, words
