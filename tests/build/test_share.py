"""Caches that travel: what arrives elsewhere, when it is fetched, and what strangers may make of it."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import msgspec.structs
import pytest

from cais.build.cache import CacheRecord, Layer, layer_of
from cais.build.context import Context, index_context
from cais.build.dockerfile.graph import make_graph
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.scope import make_scope
from cais.build.export.export import export
from cais.build.plan import Plan, Planner
from cais.build.request import BuildRequest, Option
from cais.build.share.load import Imported, Receiving, find_record, open_imports
from cais.build.share.options import EnginePlaces, parse_cache_from, parse_cache_to
from cais.build.share.save import (
    MANIFEST_KEY,
    Sent,
    Travel,
    list_keys,
    list_mounts,
    make_inline,
    send_cache,
    send_records,
)
from cais.build.share.shape import SharedCache
from cais.errors import CaisError, Corrupt, Invalid, NotFound, Unavailable, Unsupported
from cais.images.image import Image
from cais.spec.descriptor import Descriptor
from cais.spec.digest import digest_bytes
from cais.spec.platform import Platform
from harness.exporting import AMD64, ARM64, Received, Yard, anonymous, open_yard, pack, record, sha256
from harness.pushing import PushFault, PushProxy, start_push_proxy
from harness.registry import Fault, Proxy, Registry, running_registry, start_proxy

pytestmark = pytest.mark.kernel

ONE, TWO = pack({"one": "1" * 1000}), pack({"two": "2" * 1000})
A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry."""
    relative = {"host": "", "relativeurls": True}
    with running_registry(tmp_path_factory.mktemp("registry") / "r", http=relative) as made:
        yield made


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """What ends with the test."""
    async with AsyncExitStack() as made:
        yield made


@pytest.fixture
async def proxy(registry: Registry, stack: AsyncExitStack) -> Proxy:
    """In front of the registry, to fetch through."""
    return await start_proxy(registry.address, stack.push_async_callback)


@pytest.fixture
async def gate(registry: Registry, stack: AsyncExitStack) -> PushProxy:
    """In front of the registry, to send through."""
    return await start_push_proxy(registry.address, stack.push_async_callback)


@pytest.fixture
async def pair(tmp_path: Path, stack: AsyncExitStack) -> Sequence[Yard]:
    """Two machines."""
    return [await stack.enter_async_context(open_yard(tmp_path / name)) for name in ("here", "there")]


def records_of(yard: Yard) -> dict[str, CacheRecord]:
    """Two steps with layers and one without."""
    return {
        A: record(yard.layer(ONE)),
        B: record(yard.layer(TWO), parent=A, created_ns=7),
        C: record(None, title="ENV a=b", parent=B),
    }


def travel(yard: Yard) -> Travel:
    """What a machine sends with."""
    return Travel(EnginePlaces(yard.remotes, anonymous), yard.cache, yard.tools())


async def send(
    yard: Yard, records: dict[str, CacheRecord], kind: str, mounts: Sequence[str] = (), **attrs: str
) -> Sent:
    """To a cache."""
    to = parse_cache_to(Option(kind, {name.replace("_", "-"): value for name, value in attrs.items()}))
    return await send_records(records, mounts, to, travel(yard))


async def receive(yard: Yard, stack: AsyncExitStack, *options: Option) -> Imported:
    """From caches, for the time of the test."""
    folder = stack.enter_context(yard.cache.scratch())
    receiving = Receiving(yard.cache, yard.unpacker, folder, yard.lease)
    places = EnginePlaces(yard.remotes, anonymous)
    caches = [parse_cache_from(option) for option in options]
    return await stack.enter_async_context(open_imports(caches, places, receiving))


def layer(imported: Imported, key: str) -> Layer:
    """The layer of a key that must be there."""
    found = imported.find(key)
    made = layer_of(found) if found else None
    assert made
    return made


# There and back


@pytest.mark.parametrize("kind", ["registry", "local"])
async def test_records_come_at_once_and_bytes_when_they_are_needed(
    pair: Sequence[Yard], proxy: Proxy, gate: PushProxy, stack: AsyncExitStack, tmp_path: Path, kind: str
) -> None:
    """A hit needs no layer; what is read is fetched once, whoever asks; then it is this machine's own."""
    here, there = pair
    attrs = {"registry": {"ref": f"{gate.address}/c/{kind}:x"}, "local": {"dest": str(tmp_path / "c")}}[kind]
    records = records_of(here)
    sent = await send(here, records, kind, **attrs)
    assert json.loads(sent.response[MANIFEST_KEY])["digest"].startswith("sha256:") and not sent.warnings
    moved = {name.replace("dest", "src"): value for name, value in attrs.items()}
    source = {name: value.replace(gate.address, proxy.address) for name, value in moved.items()}
    imported = await receive(there, stack, Option(kind, source))
    assert not imported.warnings
    assert {key: imported.find(key) for key in records} == records
    assert imported.find("d" * 64) is None
    blobs = proxy.count("GET .*/blobs/")
    assert blobs == (1 if kind == "registry" else 0)  # the configuration
    one = layer(imported, A)
    assert not there.content.has(one.blob.digest) and not there.cache.find(A)
    await asyncio.gather(*(imported.fetch([one], there.lease) for _ in range(3)))
    assert proxy.count("GET .*/blobs/") == blobs + (1 if kind == "registry" else 0)
    lowers = await there.lowers([one], there.lease)
    assert (Path(lowers[0]) / "one").read_text() == "1" * 1000
    assert there.cache.find(A) == records[A] and there.cache.find(B) is None
    await imported.fetch([layer(imported, A), layer(imported, B)], there.lease)
    assert there.cache.find(B) == records[B]
    assert not await there.leftovers()


async def test_what_is_there_is_not_sent_again(pair: Sequence[Yard], gate: PushProxy) -> None:
    """The second time only documents travel; the same records give the same manifest."""
    here, there = pair
    ref = f"{gate.address}/again:x"
    first = await send(here, records_of(here), "registry", ref=ref)
    assert gate.count("POST .*/uploads") == 3
    gate.seen.clear()
    second = await send(there, records_of(there), "registry", ref=ref)
    assert first.response == second.response
    assert gate.count("POST .*/uploads") == 0


async def test_what_was_imported_and_never_fetched_travels_on(
    pair: Sequence[Yard], gate: PushProxy, stack: AsyncExitStack, tmp_path: Path
) -> None:
    """To where it is already nothing is fetched; to elsewhere it passes through."""
    here, there = pair
    ref = f"{gate.address}/on:x"
    await send(here, records_of(here), "registry", ref=ref)
    imported = await receive(there, stack, Option("registry", {"ref": ref}))
    records = {key: found for key in (A, B, C) if (found := imported.find(key))}
    tools = msgspec.structs.replace(there.tools(), fetch=imported.fetch)
    moving = msgspec.structs.replace(travel(there), tools=tools)
    gate.seen.clear()
    await send_records(records, (), parse_cache_to(Option("registry", {"ref": ref})), moving)
    assert gate.count("GET .*/blobs/") == 0
    to = parse_cache_to(Option("local", {"dest": str(tmp_path / "on")}))
    await send_records(records, (), to, moving)
    assert gate.count("GET .*/blobs/") == 2


@pytest.mark.parametrize(
    ("codec", "kind"), [("zstd", "tar+zstd"), ("uncompressed", "tar"), ("gzip", "tar+gzip")]
)
async def test_layers_are_compressed_as_asked(
    pair: Sequence[Yard], stack: AsyncExitStack, tmp_path: Path, codec: str, kind: str
) -> None:
    """They unpack to the same."""
    here, there = pair
    await send(here, records_of(here), "local", dest=str(tmp_path / "c"), compression=codec)
    imported = await receive(there, stack, Option("local", {"src": str(tmp_path / "c")}))
    one = layer(imported, A)
    assert one.blob.media_type.endswith(kind) and one.diff_id == sha256(ONE)
    await imported.fetch([one], there.lease)
    assert there.layers.has(one.diff_id)


async def test_a_folder_keeps_several_tags(
    pair: Sequence[Yard], stack: AsyncExitStack, tmp_path: Path
) -> None:
    """Each is found by its tag, or by its digest."""
    here, there = pair
    folder = str(tmp_path / "c")
    records = records_of(here)
    first = await send(here, {A: records[A]}, "local", dest=folder, tag="first")
    await send(here, {B: records[B]}, "local", dest=folder, tag="second")
    imported = await receive(there, stack, Option("local", {"src": folder, "tag": "first"}))
    assert imported.find(A) and not imported.find(B)
    digest = json.loads(first.response[MANIFEST_KEY])["digest"]
    imported = await receive(there, stack, Option("local", {"src": folder, "tag": "no", "digest": digest}))
    assert imported.find(A)
    imported = await receive(there, stack, Option("local", {"src": folder, "tag": "no"}))
    assert "no 'no'" in imported.warnings[0]


async def test_an_image_carries_its_own_steps(
    pair: Sequence[Yard], gate: PushProxy, stack: AsyncExitStack
) -> None:
    """Inline, of several platforms; the image is an image like any other."""
    here, there = pair
    name = f"{gate.address}/inline:1"
    results = []
    for platform, data, key in ((AMD64, ONE, A), (ARM64, TWO, B)):
        base = pack({"base": platform.architecture})
        made = here.result(base, data, platform=platform)
        kept = make_inline({key: record(made.layers[1]), C: record(None)}, made.layers)
        results.append(msgspec.structs.replace(made, extra=kept))
    await export(results, Option("registry", {"name": name}), Received(here.root), here.tools())
    imported = await receive(there, stack, Option("registry", {"ref": name}))
    assert not imported.warnings
    assert layer(imported, A) == results[0].layers[1] and layer(imported, B) == results[1].layers[1]
    await imported.fetch([layer(imported, A)], there.lease)
    assert there.layers.has(results[0].layers[1].diff_id)
    image = await here.images.resolve(name)
    assert image.config.config.cmd == ("sh",)


async def test_cache_mounts_travel_into_absent_ones(
    pair: Sequence[Yard], gate: PushProxy, stack: AsyncExitStack
) -> None:
    """With owners, modes and links; what is there already stays as it is; what leads out stays a link."""
    here, there = pair
    folder = here.cache.mount_path("pip")
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "file").write_text("x")
    os.chown(folder, 5, 6)
    folder.chmod(0o711)
    os.link(folder / "d" / "file", folder / "same")
    (folder / "out").symlink_to("/etc/passwd")
    (folder / ".wh.other").write_text("no whiteout")
    here.cache.mount_path("apt").mkdir()
    ref = f"{gate.address}/mounts:x"
    sent = await send(here, records_of(here), "registry", ["apt", "none", "pip"], ref=ref)
    assert sent.warnings == ("cache mount none is not sent: there is none",)
    there.cache.mount_path("apt").mkdir()
    (there.cache.mount_path("apt") / "mine").touch()
    imported = await receive(there, stack, Option("registry", {"ref": ref}))
    assert await imported.restore_mounts(["pip", "apt", "other"]) == ["pip"] and not imported.warnings
    made = there.cache.mount_path("pip")
    assert sorted(os.listdir(made)) == ["d", "out", "same"]
    status = made.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (5, 6, 0o711)
    assert (made / "same").stat().st_ino == (made / "d" / "file").stat().st_ino
    assert (made / "out").readlink() == Path("/etc/passwd")
    assert os.listdir(there.cache.mount_path("apt")) == ["mine"]
    assert not await here.leftovers()


async def test_a_cache_mount_in_use_stays(pair: Sequence[Yard], tmp_path: Path) -> None:
    """It would be half of something."""
    here, _ = pair
    folder = here.cache.mount_path("pip")
    folder.mkdir()
    here.cache.busy[folder.name] = 1
    sent = await send(here, {}, "local", ["pip"], dest=str(tmp_path / "c"))
    assert "a step uses it" in sent.warnings[0]


# What may go wrong


async def test_a_cache_that_is_not_there_is_told_of(
    pair: Sequence[Yard], registry: Registry, stack: AsyncExitStack, tmp_path: Path
) -> None:
    """And the others are used."""
    here, there = pair
    folder = str(tmp_path / "c")
    await send(here, records_of(here), "local", dest=folder)
    imported = await receive(
        there,
        stack,
        Option("registry", {"ref": f"{registry.address}/nobody:x"}),
        Option("registry", {"ref": "127.0.0.1:1/nobody:x"}),
        Option("local", {"src": str(tmp_path / "absent")}),
        Option("local", {"src": "relative"}),
        Option("local", {"src": folder}),
    )
    assert len(imported.warnings) == 4 and imported.find(A)
    assert all("is not used" in text for text in imported.warnings)


@pytest.mark.parametrize("form", ["manifest", "index", "inline", "image", "artifact"])
async def test_other_peoples_caches_are_refused_politely(
    pair: Sequence[Yard], registry: Registry, stack: AsyncExitStack, form: str
) -> None:
    """BuildKit's, in its three forms, and what is no cache at all."""
    buildkit = "application/vnd.buildkit.cacheconfig.v0"
    image_type = "application/vnd.oci.image.config.v1+json"
    config: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    kind = {"manifest": buildkit, "artifact": "application/x-other", "index": buildkit}.get(form, image_type)
    if form == "inline":
        config["moby.buildkit.cache.v0"] = "eyJ9"
    data = json.dumps(config).encode()
    registry.put_blob(f"foreign/{form}", data)
    described = {"mediaType": kind, "digest": sha256(data), "size": len(data)}
    oci = "application/vnd.oci.image."
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": oci + "manifest.v1+json"}
    document |= {"config": described, "layers": []}
    if form == "index":
        document = {"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": [described]}
    found = json.dumps(document).encode()
    if form == "index":
        # A registry wants every child of an index to be a manifest: a folder holds what it will not take.
        folder = pair[1].root / "foreign"
        (folder / "blobs/sha256").mkdir(parents=True)
        (folder / "blobs/sha256" / sha256(found)[7:]).write_bytes(found)
        option = Option("local", {"src": str(folder), "digest": sha256(found)})
    else:
        registry.put_manifest(f"foreign/{form}", "x", found)
        option = Option("registry", {"ref": f"{registry.address}/foreign/{form}:x"})
    imported = await receive(pair[1], stack, option)
    (warning,) = imported.warnings
    words = {"image": "without an inline cache", "artifact": "neither a build cache nor an image"}
    assert words.get(form, "BuildKit's own cache") in warning


async def test_a_layer_that_is_not_what_the_cache_says_is_refused(
    pair: Sequence[Yard], proxy: Proxy, registry: Registry, stack: AsyncExitStack, tmp_path: Path
) -> None:
    """Other bytes under its digest, more bytes, and good bytes under another diff_id."""
    here, there = pair
    ref = f"{proxy.address}/bad:x"
    await send(here, records_of(here), "registry", ref=f"{registry.address}/bad:x")
    for fault, words in (
        (Fault("blobs/", flip=40), "not what it claims"),
        (Fault("blobs/", shorten=9), "bytes"),
    ):
        imported = await receive(there, stack, Option("registry", {"ref": ref}))
        proxy.faults.append(fault)
        with pytest.raises((Corrupt, Unavailable), match=words):
            await imported.fetch([layer(imported, A)], there.lease)
        proxy.faults.clear()
        await imported.fetch([layer(imported, A)], there.lease)  # another try
        there.forget(layer(imported, A))
        there.cache.forget(A)
    right = layer_of(records_of(here)[A])
    assert right is not None
    wrong = Layer(digest_bytes(b"other"), right.blob)
    await send(here, {A: record(wrong)}, "local", dest=str(tmp_path / "c"))
    imported = await receive(there, stack, Option("local", {"src": str(tmp_path / "c")}))
    with pytest.raises(Corrupt, match="the build cache that was imported"):
        await imported.fetch([layer(imported, A)], there.lease)
    assert there.cache.find(A) is None and not there.layers.has(wrong.diff_id)
    assert not await there.leftovers()


async def test_a_bad_cache_mount_is_done_without(
    pair: Sequence[Yard], stack: AsyncExitStack, tmp_path: Path
) -> None:
    """A tar that climbs out makes a warning and nothing else."""
    here, there = pair
    evil = here.layer(pack({"../../../../evil": "x"}))
    shared = SharedCache({}, {"pip": evil})
    receiving = Receiving(
        there.cache, there.unpacker, stack.enter_context(there.cache.scratch()), there.lease
    )
    imported = Imported(receiving)

    class Source:
        async def get_manifest(self, digest: Any = None) -> Any:
            raise NotFound("none")

        async def get(self, descriptor: Descriptor) -> Any:
            yield here.content.read(descriptor.digest)

    imported.add(shared, Source())
    assert await imported.restore_mounts(["pip"]) == []
    assert "leads out" in imported.warnings[0]
    assert not there.cache.mount_path("pip").exists() and not list(tmp_path.rglob("evil"))


async def test_a_source_that_never_ends_is_ended(pair: Sequence[Yard], stack: AsyncExitStack) -> None:
    """After as many bytes as were announced."""
    here, there = pair
    given = 0

    class Source:
        async def get_manifest(self, digest: Any = None) -> Any:
            raise NotFound("none")

        async def get(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
            nonlocal given
            while True:
                given += 1 << 16
                yield bytes(1 << 16)

    imported = await receive(there, stack)
    imported.add(SharedCache({A: record(here.layer(ONE))}), Source())  # type: ignore[arg-type]
    with pytest.raises(Corrupt, match="has more than"):
        await imported.fetch([layer(imported, A)], there.lease)
    assert given <= 64 << 20 and not await there.leftovers()


async def test_a_failure_to_send_counts_unless_it_is_to_be_ignored(
    pair: Sequence[Yard], gate: PushProxy
) -> None:
    """ignore-error."""
    here, _ = pair
    ref = f"{gate.address}/full:x"
    gate.faults.append(PushFault("POST|PUT", times=99, status=507))
    with pytest.raises(CaisError):
        await send(here, records_of(here), "registry", ref=ref)
    sent = await send(here, records_of(here), "registry", ref=ref, ignore_error="true")
    assert "could not be sent" in sent.warnings[0] and not sent.response


@pytest.mark.parametrize(
    ("flag", "kind", "attrs", "error", "words"),
    [
        (parse_cache_to, "registry", {}, Invalid, "needs ref="),
        (parse_cache_to, "local", {}, Invalid, "needs dest="),
        (parse_cache_to, "registry", {"ref": "a", "mode": "most"}, Invalid, "min or max"),
        (parse_cache_to, "inline", {"mode": "max"}, Invalid, "not possible for an inline"),
        (parse_cache_to, "registry", {"ref": "a", "compression": "estargz"}, Unsupported, "estargz"),
        (parse_cache_to, "s3", {}, Unsupported, "service of others"),
        (parse_cache_to, "registry", {"ref": "a", "ignore-eror": "1"}, Invalid, "do you mean ignore-error"),
        (parse_cache_from, "inline", {}, Invalid, "unknown type"),
        (parse_cache_from, "local", {"src": "/a", "digest": "x"}, Invalid, "digest"),
    ],
)
async def test_what_cannot_be_is_refused(
    flag: Callable[[Option], Any], kind: str, attrs: dict[str, str], error: type[CaisError], words: str
) -> None:
    """Before anything is built."""
    with pytest.raises(error, match=words):
        flag(Option(kind, attrs))


async def test_mounts_are_named_or_all() -> None:
    """None: all that the build uses."""
    made = [parse_cache_to(Option("local", {"dest": "/c", "mounts": text})) for text in ("", "true", "a,b")]
    assert [to.mounts for to in made] == [(), None, ("a", "b")]


async def test_a_folder_made_by_others_leads_nowhere(
    pair: Sequence[Yard], stack: AsyncExitStack, tmp_path: Path
) -> None:
    """Links in the place of blobs and of the index are not followed, and a pipe does not hold us up."""
    here, there = pair
    folder = tmp_path / "c"
    await send(here, records_of(here), "local", dest=str(folder))
    imported = await receive(there, stack, Option("local", {"src": str(folder)}))
    blob = folder / "blobs/sha256" / layer(imported, A).blob.digest.hex
    blob.rename(tmp_path / "moved")
    blob.symlink_to(tmp_path / "moved")
    with pytest.raises(OSError):
        await imported.fetch([layer(imported, A)], there.lease)
    (folder / "index.json").unlink()
    os.mkfifo(folder / "index.json")
    imported = await receive(there, stack, Option("local", {"src": str(folder)}))
    assert imported.warnings


async def test_ours_goes_first_if_its_layer_is_here(pair: Sequence[Yard], stack: AsyncExitStack) -> None:
    """A record whose layer has gone is forgotten, and the cache's is taken."""
    here, _ = pair
    mine, gone = record(here.layer(ONE)), record(here.layer(TWO))
    imported = await receive(here, stack)
    imported.add(SharedCache({A: gone, B: gone}), None)  # type: ignore[arg-type]
    here.cache.put(A, mine)
    assert find_record(A, here.cache, lambda _: True, imported) == mine
    assert find_record(A, here.cache, lambda _: False, imported) == gone
    assert here.cache.find(A) is None
    assert find_record(C, here.cache, lambda _: True, imported) is None
    assert find_record(B, here.cache, lambda _: True, None) is None


# Plans

TEXT = """FROM scratch AS tools
COPY a /tool
COPY b /other
FROM scratch AS base
ENV x=y
COPY a /base
FROM base
COPY --from=tools /tool /t
LABEL k=v
RUN --mount=type=cache,target=/c --mount=type=cache,id=named,target=/d true
"""


async def make_plan(text: str, tmp_path: Path) -> Plan:
    """Of a Dockerfile on scratch, with two files as context."""
    from_tar = tmp_path / "context"
    from_tar.write_bytes(pack({"a": "1", "b": "2"}))
    file = parse_dockerfile(text.encode(), "Dockerfile")
    scope = make_scope(file, {}, {})
    graph = make_graph(file, scope, "")

    async def resolve(name: str, platform: Platform | None) -> Image:
        raise NotFound(name)

    index = index_context(str(from_tar), str(tmp_path / "plain"))
    return await Planner(graph, scope, Context(index), resolve, AMD64, BuildRequest()).plan()


async def test_min_is_the_images_own_steps_and_max_all(tmp_path: Path) -> None:
    """Stages that are copied from come with max only; cache mounts are found by name."""
    plan = await make_plan(TEXT, tmp_path)
    titles = {step.key: step.title for stage in plan.stages.values() for step in stage.steps if step.key}
    least = {
        titles[key].split()[0] + " " + titles[key].split()[-1] for key in list_keys(plan, all_steps=False)
    }
    assert least == {"ENV x=y", "COPY /base", "COPY /t", "LABEL k=v", "RUN true"}
    assert list_keys(plan, all_steps=True) == set(titles)
    assert list_mounts([plan]) == ["/c", "named"]


async def test_a_plans_records_travel(pair: Sequence[Yard], stack: AsyncExitStack, tmp_path: Path) -> None:
    """What the plan's steps made, and the cache mounts that they use."""
    here, there = pair
    plan = await make_plan(TEXT, tmp_path)
    made = {key: record(here.layer(ONE)) for key in list_keys(plan, all_steps=True)}
    here.cache.mount_path("named").mkdir()
    to = parse_cache_to(Option("local", {"dest": str(tmp_path / "c"), "mounts": "true", "mode": "max"}))
    sent = await send_cache([plan], made.get, to, travel(here))
    assert sent.warnings == ("cache mount /c is not sent: there is none",)
    imported = await receive(there, stack, Option("local", {"src": str(tmp_path / "c")}))
    assert all(imported.find(key) for key in made)
    assert await imported.restore_mounts(list_mounts([plan])) == ["named"]
