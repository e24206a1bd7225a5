"""ADD of URLs and repositories in whole builds, on a real engine."""

import asyncio
import contextlib
import hashlib
import io
import os
import signal
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from aiohttp import web

from harness.fileserver import FileServer, listen, serving
from harness.gitserver import GitServer, git_serving
from harness.live import LiveEngine, living_engine, wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="a real engine needs root"),
]


class Bench:
    """Builds by docker-py, and looks at what came out."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client

    async def build(self, dockerfile: str, files: dict[str, bytes] | None = None, **options: Any) -> str:
        """What a build says; its image is ``fetched``. Its error is a RuntimeError."""
        try:
            return await asyncio.to_thread(self._build, dockerfile, files or {}, options)
        except docker.errors.APIError as error:
            raise RuntimeError(error.explanation) from error

    def _build(self, dockerfile: str, files: dict[str, bytes], options: dict[str, Any]) -> str:
        context = make_tar({"Dockerfile": dockerfile.encode(), **files})
        lines = self.client.api.build(
            fileobj=io.BytesIO(context), custom_context=True, tag="fetched", decode=True, **options
        )
        said = ""
        for line in lines:
            if "error" in line:
                raise RuntimeError(line["error"])
            said += line.get("stream", "")
        return said

    async def run(self, command: str) -> str:
        """What a shell in the image says."""
        out = await asyncio.to_thread(
            self.client.containers.run, "fetched", ["sh", "-c", command], remove=True, entrypoint=[]
        )
        return bytes(out).decode().strip()


def make_tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    """An archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def bench(shared_engine: LiveEngine) -> Iterator[Bench]:
    """On the shared engine."""
    with contextlib.closing(shared_engine.client()) as client:
        yield Bench(client)


@pytest.fixture
async def server(shared_engine: LiveEngine) -> AsyncIterator[FileServer]:
    """Where the engine can reach it."""
    async with serving(netns=shared_engine.netns.pid) as server:
        yield server


@pytest.fixture
async def repositories(shared_engine: LiveEngine, tmp_path: Any) -> AsyncIterator[GitServer]:
    """The same for git."""
    async with git_serving(tmp_path / "served", shared_engine.netns.pid) as server:
        yield server


async def test_urls_and_files_in_one_instruction(bench: Bench, server: FileServer) -> None:
    """Owners and modes as asked for; archives from a URL stay what they are, unless they are to be unpacked."""
    archive = make_tar({"in/side": b"i"}, "w:gz")
    server.files |= {"/a.txt": b"alpha", "/b": b"beta", "/c.tgz": archive}
    server.headers["/a.txt"] = {"Last-Modified": "Tue, 01 Sep 2020 10:00:00 GMT"}
    text = f"""FROM busybox
ARG B={server.url("/b")}
ADD {server.url("/a.txt")} $B local.tgz /d/
ADD --chmod=640 --chown=7:8 {server.url("/a.txt")} /named
ADD {server.url("/c.tgz")} /kept/
ADD --unpack {server.url("/c.tgz")} /open/
ADD --link {server.url("/b")} /linked/
ADD --unpack=false local.tgz /shut/
"""
    await bench.build(text, {"local.tgz": make_tar({"l": b"l"}, "w:gz")})
    assert await bench.run("cd /d; stat -c '%n %a %u:%g %Y' a.txt b; cat a.txt b l") == (
        "a.txt 600 0:0 1598954400\nb 600 0:0 0\nalphabetal"
    )
    assert await bench.run("stat -c '%a %u:%g' /named; cat /named") == "640 7:8\nalpha"
    assert await bench.run("cat /linked/b") == "beta"
    assert await bench.run("ls /kept /open /shut; cat /open/in/side") == (
        "/kept:\nc.tgz\n\n/open:\nin\n\n/shut:\nlocal.tgz\ni"
    )


async def test_an_unchanged_url_is_a_hit(bench: Bench, server: FileServer) -> None:
    """Nothing is sent; changed content is a miss, and so is all that stands on it."""
    server.files["/f"], server.headers["/f"] = b"one", {"ETag": '"1"'}
    text = f"FROM busybox\nADD {server.url('/f')} /\nRUN cp /f /g\n"
    await bench.build(text)
    again = await bench.build(text)
    assert again.count("Using cache") == 2 and server.sent == 1
    server.files["/f"], server.headers["/f"] = b"two", {"ETag": '"2"'}
    assert "Using cache" not in await bench.build(text)
    assert await bench.run("cat /g") == "two"


async def test_urls_are_asked_for_side_by_side(bench: Bench, server: FileServer) -> None:
    """All that the file names, before the first step: each answer waits for both questions."""
    both = asyncio.Barrier(2)

    async def together(request: web.Request) -> web.StreamResponse:
        async with asyncio.timeout(20):
            await both.wait()
        return web.Response(body=request.path.encode())

    server.files |= {"/one": together, "/two": together}
    await bench.build(f"FROM busybox\nADD {server.url('/one')} /\nRUN true\nADD {server.url('/two')} /\n")
    assert await bench.run("cat /one /two") == "/one/two"


async def test_errors_show_the_line(bench: Bench, server: FileServer) -> None:
    """With what is to be done, or who said no."""
    good = "sha256:" + hashlib.sha256(b"x").hexdigest()
    server.files["/f"] = b"one"
    url, none = server.url("/f"), server.url("/none")
    for line, message in [
        (f"ADD {none} /", f"cannot fetch {none}: invalid response status 404"),
        (f"ADD --checksum={good} {url} /", "digest mismatch"),
        (f"ADD --checksum=md5:x {url} /", "invalid checksum"),
        (f"ADD --checksum={good} {url} {url} /", "multiple sources"),
        (f"ADD --checksum={good} local /", "requires HTTP"),
        (f"COPY {url} /", "source can't be a URL for COPY"),
        ("COPY git@h:r /", "source can't be a git ref for COPY"),
        ("ADD ftp://h/x /", "ADD knows http"),
        (f"ADD {server.url('/r.git')}#-x /", "invalid git ref"),
        ("ADD git@h.test:r /", "needs an SSH agent"),
    ]:
        with pytest.raises(RuntimeError) as caught:
            await bench.build(f"FROM busybox\nRUN true\n{line}\n", {"local": b"x"})
        assert message in str(caught.value), (line, str(caught.value))
        if message != "digest mismatch":
            assert "Dockerfile:3" in str(caught.value), str(caught.value)


async def test_a_repository(bench: Bench, repositories: GitServer) -> None:
    """Its files below the destination, under the image's other files; its .git if asked for."""
    repository = repositories.make("r")
    repository.commit({"a": "x", "d/run*": "#!/bin/sh\necho ran", "l": "-> a"})
    repository.git("tag", "v1")
    url = repositories.url("r")
    text = f"""FROM busybox
ADD {url}#v1 /src
ADD --chown=7 {url}?ref=v1&subdir=d /part/
ADD --keep-git-dir=true {url} /whole
RUN /part/run > /out
"""
    await bench.build(text)
    assert await bench.run("cat /out /src/l; ls -A /src; stat -c '%u %a' /part/run; ls -A /whole") == (
        "ran\nxa\nd\nl\n7 755\n.git\na\nd\nl"
    )
    repositories.requests.clear()
    assert (await bench.build(text)).count("Using cache") == 4
    assert not [path for path in repositories.requests if path.startswith("/r.git/objects")]
    commit = repository.commit({"a": "y"})
    assert (await bench.build(text)).count("Using cache") == 2
    with pytest.raises(RuntimeError, match=r"expected checksum to match abcd, got " + commit):
        await bench.build(f"FROM busybox\nADD --checksum=abcd {url} /\n")


async def test_what_is_kept_shows_and_goes(bench: Bench, server: FileServer, repositories: GitServer) -> None:
    """In the disk usage, and with a prune."""
    server.files["/kept"] = b"kept"
    repositories.make("kept").commit({"f": "x"})
    await bench.build(f"FROM busybox\nADD {server.url('/kept')} {repositories.url('kept')} /\n")
    records = await asyncio.to_thread(bench.client.api.df)
    titles = [record["Description"] for record in records["BuildCache"]]
    assert f"http url {server.url('/kept')}" in titles
    assert f"shared git repo for {repositories.url('kept')}" in titles
    await asyncio.to_thread(bench.client.api.prune_builds, all=True)
    records = await asyncio.to_thread(bench.client.api.df)
    assert not [r for r in records["BuildCache"] or () if "kept" in r["Description"]]


def processes_of(text: str) -> list[bytes]:
    """Command lines that have ``text`` in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if text.encode() in line:
                found.append(line)
    return found


async def test_a_killed_engine_leaves_no_git(tmp_path: Path) -> None:
    """Git and all its helpers die with it; so does the build of a client that goes away."""
    connected = asyncio.Semaphore(0)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.release()
        await reader.read()
        writer.close()

    with living_engine(tmp_path) as engine:
        listener = await asyncio.start_server(hang, sock=listen(engine.netns.pid))
        async with listener:
            base = f"git://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
            body = make_tar({"Dockerfile": f"FROM scratch\nADD {base}r /\n".encode()})
            head = f"POST /build HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            for end in ("client", "engine"):
                _, client = await asyncio.open_unix_connection(engine.socket)
                client.write(head + body)
                async with asyncio.timeout(20):
                    await connected.acquire()
                assert processes_of(base)
                if end == "client":
                    client.close()
                else:
                    engine.stop(signal.SIGKILL)
                await asyncio.to_thread(wait_until, lambda: not processes_of(base), 5)
                client.close()
