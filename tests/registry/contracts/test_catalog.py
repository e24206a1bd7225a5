"""The contract of the catalog (registry/catalog.py), run by every implementation."""

import asyncio
from collections.abc import Iterable

import pytest

from cais.errors import AlreadyExists, CaisError, Conflict, NotFound
from cais.registry.base import Document, Event
from cais.registry.documents import read_document
from cais.registry.records import Catalog
from cais.registry.refusal import Refusal
from cais.spec.digest import Digest, digest_bytes
from harness.wire import INDEX, MANIFEST, describe, format_image, format_index
from registry.contracts.conftest import SqliteCatalog

REPOSITORY, OTHER = "team/app", "team/other"
CONFIG, LAYER = b"{}", b"layer"


def image(*layers: bytes, **fields: object) -> Document:
    """A manifest of these layers."""
    data = format_image(CONFIG, layers, **fields)
    return read_document(data, MANIFEST, digest_bytes(data))


def index(*children: Document, **fields: object) -> Document:
    """An index of these."""
    data = format_index([child.data for child in children], **fields)
    return read_document(data, INDEX, digest_bytes(data))


def about(subject: Document | Digest, number: int = 0, **fields: object) -> Document:
    """A manifest with this subject."""
    digest = subject.digest if isinstance(subject, Document) else subject
    described = {"mediaType": MANIFEST, "digest": digest, "size": 2}
    return image(LAYER, subject=described, annotations={"n": str(number)}, **fields)


def event(action: str = "push", tag: str = "", repository: str = REPOSITORY) -> Event:
    """What the audit log should say."""
    return Event(action=action, repository=repository, account="me", target="what", tag=tag)


async def link(catalog: Catalog, *datas: bytes, repository: str = REPOSITORY) -> list[Digest]:
    """Blobs whose bytes are there."""
    for data in datas:
        await catalog.link_blob(repository, digest_bytes(data), len(data))
    return [digest_bytes(data) for data in datas]


async def push(
    catalog: Catalog,
    document: Document,
    *tags: str,
    repository: str = REPOSITORY,
    blobs: Iterable[bytes] = (),
) -> Document:
    """With the blobs that images here have."""
    await link(catalog, CONFIG, LAYER, *blobs, repository=repository)
    await catalog.put_manifest(repository, document, tags, event(tag=" ".join(tags), repository=repository))
    return document


async def drop(catalog: Catalog) -> list[Digest]:
    """What a collection forgets, in the collector's order."""
    while await catalog.drop_links(100):
        pass
    gone: list[Digest] = []
    while found := await catalog.drop_blobs(100):
        gone += found
    return gone


class TestBlobsOfRepositories:
    """``link_blob``, ``find_blob``, ``mount_blob``, ``delete_blob``, ``is_known``."""

    async def test_link(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """The repository has it, is made by it, and counts it once; nobody else has it; a restart changes nothing."""
        (digest,) = await link(catalog, b"data")
        await link(catalog, b"data")
        assert records.size(REPOSITORY) == 4
        for each in records.twice():
            assert await each.find_blob(REPOSITORY, digest) == 4
            assert await each.find_blob(OTHER, digest) is None
            assert await each.has_repository(REPOSITORY) and not await each.has_repository(OTHER)
            assert await each.is_known(digest)

    async def test_mount(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """True: both have it and each counts it; False: the source has none, and no repository is made."""
        (digest,) = await link(catalog, b"data")
        assert not await catalog.mount_blob("x/y", OTHER, digest)
        assert not await catalog.mount_blob("x/y", REPOSITORY, digest_bytes(b"else"))
        assert not await catalog.has_repository("x/y")
        for _ in range(2):
            assert await catalog.mount_blob(OTHER, REPOSITORY, digest)
        assert await catalog.find_blob(OTHER, digest) == 4
        assert (records.size(OTHER), records.size(REPOSITORY)) == (4, 4)

    async def test_delete(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """One repository loses it, with an entry in the log; the other keeps it."""
        (digest,) = await link(catalog, b"data")
        await link(catalog, b"data", repository=OTHER)
        await catalog.delete_blob(REPOSITORY, digest, event("delete"))
        assert await catalog.find_blob(REPOSITORY, digest) is None
        assert await catalog.find_blob(OTHER, digest) == 4
        assert (records.size(REPOSITORY), records.size(OTHER)) == (0, 4)
        assert [entry[0] for entry in records.events()] == ["delete"]

    async def test_delete_of_what_is_not_there(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """NotFound without a repository, BLOB_UNKNOWN without a blob; nothing is logged."""
        with pytest.raises(NotFound):
            await catalog.delete_blob(REPOSITORY, digest_bytes(b"data"), event("delete"))
        await link(catalog, b"data")
        with pytest.raises(Refusal, match="no such blob") as caught:
            await catalog.delete_blob(REPOSITORY, digest_bytes(b"else"), event("delete"))
        assert caught.value.code == "BLOB_UNKNOWN" and records.events() == []

    async def test_delete_of_what_a_manifest_names(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """Conflict, and it stays; another repository's manifest does not matter."""
        await push(catalog, image(LAYER))
        await link(catalog, LAYER, repository=OTHER)
        with pytest.raises(Conflict, match="delete that first"):
            await catalog.delete_blob(REPOSITORY, digest_bytes(LAYER), event("delete"))
        assert await catalog.find_blob(REPOSITORY, digest_bytes(LAYER)) == 5
        await catalog.delete_blob(OTHER, digest_bytes(LAYER), event("delete"))
        assert [entry[0] for entry in records.events()] == ["push", "delete"]


class TestManifests:
    """``put_manifest``, ``find_manifest``, ``delete_manifest``, ``delete_tag``, ``delete_repository``."""

    async def test_put(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """It is found by digest and by each tag with all that is on record of it, also after a restart."""
        document = image(LAYER, artifactType="application/x", annotations={"ü": "\0"})
        await push(catalog, document, "1", "2")
        for each in records.twice():
            for ref in (document.digest, "1", "2"):
                found = await each.find_manifest(REPOSITORY, ref)
                assert found is not None and found.digest == document.digest
                assert (found.media_type, found.size) == (MANIFEST, len(document.data))
                assert (found.artifact_type, found.annotations) == ("application/x", {"ü": "\0"})
                assert found.total == len(CONFIG) + len(LAYER) and found.config == digest_bytes(CONFIG)
            assert await each.find_manifest(REPOSITORY, "3") is None
            assert await each.find_manifest(OTHER, document.digest) is None

    async def test_put_again(self, catalog: Catalog) -> None:
        """It is one manifest, and a tag that pointed elsewhere points at it."""
        first = await push(catalog, image(LAYER), "latest")
        second = await push(catalog, image(LAYER, CONFIG), "latest")
        await push(catalog, first, "latest")
        found = await catalog.find_manifest(REPOSITORY, "latest")
        assert found is not None and found.digest == first.digest
        assert await catalog.find_manifest(REPOSITORY, second.digest) is not None
        assert [tag.digest for tag in await catalog.list_tags(REPOSITORY, "", 10)] == [first.digest]

    async def test_the_event_is_in_the_transaction(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """What has happened is in the log, once and in order; what was refused is not."""
        document = await push(catalog, image(LAYER), "1")
        with pytest.raises(Refusal):
            await catalog.put_manifest(REPOSITORY, image(b"absent"), ("2",), event(tag="2"))
        await catalog.delete_tag(REPOSITORY, "1", event("untag", "1"))
        await catalog.delete_manifest(REPOSITORY, document.digest, event("delete"))
        await catalog.delete_repository(REPOSITORY, event("delete"))
        await catalog.add_event(event("login", repository=""))
        records.reopen()
        assert records.events() == [
            ("push", REPOSITORY, "me", "what", "1"),
            ("untag", REPOSITORY, "me", "what", "1"),
            ("delete", REPOSITORY, "me", "what", ""),
            ("delete", REPOSITORY, "me", "what", ""),
            ("login", "", "me", "what", ""),
        ]

    @pytest.mark.parametrize("missing", ["layer", "config", "child"])
    async def test_put_with_a_part_that_is_absent(
        self, catalog: Catalog, records: SqliteCatalog, missing: str
    ) -> None:
        """MANIFEST_BLOB_UNKNOWN that names it, though another repository has it; nothing of it has happened."""
        await push(catalog, image(LAYER), "1", repository=OTHER)
        before = records.events()
        if missing != "config":
            await link(catalog, CONFIG)
        if missing != "layer":
            await link(catalog, LAYER)
        document = index(image(LAYER)) if missing == "child" else image(LAYER)
        with pytest.raises(Refusal) as caught:
            await catalog.put_manifest(REPOSITORY, document, ("1",), event())
        assert caught.value.code == "MANIFEST_BLOB_UNKNOWN"
        wanted = {"layer": digest_bytes(LAYER), "config": digest_bytes(CONFIG), "child": image(LAYER).digest}
        assert caught.value.detail == {"digest": wanted[missing]}
        assert await catalog.find_manifest(REPOSITORY, document.digest) is None
        assert await catalog.find_manifest(REPOSITORY, "1") is None
        assert records.events() == before and not await catalog.is_known(index(image(LAYER)).digest)

    async def test_a_refused_first_manifest_makes_no_repository(self, catalog: Catalog) -> None:
        """All of it or nothing."""
        with pytest.raises(Refusal):
            await catalog.put_manifest(REPOSITORY, image(LAYER), ("1",), event())
        assert not await catalog.has_repository(REPOSITORY)

    async def test_put_with_a_wrong_size(self, catalog: Catalog) -> None:
        """SIZE_INVALID: who pulls it would be told of another size than the blob has."""
        await link(catalog, CONFIG, LAYER)
        wrong = image(layers=[{**describe(LAYER), "size": 6}])
        with pytest.raises(Refusal) as caught:
            await catalog.put_manifest(REPOSITORY, wrong, ("1",), event())
        assert caught.value.code == "SIZE_INVALID"

    async def test_put_with_a_damaged_part(self, catalog: Catalog) -> None:
        """A blob that the scrubber has put aside is not here: it must be pushed again."""
        await link(catalog, CONFIG, LAYER)
        await catalog.note_checked(digest_bytes(LAYER), damaged=True)
        with pytest.raises(Refusal) as caught:
            await catalog.put_manifest(REPOSITORY, image(LAYER), ("1",), event())
        assert caught.value.code == "MANIFEST_BLOB_UNKNOWN"
        await push(catalog, image(LAYER), "1")

    async def test_a_partial_one(self, catalog: Catalog) -> None:
        """``is_partial``: what it names may come later, and is its own when it does."""
        document = image(LAYER)
        await catalog.put_manifest(REPOSITORY, document, ("1",), event(), is_partial=True)
        assert await catalog.find_manifest(REPOSITORY, "1") is not None
        (digest,) = await link(catalog, LAYER)
        for _ in range(3):
            await catalog.advance()
        assert digest not in await drop(catalog)

    async def test_delete_tag(self, catalog: Catalog) -> None:
        """It alone is gone; a second time it is MANIFEST_UNKNOWN, without a repository NotFound."""
        with pytest.raises(NotFound):
            await catalog.delete_tag(REPOSITORY, "1", event("untag"))
        document = await push(catalog, image(LAYER), "1", "2")
        await catalog.delete_tag(REPOSITORY, "1", event("untag"))
        assert await catalog.find_manifest(REPOSITORY, "1") is None
        assert await catalog.find_manifest(REPOSITORY, "2") is not None
        assert await catalog.find_manifest(REPOSITORY, document.digest) is not None
        with pytest.raises(Refusal, match="no such tag"):
            await catalog.delete_tag(REPOSITORY, "1", event("untag"))

    async def test_delete_manifest(self, catalog: Catalog) -> None:
        """With all its tags, in this repository alone; its blobs may go then."""
        document = await push(catalog, image(LAYER), "1", "2")
        await push(catalog, document, "1", repository=OTHER)
        await catalog.delete_manifest(REPOSITORY, document.digest, event("delete"))
        assert await catalog.list_tags(REPOSITORY, "", 10) == []
        assert await catalog.find_manifest(OTHER, "1") is not None
        await catalog.delete_blob(REPOSITORY, digest_bytes(LAYER), event("delete"))
        with pytest.raises(Refusal, match="no such manifest"):
            await catalog.delete_manifest(REPOSITORY, document.digest, event("delete"))

    async def test_delete_a_child(self, catalog: Catalog) -> None:
        """Conflict while any index of the repository names it, whatever order they came in."""
        child = await push(catalog, image(LAYER), "child")
        first, second = index(child), index(child, annotations={"a": "b"})
        await push(catalog, first, "1")
        await push(catalog, second, "2")
        for parent in (first, second):
            with pytest.raises(Conflict, match="delete that first"):
                await catalog.delete_manifest(REPOSITORY, child.digest, event("delete"))
            await catalog.delete_manifest(REPOSITORY, parent.digest, event("delete"))
        await catalog.delete_manifest(REPOSITORY, child.digest, event("delete"))

    async def test_list_parents(self, catalog: Catalog) -> None:
        """The manifests of this repository that name a digest."""
        child = await push(catalog, image(LAYER))
        parent = await push(catalog, index(child))
        assert await catalog.list_parents(REPOSITORY, child.digest) == [parent.digest]
        assert await catalog.list_parents(REPOSITORY, digest_bytes(LAYER)) == [child.digest]
        assert await catalog.list_parents(REPOSITORY, parent.digest) == []
        assert await catalog.list_parents(OTHER, child.digest) == []

    async def test_delete_repository(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """With all that is in it; others keep what they share; the name can be used again; then NotFound."""
        for repository in (REPOSITORY, OTHER):
            await push(
                catalog,
                index(await push(catalog, image(LAYER), repository=repository)),
                "1",
                repository=repository,
            )
        await catalog.delete_repository(REPOSITORY, event("delete"))
        assert not await catalog.has_repository(REPOSITORY)
        assert await catalog.find_blob(REPOSITORY, digest_bytes(LAYER)) is None
        assert await catalog.find_manifest(OTHER, "1") is not None
        with pytest.raises(NotFound):
            await catalog.delete_repository(REPOSITORY, event("delete"))
        await push(catalog, image(LAYER), "new")
        assert [tag.name for tag in await catalog.list_tags(REPOSITORY, "", 10)] == ["new"]
        assert records.size(REPOSITORY) == len(CONFIG) + len(LAYER)


class TestLists:
    """``list_repositories``, ``list_tags``, ``list_referrers``, ``find_holder``."""

    async def test_repositories(self, catalog: Catalog) -> None:
        """By their bytes, from behind ``after``, so many at most."""
        names = ["a-b/c", "a.b/c", "a/b", "a/b/c", "a0/b", "a_b/c", "b"]
        for name in reversed(names):
            await link(catalog, b"data", repository=name)
        assert await catalog.list_repositories("", 100) == names
        assert await catalog.list_repositories("a/b", 2) == ["a/b/c", "a0/b"]
        assert await catalog.list_repositories("a/a", 1) == ["a/b"]
        assert await catalog.list_repositories("b", 10) == []

    async def test_tags(self, catalog: Catalog) -> None:
        """By their bytes, from behind ``after``, so many at most; NotFound."""
        with pytest.raises(NotFound):
            await catalog.list_tags(REPOSITORY, "", 10)
        await push(catalog, image(LAYER), "b", "a", "B", "1", "10", "2")
        assert [tag.name for tag in await catalog.list_tags(REPOSITORY, "", 10)] == [
            "1",
            "10",
            "2",
            "B",
            "a",
            "b",
        ]
        assert [tag.name for tag in await catalog.list_tags(REPOSITORY, "10", 2)] == ["2", "B"]
        assert await catalog.list_tags(REPOSITORY, "b", 10) == []

    async def test_referrers(self, catalog: Catalog) -> None:
        """By digest, from behind ``after``, so many at most, of one type if wanted; also before the subject is here."""
        subject = image(LAYER, b"subject")
        kinds = ("", "application/x", "application/y")
        pushed = [await push(catalog, about(subject, n, artifactType=kinds[n % 3])) for n in range(9)]
        await push(catalog, about(digest_bytes(b"else")))
        await push(catalog, about(subject, 99), repository=OTHER)
        wanted = sorted(each.digest for each in pushed)
        found = await catalog.list_referrers(REPOSITORY, subject.digest, "", 100)
        assert [each.digest for each in found] == wanted
        some = await catalog.list_referrers(REPOSITORY, subject.digest, wanted[2], 3)
        assert [each.digest for each in some] == wanted[3:6]
        typed = await catalog.list_referrers(REPOSITORY, subject.digest, "", 100, "application/x")
        assert {each.digest for each in typed} == {each.digest for each in pushed[1::3]}
        assert await catalog.list_referrers("no/body", subject.digest, "", 100) == []

    async def test_holder(self, catalog: Catalog) -> None:
        """Some repository of that prefix that has the blob undamaged, and no other."""
        (digest,) = await link(catalog, b"data", repository="mirror/a/b")
        assert await catalog.find_holder("mirror/", digest) == "mirror/a/b"
        assert await catalog.find_holder("mirro/", digest) is None
        assert await catalog.find_holder("%/", digest) is None
        await catalog.note_checked(digest, damaged=True)
        assert await catalog.find_holder("mirror/", digest) is None


class TestRules:
    """Quotas and immutable tags."""

    async def test_quota(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """A namespace takes blobs until it is full; what does not fit is DENIED and leaves nothing."""
        await records.set_quota("team", 10)
        await link(catalog, b"12345", repository=REPOSITORY)
        await link(catalog, b"67890", repository=OTHER)
        for repository in (REPOSITORY, "team/new"):
            with pytest.raises(Refusal, match="may have 10 bytes") as caught:
                await link(catalog, b"x", repository=repository)
            assert caught.value.code == "DENIED"
            assert await catalog.find_blob(repository, digest_bytes(b"x")) is None
        assert not await catalog.is_known(digest_bytes(b"x")) and not await catalog.has_repository("team/new")
        await link(catalog, b"x", repository="others/app")

    async def test_a_mount_counts(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """As the repository has it then; refused, it has not."""
        (digest,) = await link(catalog, b"12345678", repository="rich/app")
        await records.set_quota("team", 7)
        with pytest.raises(Refusal, match="namespace team"):
            await catalog.mount_blob(REPOSITORY, "rich/app", digest)
        assert not await catalog.has_repository(REPOSITORY)

    async def test_what_is_there_may_stay_though_the_quota_shrinks(
        self, catalog: Catalog, records: SqliteCatalog
    ) -> None:
        """It can be pulled and removed, and space that is freed can be used."""
        first, second = await link(catalog, b"12345", b"67890")
        await records.set_quota("team", 9)
        assert await catalog.find_blob(REPOSITORY, first) == 5
        await catalog.delete_blob(REPOSITORY, second, event("delete"))
        await link(catalog, b"6789")

    async def test_a_name_of_one_part_is_of_library(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """Its quota is that namespace's."""
        await records.set_quota("library", 3)
        for repository in ("alpine", "library/alpine"):
            with pytest.raises(Refusal, match="namespace library"):
                await link(catalog, b"data", repository=repository)

    @pytest.mark.parametrize("where", ["repository", "namespace"])
    async def test_immutable_tags(self, catalog: Catalog, records: SqliteCatalog, where: str) -> None:
        """One that matches does not move and does not go, neither by itself nor with its manifest; others do."""
        first = await push(catalog, image(LAYER), "v1.0", "latest")
        if where == "repository":
            await records.set_immutable(REPOSITORY, '["v*", "x"]')
        else:
            await records.set_namespace_immutable("team", '["v*"]')
        second = image(LAYER, CONFIG)
        before = records.events()
        for act in (
            push(catalog, second, "v1.0"),
            push(catalog, second, "latest", "v1.0"),
            catalog.delete_tag(REPOSITORY, "v1.0", event("untag")),
            catalog.delete_manifest(REPOSITORY, first.digest, event("delete")),
        ):
            with pytest.raises(AlreadyExists, match="immutable"):
                await act
        assert records.events() == before
        for tag in ("v1.0", "latest"):
            found = await catalog.find_manifest(REPOSITORY, tag)
            assert found is not None and found.digest == first.digest
        await push(catalog, first, "v1.0")
        await push(catalog, second, "latest", "v2.0", "V1.0")


class TestGenerations:
    """``advance``, ``touch_blob``, ``touch_manifest``, ``drop_links``, ``drop_blobs``, ``drop_untagged``."""

    async def test_a_blob_that_nobody_names(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """It stays for two beginnings of a generation, also over a restart, and goes then, from records and counts."""
        (digest,) = await link(catalog, b"data")
        number = await catalog.generation()
        assert await drop(catalog) == []
        assert await catalog.advance() == number + 1
        catalog = records.reopen()
        assert await drop(catalog) == [] and await catalog.find_blob(REPOSITORY, digest) == 4
        assert await catalog.advance() == number + 2
        assert await drop(catalog) == [digest]
        assert await catalog.find_blob(REPOSITORY, digest) is None and not await catalog.is_known(digest)
        assert records.size(REPOSITORY) == 0

    @pytest.mark.parametrize("how", ["touch", "link", "mount"])
    async def test_who_asks_for_it_keeps_it(self, catalog: Catalog, how: str) -> None:
        """For two more beginnings."""
        (digest,) = await link(catalog, b"data")
        await link(catalog, b"data", repository=OTHER)
        for _ in range(3):
            await catalog.advance()
            if how == "touch":
                assert await catalog.touch_blob(REPOSITORY, digest)
            elif how == "link":
                await link(catalog, b"data")
            else:
                assert await catalog.mount_blob(REPOSITORY, REPOSITORY, digest)
            assert await drop(catalog) == []
        assert await catalog.find_blob(OTHER, digest) is None
        for wanted in ([], [digest]):
            await catalog.advance()
            assert await drop(catalog) == wanted

    async def test_touch_of_what_is_gone(self, catalog: Catalog) -> None:
        """False: whoever asked must not be told that it is here."""
        assert not await catalog.touch_blob(REPOSITORY, digest_bytes(b"data"))
        (digest,) = await link(catalog, b"data")
        assert not await catalog.touch_blob(OTHER, digest)
        await catalog.delete_blob(REPOSITORY, digest, event("delete"))
        assert not await catalog.touch_blob(REPOSITORY, digest)

    async def test_what_a_manifest_names_stays(self, catalog: Catalog) -> None:
        """However old, until the manifest goes: then at once, as it was not asked for lately."""
        child = await push(catalog, image(LAYER))
        parent = await push(catalog, index(child), "1")
        for _ in range(5):
            await catalog.advance()
            assert await drop(catalog) == []
        await catalog.delete_manifest(REPOSITORY, parent.digest, event("delete"))
        assert await drop(catalog) == [parent.digest]
        await catalog.delete_manifest(REPOSITORY, child.digest, event("delete"))
        assert set(await drop(catalog)) == {child.digest, digest_bytes(CONFIG), digest_bytes(LAYER)}

    async def test_one_repository_does_not_keep_anothers_link(self, catalog: Catalog) -> None:
        """But the bytes, while anybody names them."""
        await push(catalog, image(LAYER), "1")
        await link(catalog, LAYER, repository=OTHER)
        for _ in range(2):
            await catalog.advance()
        assert await drop(catalog) == []
        assert await catalog.find_blob(OTHER, digest_bytes(LAYER)) is None
        assert await catalog.find_blob(REPOSITORY, digest_bytes(LAYER)) == 5

    async def test_a_manifest_is_a_blob_too(self, catalog: Catalog) -> None:
        """Who also uploaded its bytes as a blob, and lets them go, leaves the manifest."""
        document = await push(catalog, image(LAYER), "1")
        await link(catalog, document.data)
        for _ in range(2):
            await catalog.advance()
        assert await drop(catalog) == [] and await catalog.is_known(document.digest)

    async def test_so_many_at_once(self, catalog: Catalog) -> None:
        """A step takes no more than its limit, and the steps take all."""
        await link(catalog, *(b"%d" % number for number in range(25)))
        for _ in range(2):
            await catalog.advance()
        assert [await catalog.drop_links(10) for _ in range(4)] == [10, 10, 5, 0]
        assert [len(await catalog.drop_blobs(10)) for _ in range(4)] == [10, 10, 5, 0]

    async def test_untagged(self, catalog: Catalog) -> None:
        """What no tag, index or subject keeps goes two generations after its push; what is kept stays."""
        tagged = await push(catalog, image(LAYER), "1")
        child = await push(catalog, image(LAYER, LAYER))
        kept = await push(catalog, index(child), "multi")
        signature = await push(catalog, about(tagged))
        of_signature = await push(catalog, about(signature))
        loose = await push(catalog, image(LAYER, CONFIG))
        orphan = await push(catalog, about(digest_bytes(b"never pushed")))
        await catalog.advance()
        assert await catalog.drop_untagged(100) == 0
        await catalog.advance()
        assert [await catalog.drop_untagged(1) for _ in range(3)] == [1, 1, 0]
        for document in (loose, orphan):
            assert await catalog.find_manifest(REPOSITORY, document.digest) is None
        for document in (tagged, child, kept, signature, of_signature):
            assert await catalog.find_manifest(REPOSITORY, document.digest) is not None
        await catalog.delete_tag(REPOSITORY, "1", event("untag"))
        await catalog.delete_tag(REPOSITORY, "multi", event("untag"))
        while await catalog.drop_untagged(100):
            pass
        for document in (tagged, child, kept, signature, of_signature):
            assert await catalog.find_manifest(REPOSITORY, document.digest) is None

    async def test_a_push_makes_an_untagged_one_young_again(self, catalog: Catalog) -> None:
        """Who pushes it again may build upon it for two generations."""
        document = await push(catalog, image(LAYER))
        for _ in range(3):
            await catalog.advance()
            await push(catalog, document)
            assert await catalog.drop_untagged(100) == 0

    async def test_a_touch_makes_an_untagged_one_young_again(self, catalog: Catalog) -> None:
        """Who asks for it may build upon it for two generations; of what is gone, or another's, it says so."""
        document = await push(catalog, image(LAYER))
        for _ in range(3):
            await catalog.advance()
            assert await catalog.touch_manifest(REPOSITORY, document.digest)
            assert not await catalog.touch_manifest(OTHER, document.digest)
            assert await catalog.drop_untagged(100) == 0
        for wanted in (0, 1):
            await catalog.advance()
            assert await catalog.drop_untagged(100) == wanted
        assert not await catalog.touch_manifest(REPOSITORY, document.digest)

    async def test_a_clock_that_jumped(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """Times on record, however far off, make nothing older or younger."""
        (digest,) = await link(catalog, b"data")
        document = await push(catalog, image(LAYER))
        for years in (-50, 100, -20):
            await records.shift_times(years * 365 * 86_400 * 10**9)
            assert await catalog.drop_untagged(100) == 0 and await drop(catalog) == []
        assert await catalog.find_blob(REPOSITORY, digest) == 4
        for _ in range(2):
            await catalog.advance()
        assert await catalog.drop_untagged(100) == 1
        assert set(await drop(catalog)) == {
            digest,
            document.digest,
            digest_bytes(CONFIG),
            digest_bytes(LAYER),
        }


class TestChecks:
    """``oldest_checked``, ``note_checked``, ``list_damaged``."""

    async def test_order(self, catalog: Catalog) -> None:
        """What was never checked comes first, then the longest ago; what was checked since then does not."""
        digests = await link(catalog, b"1", b"2", b"3")
        far = 1 << 62
        assert set(await catalog.oldest_checked(far, 10)) == set(digests)
        for digest in (digests[1], digests[0], digests[2]):
            await catalog.note_checked(digest, damaged=False)
        assert await catalog.oldest_checked(far, 10) == [digests[1], digests[0], digests[2]]
        assert await catalog.oldest_checked(far, 1) == [digests[1]]
        assert await catalog.oldest_checked(1, 10) == []

    async def test_a_clock_that_was_ahead(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """Does not spare for years what was read while it was."""
        digests = await link(catalog, b"1", b"2")
        for digest in digests:
            await catalog.note_checked(digest, damaged=False)
        assert await catalog.oldest_checked(1, 10) == []
        await records.shift_times(365 * 86_400 * 10**9)
        assert set(await catalog.oldest_checked(1, 10)) == set(digests)
        assert len(await catalog.oldest_checked(1, 1)) == 1
        await catalog.note_checked(digests[0], damaged=False)
        assert await catalog.oldest_checked(1, 10) == [digests[1]]

    async def test_damaged(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """It is not found and cannot be mounted, but stays on record with who has it, until it is pushed again."""
        (digest,) = await link(catalog, b"data")
        await link(catalog, b"data", repository=OTHER)
        await catalog.note_checked(digest, damaged=True)
        for each in records.twice():
            assert await each.find_blob(REPOSITORY, digest) is None
            assert await each.is_known(digest)
            assert sorted(await each.list_damaged()) == [(digest, REPOSITORY), (digest, OTHER)]
        catalog = records.catalog
        assert not await catalog.mount_blob("x/y", REPOSITORY, digest)
        await link(catalog, b"data")
        assert await catalog.find_blob(OTHER, digest) == 4 and await catalog.list_damaged() == []

    async def test_lost(self, catalog: Catalog) -> None:
        """What a crash of the machine has spoiled is as damaged, until it is pushed again; the rest is not."""
        lost, kept = await link(catalog, b"lost", b"kept")
        await catalog.note_lost([lost, digest_bytes(b"never on record")])
        assert await catalog.find_blob(REPOSITORY, lost) is None
        assert await catalog.find_blob(REPOSITORY, kept) == 4
        await link(catalog, b"lost")
        assert await catalog.find_blob(REPOSITORY, lost) == 4

    async def test_a_damaged_manifest(self, catalog: Catalog) -> None:
        """It is listed with its repository, and a push of it ends that."""
        document = await push(catalog, image(LAYER), "1")
        await catalog.note_checked(document.digest, damaged=True)
        assert await catalog.list_damaged() == [(document.digest, REPOSITORY)]
        await push(catalog, document)
        assert await catalog.list_damaged() == []


class TestCounts:
    """``note_pulls``."""

    async def test_pulls(self, catalog: Catalog, records: SqliteCatalog) -> None:
        """They add up; of a repository that has gone meanwhile they are forgotten."""
        document = await push(catalog, image(LAYER), "1")
        for count in (3, 4):
            await catalog.note_pulls({REPOSITORY: count, "gone/app": 5}, {(REPOSITORY, document.digest): 1})
        assert records.pulls(REPOSITORY) == 7 and records.pulls("gone/app") == -1


async def test_many_at_once(catalog: Catalog, records: SqliteCatalog) -> None:
    """Acts that come together are apart: those that are refused undo nothing of the others, and order is kept."""
    await link(catalog, CONFIG, LAYER)

    async def put(number: int) -> None:
        parts = (LAYER,) if number % 3 else (b"absent",)
        document = image(*parts, annotations={"n": str(number)})
        await catalog.put_manifest(REPOSITORY, document, (f"t{number}", "last"), event(tag=f"t{number}"))

    done = await asyncio.gather(*(put(number) for number in range(60)), return_exceptions=True)
    assert [isinstance(each, CaisError) for each in done] == [number % 3 == 0 for number in range(60)]
    wanted = [f"t{number}" for number in range(60) if number % 3]
    assert [entry[4] for entry in records.events()] == wanted
    tags = {tag.name: tag.digest for tag in await catalog.list_tags(REPOSITORY, "", 100)}
    assert set(tags) == {*wanted, "last"} and tags["last"] == tags["t59"]


async def test_one_that_goes_away(catalog: Catalog, records: SqliteCatalog) -> None:
    """A caller that is cancelled leaves a whole act or none: never a manifest without its event."""
    await link(catalog, CONFIG, LAYER)
    tasks = []
    for number in range(20):
        document = image(LAYER, annotations={"n": str(number)})
        put = catalog.put_manifest(REPOSITORY, document, (f"t{number}",), event(tag=f"t{number}"))
        tasks.append(asyncio.create_task(put))
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tags = [tag.name for tag in await records.reopen().list_tags(REPOSITORY, "", 100)]
    assert sorted(tags) == sorted(entry[4] for entry in records.events())
    assert {f"t{number}" for number in range(1, 20, 2)} <= set(tags)
