"""The contract of ``Blobs`` and ``Upload`` (registry/base.py), run by every implementation."""

import asyncio
import hashlib
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cais.errors import Corrupt, Invalid, NotFound
from cais.registry.base import Blobs, Upload
from cais.spec.digest import Digest, digest_bytes, parse_digest
from registry.contracts.conftest import BlobsKind

SCOPE = "team/app"
SIZES = (0, 1, 32 << 10, (32 << 10) + 1, 3 << 20)
"""Around the size from which FileBlobs writes in a thread."""


def sha512(data: bytes) -> Digest:
    """The other kind of digest."""
    return parse_digest("sha512:" + hashlib.sha512(data).hexdigest())


async def keep(blobs: Blobs, data: bytes) -> Digest:
    """Upload it."""
    upload = await blobs.start(SCOPE)
    if data:
        await upload.append(data)
    await upload.commit(digest_bytes(data))
    return digest_bytes(data)


async def listed(blobs: Blobs) -> dict[Digest, int]:
    """Every blob with its size."""
    return {digest: size async for digest, size in blobs.list()}


def content(blobs: Blobs, digest: Digest) -> bytes:
    """All bytes of a blob."""
    with blobs.open(digest) as file:
        return b"".join(iter(lambda: file.read(1 << 20), b""))


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Files of this process may not grow beyond ``size``: what a full disk does to one write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


class TestUploads:
    """``start``, ``find``, ``append``, ``commit``, ``abort``, ``release``, ``clean``."""

    @pytest.mark.parametrize("size", SIZES)
    async def test_commit(self, blobs: Blobs, size: int) -> None:
        """What was appended, in parts of any size, is the blob, and its size is said."""
        data = os.urandom(size)
        upload = await blobs.start(SCOPE)
        for start in range(0, size, max(size // 3, 1)):
            await upload.append(data[start : start + max(size // 3, 1)])
        assert upload.size == size
        assert await upload.commit(digest_bytes(data)) == size
        assert content(blobs, digest_bytes(data)) == data

    async def test_commit_by_sha512(self, blobs: Blobs) -> None:
        """The digest's algorithm may be any that is known, and is the name it is found by."""
        upload = await blobs.start(SCOPE)
        await upload.append(b"data")
        assert await upload.commit(sha512(b"data")) == 4
        assert await listed(blobs) == {sha512(b"data"): 4}

    @pytest.mark.parametrize("expected", [digest_bytes(b"else"), sha512(b"else")])
    async def test_commit_of_something_else(self, blobs: Blobs, kind: BlobsKind, expected: Digest) -> None:
        """It raises Corrupt; the upload is gone with its bytes, and nothing is visible under either digest."""
        upload = await blobs.start(SCOPE)
        await upload.append(b"data")
        with pytest.raises(Corrupt, match="is not"):
            await upload.commit(expected)
        with pytest.raises(NotFound):
            await blobs.find(SCOPE, upload.id)
        assert await listed(blobs) == {} and kind.upload_count() == 0

    async def test_nothing_is_visible_before_it_is_whole(self, blobs: Blobs, kind: BlobsKind) -> None:
        """Neither before the commit nor after a restart in the middle."""
        upload = await blobs.start(SCOPE)
        await upload.append(b"data")
        upload.release()
        for each in (blobs, kind.open()):
            assert await listed(each) == {}
            with pytest.raises(NotFound):
                await each.size(digest_bytes(b"data"))

    async def test_an_upload_is_found_again(self, blobs: Blobs) -> None:
        """By its scope and id, as the same one, however often."""
        upload = await blobs.start(SCOPE)
        await upload.append(b"da")
        again = await blobs.find(SCOPE, upload.id)
        await again.append(b"ta")
        assert upload.size == again.size == 4
        assert await upload.commit(digest_bytes(b"data")) == 4

    async def test_only_its_scope_finds_it(self, blobs: Blobs, kind: BlobsKind) -> None:
        """Who names another scope, or an id that was never given, does not, also after a restart."""
        upload = await blobs.start(SCOPE)
        for each in (blobs, kind.open()):
            for scope, id in (("team/other", upload.id), ("", upload.id), (SCOPE, "0" * 32)):
                with pytest.raises(NotFound):
                    await each.find(scope, id)

    async def test_uploads_are_apart(self, blobs: Blobs) -> None:
        """Two in one scope have ids of their own and do not mix."""
        first, second = await blobs.start(SCOPE), await blobs.start(SCOPE)
        assert first.id != second.id
        await first.append(b"first")
        await second.append(b"second")
        await second.commit(digest_bytes(b"second"))
        await first.commit(digest_bytes(b"first"))
        assert await listed(blobs) == {digest_bytes(b"first"): 5, digest_bytes(b"second"): 6}

    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    async def test_it_goes_on_after_a_restart(self, blobs: Blobs, kind: BlobsKind, algorithm: str) -> None:
        """With what arrived of it, and the digest is of all of it."""
        data = os.urandom(100_000)
        upload = await blobs.start(SCOPE)
        await upload.append(data[:70_000])
        upload.release()
        later = kind.open()
        again = await later.find(SCOPE, upload.id)
        assert again.size == 70_000
        await again.append(data[70_000:])
        digest = digest_bytes(data) if algorithm == "sha256" else sha512(data)
        assert await again.commit(digest) == 100_000
        assert content(later, digest) == data

    async def test_an_empty_one_is_found_after_a_restart(self, blobs: Blobs, kind: BlobsKind) -> None:
        """A session that was begun is there, though nothing was sent."""
        upload = await blobs.start(SCOPE)
        again = await kind.open().find(SCOPE, upload.id)
        assert again.size == 0
        assert await again.commit(digest_bytes(b"")) == 0

    async def test_two_that_look_for_it_after_a_restart(self, blobs: Blobs, kind: BlobsKind) -> None:
        """They find one upload: what one appends, the other has."""
        upload = await blobs.start(SCOPE)
        await upload.append(b"da")
        upload.release()
        later = kind.open()
        first, second = await asyncio.gather(later.find(SCOPE, upload.id), later.find(SCOPE, upload.id))
        await first.append(b"t")
        await second.append(b"a")
        assert await first.commit(digest_bytes(b"data")) == 4
        assert content(later, digest_bytes(b"data")) == b"data"

    async def test_two_that_end_it_after_a_restart(self, blobs: Blobs, kind: BlobsKind) -> None:
        """A request that is sent twice makes one whole blob; whoever comes second is told that the upload is gone."""
        data = os.urandom(200_000)
        for _ in range(10):
            upload = await blobs.start(SCOPE)
            await upload.append(data[:100_000])
            upload.release()
            later = kind.open()

            turn = asyncio.Lock()

            async def end(id: str, later: Blobs = later, turn: asyncio.Lock = turn) -> int:
                found = await later.find(SCOPE, id)
                async with turn:
                    await found.append(data[100_000:])
                    return await found.commit(digest_bytes(data))

            done = await asyncio.gather(*(end(upload.id) for _ in range(3)), return_exceptions=True)
            assert done.count(200_000) == 1
            assert sum(isinstance(each, NotFound) for each in done) == 2
            assert content(later, digest_bytes(data)) == data
            with pytest.raises(NotFound):
                await later.find(SCOPE, upload.id)
            await later.delete(digest_bytes(data))

    async def test_one_that_has_ended_does_not_begin_again(self, blobs: Blobs, kind: BlobsKind) -> None:
        """Who still holds it cannot write to it, nor to the blob that it became."""
        upload = await blobs.start(SCOPE)
        await upload.append(b"data")
        await upload.commit(digest_bytes(b"data"))
        with pytest.raises(NotFound):
            await upload.append(b"more")
        with pytest.raises(NotFound):
            await upload.commit(digest_bytes(b"data"))
        assert content(blobs, digest_bytes(b"data")) == b"data" and kind.upload_count() == 0

    async def test_an_ended_one_is_not_found(self, blobs: Blobs, kind: BlobsKind) -> None:
        """Neither after ``commit`` nor after ``abort``, also after a restart."""
        committed, aborted = await blobs.start(SCOPE), await blobs.start(SCOPE)
        await committed.commit(digest_bytes(b""))
        await aborted.abort()
        for each in (blobs, kind.open()):
            for upload in (committed, aborted):
                with pytest.raises(NotFound):
                    await each.find(SCOPE, upload.id)

    async def test_abort(self, blobs: Blobs, kind: BlobsKind) -> None:
        """The bytes are gone, twice is as good as once, and after ``commit`` it does not harm the blob."""
        upload = await blobs.start(SCOPE)
        await upload.append(b"data")
        await upload.abort()
        await upload.abort()
        assert kind.upload_count() == 0
        kept = await blobs.start(SCOPE)
        await kept.append(b"data")
        await kept.commit(digest_bytes(b"data"))
        await kept.abort()
        assert content(blobs, digest_bytes(b"data")) == b"data"

    async def test_release(self, blobs: Blobs) -> None:
        """It may be called at any time, and writing goes on."""
        upload = await blobs.start(SCOPE)
        for part in (b"d", b"a", b"t", b"a"):
            upload.release()
            upload.release()
            await upload.append(part)
        assert await upload.commit(digest_bytes(b"data")) == 4

    async def test_what_has_come_can_be_read(self, blobs: Blobs) -> None:
        """``open`` reads what is here, more of it later, and goes on after the commit."""
        upload = await blobs.start(SCOPE)
        await upload.append(b"da")
        with upload.open() as file:
            assert file.read() == b"da"
            await upload.append(b"ta")
            await upload.commit(digest_bytes(b"data"))
            assert file.read() == b"ta"

    @pytest.mark.parametrize("size", [100, 60_000])
    async def test_a_full_disk(self, blobs: Blobs, size: int) -> None:
        """``append`` raises OSError and the upload is as it was: later it goes on with the same chunk."""
        data = os.urandom(2 * size)
        upload = await blobs.start(SCOPE)
        await upload.append(data[:size])
        for room in (size, size + size // 2):  # nothing of the chunk fits; half of it
            with file_limit(room), pytest.raises(OSError):
                await upload.append(data[size:])
            assert upload.size == size
        await upload.append(data[size:])
        assert await upload.commit(digest_bytes(data)) == 2 * size
        assert content(blobs, digest_bytes(data)) == data

    async def test_a_full_disk_and_a_restart(self, blobs: Blobs, kind: BlobsKind) -> None:
        """What was not taken is not there afterwards either."""
        upload = await blobs.start(SCOPE)
        await upload.append(b"x" * 100)
        with file_limit(150), pytest.raises(OSError):
            await upload.append(b"y" * 100)
        upload.release()
        assert (await kind.open().find(SCOPE, upload.id)).size == 100

    async def test_clean(self, blobs: Blobs, kind: BlobsKind) -> None:
        """Those that nobody touched for so long go, and say how many they were; blobs stay."""
        digest = await keep(blobs, b"kept")
        uploads = [await blobs.start(SCOPE) for _ in range(3)]
        await uploads[0].append(b"data")
        assert await blobs.clean(1000.0) == 0
        assert await blobs.clean(0.0) == 3
        assert kind.upload_count() == 0 and await listed(blobs) == {digest: 4}
        for upload in uploads:
            with pytest.raises(NotFound):
                await blobs.find(SCOPE, upload.id)

    async def test_clean_knows_no_clock(self, blobs: Blobs, kind: BlobsKind) -> None:
        """Times of long ago, which a clock that was wrong leaves, make no upload old; nor does a restart."""
        upload = await blobs.start(SCOPE)
        await upload.append(b"data")
        upload.release()
        kind.age()
        later = kind.open()
        for each in (blobs, later, later):
            assert await each.clean(1000.0) == 0
        assert (await later.find(SCOPE, upload.id)).size == 4
        assert await kind.open().clean(0.0) == 1

    async def test_cancelled_in_the_middle(self, blobs: Blobs) -> None:
        """Who is cancelled while it appends leaves all of the chunk or nothing, never bytes that come later."""
        data = os.urandom(4 << 20)
        upload = await blobs.start(SCOPE)
        await upload.append(data[:100])
        task = asyncio.create_task(upload.append(data[100:]))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert upload.size in (100, len(data))
        await upload.append(data[upload.size :])
        assert await upload.commit(digest_bytes(data)) == len(data)


class TestBlobs:
    """``put``, ``read``, ``size``, ``open``, ``delete``, ``sync``, ``list``, ``verify``, ``quarantine``."""

    async def test_put(self, blobs: Blobs, kind: BlobsKind) -> None:
        """It is there, also after a restart and by either algorithm; again is no harm; nothing else is left."""
        for _ in range(2):
            await blobs.put(digest_bytes(b"data"), b"data")
            await blobs.put(sha512(b"data"), b"data")
        for each in (blobs, kind.open()):
            assert await listed(each) == {digest_bytes(b"data"): 4, sha512(b"data"): 4}
            assert await each.read(sha512(b"data"), 100) == b"data"
        assert kind.upload_count() == 0

    async def test_put_on_a_full_disk(self, blobs: Blobs, kind: BlobsKind) -> None:
        """It raises OSError and nothing is there."""
        with file_limit(2), pytest.raises(OSError):
            await blobs.put(digest_bytes(b"data"), b"data")
        assert await listed(blobs) == {} and kind.upload_count() == 0

    async def test_read(self, blobs: Blobs, kind: BlobsKind) -> None:
        """The bytes; NotFound, Invalid above the limit, Corrupt for another bit."""
        digest = await keep(blobs, b"data")
        assert await blobs.read(digest, 4) == b"data"
        with pytest.raises(Invalid):
            await blobs.read(digest, 3)
        with pytest.raises(NotFound):
            await blobs.read(digest_bytes(b"else"), 100)
        kind.spoil(digest)
        with pytest.raises(Corrupt):
            await blobs.read(digest, 4)

    async def test_what_is_absent(self, blobs: Blobs) -> None:
        """NotFound from all that would say something of it."""
        digest = digest_bytes(b"nobody has it")
        for ask in (blobs.size, blobs.verify):
            with pytest.raises(NotFound):
                await ask(digest)
        with pytest.raises(NotFound):
            blobs.open(digest)

    async def test_the_same_blob_again(self, blobs: Blobs) -> None:
        """A second upload of it is taken, and it is one blob."""
        for _ in range(2):
            await keep(blobs, b"data")
        assert await listed(blobs) == {digest_bytes(b"data"): 4}

    async def test_delete(self, blobs: Blobs, kind: BlobsKind) -> None:
        """It says the bytes freed, once; the blob is gone, also after a restart."""
        digest, kept = await keep(blobs, b"data"), await keep(blobs, b"kept")
        assert [await blobs.delete(digest) for _ in range(2)] == [4, 0]
        for each in (blobs, kind.open()):
            assert await listed(each) == {kept: 4}

    async def test_readers_go_on_when_it_is_deleted(self, blobs: Blobs) -> None:
        """Who has it open reads it to its end."""
        data = os.urandom(3 << 20)
        digest = await keep(blobs, data)
        with blobs.open(digest) as file:
            first = file.read(1000)
            await blobs.delete(digest)
            await keep(blobs, b"else")
            assert first + b"".join(iter(lambda: file.read(1 << 20), b"")) == data

    async def test_sync(self, blobs: Blobs) -> None:
        """It may be asked for what is absent, was deleted, or is synced already."""
        digest, gone = await keep(blobs, b"data"), await keep(blobs, b"gone")
        await blobs.delete(gone)
        for _ in range(2):
            await blobs.sync([digest, gone, digest_bytes(b"never")])
        assert content(blobs, digest) == b"data"

    async def test_list_lets_others_go_on(self, blobs: Blobs) -> None:
        """Whoever else has something to do is not kept waiting until all are listed."""
        for number in range(500):
            await blobs.put(digest_bytes(b"%d" % number), b"%d" % number)
        turns, began, done = 0, asyncio.Event(), asyncio.Event()

        async def others() -> None:
            nonlocal turns
            await began.wait()
            while not done.is_set():
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        async for _ in blobs.list():
            began.set()
        done.set()
        await task
        assert turns >= 3

    async def test_list_while_it_changes(self, blobs: Blobs) -> None:
        """What goes or comes meanwhile may be listed or not; all others are."""
        digests = [await keep(blobs, b"%d" % number) for number in range(20)]
        found = set()
        async for digest, _ in blobs.list():
            found.add(digest)
            await blobs.delete(digests[3])
            await keep(blobs, b"new")
        assert set(digests) - {digests[3]} <= found

    async def test_verify(self, blobs: Blobs, kind: BlobsKind) -> None:
        """True of what is whole, False of what is not."""
        whole, spoilt = await keep(blobs, b"whole"), await keep(blobs, b"spoilt")
        kind.spoil(spoilt)
        assert await blobs.verify(whole) and not await blobs.verify(spoilt)

    @pytest.mark.parametrize("by", ["upload", "put"])
    async def test_quarantine(self, blobs: Blobs, kind: BlobsKind, by: str) -> None:
        """The damaged blob is not found any more, also after a restart; the next push of it is whole."""
        digest = await keep(blobs, b"data")
        kind.spoil(digest)
        await blobs.quarantine(digest)
        await blobs.quarantine(digest)
        for each in (blobs, kind.open()):
            assert await listed(each) == {}
        await (keep(blobs, b"data") if by == "upload" else blobs.put(digest, b"data"))
        assert await blobs.verify(digest)

    @pytest.mark.parametrize("by", ["upload", "put"])
    async def test_a_push_repairs(self, blobs: Blobs, kind: BlobsKind, by: str) -> None:
        """Also what nobody has found to be damaged yet."""
        digest = await keep(blobs, b"data")
        kind.spoil(digest)
        await (keep(blobs, b"data") if by == "upload" else blobs.put(digest, b"data"))
        assert await blobs.verify(digest)

    async def test_recover_after_a_restart(self, blobs: Blobs, kind: BlobsKind) -> None:
        """Without a crash of the machine there is nothing to recover, and everything stays, uploads too."""
        digest = await keep(blobs, b"data")
        upload = await blobs.start(SCOPE)
        for _ in range(2):
            later = kind.open()
            assert list(await later.recover()) == []
            await later.settle()
            assert await listed(later) == {digest: 4} and (await later.find(SCOPE, upload.id)).size == 0

    async def test_recover_after_a_crash(self, blobs: Blobs, kind: BlobsKind) -> None:
        """What was written since ``settle`` is read: the spoiled are said and gone, and a push brings them back."""
        await blobs.recover()
        settled = await keep(blobs, b"settled")
        await blobs.settle()
        whole, spoiled = await keep(blobs, b"whole"), await keep(blobs, b"spoiled")
        kind.spoil(spoiled)
        kind.crash()
        later = kind.open()
        assert list(await later.recover()) == [spoiled]
        assert await listed(later) == {settled: 7, whole: 5}
        await keep(later, b"spoiled")
        assert await later.verify(spoiled)


async def test_many_at_once(blobs: Blobs) -> None:
    """A hundred uploads of different and of the same bytes do not disturb one another."""
    datas = [os.urandom(40_000) for _ in range(20)]

    async def send(upload: Upload, data: bytes) -> None:
        for start in range(0, len(data), 9_000):
            await upload.append(data[start : start + 9_000])
        await upload.commit(digest_bytes(data))

    uploads = [await blobs.start(f"scope{number}") for number in range(100)]
    await asyncio.gather(*(send(upload, datas[n % 20]) for n, upload in enumerate(uploads)))
    assert await listed(blobs) == {digest_bytes(data): 40_000 for data in datas}
    assert all([await blobs.verify(digest_bytes(data)) for data in datas])
