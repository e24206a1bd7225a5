"""Files behind URLs, from a real server: asked for as rarely as possible, and never taken for what they are not."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from cais.build.context import Context
from cais.build.dockerfile.evaluate import CopyAct
from cais.build.fetch.download import Downloads
from cais.build.fetch.fetcher import Fetcher
from cais.build.fetch.files import Files
from cais.build.fetch.sources import UrlSource
from cais.build.fetch.store import FetchedStore
from cais.errors import Corrupt, Denied, Invalid, NotFound, Unavailable
from cais.store.workers import Workers
from harness.fetching import Builds
from harness.fileserver import FileServer, serving
from harness.registry import make_certificate

DATE = "Tue, 01 Sep 2020 10:00:00 GMT"


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    """Empty."""
    async with serving() as server:
        yield server


@pytest.fixture
async def fetcher(tmp_path: Path) -> AsyncIterator[Fetcher]:
    """Of an engine in ``tmp_path``."""
    workers = Workers(1)
    fetcher = Fetcher(tmp_path, workers)
    yield fetcher
    await fetcher.close()
    await workers.close()


@pytest.fixture
def builds(fetcher: Fetcher, tmp_path: Path) -> Builds:
    """Of ``fetcher``."""
    return Builds(fetcher, tmp_path)


async def content_of(files: Files) -> tuple[bytes, int, int]:
    """Bytes, mode and time of the one file."""
    tree = Context(await files.load())
    node = tree.look(files.path)
    assert node is not None
    try:
        return b"".join(tree.read(files.path)), node.mode, node.mtime
    finally:
        tree.close()


async def test_a_file_is_private_and_dated_by_the_server(server: FileServer, builds: Builds) -> None:
    """As BuildKit has it: mode 0600, the time of Last-Modified, or none."""
    server.files |= {"/a/f.bin": b"one", "/plain": b""}
    server.headers["/a/f.bin"] = {"Last-Modified": DATE}
    files = await builds.look(server.url("/a/f.bin?q=1"))
    assert files.path == b"f.bin" and await content_of(files) == (b"one", 0o600, 1598954400)
    assert await content_of(await builds.look(server.url("/plain"))) == (b"", 0o600, 0)


async def test_what_has_not_changed_is_not_sent_again(server: FileServer, builds: Builds) -> None:
    """By its entity tag or its date; the key is that of the content."""
    server.files |= {"/tag": b"one", "/date": b"one"}
    server.headers |= {"/tag": {"ETag": '"1"'}, "/date": {"Last-Modified": DATE}}
    first = [await builds.look(server.url(path)) for path in ("/tag", "/date")]
    again = [await builds.look(server.url(path)) for path in ("/tag", "/date")]
    assert server.sent == 2 and [files.key for files in first] == [files.key for files in again]
    assert (await content_of(again[0]))[0] == b"one"
    server.files["/tag"], server.headers["/tag"] = b"two", {"ETag": '"2"'}
    changed = await builds.look(server.url("/tag"))
    assert changed.key != first[0].key and (await content_of(changed))[0] == b"two"


async def test_the_same_content_is_the_same_whatever_the_server_says_of_it(
    server: FileServer, builds: Builds
) -> None:
    """A server without tags sends it again, and the step is a hit all the same."""
    server.files["/f"] = b"one"
    keys = {(await builds.look(server.url("/f"))).key for _ in range(2)}
    assert server.sent == 2 and len(keys) == 1


async def test_one_build_asks_once(server: FileServer, builds: Builds) -> None:
    """However often a file is named, and at the same time."""
    server.files["/f"] = b"one"
    build = builds.new()
    act = CopyAct((server.url("/f"),), (), "/x/", is_add=True)
    await asyncio.gather(*(build.look(act) for _ in range(5)))
    assert len(server.requests) == 1


async def test_a_pinned_file_is_asked_for_when_it_is_needed(server: FileServer, builds: Builds) -> None:
    """Its key is known without a server; what is here under its digest is not asked for at all."""
    server.files["/f"] = b"one"
    digest = "sha256:" + hashlib.sha256(b"one").hexdigest()
    files = await builds.look(server.url("/f"), checksum=digest)
    assert not server.requests
    assert (await content_of(files))[0] == b"one" and server.sent == 1
    other = await builds.look(server.url("/elsewhere/f"), checksum=digest)
    assert (await content_of(other))[0] == b"one" and server.sent == 1 and other.key == files.key


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
async def test_a_checksum_that_does_not_fit(server: FileServer, builds: Builds, algorithm: str) -> None:
    """Named with both."""
    server.files["/f"] = b"one"
    good, bad = (f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}" for data in (b"one", b"x"))
    assert (await content_of(await builds.look(server.url("/f"), checksum=good)))[0] == b"one"
    with pytest.raises(Invalid, match=f"digest mismatch for {server.url('/f')}: {good}.*expected: {bad}"):
        await (await builds.look(server.url("/f"), checksum=bad)).load()


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (410, NotFound), (403, Denied), (418, Unavailable)]
)
async def test_refusals_name_url_and_status(
    server: FileServer, builds: Builds, status: int, kind: type[Exception]
) -> None:
    """Without what may be secret in the URL."""

    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    server.files["/f"] = refuse
    with pytest.raises(kind, match=f"{server.url('/f')}: invalid response status {status}") as caught:
        await builds.look(server.url("/f?token=s3cret"))
    assert "s3cret" not in str(caught.value) and len(server.requests) == 1


async def test_what_may_pass_is_tried_again(server: FileServer, builds: Builds) -> None:
    """A busy server, a connection that ends too early."""
    tries = 0

    async def moody(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        if tries == 1:
            return web.Response(status=503)
        if tries == 2:
            response = web.StreamResponse(headers={"Content-Length": "100"})
            await response.prepare(request)
            await response.write(b"half")
            assert request.transport is not None
            request.transport.close()
            return response
        return web.Response(body=b"whole")

    server.files["/f"] = moody
    assert (await content_of(await builds.look(server.url("/f"))))[0] == b"whole"


async def test_nobody_there(builds: Builds) -> None:
    """Said with the URL, password left out."""
    with pytest.raises(Unavailable, match=r"cannot fetch http://127\.0\.0\.1:1/f: ") as caught:
        await builds.look("http://u:s3cret@127.0.0.1:1/f")
    assert "s3cret" not in str(caught.value)


async def test_redirects_are_followed_so_far(server: FileServer, builds: Builds) -> None:
    """The name is that of the URL that was asked for; a ring ends."""

    async def move(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(request.path + "x" if len(request.path) < 20 else "/goal")

    async def ring(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/ring")

    server.files |= {"/" + "x" * count: move for count in range(17, 20)}
    server.files |= {"/xxxxxxxxxxxxxxxxxxx": move, "/goal": b"here", "/ring": ring}
    files = await builds.look(server.url("/xxxxxxxxxxxxxxxxxxx"))
    assert files.path == b"x" * 19 and (await content_of(files))[0] == b"here"
    with pytest.raises(Unavailable, match="stopped after 10 redirects"):
        await builds.look(server.url("/ring"))
    assert [path for _, path, _ in server.requests].count("/ring") == 11


async def test_passwords_go_to_the_named_server_only(server: FileServer, builds: Builds) -> None:
    """And not where it sends us."""
    async with serving() as other:

        async def move(request: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(other.url("/f"))

        server.files["/f"] = move
        other.files["/f"] = b"x"
        url = server.url("/f").replace("//", "//me:s3cret@")
        assert (await content_of(await builds.look(url)))[0] == b"x"
        assert "Authorization" in server.requests[0][2] and "Authorization" not in other.requests[0][2]


async def test_servers_must_prove_who_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FileServer
) -> None:
    """A certificate that nobody vouches for is refused; so is a way from TLS to none, unless the bytes are known."""
    cert, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    server.files["/f"] = b"x"

    async def down(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(server.url("/f"))

    workers = Workers(1)
    async with serving(context) as secure:
        secure.files |= {"/f": b"secure", "/down": down}
        url, way_down = (f"https://127.0.0.1:{secure.port}{path}" for path in ("/f", "/down"))
        fetcher = Fetcher(tmp_path, workers)
        with pytest.raises(Unavailable, match="certificate cannot be verified"):
            await Builds(fetcher, tmp_path).look(url)
        await fetcher.close()
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        fetcher = Fetcher(tmp_path, workers)
        (tmp_path / "trusting").mkdir()
        builds = Builds(fetcher, tmp_path / "trusting")
        assert (await content_of(await builds.look(url)))[0] == b"secure"
        with pytest.raises(Denied, match="without TLS"):
            await builds.look(way_down)
        digest = "sha256:" + hashlib.sha256(b"x").hexdigest()
        assert (await content_of(await builds.look(way_down, checksum=digest)))[0] == b"x"
        await fetcher.close()
    await workers.close()


async def test_names_without_a_path(server: FileServer, builds: Builds) -> None:
    """What the server calls it, never a way out; or BuildKit's word for it."""
    server.files["/"] = b"x"
    server.headers["/"] = {"Content-Disposition": 'attachment; filename="../../etc/evil"'}
    assert (await builds.look(server.url("/"))).path == b"evil"
    server.headers["/"] = {}
    assert (await builds.look(server.url("/"))).path == b"__unnamed__"


async def test_too_large_a_file_is_refused(server: FileServer, tmp_path: Path) -> None:
    """By what the server announces, and by what it sends; nothing is left."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(10):
            await response.write(bytes(1000))
        return response

    server.files |= {"/f": bytes(10_000), "/g": drip}
    downloads = Downloads(FetchedStore(tmp_path), max_bytes=5000)
    try:
        for path in ("/f", "/g"):
            with pytest.raises(Invalid, match=f"{server.url(path)} is larger than 5000 bytes"):
                await downloads.get(UrlSource(server.url(path)), tmp_path / "target")
    finally:
        await downloads.close()
    assert not list((tmp_path / "build" / "fetched").iterdir())


async def test_a_damaged_copy_is_found(server: FileServer, builds: Builds, tmp_path: Path) -> None:
    """It is never put into a layer, and fetched anew the next time."""
    server.files["/f"], server.headers["/f"] = b"one", {"ETag": '"1"'}
    await builds.look(server.url("/f"))
    (body,) = (path for path in (tmp_path / "build" / "fetched").iterdir() if path.suffix != ".json")
    body.write_bytes(b"eno")
    with pytest.raises(Corrupt, match="damaged on disk"):
        await (await builds.look(server.url("/f"))).load()
    assert (await content_of(await builds.look(server.url("/f"))))[0] == b"one" and server.sent == 2


async def test_what_is_kept_is_counted_and_can_go(
    server: FileServer, builds: Builds, fetcher: Fetcher, tmp_path: Path
) -> None:
    """A build that has it goes on; the store survives a restart, and half a download does not."""
    server.files["/f"], server.headers["/f"] = b"one", {"ETag": '"1"'}
    files = await builds.look(server.url("/f?sig=s3cret"))
    half = tmp_path / "build" / "fetched" / ".tmp-x"
    half.write_bytes(b"half")
    (usage,) = FetchedStore(tmp_path).usage()
    assert usage.size == 3 and usage.title == f"http url {server.url('/f')}" and not half.exists()
    assert b"s3cret" not in b"".join(p.read_bytes() for p in half.parent.iterdir())
    assert fetcher.forget([usage.id, "nothing"]) == 3 and fetcher.usage() == []
    assert (await content_of(files))[0] == b"one" and not list(half.parent.iterdir())


async def test_a_cancelled_download_leaves_nothing(
    server: FileServer, builds: Builds, tmp_path: Path
) -> None:
    """And is fetched whole by the next build."""
    begun = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        begun.set()
        await asyncio.Event().wait()
        return response

    server.files["/f"] = hang
    task = asyncio.create_task(builds.look(server.url("/f")))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not list((tmp_path / "build" / "fetched").iterdir())
    server.files["/f"] = b"whole"
    assert (await content_of(await builds.look(server.url("/f"))))[0] == b"whole"
