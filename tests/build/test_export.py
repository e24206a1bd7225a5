"""What comes out of a build: images, archives, trees; the same every time."""

import base64
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import msgspec.structs
import pytest

from cais.build.export.export import check_option, export
from cais.build.export.options import parse_annotations, parse_image_options
from cais.build.export.result import Attestation, Result
from cais.build.request import Option
from cais.errors import AlreadyExists, CaisError, Invalid, NotFound, Unsupported
from cais.images.pull import PullRequest
from cais.remotes.inspect import inspect_remote
from cais.spec.digest import parse_digest
from cais.spec.reference import parse_reference
from harness.exporting import AMD64, ARM64, Received, Yard, open_yard, pack, sha256, unpack
from harness.registry import Registry, running_registry

pytestmark = pytest.mark.kernel

LOWER = pack({"etc/": "", "etc/a": "one", "etc/b": "two", "bin/": "", "bin/sh": "#!", "bin/ash": "= bin/sh"})
UPPER = pack(
    {"etc/": "", "etc/.wh.b": "", "etc/c": "-> a", "opt/": "", "opt/.wh..wh..opq": ""}, mtime=2_000_000_000
)


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    """Empty stores."""
    async with open_yard(tmp_path / "one") as made:
        yield made


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry."""
    with running_registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


async def run(
    yard: Yard, results: list[Result], kind: str, names: tuple[str, ...] = (), **attrs: str
) -> Received:
    """Export; what the client has then."""
    attrs = {name.replace("_", "-"): value for name, value in attrs.items()}
    received = Received(yard.root / "received")
    response = await export(results, Option(kind, attrs), received, yard.tools(names))
    received.response = response
    return received


def read_json(yard: Yard, digest: str) -> Any:
    """A document in the content store."""
    return json.loads(yard.content.read(parse_digest(digest)))


async def test_an_image_gets_its_names_last_and_runs(yard: Yard) -> None:
    """Names, digest, descriptor; the layers can be mounted."""
    received = await run(yard, [yard.result(LOWER, UPPER)], "image", name="a/b:1,c", unpack="true")
    image = await yard.images.resolve("a/b:1")
    assert received.response["containerimage.digest"] == image.id
    assert received.response["containerimage.config.digest"] == image.config_digest
    assert received.response["image.name"] == "docker.io/a/b:1,docker.io/library/c:latest"
    told = json.loads(base64.b64decode(received.response["containerimage.descriptor"]))
    assert told["digest"] == image.id and told["platform"] == {"architecture": "amd64", "os": "linux"}
    assert image.names == ("docker.io/a/b:1", "docker.io/library/c:latest")
    assert yard.images.find_lowers(image.diff_ids)
    assert not await yard.leftovers()


async def test_the_same_result_gives_the_same_bytes_on_another_machine(yard: Yard, tmp_path: Path) -> None:
    """All types, to the byte, with every conversion."""
    kinds: list[tuple[str, dict[str, str]]] = [
        ("oci", {}),
        ("docker", {"name": "x"}),
        ("tar", {}),
        ("oci", {"compression": "zstd", "force-compression": "true"}),
        ("oci", {"compression": "gzip", "compression-level": "9"}),
        ("oci", {"rewrite-timestamp": "true", "source-date-epoch": "77"}),
    ]
    async with open_yard(tmp_path / "two") as other:
        for kind, attrs in kinds:
            streams = [
                (await run(each, [each.result(LOWER, UPPER)], kind, **attrs)).stream for each in (yard, other)
            ]
            assert streams[0] == streams[1], kind


async def test_a_tar_is_the_merged_root_without_what_was_removed(yard: Yard) -> None:
    """Whiteouts are applied, hard links kept, names sorted, and nothing says that there were layers."""
    received = await run(yard, [yard.result(LOWER, UPPER)], "tar")
    members = unpack(received.stream)
    assert list(members) == ["bin", "bin/ash", "bin/sh", "etc", "etc/a", "etc/c", "opt"]
    assert members["bin/sh"][0].islnk() and members["bin/sh"][0].linkname == "bin/ash"
    assert members["etc/c"][0].linkname == "a" and members["etc/a"][1] == b"one"
    assert received.is_closed


async def test_a_tar_keeps_owners_modes_attributes_and_times(yard: Yard) -> None:
    """All that a tar can say of a file; with an epoch its time is that."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("f")
        info.uid, info.gid, info.mode, info.mtime = 7, 8, 0o4751, 99
        info.pax_headers = {"SCHILY.xattr.user.mark": "here"}
        archive.addfile(info)
    result = yard.result(out.getvalue())
    found = unpack((await run(yard, [result], "tar")).stream)["f"][0]
    assert (found.uid, found.gid, found.mode, found.mtime) == (7, 8, 0o4751, 99)
    assert found.pax_headers["SCHILY.xattr.user.mark"] == "here"
    dated = unpack((await run(yard, [result], "tar", source_date_epoch="5")).stream)["f"][0]
    assert dated.mtime == 5


async def test_local_gives_a_folder_for_each_platform(yard: Yard) -> None:
    """Split if there are several, side by side if that is asked for and possible."""
    one = yard.result(pack({"bin/": "", "bin/x": "amd"}))
    two = yard.result(pack({"bin/": "", "bin/y": "arm"}), platform=ARM64)
    split = unpack((await run(yard, [one, two], "local")).tree)
    assert list(split) == [
        "linux_amd64",
        "linux_amd64/bin",
        "linux_amd64/bin/x",
        "linux_arm64",
        "linux_arm64/bin",
        "linux_arm64/bin/y",
    ]
    merged = unpack((await run(yard, [one, two], "local", platform_split="false")).tree)
    assert list(merged) == ["bin", "bin/x", "bin/y"]
    alone = unpack((await run(yard, [one], "local", platform_split="true")).tree)
    assert next(iter(alone)) == "linux_amd64"
    assert list(unpack((await run(yard, [one], "local")).tree)) == ["bin", "bin/x"]
    clash = yard.result(pack({"bin/": "", "bin/x": "other"}), platform=ARM64)
    with pytest.raises(Invalid, match="cannot overwrite /bin/x from linux/amd64 with linux/arm64"):
        await run(yard, [one, clash], "local", platform_split="false")


async def test_rootfs_makes_a_folder_whole_or_not_at_all(yard: Yard, tmp_path: Path) -> None:
    """With owners and links; what is there stays."""
    target = tmp_path / "root"
    result = yard.result(LOWER, pack({"own": "x"}, uid=12))
    await run(yard, [result], "rootfs", dest=str(target))
    assert (target / "etc/a").read_text() == "one"
    assert (target / "own").stat().st_uid == 12
    assert (target / "bin/sh").stat().st_ino == (target / "bin/ash").stat().st_ino
    with pytest.raises(AlreadyExists, match="is there already"):
        await run(yard, [result], "rootfs", dest=str(target))
    with pytest.raises(NotFound, match="no such folder"):
        await run(yard, [result], "rootfs", dest=str(tmp_path / "no" / "root"))
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AlreadyExists):
        await run(yard, [result], "rootfs", dest=str(tmp_path / "link"))
    assert not (tmp_path / "elsewhere").exists()
    assert sorted(os.listdir(tmp_path)) == ["link", "one", "root"]


async def test_several_platforms_are_one_index_that_loads(yard: Yard, tmp_path: Path) -> None:
    """docker and oci archives of two platforms, loaded by another engine."""
    results = [yard.result(LOWER), yard.result(UPPER, platform=ARM64)]
    for kind in ("docker", "oci"):
        received = await run(yard, results, kind, name="two:1")
        members = unpack(received.stream)
        assert list(members) == sorted(members)
        assert ("manifest.json" in members) == (kind == "docker")
        (entry,) = json.loads(members["index.json"][1])["manifests"]
        assert entry["digest"] == received.response["containerimage.digest"]
        assert "containerimage.config.digest" not in received.response
        async with open_yard(tmp_path / kind) as other:
            async for _ in other.images.load(_stream(received.stream)):
                pass
            image = await other.images.resolve("two:1")
            assert image.id == entry["digest"]
            assert [str(one.platform) for one in image.platforms] == ["linux/amd64", "linux/arm64"]
            assert (Path(other.images.find_lowers(image.diff_ids)[0]) / "etc/a").read_text() == "one"  # type: ignore[index]


async def _stream(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_a_docker_archive_is_read_without_its_layout(yard: Yard, tmp_path: Path) -> None:
    """Readers that know manifest.json only find everything."""
    received = await run(yard, [yard.result(LOWER, UPPER)], "docker", name="old:1")
    members = unpack(received.stream)
    (entry,) = json.loads(members["manifest.json"][1])
    assert entry["RepoTags"] == ["old:1"]
    assert json.loads(members[entry["Config"]][1])["rootfs"]["diff_ids"] == [sha256(LOWER), sha256(UPPER)]
    assert all(layer in members for layer in entry["Layers"])


async def test_an_unpacked_layout_goes_blob_by_blob(yard: Yard) -> None:
    """tar=false."""
    received = await run(yard, [yard.result(LOWER)], "oci", tar="false", name="n:1")
    folder = received.folder
    (entry,) = json.loads((folder / "index.json").read_text())["manifests"]
    manifest = json.loads((folder / "blobs" / entry["digest"].replace(":", "/")).read_text())
    for blob in (manifest["config"], *manifest["layers"]):
        data = (folder / "blobs" / blob["digest"].replace(":", "/")).read_bytes()
        assert sha256(data) == blob["digest"]
    assert not received.stream


async def test_layers_are_compressed_as_asked_but_not_the_bases(yard: Yard) -> None:
    """compression for own layers, force-compression for all; diff_ids stay."""
    plain = yard.result(LOWER, UPPER)
    result = msgspec.structs.replace(plain, base_layers=1)
    image = await _image(yard, result, compression="zstd")
    kinds = [layer.media_type.rpartition(".")[2] for layer in image.manifest.layers]
    assert kinds == ["tar+gzip", "tar+zstd"] and image.diff_ids == plain.config.rootfs.diff_ids
    image = await _image(yard, result, compression="zstd", force_compression="true")
    assert [layer.media_type.rpartition("+")[2] for layer in image.manifest.layers] == ["zstd", "zstd"]
    image = await _image(yard, result, compression="uncompressed", force_compression="true")
    assert [layer.digest for layer in image.manifest.layers] == list(image.diff_ids)
    assert await yard.images.root_lowers(image)


async def _image(yard: Yard, result: Result, **attrs: str) -> Any:
    response = (await run(yard, [result], "image", **attrs)).response
    return await yard.images.resolve(response["containerimage.digest"])


async def test_times_are_rewritten_in_own_layers_only(yard: Yard) -> None:
    """Later times become the epoch, earlier stay; a layer with nothing later stays the same layer."""
    later = pack({"new": "x"}, mtime=1000)
    result = msgspec.structs.replace(yard.result(later, LOWER, later), base_layers=1, base_steps=1)
    image = await _image(yard, result, rewrite_timestamp="true", source_date_epoch="77")
    assert image.diff_ids[:2] == result.config.rootfs.diff_ids[:2]
    assert image.diff_ids[2] != result.config.rootfs.diff_ids[2]
    lowers = await yard.images.root_lowers(image)
    assert [int((Path(lower) / "new").stat().st_mtime) for lower in (lowers[0], lowers[-1])] == [77, 1000]
    assert image.config.created == "1970-01-01T00:01:17Z"
    times = [step.created for step in image.config.history]
    assert times == ["2020-01-02T03:04:05Z", "1970-01-01T00:01:17Z", "1970-01-01T00:01:17Z"]


async def test_rewriting_keeps_everything_else_of_a_layer(yard: Yard) -> None:
    """Whiteouts, links, sparse files, long and odd names, attributes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for name in ("d/", "d/.wh.gone", "d/" + "n" * 200, "d/\udcff", "link", "hard"):
            info = tarfile.TarInfo(name)
            info.mtime, info.uid = 500, 3_000_000
            if name == "d/":
                info.type, info.mode = tarfile.DIRTYPE, 0o1777
            elif name == "link":
                info.type, info.linkname = tarfile.SYMTYPE, "t" * 150
            elif name == "hard":
                info.type, info.linkname = tarfile.LNKTYPE, "d/" + "n" * 200
            archive.addfile(info)
    result = yard.result(LOWER, out.getvalue())
    image = await _image(yard, result, rewrite_timestamp="true", source_date_epoch="100")
    before = unpack(out.getvalue())
    blob = yard.content.path(image.manifest.layers[1].digest).read_bytes()
    after = unpack(blob)
    assert list(after) == list(before)
    for name, (info, data) in after.items():
        old = before[name][0]
        assert (info.type, info.mode, info.uid, info.linkname, data) == (
            old.type,
            old.mode,
            old.uid,
            old.linkname,
            before[name][1],
        )
        assert info.mtime == 100


async def test_docker_media_types(yard: Yard) -> None:
    """oci-mediatypes=false, of one platform and of several."""
    results = [yard.result(LOWER), yard.result(UPPER, platform=ARM64)]
    image = await _image(yard, results[0], oci_mediatypes="false")
    assert image.descriptor.media_type == "application/vnd.docker.distribution.manifest.v2+json"
    assert image.manifest.layers[0].media_type == "application/vnd.docker.image.rootfs.diff.tar.gzip"
    response = (await run(yard, results, "image", oci_mediatypes="false")).response
    document = read_json(yard, response["containerimage.digest"])
    assert document["mediaType"] == "application/vnd.docker.distribution.manifest.list.v2+json"


async def test_annotations_go_where_they_say(yard: Yard) -> None:
    """Manifest, its entry, index; for one platform or all."""
    results = [yard.result(LOWER), yard.result(UPPER, platform=ARM64)]
    received = Received(yard.root / "r")
    attrs = {
        "annotation.all": "1",
        "annotation[linux/arm64].arm": "2",
        "annotation-manifest-descriptor.entry": "3",
        "annotation-index.top": "4",
        "annotation-index-descriptor.out": "5",
    }
    response = await export(results, Option("oci", attrs), received, yard.tools())
    index = read_json(yard, response["containerimage.digest"])
    assert index["annotations"] == {"top": "4"}
    assert [entry["annotations"] for entry in index["manifests"]] == [{"entry": "3"}, {"entry": "3"}]
    amd, arm = (read_json(yard, entry["digest"]) for entry in index["manifests"])
    assert amd["annotations"] == {"all": "1"} and arm["annotations"] == {"all": "1", "arm": "2"}
    layout = json.loads(unpack(received.stream)["index.json"][1])
    assert layout["manifests"][0]["annotations"] == {"out": "5"}
    with pytest.raises(Invalid, match="there is no index"):
        await run(yard, results[:1], "image", **{"annotation-index.top": "4"})
    with pytest.raises(Invalid, match="platform linux/arm64 is not built"):
        await run(yard, results[:1], "image", **{"annotation[linux/arm64].x": "4"})


@pytest.mark.parametrize(
    ("kind", "attrs", "words"),
    [
        ("image", {"compression": "estargz"}, "estargz"),
        ("image", {"compression": "brotli"}, "unknown compression"),
        ("image", {"compression": "gzip", "compression-level": "10"}, "want 0 to 9"),
        ("image", {"push": "true"}, "without a name"),
        ("image", {"push": "perhaps", "name": "a"}, "want true or false"),
        ("image", {"push-by-digest": "true", "push": "true", "name": "a:1"}, "by digest"),
        ("image", {"compresion": "gzip"}, "do you mean compression"),
        ("image", {"annotation-nowhere.a": "x"}, "invalid annotation"),
        ("image", {"annotation.a": "x", "oci-mediatypes": "false"}, "oci-mediatypes=false"),
        ("image", {"rewrite-timestamp": "true"}, "SOURCE_DATE_EPOCH"),
        ("image", {"rewrite-timestamp": "true", "unpack": "", "source-date-epoch": "1"}, "conflicts"),
        ("image", {"source-date-epoch": "-1"}, "seconds since 1970"),
        ("image", {"name": "UPPER"}, "lowercase"),
        ("local", {"platform-split": "x"}, "platform-split"),
        ("local", {"mode": "delete"}, "what is there stays"),
        ("local", {"attestation-prefix": "../x"}, "attestation-prefix"),
        ("rootfs", {"dest": "relative"}, "absolute path"),
        ("floppy", {}, "unknown output type"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_built(
    kind: str, attrs: dict[str, str], words: str
) -> None:
    """With words that name the attribute."""
    with pytest.raises((Invalid, Unsupported), match=words):
        check_option(Option(kind, attrs))


def test_what_buildx_sends_is_understood() -> None:
    """Attributes without a value are true; names are canonical."""
    options = parse_image_options(Option("registry", {"name": "a,b:2", "unpack": "", "name-canonical": ""}))
    assert options.push and options.unpack and options.canonical
    assert options.names == ("docker.io/library/a:latest", "docker.io/library/b:2")
    notes = parse_annotations({"annotation[linux/arm/v7].k.l": "v", "annotation-index.k": "w"})
    assert notes.values == {("manifest", "linux/arm/v7"): {"k.l": "v"}, ("index", ""): {"k": "w"}}


async def test_an_unchanged_image_stays_what_it_is(yard: Yard) -> None:
    """FROM alone: the same digest under another name; with an annotation a manifest of its own."""
    first = await _image(yard, yard.result(LOWER))
    result = msgspec.structs.replace(yard.result(LOWER), unchanged=first, base_layers=1, base_steps=1)
    again = (await run(yard, [result], "image", name="again")).response
    assert again["containerimage.digest"] == first.id
    noted = (await run(yard, [result], "image", **{"annotation.a": "b"})).response
    assert noted["containerimage.digest"] != first.id
    assert noted["containerimage.config.digest"] == first.config_digest


async def test_a_push_by_digest_writes_no_tag(yard: Yard, registry: Registry, tmp_path: Path) -> None:
    """The registry has it by its digest; nothing is stored here with store=false."""
    name = f"{registry.address}/by/digest"
    attrs = {"name": name, "push": "true", "push_by_digest": "true", "store": "false"}
    response = (await run(yard, [yard.result(LOWER)], "image", **attrs)).response
    assert not await yard.images.list()
    digest = response["containerimage.digest"]
    async with open_yard(tmp_path / "two") as other:
        reference = parse_reference(f"{name}@{digest}")
        async for _ in other.images.pull(PullRequest(reference)):
            pass
        assert (await other.images.resolve(f"{name}@{digest}")).id == digest
        with pytest.raises(CaisError):
            async for _ in other.images.pull(PullRequest(parse_reference(name).tagged())):
                pass


async def test_what_is_answered_is_what_the_registry_has(yard: Yard, registry: Registry) -> None:
    """Plain layers are compressed for a push: in the image here, too, unless it was not made here."""
    plain = yard.result(LOWER, codec="none")
    base = await _image(yard, plain)
    unchanged = msgspec.structs.replace(plain, unchanged=base, base_layers=1, base_steps=1)
    for number, result in enumerate((plain, unchanged)):
        name = f"{registry.address}/answer:{number}"
        response = (await run(yard, [result], "registry", name=name)).response
        found = await inspect_remote(yard.remotes, parse_reference(name))
        assert found.descriptor.digest == response["containerimage.digest"] != base.id
        told = json.loads(base64.b64decode(response["containerimage.descriptor"]))
        assert (told["digest"], told["size"]) == (found.descriptor.digest, found.descriptor.size)
    assert (await yard.images.resolve(f"{registry.address}/answer:0")).id != base.id
    assert (await yard.images.resolve(f"{registry.address}/answer:1")).id == base.id


async def test_a_pushed_index_with_attestations_runs_elsewhere(
    yard: Yard, registry: Registry, tmp_path: Path
) -> None:
    """Push, pull, save: attestations ride along and are never taken for an image."""
    said = Attestation("https://example.org/said", b'{"a":1}', "said.json")
    results = [
        msgspec.structs.replace(yard.result(LOWER), attestations=[said]),
        msgspec.structs.replace(yard.result(UPPER, platform=ARM64), attestations=[said]),
    ]
    name = f"{registry.address}/attested:1"
    response = (await run(yard, results, "registry", name=name, name_canonical="true")).response
    digest = response["containerimage.digest"]
    image = await yard.images.resolve(f"{registry.address}/attested@{digest}")
    assert image.id == digest and str(image.chosen.platform) == "linux/amd64"
    index = read_json(yard, digest)
    amd, _, first, second = index["manifests"]
    assert first["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert first["annotations"] == {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": amd["digest"],
    }
    (layer,) = read_json(yard, first["digest"])["layers"]
    assert layer["annotations"] == {"in-toto.io/predicate-type": "https://example.org/said"}
    statement = read_json(yard, layer["digest"])
    assert statement["subject"] == [
        {
            "name": f"pkg:docker/{registry.address.replace(':', '%3A')}/attested@1?platform=linux%2Famd64",
            "digest": {"sha256": amd["digest"][7:]},
        }
    ]
    assert statement["predicate"] == {"a": 1} and second["digest"] != first["digest"]
    saved = b"".join([part async for part in yard.images.save([name])])
    assert f"blobs/{layer['digest'].replace(':', '/')}" in unpack(saved)
    async with open_yard(tmp_path / "two") as other:
        async for _ in other.images.pull(PullRequest(parse_reference(name))):
            pass
        pulled = await other.images.resolve(name)
        assert (Path((await other.images.root_lowers(pulled))[0]) / "etc/a").read_text() == "one"


async def test_attestations_lie_beside_files(yard: Yard) -> None:
    """As statements about every file; those for images only do not."""
    said = Attestation("https://example.org/said", b"{}", "said.json")
    hidden = Attestation("https://example.org/hidden", b"{}", "hidden.json", inline=True)
    result = msgspec.structs.replace(yard.result(pack({"a": "x"})), attestations=[said, hidden])
    members = unpack((await run(yard, [result], "local", attestation_prefix="my-")).tree)
    assert list(members) == ["a", "my-said.json"]
    statement = json.loads(members["my-said.json"][1])
    assert statement["subject"] == [{"name": "a", "digest": {"sha256": sha256(b"x")[7:]}}]


async def test_cacheonly_makes_nothing(yard: Yard) -> None:
    """And answers nothing."""
    assert (await run(yard, [yard.result(LOWER)], "cacheonly")).response == {}
    assert not await yard.images.list()


async def test_a_damaged_layer_is_not_exported(yard: Yard) -> None:
    """A conversion compares what it reads; nothing is left behind."""
    result = yard.result(LOWER)
    wrong = yard.layer(UPPER)
    yard.content.path(result.layers[0].blob.digest).write_bytes(
        yard.content.path(wrong.blob.digest).read_bytes()
    )
    with pytest.raises(CaisError, match="not what"):
        await run(yard, [result], "image", compression="zstd")
    assert not await yard.images.list() and not await yard.leftovers()
    assert result.platform == AMD64
