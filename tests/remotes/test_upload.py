"""Uploading to a real registry, through a proxy that cuts, loses and refuses."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from cais.errors import CaisError, Corrupt, Denied, NotFound, Unauthenticated, Unavailable, Unsupported
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.remotes.client import Patience, Remotes
from cais.remotes.hosts import Hosts
from cais.remotes.upload import Blob, Uploads, open_uploads
from cais.spec.digest import Digest, digest_bytes
from cais.spec.reference import parse_reference
from harness.pushing import PushFault, PushProxy, start_push_proxy
from harness.registry import PASSWORD, USER, Registry, free_port, running_registry

pytestmark = pytest.mark.slow

DATA = random.Random(2).randbytes(5 << 20)
QUICK = Patience(attempts=4, first=0.001)
RELATIVE = {"host": "", "relativeurls": True}


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry whose addresses lead back through the proxy."""
    with running_registry(tmp_path_factory.mktemp("target") / "r", http=RELATIVE) as registry:
        yield registry


@pytest.fixture
async def proxy(target: Registry) -> AsyncIterator[PushProxy]:
    """A proxy before it."""
    async with AsyncExitStack() as stack:
        yield await start_push_proxy(target.address, stack.push_async_callback)


class Uploading:
    """A repository of one test, and a blob that is new to the registry."""

    def __init__(self, folder: Path, proxy: PushProxy) -> None:
        self.folder = folder
        self.proxy = proxy
        self.path = folder.name.lower().replace("_", "-").strip("-")
        data = self.path.encode() + DATA
        self.blob = self.make(data)

    def make(self, data: bytes, digest: Digest | None = None) -> Blob:
        """A blob in a file."""
        file = self.folder / digest_bytes(data).hex
        file.write_bytes(data)
        return Blob(digest or digest_bytes(data), len(data), file)

    def open(self, path: str = "", credentials: Credentials = ANONYMOUS, mounts: Any = ()) -> Uploads:
        """The repository behind the proxy."""
        name = f"{self.proxy.address}/{path or self.path}:1"
        return open_uploads(Remotes(Hosts(), QUICK), parse_reference(name), credentials, mounts=mounts)

    async def push(self, blob: Blob | None = None) -> list[int]:
        """Upload the blob, see that it is there, byte by byte as its digest says; what was told on the way."""
        told: list[int] = []
        async with self.open() as uploads:
            await uploads.push_blob(blob or self.blob, told.append)
            assert await uploads.has_blob((blob or self.blob).digest)
        return told


@pytest.fixture
def uploading(tmp_path: Path, proxy: PushProxy) -> Uploading:
    """Everything for one test."""
    return Uploading(tmp_path, proxy)


async def test_a_blob_is_uploaded_in_one_request(uploading: Uploading) -> None:
    """HEAD says it is not there, POST and PUT bring it, and how far it is is told to the last byte."""
    async with uploading.open() as uploads:
        assert not await uploads.has_blob(uploading.blob.digest)
    told = await uploading.push()
    assert told == sorted(told) and told[-1] == uploading.blob.size
    assert [line.split()[0] for line, _ in uploading.proxy.seen] == ["HEAD", "POST", "PUT", "HEAD"]


async def test_an_empty_blob_is_uploaded(uploading: Uploading) -> None:
    """Nothing to send is sent too."""
    assert await uploading.push(uploading.make(b"")) == []


@pytest.mark.parametrize("cut", [0, 1, 1000, 1 << 20, 3_333_333, 5 << 20])
async def test_a_cut_upload_ends_whole(uploading: Uploading, cut: int) -> None:
    """Wherever the line broke, also twice."""
    uploading.proxy.faults = [PushFault("PUT ", times=2, cut=cut)]
    await uploading.push()


async def test_a_cut_upload_goes_on_where_the_registry_stands(uploading: Uploading) -> None:
    """What it says it has is not sent again."""
    half = uploading.blob.size // 2
    uploading.proxy.faults = [
        PushFault("PUT ", cut=half),
        PushFault("GET .*/uploads/", status=204, headers={"Range": f"0-{half - 1}"}),
        PushFault("PUT ", lose=True),
        PushFault("HEAD", spare=1, status=200),
    ]
    async with uploading.open() as uploads:
        await uploads.push_blob(uploading.blob, lambda _: None)
    sent = [headers for line, headers in uploading.proxy.seen if line.startswith("PUT")]
    assert sent[1]["Content-Range"] == f"{half}-{uploading.blob.size - 1}"
    assert int(sent[1]["Content-Length"]) == uploading.blob.size - half


async def test_an_answer_that_is_lost_is_not_waited_for_again(uploading: Uploading) -> None:
    """The blob is there: nothing is sent a second time."""
    uploading.proxy.faults = [PushFault("PUT ", lose=True)]
    await uploading.push()
    assert uploading.proxy.count("^PUT") == 1


async def test_a_line_that_is_always_cut_is_given_up(uploading: Uploading) -> None:
    """After the attempts that patience allows, with the blob's name."""
    uploading.proxy.faults = [PushFault("PUT ", times=99, cut=7)]
    words = rf"cannot push blob {uploading.blob.digest} to .*(EOF|reset by peer|broken pipe)$"
    with pytest.raises(Unavailable, match=words):
        await uploading.push()
    assert 1 < uploading.proxy.count("^PUT") <= QUICK.attempts


async def test_a_registry_that_takes_no_large_request_gets_parts(
    uploading: Uploading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """413 makes the parts smaller: PATCH by PATCH, each with its place, and a PUT at the end."""
    monkeypatch.setattr("cais.remotes.upload.CHUNK", 2 << 20)
    uploading.proxy.faults = [PushFault("PUT ", status=413)]
    await uploading.push()
    sent = [h for line, h in uploading.proxy.seen if line.startswith(("PATCH", "PUT"))]
    ranges = [headers["Content-Range"] for headers in sent if "Content-Range" in headers]
    size = uploading.blob.size
    assert ranges == ["0-2097151", "2097152-4194303", f"4194304-{size - 1}"]


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
@pytest.mark.parametrize("where", ["HEAD ", "POST ", "PUT .*/uploads/", "PUT .*/manifests/"])
async def test_one_bad_answer_at_any_step(uploading: Uploading, where: str, status: int) -> None:
    """The push ends whole, or with an error that names what could not be pushed; 401 needs credentials."""
    challenge = {"WWW-Authenticate": 'Basic realm="x"'} if status == 401 else {}
    uploading.proxy.faults = [PushFault(where, status=status, headers=challenge)]
    manifest = uploading.make(b'{"schemaVersion":2}')
    async with uploading.open(credentials=Credentials(USER, PASSWORD)) as uploads:
        assert not await uploads.has_blob(uploading.blob.digest)
        await uploads.push_blob(uploading.blob, lambda _: None)
        assert await uploads.has_blob(uploading.blob.digest)
        if "manifests" in where:
            # What is no image is refused for good by the registry itself, once it gets there.
            with pytest.raises(CaisError, match="cannot push manifest 1 to"):
                await uploads.push_manifest("1", manifest.digest, "application/json", b'{"schemaVersion":2}')


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, b"", Unauthenticated, "push access denied for .* no basic auth credentials"),
        (403, b'{"errors":[{"code":"DENIED","message":"no"}]}', Denied, "'docker login': denied: no"),
        (405, b'{"errors":[{"code":"UNSUPPORTED"}]}', Unsupported, "may be read-only: unsupported"),
        (400, b'{"errors":[{"code":"NAME_INVALID","message":"bad"}]}', NotFound, "blob .* name invalid: bad"),
        (409, b"", Unavailable, "cannot push blob sha256:.* unexpected HTTP status: 409"),
        (500, b"", Unavailable, "cannot push blob sha256:.* unexpected HTTP status: 500"),
    ],
)
async def test_what_a_registry_refuses_is_told(
    uploading: Uploading, status: int, body: bytes, kind: type[CaisError], words: str
) -> None:
    """By its kind, in words that say what to do."""
    headers = {"WWW-Authenticate": "Basic"} if status == 401 else {}
    uploading.proxy.faults = [PushFault("POST", times=99, status=status, body=body, headers=headers)]
    with pytest.raises(kind, match=words):
        await uploading.push()


async def test_too_many_requests_are_waited_for(uploading: Uploading) -> None:
    """Retry-After is obeyed where it can be; a long one ends it with the registry's words."""
    body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}'
    uploading.proxy.faults = [
        PushFault("POST", times=99, status=429, body=body, headers={"Retry-After": "3600"})
    ]
    with pytest.raises(Unavailable, match="toomanyrequests: slow down"):
        await uploading.push()
    assert uploading.proxy.count("POST") == 1


async def test_bytes_that_do_not_fit_their_digest_are_refused(uploading: Uploading) -> None:
    """By the registry, which hashes them: nothing is hashed twice on our side. Nothing is there then."""
    wrong = uploading.make(b"x" * 100_000, digest_bytes(b"y"))
    with pytest.raises(Corrupt, match=f"did not get blob {wrong.digest}"):
        await uploading.push(wrong)
    uploading.proxy.faults = [PushFault("PUT", flip=4_000_000)]
    with pytest.raises(Corrupt, match="digest invalid"):
        await uploading.push()
    short = Blob(uploading.blob.digest, uploading.blob.size + 1, uploading.blob.path)
    with pytest.raises(Corrupt, match="has fewer than"):
        await uploading.push(short)
    async with uploading.open() as uploads:
        assert not await uploads.has_blob(uploading.blob.digest)


async def test_a_blob_that_is_gone_is_named(uploading: Uploading) -> None:
    """And no connection is blamed for it."""
    uploading.blob.path.unlink()
    with pytest.raises(NotFound, match=f"no such blob: {uploading.blob.digest}"):
        await uploading.push()


async def test_a_blob_is_mounted_from_another_repository(uploading: Uploading) -> None:
    """The first that has it; no byte of it is sent, and an upload that was begun in vain is given up."""
    await uploading.push()
    before = uploading.proxy.received
    async with uploading.open(f"{uploading.path}/other") as uploads:
        assert await uploads.mount(uploading.blob.digest, ["no/such", uploading.path]) == uploading.path
        assert await uploads.has_blob(uploading.blob.digest)
        assert await uploads.mount(digest_bytes(b"nowhere"), [uploading.path]) == ""
    assert uploading.proxy.received == before
    assert uploading.proxy.count("DELETE .*/uploads/") == 2


async def test_nobody_there_is_told_at_once(tmp_path: Path) -> None:
    """In the words of Go's dialer."""
    port = free_port()
    uploading = Uploading(tmp_path, PushProxy("", f"127.0.0.1:{port}"))
    with pytest.raises(Unavailable, match=f"dial tcp 127.0.0.1:{port}: connect: connection refused"):
        await uploading.push()


async def test_where_to_upload_may_be_another_server_that_learns_no_secret(
    uploading: Uploading, target: Registry
) -> None:
    """Storage behind a registry gets the bytes, not the authorization."""
    async with AsyncExitStack() as stack:
        storage = await start_push_proxy(target.address, stack.push_async_callback)
        async with uploading.open(credentials=Credentials(USER, PASSWORD)) as uploads:
            uploading.proxy.faults = [PushFault("HEAD", status=401, headers={"WWW-Authenticate": "Basic"})]
            assert not await uploads.has_blob(uploading.blob.digest)
            begun = await uploads._start(uploading.blob.digest)
            there = {"Location": f"http://{storage.address}{begun.raw_path_qs}"}
            uploading.proxy.faults = [PushFault("POST", status=202, headers=there)]
            await uploads.push_blob(uploading.blob, lambda _: None)
        assert any("Authorization" in headers for _, headers in uploading.proxy.seen)
        assert storage.count("^PUT") == 1
        assert not any("Authorization" in headers for _, headers in storage.seen)


async def test_a_registry_with_a_password(tmp_path: Path) -> None:
    """It takes what the right one sends, and the wrong one is in no message."""
    with running_registry(tmp_path / "r", password=True, http=RELATIVE) as registry:
        uploading = Uploading(tmp_path, PushProxy("", registry.address))
        async with uploading.open(credentials=Credentials(USER, PASSWORD)) as uploads:
            await uploads.push_blob(uploading.blob, lambda _: None)
        async with uploading.open(credentials=Credentials(USER, "wr0ng-word")) as uploads:
            with pytest.raises(Denied, match=r"push access denied for .*: unauthorized") as refused:
                await uploads.push_blob(uploading.blob, lambda _: None)
        assert "wr0ng" not in str(refused.value)
