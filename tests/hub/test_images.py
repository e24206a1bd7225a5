"""hub/images and hub/attachments: what a tag is, the instruction behind each layer, and what is attached."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cais.errors import NotFound
from cais.hub.attachments import Attachment, Attachments, Package, parse_packages, parse_signature
from cais.hub.images import Images, Tagged, split_instruction
from cais.spec.digest import digest_bytes, parse_digest
from harness.apihub import ApiHub, serving_hub
from harness.cargo import Layered, Pusher

SPDX = "application/spdx+json"
COSIGN = "application/vnd.dev.cosign.simplesigning.v1+json"
IN_TOTO = "application/vnd.in-toto+json"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """One for all tests of this file, open to everybody."""
    with serving_hub(Path(tmp_path_factory.mktemp("hub")) / "root", open=True) as served:
        yield served


@pytest.fixture
def images(hub: ApiHub) -> Images:
    """What reads them."""
    return Images(hub.hub.database, hub.hub.registry)


@pytest.fixture
def pusher(hub: ApiHub) -> Pusher:
    """What writes them."""
    return Pusher(hub.port)


@pytest.mark.parametrize(
    ("created_by", "verb", "text"),
    [
        ('/bin/sh -c #(nop)  CMD ["sh"]', "CMD", '["sh"]'),
        ("/bin/sh -c #(nop) ADD file:abc in / ", "ADD", "file:abc in /"),
        ("/bin/sh -c apt-get update", "RUN", "apt-get update"),
        ("|1 A=b /bin/sh -c make", "RUN", "A=b make"),
        ("RUN /bin/sh -c make # buildkit", "RUN", "make"),
        ("RUN |2 A=b C=d /bin/sh -c make # buildkit", "RUN", "A=b C=d make"),
        ("COPY a b # buildkit", "COPY", "a b"),
        ("ENV A=1", "ENV", "A=1"),
        ("bazel build //:image", "", "bazel build //:image"),
        ("/bin/sh -c a\nb", "RUN", "a\nb"),
        ("", "", ""),
    ],
)
def test_the_instruction_that_made_a_layer(created_by: str, verb: str, text: str) -> None:
    """As the Dockerfile had it, whichever builder wrote the history."""
    assert split_instruction(created_by) == (verb, text)


def find(hub: ApiHub, images: Images, name: str, ref: str, platform: str = "") -> Tagged:
    """What it stands for."""
    return hub.run(images.find(name, parse_digest(ref) if ":" in ref else ref, platform))


def test_history_is_joined_with_layers(hub: ApiHub, images: Images, pusher: Pusher) -> None:
    """Instructions that made no layer have none; sizes are those of the blobs."""
    pusher.image("t/a", "1", [Layered("ADD x /", {"x": b"1"}), Layered("RUN y", {"y": b"2"})])
    image = find(hub, images, "t/a", "1").image
    assert image and image.config
    assert [(s.verb, s.text, s.layer.number if s.layer else 0) for s in image.steps] == [
        ("ADD", "x /", 1),
        ("RUN", "y", 2),
        ("CMD", '["/bin/app"]', 0),
    ]
    assert image.size > sum(layer.size for layer in image.layers) > 0
    assert image.platform == "linux/amd64" and image.layers[0].diff_id == image.config.rootfs.diff_ids[0]


def test_a_history_that_does_not_fit_is_not_shown(hub: ApiHub, images: Images, pusher: Pusher) -> None:
    """Wrong instructions would be worse than none."""
    config = json.dumps(
        {"rootfs": {"type": "layers", "diff_ids": []}, "history": [{"created_by": "RUN a"}] * 3}
    )
    pusher.blob("t/b", config.encode())
    pusher.blob("t/b", b"layer")
    entry = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": digest_bytes(b"layer"),
        "size": 5,
    }
    head = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digest_bytes(config.encode()),
        "size": len(config),
    }
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": head,
        "layers": [entry],
    }
    pusher.manifest("t/b", "1", document)
    image = find(hub, images, "t/b", "1").image
    assert image and [(s.verb, s.text) for s in image.steps] == [("", "")]
    assert image.layers[0].diff_id == ""


def test_an_index_shows_the_platform_that_is_asked_for(hub: ApiHub, images: Images, pusher: Pusher) -> None:
    """amd64 without a wish; attestations are no platforms; tags list all platforms."""
    layers = [Layered("ADD x /", {"x": b"1"})]
    amd, arm = (pusher.image("t/c", "", layers, architecture=a) for a in ("amd64", "arm64"))
    about = pusher.attach("t/c", amd, b"{}", IN_TOTO, ref="att")
    about |= {
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": amd["digest"],
        },
    }
    pusher.index("t/c", "1", [arm, amd, about])
    found = find(hub, images, "t/c", "1")
    assert found.image and found.image.digest == amd["digest"]
    assert [member.platform for member in found.platforms] == ["linux/arm64", "linux/amd64"]
    chosen = find(hub, images, "t/c", "1", "linux/arm64").image
    assert chosen and chosen.digest == arm["digest"]
    rows = {row.name: row for row in hub.run(images.list_tags("t/c"))}
    assert rows["1"].platforms == ("linux/arm64", "linux/amd64")
    assert rows["1"].size > rows["att"].size


def test_tags_are_filtered_sorted_and_paged(hub: ApiHub, images: Images, pusher: Pusher) -> None:
    """The newest push first, or by name; signatures' tags are not among them."""
    layers = [Layered("ADD x /", {"x": b"1"})]
    for tag in ("b", "a", "c1", "c2", "sha256-" + "0" * 64 + ".sig"):
        pusher.image("t/d", tag, layers)

    def names(*words: str, **how: Any) -> list[str]:
        return [row.name for row in hub.run(images.list_tags("t/d", *words, **how))]

    assert names() == ["c2", "c1", "a", "b"]
    assert names(order="name") == ["a", "b", "c1", "c2"]
    assert names("c", order="name") == ["c1", "c2"]
    assert names(order="name", count=2, offset=1) == ["b", "c1"]
    assert images.count_tags("t/d") == 4


def test_what_is_not_there(hub: ApiHub, images: Images) -> None:
    """NotFound, and empty lists."""
    with pytest.raises(NotFound):
        find(hub, images, "t/none", "1")
    assert hub.run(images.list_tags("t/none")) == [] and images.count_tags("t/none") == 0


def test_attachments_are_found_by_all_ways(hub: ApiHub, images: Images, pusher: Pusher) -> None:
    """Referrers, cosign's tags, manifests beside the image in its index."""
    image = pusher.image("t/e", "", [Layered("ADD x /", {"x": b"1"})])
    pusher.attach("t/e", image, b'{"packages":[]}', SPDX)
    pusher.attach("t/e", image, b"{}", COSIGN, ref=image["digest"].replace(":", "-") + ".sig")
    pusher.attach(
        "t/e", image, b"\xd2\x84", "application/cose", artifact_type="application/vnd.cncf.notary.signature"
    )
    about = pusher.attach(
        "t/e",
        image,
        b'{"predicate":{}}',
        IN_TOTO,
        ref="beside",
        annotations={"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"},
    )
    about["annotations"] = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image["digest"],
    }
    pusher.index("t/e", "1", [image, about])
    tagged = find(hub, images, "t/e", "1")
    assert tagged.image
    subjects = [tagged.root.digest, tagged.image.digest]
    found = hub.run(Attachments(hub.hub.registry).find("t/e", subjects, tagged.members))
    assert [(each.kind, each.format) for each in found] == [
        ("signature", "cosign"),
        ("signature", "notation"),
        ("sbom", "SPDX"),
        ("provenance", "SLSA"),
    ]
    assert {each.about for each in found} == {image["digest"]}


STATEMENT = {"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://spdx.dev/Document"}
SPDX_DOCUMENT = {
    "spdxVersion": "SPDX-2.3",
    "packages": [
        {"name": "the image"},
        {
            "name": "curl",
            "versionInfo": "8.5",
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "curl",
            "externalRefs": [{"referenceType": "purl", "referenceLocator": "pkg:deb/curl@8.5"}],
        },
    ],
}
CYCLONE = {
    "bomFormat": "CycloneDX",
    "components": [
        {
            "type": "library",
            "name": "curl",
            "version": "8.5",
            "purl": "pkg:deb/curl@8.5",
            "licenses": [{"license": {"id": "curl"}}],
        },
        {"type": "file", "name": "/etc/passwd"},
    ],
}
DSSE = {"payload": base64.b64encode(json.dumps({**STATEMENT, "predicate": CYCLONE}).encode()).decode()}


@pytest.mark.parametrize(
    "document",
    [SPDX_DOCUMENT, CYCLONE, {**STATEMENT, "predicate": SPDX_DOCUMENT}, DSSE, {"dsseEnvelope": DSSE}],
    ids=["spdx", "cyclonedx", "in-toto", "dsse", "bundle"],
)
def test_bills_of_materials_are_read(document: dict[str, Any]) -> None:
    """In all forms that tools attach."""
    found = parse_packages(json.dumps(document).encode())
    license = "" if "NOASSERTION" in json.dumps(document) else "curl"
    assert found == [Package("curl", "8.5", license, "pkg:deb/curl@8.5")]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1]",
        b"{",
        b'{"packages": 7}',
        b'{"packages": [1, {"name": 2}]}',
        b"[" * 100_000,
        b'{"payload": "%"}',
        b"\xff",
    ],
)
def test_what_is_no_bill_of_materials_lists_nothing(data: bytes) -> None:
    """And nothing goes wrong."""
    assert parse_packages(data) == []


def certificate(email: str) -> str:
    """As sigstore's authority gives them."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    issuer = b"\x0c" + bytes([len(b"https://id.example.com")]) + b"https://id.example.com"
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(email)]), critical=True)
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8"), issuer), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(Encoding.PEM).decode()


def signed(about: str, pem: str = "") -> Attachment:
    """A signature's record."""
    return Attachment(
        kind="signature",
        format="cosign",
        manifest=digest_bytes(b"m"),
        blob=digest_bytes(b"b"),
        media_type=COSIGN,
        size=1,
        about=parse_digest(about),
        annotations={"dev.sigstore.cosign/certificate": pem},
    )


def test_a_signature_says_who_and_about_what() -> None:
    """One that names another image is seen as that."""
    digest = digest_bytes(b"image")
    payload = {
        "critical": {"identity": {"docker-reference": "hub/app"}, "image": {"docker-manifest-digest": digest}}
    }
    found = parse_signature(json.dumps(payload).encode(), signed(digest, certificate("me@example.com")))
    assert (found.signer, found.issuer, found.reference, found.names) == (
        "me@example.com",
        "https://id.example.com",
        "hub/app",
        True,
    )
    other = parse_signature(json.dumps(payload).encode(), signed(digest_bytes(b"other")))
    assert other.names is False and other.signer == ""
    assert parse_signature(b"\xff\xfe", signed(digest, "no certificate")).names is None
