"""Real git servers: repositories made by the git command, served over smart HTTP (git http-backend) and git://."""

import asyncio
import base64
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from harness.fileserver import listen
from harness.live import wait_until

Files = dict[str, str | bytes]
"""Contents by path; text that starts with ``-> `` is a link's target; a path that ends in ``*`` is a program."""
_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "n",
    "GIT_AUTHOR_EMAIL": "n@test",
    "GIT_AUTHOR_DATE": "2020-09-01T10:00:00Z",
    "GIT_COMMITTER_NAME": "n",
    "GIT_COMMITTER_EMAIL": "n@test",
    "GIT_COMMITTER_DATE": "2020-09-01T10:00:00Z",
    "GIT_ALLOW_PROTOCOL": "file",
}
COMMIT_TIME = 1598954400


@dataclass
class Repository:
    """A work tree; its ``.git`` is what servers serve."""

    path: Path

    def git(self, *args: str, data: bytes | None = None) -> str:
        """What a command says."""
        done = subprocess.run(
            ["git", "-C", str(self.path), *args], env=_ENVIRONMENT, input=data, capture_output=True
        )
        assert not done.returncode, done.stderr.decode()
        return done.stdout.decode().strip()

    def commit(self, files: Files) -> str:
        """Put these files in; the commit."""
        for name, content in files.items():
            path = self.path / name.removesuffix("*")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if isinstance(content, str) and content.startswith("-> "):
                path.symlink_to(content[3:])
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
                path.chmod(0o755 if name.endswith("*") else 0o644)
        self.git("add", "-A", "--force")
        self.git("commit", "-q", "--allow-empty", "-m", "x")
        return self.git("rev-parse", "HEAD")

    def commit_tree(self, tree: list[tuple[str, str, bytes]]) -> str:
        """A commit of entries (mode, object, name), as no git command would write them."""
        raw = b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(id) for mode, id, name in tree)
        id = self.git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", data=raw)
        commit = self.git("commit-tree", "-m", "x", id)
        self.git("update-ref", "refs/heads/main", commit)
        return commit

    def blob(self, data: bytes) -> str:
        """Its object."""
        return self.git("hash-object", "-w", "--stdin", data=data)

    def tree(self, entries: list[tuple[str, str, bytes]]) -> str:
        """Its object."""
        raw = b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(id) for mode, id, name in entries)
        return self.git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", data=raw)


@dataclass
class GitServer:
    """``authorization``: what must be sent, if anything; ``requests``: paths with queries, in order."""

    folder: Path
    authorization: str = ""
    requests: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    """Authorizations that were sent."""
    port: int = 0
    moved_to: str = ""
    """Where everything is now, if it is somewhere else."""

    def make(self, name: str) -> Repository:
        """An empty repository, at ``/name.git``."""
        path = self.folder / name
        path.mkdir(parents=True)
        repository = Repository(path)
        repository.git("init", "-q", "-b", "main")
        repository.git("config", "http.receivepack", "false")
        repository.git("config", "uploadpack.allowAnySHA1InWant", "true")
        (self.folder / f"{name}.git").symlink_to(path / ".git")
        (path / ".git" / "git-daemon-export-ok").touch()
        return repository

    def url(self, name: str) -> str:
        """Of a repository."""
        return f"http://127.0.0.1:{self.port}/{name}.git"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request, by git's own CGI program."""
        self.requests.append(request.path_qs)
        sent = request.headers.get("Authorization", "")
        self.seen.append(sent)
        if self.moved_to:
            raise web.HTTPMovedPermanently(self.moved_to + request.path_qs)
        if self.authorization and sent != self.authorization:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="git"'})
        environment = {
            **_ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query_string,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "REMOTE_ADDR": "127.0.0.1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        process = await asyncio.create_subprocess_exec(
            "git", "http-backend", env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate(await request.read())
        head, _, body = out.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        return web.Response(status=status, body=body, headers=headers)


def basic(user: str, password: str) -> str:
    """An Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@asynccontextmanager
async def git_serving(folder: Path, netns: int = 0) -> AsyncIterator[GitServer]:
    """Over HTTP, on loopback."""
    server = GitServer(folder)
    app = web.Application(client_max_size=1 << 30)
    # What came compressed is git's to inflate.
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, auto_decompress=False)
    await runner.setup()
    try:
        site = web.SockSite(runner, listen(netns))
        await site.start()
        server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()


@contextmanager
def git_daemon(folder: Path) -> Iterator[str]:
    """Over git://; the beginning of its URLs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        "git",
        "daemon",
        f"--base-path={folder}",
        "--listen=127.0.0.1",
        f"--port={port}",
        "--reuseaddr",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            wait_until(lambda: _answers(port))
            yield f"git://127.0.0.1:{port}"
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
