"""Garbage and damage: what a collection takes and what it must leave, what the scrubber finds, and what repairs it."""

import asyncio
import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cais.registry.base import Caller
from cais.registry.catalog import SqliteCatalog
from cais.registry.collect import STEP, Collected, Collector, Scrubber
from cais.spec.digest import Digest
from harness.hub import wait_until
from harness.serving import Served, serving
from harness.wire import INDEX, MANIFEST, Repository, Wire, format_image, format_index, sha256

GRACE = 100.0
UPLOADS = 1000.0


class Hub:
    """A served registry with a collector whose clock the test moves."""

    def __init__(self, served: Served, wire: Wire, *, untagged: bool = False) -> None:
        self.served = served
        served.registry.drops_untagged = untagged
        self.now = 5.0
        self.collector = Collector(served.registry, GRACE, UPLOADS, clock=lambda: self.now)
        self.repository = Repository(wire, "team/app")
        self.other = Repository(wire, "team/other")

    def collect(self, seconds: float = 0.0) -> Collected:
        """A collection so much later."""
        self.now += seconds
        return self.served.run(self.collector.collect())

    def scrub(self, count: int = 1000) -> list[str]:
        """Read blobs through, whenever that was done last."""
        return self.served.run(Scrubber(self.served.registry).scrub(count, -1.0))

    def on_disk(self) -> set[str]:
        """Digests of all files that are there as blobs."""
        folder = self.served.root / "content" / "blobs"
        return {f"{path.parent.name}:{path.name}" for path in folder.glob("*/*")}

    def spoil(self, digest: str) -> None:
        """Another bit."""
        path = self.served.blob_path(digest)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def has(self, digest: str) -> bool:
        """Whether the repository says that it has the blob."""
        return self.repository.ask("HEAD", f"blobs/{digest}").status == 200


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """One for each test here: a collection is of everything."""
    with serving(tmp_path / "hub") as served:
        yield served


@pytest.fixture
def hub(served: Served, wire: Wire) -> Hub:
    """Its collections leave untagged manifests."""
    return Hub(served, wire)


@pytest.fixture
def strict(served: Served, wire: Wire) -> Hub:
    """Its collections take them."""
    return Hub(served, wire, untagged=True)


def test_an_empty_registry(hub: Hub) -> None:
    """There is nothing to collect."""
    assert hub.collect(10 * GRACE) == Collected()


def test_a_blob_without_a_manifest(hub: Hub) -> None:
    """It stays for the grace period and goes when two generations have begun; the answer is 404 then."""
    digest = hub.repository.push_blob(b"x" * 1000)
    assert hub.collect(GRACE - 1) == Collected()
    assert hub.collect(1) == Collected() and hub.collect(GRACE - 1) == Collected()
    assert hub.collect(1) == Collected(links=1, blobs=1, freed=1000)
    assert not hub.has(digest) and hub.on_disk() == set()


@pytest.mark.parametrize("how", ["HEAD", "GET", "mount", "push"])
def test_a_touched_blob(hub: Hub, how: str) -> None:
    """Who was told that it is here may push a manifest with it for the whole grace period from then on."""
    hub.repository.push_blob(b"{}")
    digest = hub.repository.push_blob(b"layer")
    for _ in range(5):
        hub.collect(GRACE)
        for data in (b"{}", b"layer"):
            if how == "mount":
                place = f"blobs/uploads/?mount={sha256(data)}&from={hub.repository.name}"
                assert hub.repository.ask("POST", place, b"").status == 201
            elif how == "push":
                hub.repository.push_blob(data)
            else:
                assert hub.repository.ask(how, f"blobs/{sha256(data)}").status == 200
        assert hub.collect(GRACE - 1).blobs == 0
    hub.repository.push_manifest(format_image(b"{}", [b"layer"]), "1")
    for _ in range(5):
        assert hub.collect(GRACE) == Collected()
    assert hub.has(digest)


def test_being_told_that_it_is_absent_keeps_nothing(hub: Hub) -> None:
    """Another repository's question touches nothing."""
    digest = hub.repository.push_blob(b"data")
    for _ in range(2):
        hub.other.ask("HEAD", f"blobs/{digest}")
        hub.collect(GRACE)
    assert hub.on_disk() == set()


def test_images_stay(hub: Hub) -> None:
    """Of an image and an index of it nothing goes, tagged or not, and each can be pulled."""
    child = hub.repository.push_image("", [b"a", b"b"])
    index = hub.repository.push_manifest(format_index([hub.repository.images[child]]), "", INDEX)
    before = hub.on_disk()
    for _ in range(4):
        assert hub.collect(2 * GRACE) == Collected()
    assert hub.on_disk() == before == {child, index, *map(sha256, (b"a", b"b", b"{}"))}
    assert hub.repository.ask("GET", f"manifests/{index}").status == 200


def test_a_deleted_image(hub: Hub) -> None:
    """What only it named goes; what another manifest or repository names stays."""
    gone = hub.repository.push_image("1", [b"alone", b"shared", b"elsewhere"])
    kept = hub.repository.push_image("2", [b"shared"])
    hub.other.push_image("1", [b"elsewhere"])
    for _ in range(3):
        hub.collect(GRACE)
    hub.repository.ask("DELETE", f"manifests/{gone}")
    assert hub.collect() == Collected(
        links=2, blobs=2, freed=len(b"alone") + len(hub.repository.images[gone])
    )
    assert hub.on_disk() == {kept, *hub.other.images, *map(sha256, (b"{}", b"shared", b"elsewhere"))}


def test_a_deleted_repository(hub: Hub) -> None:
    """Its blobs go at once, but for those that others have."""
    hub.repository.push_image("1", [b"alone", b"shared"])
    hub.other.push_image("1", [b"shared"])
    hub.served.run(hub.served.registry.delete_repository("team/app", Caller()))
    hub.collect()
    assert hub.on_disk() == {*hub.other.images, sha256(b"{}"), sha256(b"shared")}


def test_an_upload_in_the_middle(hub: Hub) -> None:
    """A collection does not hinder it, and what it became is young."""
    location = hub.repository.start()
    for part in (b"12345", b"67890"):
        location = hub.repository.wire.ask("PATCH", location, part).headers["location"]
        for _ in range(3):
            assert hub.collect(GRACE) == Collected()
    digest = sha256(b"1234567890")
    assert hub.repository.wire.ask("PUT", f"{location}?digest={digest}", b"").status == 201
    assert hub.collect(GRACE).blobs == 0 and hub.has(digest)


def test_uploads_that_nobody_touches(served: Served, wire: Wire) -> None:
    """They go when their time has passed, and say so; the client is told to begin again."""
    location = Repository(wire, "a/b").start()
    done = served.run(Collector(served.registry, GRACE, 0.0).collect())
    assert done.uploads == 1 and not list((served.root / "uploads").iterdir())
    assert wire.ask("PATCH", location, b"x").brief == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("jump", [-(10**18), 10**18])
def test_a_clock_that_jumps(strict: Hub, jump: int) -> None:
    """Times of thirty years ago or ahead, on record and on files, make nothing old: only generations count."""
    digest, image = strict.repository.push_blob(b"data"), strict.repository.push_image("", [b"untagged"])
    strict.repository.start()
    for table, name in (("blobs", "created_ns"), ("manifests", "pushed_ns"), ("repositories", "updated_ns")):
        sql = f"UPDATE {table} SET {name} = {name} + {jump}"
        strict.served.run(strict.served.database.write(lambda db, sql=sql: db.execute(sql)))
    for path in strict.served.root.rglob("*"):
        os.utime(path, ns=(max(0, 1_700_000_000_000_000_000 + jump),) * 2)
    for _ in range(3):
        assert strict.collect(GRACE / 4) == Collected()
    assert strict.has(digest) and strict.repository.ask("GET", f"manifests/{image}").status == 200


def test_strays(hub: Hub) -> None:
    """Bytes without a record, as a kill between the two leaves, go at once; so do their like of another algorithm."""
    kept = hub.repository.push_blob(b"kept")
    for digest in (sha256(b"stray"), "sha512:" + "0" * 128):
        path = hub.served.blob_path(digest)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"stray")
    assert hub.collect() == Collected(strays=2, freed=10)
    assert hub.on_disk() == {kept}


def test_a_removal_that_was_cut(hub: Hub) -> None:
    """A record that went without its bytes is a stray; the same bytes pushed again are not."""
    digest = hub.repository.push_blob(b"data")
    for table in ("links", "blobs"):
        hub.served.run(hub.served.database.write(lambda db, t=table: db.execute(f"DELETE FROM {t}")))
    assert not hub.has(digest)
    hub.repository.push_blob(b"data")
    assert hub.collect() == Collected() and hub.has(digest)


def test_untagged_stay_where_nobody_said_otherwise(hub: Hub) -> None:
    """An image that lost its tag can be pulled by its digest."""
    first = hub.repository.push_image("latest", [b"first"])
    hub.repository.push_image("latest", [b"second"])
    for _ in range(4):
        assert hub.collect(GRACE) == Collected()
    assert hub.repository.ask("GET", f"manifests/{first}").status == 200


def test_untagged_go_where_they_should(strict: Hub) -> None:
    """After the grace period, with the blobs that only they named; memory does not answer with them."""
    first = strict.repository.push_image("latest", [b"first"])
    second = strict.repository.push_image("latest", [b"second"])
    assert strict.repository.ask("GET", f"manifests/{first}").status == 200
    assert strict.collect(GRACE).manifests == 0
    assert strict.collect(GRACE).manifests == 1
    assert strict.repository.ask("GET", f"manifests/{first}").brief == (404, "MANIFEST_UNKNOWN")
    assert strict.repository.ask("HEAD", f"manifests/{first}").status == 404
    assert strict.on_disk() == {second, sha256(b"second"), sha256(b"{}")}


@pytest.mark.parametrize("how", ["HEAD", "GET"])
def test_a_touched_manifest(strict: Hub, how: str) -> None:
    """Who was told that it is here may push an index with it, or a tag, for the whole grace period from then on."""
    digest = strict.repository.push_image("", [b"layer"])
    for _ in range(5):
        strict.collect(GRACE)
        for _ in range(3):  # the others are answered from memory
            assert strict.repository.ask(how, f"manifests/{digest}").status == 200
        assert strict.collect(GRACE - 1) == Collected()
    strict.repository.push_manifest(format_index([strict.repository.images[digest]]), "1", INDEX)
    for _ in range(5):
        assert strict.collect(GRACE) == Collected()
    assert strict.has(sha256(b"layer"))


def test_a_manifest_that_was_asked_for_by_its_tag(strict: Hub) -> None:
    """Stays as long when the tag moves: who pulls it has not all of it yet."""
    first = strict.repository.push_image("latest", [b"first"])
    for _ in range(3):
        strict.collect(GRACE)
    assert strict.repository.ask("HEAD", "manifests/latest").status == 200
    strict.repository.push_image("latest", [b"second"])
    assert strict.collect(GRACE).manifests == 0
    assert first in strict.on_disk()
    assert strict.collect(GRACE).manifests == 1


def test_asking_writes_once_a_generation(strict: Hub) -> None:
    """Before the answer, so that a kill loses nothing; and never where untagged manifests are no garbage."""
    digest = strict.repository.push_image("1")

    async def version() -> int:
        """Another one after each transaction of the writer's."""
        return int(strict.served.database.read("PRAGMA data_version")[0][0])

    def count_writes() -> int:
        """Of many questions."""
        found = [strict.served.run(version())]
        for ref in ("1", digest) * 10:
            assert strict.repository.ask("GET", f"manifests/{ref}").status == 200
            found.append(strict.served.run(version()))
        return len(set(found)) - 1

    for _ in range(3):
        strict.collect(GRACE)
        assert (count_writes(), count_writes()) == (1, 0)
    strict.served.registry.drops_untagged = False
    strict.collect(GRACE)
    assert count_writes() == 0


class FailingCatalog(SqliteCatalog):
    """On a disk that is full, or broken."""

    error = errno.ENOSPC

    async def touch_manifest(self, repository: str, digest: Digest) -> bool:
        raise OSError(self.error, os.strerror(self.error))


def test_a_full_disk_stops_no_pull(strict: Hub) -> None:
    """What cannot be renewed is told all the same, and is tried again for who asks next."""
    digest = strict.repository.push_image("1")
    strict.collect(GRACE)
    failing = FailingCatalog(strict.served.database)
    strict.served.registry.catalog = failing
    for how in ("HEAD", "GET"):
        strict.served.registry.forget("team/app")
        assert strict.repository.ask(how, f"manifests/{digest}").status == 200
    failing.error = errno.EIO
    strict.served.registry.forget("team/app")
    assert strict.repository.ask("GET", f"manifests/{digest}").status == 500


@contextmanager
def busy_writer(served: Served) -> Iterator[Callable[[int], None]]:
    """The database writes nothing until the block ends; waits until so many acts are queued behind."""
    busy, free = threading.Event(), threading.Event()

    def act(_: sqlite3.Connection) -> None:
        busy.set()
        if not free.wait(10):
            raise TimeoutError("somebody waits for the writer")

    running = asyncio.run_coroutine_threadsafe(served.database.write(act), served.loop)
    try:
        assert busy.wait(20)
        yield lambda count: wait_until(lambda: served.database._queue.qsize() == count, "acts")
    finally:
        free.set()
        running.result(20)


def test_a_tag_that_moves_while_it_is_asked_for(strict: Hub) -> None:
    """Memory does not keep what it was: after the answer to a push everybody is told the new one."""
    first, second = (strict.repository.push_image(tag, [tag.encode()]) for tag in ("1", "2"))
    image = strict.repository.images[second]
    registry, loop = strict.served.registry, strict.served.loop
    moving = registry.put_manifest("team/app", "1", MANIFEST, image, Caller())
    with busy_writer(strict.served) as wait_queued:
        moved = asyncio.run_coroutine_threadsafe(moving, loop)
        wait_queued(1)
        asked = asyncio.run_coroutine_threadsafe(registry.find_manifest("team/app", "1"), loop)
        wait_queued(2)
    moved.result(20)
    assert asked.result(20).digest in (first, second)
    assert strict.repository.ask("GET", "manifests/1").body == image


def test_who_asks_again_does_not_wait_for_who_pushes(strict: Hub) -> None:
    """Not even for what memory has forgotten: once a generation is enough."""
    strict.repository.push_image("1")
    strict.repository.ask("GET", "manifests/1")
    strict.served.registry.forget("team/app")
    with busy_writer(strict.served):
        assert strict.repository.ask("GET", "manifests/1").status == 200


def test_subjects_keep_their_referrers(strict: Hub) -> None:
    """A signature has no tag: it stays as long as what it is about, and so does what is about it."""
    subject = strict.repository.push_image("1", [b"subject"])
    signature = strict.repository.push_referrer(subject, 1)
    strict.repository.push_referrer(signature, 2)
    for _ in range(4):
        assert strict.collect(GRACE) == Collected()
    strict.repository.ask("DELETE", "manifests/1")
    assert strict.collect().manifests == 3
    assert strict.on_disk() == set()


@pytest.mark.slow
def test_more_than_a_step(hub: Hub) -> None:
    """A collection goes on until all is gone, however many there are."""
    for number in range(STEP + 5):
        hub.repository.push_blob(b"%d" % number)
    for _ in range(2):
        done = hub.collect(GRACE)
    assert (done.links, done.blobs) == (STEP + 5, STEP + 5) and hub.on_disk() == set()


def test_pushes_of_what_is_just_being_removed(hub: Hub) -> None:
    """A blob that comes again while its removal is under way is there afterwards, with its bytes."""
    data = [os.urandom(100) for _ in range(60)]
    for each in data:
        hub.repository.push_blob(each)
    for _ in range(2):
        asyncio.run_coroutine_threadsafe(hub.collector.collect(), hub.served.loop)
        hub.now += GRACE
    running = asyncio.run_coroutine_threadsafe(hub.collector.collect(), hub.served.loop)
    told = [hub.repository.push_blob(each) for each in data]
    running.result(20)
    for digest, each in zip(told, data, strict=True):
        assert hub.repository.ask("GET", f"blobs/{digest}").body == each


# Scrubbing


def test_a_whole_registry(hub: Hub) -> None:
    """Nothing is damaged."""
    hub.repository.push_image("1")
    assert hub.scrub() == []


def test_a_flipped_bit(hub: Hub) -> None:
    """It is found; the blob is 404 then and cannot be mounted; the next push repairs it and the image is whole."""
    hub.repository.push_image("1")
    digest = sha256(b"layer")
    hub.spoil(digest)
    assert hub.scrub() == [digest]
    assert hub.repository.ask("GET", f"blobs/{digest}").brief == (404, "BLOB_UNKNOWN")
    assert not hub.has(digest)
    mount = f"blobs/uploads/?mount={digest}&from={hub.repository.name}"
    assert hub.other.ask("POST", mount, b"").status == 202
    hub.repository.push_blob(b"layer")
    assert hub.repository.ask("GET", f"blobs/{digest}").body == b"layer"
    assert hub.scrub() == []


def test_a_damaged_blob_is_kept_for_who_wants_to_look(hub: Hub) -> None:
    """Beside the others, and a collection takes neither it nor its record while an image names it."""
    hub.repository.push_image("1")
    hub.spoil(sha256(b"layer"))
    hub.scrub()
    assert [path.name for path in (hub.served.root / "damaged").iterdir()] == [
        sha256(b"layer").replace(":", "-")
    ]
    for _ in range(3):
        assert hub.collect(GRACE) == Collected()
    assert hub.repository.ask("GET", "manifests/1").status == 200


def test_a_damaged_manifest(hub: Hub) -> None:
    """It is not sent, 404, and the next push repairs it."""
    digest = hub.repository.push_image("1")
    hub.spoil(digest)
    assert hub.scrub() == [digest]
    for ref in ("1", digest):
        assert hub.repository.ask("GET", f"manifests/{ref}").brief == (404, "MANIFEST_UNKNOWN")
        assert hub.repository.ask("HEAD", f"manifests/{ref}").status == 404
    hub.repository.push_manifest(hub.repository.images[digest], "1")
    assert hub.repository.ask("GET", "manifests/1").body == hub.repository.images[digest]
    assert hub.scrub() == []


def test_a_blob_that_cannot_be_read(hub: Hub) -> None:
    """The disk gives an error for it: it is as damaged, and those behind it are read too."""
    hub.repository.push_image("1")
    first, second = sha256(b"layer"), hub.repository.push_blob(b"second")
    path = hub.served.root / "content" / "blobs" / "sha256" / first.partition(":")[2]
    path.unlink()
    path.mkdir()  # reading it is EISDIR: an error of the kernel's that root gets too
    hub.spoil(second)
    assert sorted(hub.scrub()) == sorted([first, second])
    for data in (b"layer", b"second"):
        hub.repository.push_blob(data)
    assert hub.scrub() == []


def test_a_lost_blob(hub: Hub) -> None:
    """What the disk has not at all is as damaged; what was collected meanwhile is not."""
    digest, gone = hub.repository.push_blob(b"lost"), hub.repository.push_blob(b"gone")
    hub.served.blob_path(digest).unlink()
    hub.repository.ask("DELETE", f"blobs/{gone}")
    hub.collect()
    assert hub.scrub() == [digest] and not hub.has(digest)


def test_a_part_at_a_time(hub: Hub) -> None:
    """Each scrub takes those that were not read for the longest, and all have had their turn when it comes round."""
    digests = {hub.repository.push_blob(b"%d" % number) for number in range(9)}
    for digest in digests:
        hub.spoil(digest)
    rounds = [set(hub.scrub(3)) for _ in range(3)]
    assert all(len(found) == 3 for found in rounds) and set.union(*rounds) == digests


def test_what_was_read_lately_is_not_read_again(hub: Hub) -> None:
    """A blob is read once in its time."""
    hub.spoil(hub.repository.push_blob(b"data"))
    scrubber = Scrubber(hub.served.registry)
    assert len(hub.served.run(scrubber.scrub(100, 3600.0))) == 1
    assert hub.served.run(scrubber.scrub(100, 3600.0)) == []


def test_a_collector_without_a_test(served: Served) -> None:
    """By its own clock, which is the monotonic one, a new collector is no generation old."""
    with closing(Wire(served.port)) as wire:
        digest = Repository(wire, "a/b").push_blob(b"data")
    before = served.run(served.registry.catalog.generation())
    for _ in range(5):
        assert served.run(Collector(served.registry, GRACE, UPLOADS).collect()) == Collected()
    assert served.run(served.registry.catalog.generation()) == before and served.blob_path(digest).exists()
