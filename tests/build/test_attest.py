"""What is said of results: how they came about and what is in them; nothing that nobody may read."""

import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import msgspec.structs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.build.attest.attest import make_attestations, step_layers
from cais.build.attest.debian import parse_apk, parse_dpkg
from cais.build.attest.options import ProvenanceOptions, parse_attests
from cais.build.attest.packages import Distribution, Package, package_url
from cais.build.attest.provenance import Facts, list_materials, make_provenance, redact, sounds_secret
from cais.build.attest.python import parse_metadata
from cais.build.attest.sbom import format_spdx, is_license
from cais.build.attest.scan import Found, parse_os_release, scan_layers
from cais.build.attest.statement import image_purl
from cais.build.cache import CacheRecord
from cais.build.context import Context, Index, index_context
from cais.build.dockerfile.graph import make_graph
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.scope import make_scope
from cais.build.export.export import export
from cais.build.fetch.files import known_files
from cais.build.plan import Plan, Planner
from cais.build.request import BuildRequest, Option
from cais.errors import Invalid, NotFound, Unsupported
from cais.images.image import Image
from cais.spec.digest import parse_digest
from cais.spec.platform import Platform
from harness.exporting import AMD64, ARM64, CREATED, Received, Yard, open_yard, pack
from harness.rpm import BASH, rpm_header, rpm_ndb, rpm_sqlite

pytestmark = pytest.mark.kernel

STATUS = """Package: bash
Status: install ok installed
Maintainer: Some Body <some@example.org>
Architecture: amd64
Source: bash-src (5.2)
Version: 5.2-1
Description: a shell
 .
 Package: not-one

Package: gone
Status: deinstall ok config-files
Version: 1

Package: half
Status: install ok unpacked
Version: 2

"""
APK = """C:Q1abc=
P:musl
V:1.2.5-r0
A:x86_64
L:MIT
o:musl
m:Nobody <n@example.org>
F:lib
R:libc.so

P:busybox-binsh
V:1.36
o:busybox
L:GPL-2.0-only AND something
"""
PYTHON = "Metadata-Version: 2.1\nName: My.Pkg_x\nVersion: 1.0\nLicense: MIT\nAuthor: A\n\nName: no\n"


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    """Empty stores."""
    async with open_yard(tmp_path / "one") as made:
        yield made


# Packages


def test_dpkg_lists_what_is_installed() -> None:
    """And nothing that is only half there, or in a description."""
    (bash,) = parse_dpkg(STATUS.encode(), "var/lib/dpkg/status", whole=False)
    assert (bash.name, bash.version, bash.supplier) == ("bash", "5.2-1", "Some Body <some@example.org>")
    url = package_url(bash, Distribution("debian", "12"))
    assert url == "pkg:deb/debian/bash@5.2-1?arch=amd64&distro=debian-12&upstream=bash-src%405.2"
    (alone,) = parse_dpkg(b"Package: tzdata\nVersion: 2024a\n", "x", whole=True)
    assert alone.name == "tzdata"


def test_apk_lists_what_is_installed() -> None:
    """With the licenses that it knows."""
    musl, binsh = parse_apk(APK.encode(), "lib/apk/db/installed")
    assert (musl.name, musl.version, musl.license) == ("musl", "1.2.5-r0", "MIT")
    assert package_url(musl, Distribution("alpine", "3.20")) == (
        "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64&distro=alpine-3.20"
    )
    assert binsh.qualifiers["upstream"] == "busybox"


@given(st.binary(max_size=200))
def test_damaged_records_are_passed_over(noise: bytes) -> None:
    """Texts of all kinds."""
    list(parse_dpkg(noise, "x", whole=True))
    list(parse_apk(noise, "x"))
    parse_metadata(noise, "x")
    parse_os_release(noise)


def test_python_packages_are_named_as_the_index_names_them() -> None:
    """And what stands in the description is none of it."""
    found = parse_metadata(PYTHON.encode(), "x")
    assert (found.name, found.version, found.license) == ("My.Pkg_x", "1.0", "MIT")
    assert package_url(found, Distribution("debian", "12")) == "pkg:pypi/my-pkg-x@1.0"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("MIT", True),
        ("MIT AND (Apache-2.0 OR ISC)", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("MIT License", False),
        ("MIT AND", False),
        ("", False),
        ("(MIT", False),
        ('MIT"}', False),
    ],
)
def test_only_licenses_that_spdx_knows_are_declared(text: str, known: bool) -> None:
    """Others are a comment."""
    assert is_license(text) == known


async def test_the_root_is_scanned_as_it_is_in_the_end(yard: Yard, tmp_path: Path) -> None:
    """Layers above count, links are followed inside, and what is not sound is noted."""
    lower = pack(
        {
            "etc/": "",
            "etc/os-release": "-> ../usr/lib/os-release",
            "usr/lib/": "",
            "usr/lib/os-release": 'ID="debian"\nVERSION_ID="12"\n',
            "var/lib/dpkg/": "",
            "var/lib/dpkg/status": STATUS.replace("bash", "old"),
            "opt/venv/lib/site-packages/my.dist-info/METADATA": PYTHON,
            "opt/gone/x.dist-info/METADATA": PYTHON.replace("My", "Gone"),
            "srv/evil.egg-info/PKG-INFO": "Name: ../../x\nVersion: 1\n",
            "usr/lib/sysimage/rpm/rpmdb.sqlite": rpm_sqlite(tmp_path / "db", BASH),
            "var/lib/rpm/Packages": "\0\0\0\0btree",
            "lib/apk/db/installed": "-> /../../../../../etc/passwd",
        }
    )
    upper = pack({"var/lib/dpkg/": "", "var/lib/dpkg/status": STATUS, "opt/": "", "opt/.wh.gone": ""})
    result = yard.result(lower, upper)
    found = scan_layers(await yard.lowers(result.layers, yard.lease))
    assert [(one.kind, one.name) for one in found.packages] == [
        ("deb", "bash"),
        ("pypi", "My.Pkg_x"),
        ("rpm", "bash"),
    ]
    assert found.distribution == Distribution("debian", "12")
    assert "/var/lib/rpm/Packages is no database of rpm that is known" in found.notes
    assert any("evil.egg-info" in note and "cannot be" in note for note in found.notes)


@pytest.mark.parametrize("home", ["usr/lib/sysimage/rpm", "usr/share/rpm", "var/lib/rpm"])
async def test_rpm_is_found_wherever_it_keeps_its_database(yard: Yard, home: str) -> None:
    """Once, though the other places are links to it."""
    files: dict[str, str | bytes] = {f"{home}/Packages.db": rpm_ndb(BASH)}
    for other in {"usr/lib/sysimage/rpm", "usr/share/rpm", "var/lib/rpm"} - {home}:
        files[other] = f"-> /{home}"
    found = scan_layers(await yard.lowers(yard.result(pack(files)).layers, yard.lease))
    assert [(one.name, one.version) for one in found.packages] == [("bash", "5.2-3.fc40")]
    assert not found.notes


async def test_of_several_databases_the_newest_format_counts(yard: Yard, tmp_path: Path) -> None:
    """In one folder, if it can be read; each folder has its own. What did not count is named."""
    vim, old = rpm_header({1000: "vim", 1001: "9"}), rpm_ndb(rpm_header({1000: "old", 1001: "1"}))
    files: dict[str, str | bytes] = {
        "var/lib/rpm/rpmdb.sqlite": rpm_sqlite(tmp_path / "db", BASH),
        "var/lib/rpm/Packages.db": old,
        "usr/share/rpm/rpmdb.sqlite": "SQLite format 3\0 no more",
        "usr/share/rpm/Packages": rpm_ndb(vim),
    }
    found = scan_layers(await yard.lowers(yard.result(pack(files)).layers, yard.lease))
    assert {(one.name, one.path) for one in found.packages} == {
        ("bash", "var/lib/rpm/rpmdb.sqlite"),
        ("vim", "usr/share/rpm/Packages"),
    }
    beside, damaged = sorted(found.notes)
    assert beside == "/var/lib/rpm/Packages.db lies beside a newer database of rpm"
    assert damaged.startswith("the database of rpm is damaged")


async def test_an_sbom_is_the_same_every_time_and_whole(yard: Yard) -> None:
    """Each package once, with its package URL; identifiers are those of SPDX."""
    files = {"var/lib/dpkg/": "", "var/lib/dpkg/status": STATUS, "a/b.dist-info/METADATA": PYTHON}
    result = yard.result(pack(files))
    attests = parse_attests([Option("sbom", {})])
    plan = await make_plan("FROM scratch\n", yard.root, {})
    made = [
        await make_attestations(
            attests, BuildRequest(names=("docker.io/a/b:1",)), (plan, result, {}), FACTS, yard.tools()
        )
        for _ in range(2)
    ]
    assert made[0] == made[1]
    document = json.loads(made[0][0].predicate)
    assert made[0][0].type == "https://spdx.dev/Document" and document["spdxVersion"] == "SPDX-2.3"
    assert document["creationInfo"]["created"] == CREATED and document["name"] == "docker.io/a/b:1"
    urls = [one["externalRefs"][0]["referenceLocator"] for one in document["packages"][1:]]
    assert urls == ["pkg:deb/debian/bash@5.2-1?arch=amd64&upstream=bash-src%405.2", "pkg:pypi/my-pkg-x@1.0"]
    ids = [one["SPDXID"] for one in document["packages"]]
    assert len(set(ids)) == 3 and all(set(id) <= SPDX_ID for id in ids)
    assert {one["relatedSpdxElement"] for one in document["relationships"]} == set(ids)
    assert document["packages"][2]["licenseDeclared"] == "MIT"


SPDX_ID = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_any_text_of_a_package_becomes_json(name: str, version: str, license: str) -> None:
    """What is not sound is never let in; what is let in can be written."""
    package = Package("deb", name, version, "x", license=license)
    if package.is_sound:
        document = json.loads(format_spdx(Found(packages=[package]), "n", "p", ""))
        assert document["packages"][1]["name"] == name
        assert set(document["packages"][1]["SPDXID"]) <= SPDX_ID


# Provenance

FACTS = Facts(AMD64, "build-1", 1_600_000_000_000_000_000, 1_600_000_001_000_000_000)
TEXT = """FROM example.org/base:1 AS tools
COPY a /f
FROM scratch
COPY --from=tools /f /f
COPY --from=other /x /x
RUN --network=none --mount=type=secret,id=token --mount=type=ssh,required=true true
"""


async def make_plan(text: str, folder: Path, images: Mapping[str, Image]) -> Plan:
    """Of a Dockerfile."""
    source = folder / "context"
    source.write_bytes(pack({"a": "1"}))
    file = parse_dockerfile(text.encode(), "Dockerfile")
    scope = make_scope(file, {}, {})
    graph = make_graph(file, scope, "")

    async def resolve(name: str, platform: Platform | None) -> Image:
        if name not in images:
            raise NotFound(name)
        return images[name]

    index = index_context(str(source), str(folder / "plain"))
    return await Planner(graph, scope, Context(index), resolve, AMD64, BuildRequest()).plan()


async def make_images(yard: Yard) -> dict[str, Image]:
    """Two bases."""
    images = {}
    for name in ("example.org/base:1", "other"):
        await export(
            [yard.result(pack({name: ""}))],
            Option("image", {"name": name}),
            Received(yard.root),
            yard.tools(),
        )
        images[name] = await yard.images.resolve(name)
    return images


REQUEST = BuildRequest(
    args={"VERSION": "3", "NPM_TOKEN": "tell-nobody", "HTTP_PROXY": "http://me:tell-nobody@proxy:1"},
    labels={"a": "b"},
    target="last",
    contexts={"lib": "https://me:tell-nobody@example.org/lib.git"},
)


def predicate(options: ProvenanceOptions, plan: Plan, facts: Facts = FACTS, **more: Any) -> dict[str, Any]:
    """The predicate's JSON."""
    made = make_provenance(options, REQUEST, plan, facts, **more)
    assert b"tell-nobody" not in made.predicate
    found = json.loads(made.predicate)
    assert isinstance(found, dict)
    return found


async def test_provenance_says_what_went_in_and_how(yard: Yard) -> None:
    """SLSA v1, all of it."""
    images = await make_images(yard)
    plan = await make_plan(TEXT, yard.root, images)
    layer = yard.layer(pack({"l": ""}))
    blob = layer.blob
    record = CacheRecord(
        created_ns=1,
        diff_id=layer.diff_id,
        digest=blob.digest,
        media_type=blob.media_type,
        size=blob.size,
    )
    run = next(
        op for stage in plan.stages.values() for s in stage.steps if (op := s.op) and "RUN" in op.title
    )
    layers = step_layers(plan, {run.key: record}.get)
    assert layers == {run.key: layer}
    said = predicate(ProvenanceOptions(builder_id="https://me"), plan, layers=layers)
    definition, details = said["buildDefinition"], said["runDetails"]
    assert definition["resolvedDependencies"] == [
        {
            "uri": "pkg:docker/example.org/base@1?platform=linux%2Famd64",
            "digest": {"sha256": images["example.org/base:1"].id.hex},
        },
        {
            "uri": "pkg:docker/other@latest?platform=linux%2Famd64",
            "digest": {"sha256": images["other"].id.hex},
        },
    ]
    parameters = definition["externalParameters"]["request"]
    assert parameters["args"] == {
        "target": "last",
        "build-arg:VERSION": "3",
        "build-arg:HTTP_PROXY": "http://proxy:1",
        "label:a": "b",
        "context:lib": "https://example.org/lib.git",
    }
    assert parameters["secrets"] == [{"id": "token", "optional": True}]
    assert parameters["ssh"] == [{"id": "default"}]
    assert parameters["locals"] == [{"name": "context"}, {"name": "dockerfile"}]
    metadata = details["metadata"]
    assert details["builder"] == {"id": "https://me"}
    assert (metadata["invocationId"], metadata["startedOn"]) == ("build-1", "2020-09-13T12:26:40Z")
    # An argument is not told, and nobody knows what a client sent.
    assert metadata["buildkit_completeness"] == {"request": False, "resolvedDependencies": False}
    steps = definition["internalParameters"]["buildConfig"]["steps"]
    assert [step["id"] for step in steps] == ["step0", "step1", "step2", "step3"]
    assert steps[1]["inputs"] == ["step0"] and steps[3]["inputs"] == ["step2"]
    described = metadata["buildkit_metadata"]["layers"]["step3:0"][0][0]
    assert described["digest"] == layer.blob.digest
    assert metadata["buildkit_metadata"]["source"]["locations"]["step3"]["locations"] == [
        {"ranges": [{"start": {"line": 6}, "end": {"line": 6}}]}
    ]


async def test_the_short_form_leaves_out_what_people_chose(yard: Yard) -> None:
    """mode=min; and the older version says the same in other places."""
    plan = await make_plan(TEXT, yard.root, await make_images(yard))
    new = predicate(ProvenanceOptions(everything=False), plan)
    old = predicate(ProvenanceOptions(everything=False, version="v0.2", reproducible=True), plan)
    request = new["buildDefinition"]["externalParameters"]["request"]
    assert request["args"] == {"target": "last", "context:lib": "https://example.org/lib.git"}
    assert "secrets" not in request and "buildConfig" not in new["buildDefinition"]["internalParameters"]
    assert old["invocation"]["parameters"] == request
    assert old["materials"] == new["buildDefinition"]["resolvedDependencies"]
    assert old["metadata"]["reproducible"] is True
    assert old["metadata"]["buildStartedOn"] == "2020-09-13T12:26:40Z"


async def test_what_is_fetched_is_a_material(yard: Yard) -> None:
    """By its address without secrets, and the digest that is known of it."""
    plan = await make_plan("FROM scratch\nADD a /\n", yard.root, {})
    (op,) = (step.op for step in plan.target.steps if step.op)
    files = known_files(Index("", {}))
    act = msgspec.structs.replace(op.act, checksum="sha256:ab")  # type: ignore[call-arg]
    fetched = dataclasses.replace(
        op, act=act, files={"https://me:tell-nobody@example.org/f": files, "https://example.org/r.git": files}
    )
    steps = tuple(dataclasses.replace(step, op=step.op and fetched) for step in plan.target.steps)
    target = dataclasses.replace(plan.target, steps=steps)
    plan = dataclasses.replace(plan, target=target, stages={0: target})
    facts = msgspec.structs.replace(FACTS, digests={"https://example.org/r.git": {"sha1": "c" * 40}})
    assert [(one.uri, one.digest) for one in list_materials(plan, facts)] == [
        ("https://example.org/f", {"sha256": "ab"}),
        ("https://example.org/r.git", {"sha1": "c" * 40}),
    ]


async def test_with_an_epoch_the_same_input_gives_the_same_bytes(yard: Yard) -> None:
    """No times, no names of builds."""
    plan = await make_plan("FROM scratch\nCOPY a /\n", yard.root, {})
    made = [
        make_provenance(ProvenanceOptions(), REQUEST, plan, Facts(AMD64, name, at, at, epoch_ns=0))
        for name, at in (("one", 1), ("two", 2))
    ]
    assert made[0] == made[1]


async def test_what_has_no_digest_is_not_complete(yard: Yard) -> None:
    """complete-materials=true names what is missing; known digests make it whole and hermetic."""
    plan = await make_plan("FROM scratch\nCOPY a /\n", yard.root, {})
    options = ProvenanceOptions(complete=True)
    with pytest.raises(Invalid, match="context"):
        make_provenance(options, REQUEST, plan, FACTS)
    source = "https://me:tell-nobody@example.org/x.git#main"
    facts = msgspec.structs.replace(FACTS, locals=(), source=source)
    with pytest.raises(Invalid, match=r"https://example\.org"):
        make_provenance(options, REQUEST, plan, facts)
    facts = msgspec.structs.replace(facts, digests={source: {"sha1": "f" * 40}})
    said = predicate(options, plan, facts)
    assert said["buildDefinition"]["externalParameters"]["configSource"] == {
        "path": "Dockerfile",
        "uri": "https://example.org/x.git#main",
        "digest": {"sha1": "f" * 40},
    }
    assert said["runDetails"]["metadata"]["buildkit_hermetic"] is True


@pytest.mark.parametrize(
    ("kind", "attrs", "error", "words"),
    [
        ("provenance", {"mode": "medium"}, Invalid, "min or max"),
        ("provenance", {"version": "v2"}, Invalid, "v0.2"),
        ("provenance", {"filename": "../x"}, Invalid, "filename"),
        ("provenance", {"reproducible": "maybe"}, Invalid, "true or false"),
        ("provenance", {"modes": "min"}, Invalid, "do you mean mode"),
        ("sbom", {"generator": "example.org/scanner"}, Unsupported, "lists packages itself"),
        ("signature", {}, Invalid, "unknown attestation"),
    ],
)
def test_what_cannot_be_is_refused(
    kind: str, attrs: dict[str, str], error: type[Exception], words: str
) -> None:
    """With words that name the attribute."""
    with pytest.raises(error, match=words):
        parse_attests([Option(kind, attrs)])


def test_attestations_can_be_turned_off() -> None:
    """The last one of a type counts; what buildx sends by itself is understood."""
    both = parse_attests([Option("provenance", {"mode": "min", "inline-only": "true"}), Option("sbom", {})])
    assert both.provenance == ProvenanceOptions(everything=False, inline=True) and both.sbom
    off = parse_attests([Option("provenance", {}), Option("provenance", {"disabled": "true"})])
    assert off.provenance is None


def test_names_and_addresses_that_tell_too_much() -> None:
    """Words for secrets in all spellings; user and password of addresses."""
    assert all(map(sounds_secret, ("TOKEN", "npm_token", "API_KEY", "AWS_SECRET_ACCESS_KEY", "DB-PASSWORD")))
    assert not any(map(sounds_secret, ("VERSION", "MONKEY", "AUTHOR", "HTTP_PROXY")))
    assert redact("git https://a:b@h/x?y=@z and ssh://git@h/r") == "git https://h/x?y=@z and ssh://h/r"


def test_images_have_package_urls() -> None:
    """Names as people write them, escaped where they must be."""
    assert image_purl("busybox") == "pkg:docker/busybox@latest"
    assert image_purl("localhost:5000/a/b:1", ARM64) == (
        "pkg:docker/localhost%3A5000/a/b@1?platform=linux%2Farm64"
    )
    digest = parse_digest("sha256:" + "a" * 64)
    assert image_purl(f"busybox@{digest}") == f"pkg:docker/busybox?digest={digest}"
