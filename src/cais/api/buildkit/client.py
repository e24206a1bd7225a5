"""What a client's session gives to a build: its folders, secrets, SSH agents and credentials."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path

from cais.api.buildkit.filesync import receive_folder
from cais.api.buildkit.messages import BytesMessage, Empty
from cais.api.buildkit.sessions import Session
from cais.api.buildkit.sessionwire import (
    AgentRequest,
    CredentialsRequest,
    CredentialsResponse,
    SecretRequest,
    SecretResponse,
)
from cais.build.context import Context, Index
from cais.build.inputs import MAIN, DockerfileText, read_dockerfile
from cais.build.synced import SyncedStore
from cais.errors import Invalid, NotFound, Unavailable
from cais.grpc.calls import Call
from cais.grpc.status import Code, RpcError
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.spec.ignore import Ignore

_SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
_CHECK_AGENT = "/moby.sshforward.v1.SSH/CheckAgent"
_FORWARD_AGENT = "/moby.sshforward.v1.SSH/ForwardAgent"
_CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
_PULL = "/moby.upload.v1.Upload/Pull"
_HUB = "registry-1.docker.io"
_EVERYTHING = Ignore()
SECRET_LIMIT = 500 << 10
"""Bytes of a secret, as in BuildKit."""


class SessionInputs:
    """Inputs: the folders ``context`` and ``dockerfile`` of a client, and others by name. ``folder`` is the build's."""

    def __init__(self, session: Session, store: SyncedStore, attrs: Mapping[str, str], folder: Path) -> None:
        self._session = session
        self._store = store
        self._context = attrs.get("contextkey", MAIN)
        self._dockerfile = attrs.get("dockerfilekey", "dockerfile")
        self._folder = folder

    async def dockerfile(self, name: str) -> DockerfileText:
        """Inputs.dockerfile. The ignore file beside it goes before the context's own."""
        wanted = {name, f"{name}.dockerignore"} | ({"dockerfile"} if name == "Dockerfile" else set())
        texts, ignores = await asyncio.gather(
            self._receive(self._dockerfile, _EVERYTHING, wanted),
            self._receive(self._context, _EVERYTHING, {".dockerignore"}),
        )
        whole = Context(texts)
        try:
            text = read_dockerfile(whole, name)
        finally:
            whole.close()
        if text.ignore is not None:
            return text
        context = Context(ignores)
        try:
            with suppress(NotFound):
                return DockerfileText(text.name, text.data, context.read_text(".dockerignore"))
        finally:
            context.close()
        return text

    async def context(
        self, name: str, ignore: Ignore, folder: Path, paths: frozenset[str] | None = None
    ) -> Index:
        """Inputs.context."""
        local = self._context if name == MAIN else name
        return await self._receive(local, ignore, paths)

    async def _receive(self, name: str, ignore: Ignore, paths: "frozenset[str] | set[str] | None") -> Index:
        return await receive_folder(
            self._session, self._store, name, self._folder, ignore=ignore, paths=sorted(paths or ())
        )


async def pull_upload(session: Session, path: str) -> AsyncIterator[bytes]:
    """The bytes of a stream that the client holds under this path: a context from its standard input."""
    call = session.channel.call(_PULL, {"urlpath": (path,)})
    try:
        async for message in call.messages(BytesMessage):
            yield message.data
    except RpcError as error:
        raise Unavailable(f"the client's stream broke off: {error.message}") from error
    finally:
        call.cancel()


class SessionSecrets:
    """Secrets: asked for one by one."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get(self, id: str) -> bytes | None:
        """Secrets.get."""
        if not self._session.offers(_SECRET):
            return None
        try:
            answer = await self._session.channel.unary(_SECRET, SecretRequest(id=id), SecretResponse)
        except RpcError as error:
            if error.code == Code.NOT_FOUND:
                return None
            raise Unavailable(f"the client could not give the secret {id}: {error.message}") from error
        if len(answer.data) > SECRET_LIMIT:
            raise Invalid(f"the secret {id} is larger than {SECRET_LIMIT} bytes")
        return answer.data


class SessionAgents:
    """Agents: every connection is a call of its own."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tasks: set[asyncio.Task[None]] = set()

    async def has(self, id: str) -> bool:
        """Agents.has."""
        if not self._session.offers(_CHECK_AGENT):
            return False
        try:
            await self._session.channel.unary(_CHECK_AGENT, AgentRequest(id=id), Empty)
        except RpcError:
            return False
        return True

    async def connect(self, id: str) -> socket.socket:
        """Agents.connect."""
        if not self._session.offers(_FORWARD_AGENT):
            raise NotFound(f"no SSH agent {id!r} is forwarded: build with --ssh {id}")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        call = self._session.channel.call(_FORWARD_AGENT, {"buildkit.ssh.id": (id,)})
        task = asyncio.create_task(_relay(call, ours))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return theirs


async def _relay(call: Call, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()

    async def up() -> None:
        while data := await loop.sock_recv(sock, 32 << 10):
            await call.send(BytesMessage(data=data))
        await call.end()

    async def down() -> None:
        async for message in call.messages(BytesMessage):
            await loop.sock_sendall(sock, message.data)
        sock.shutdown(socket.SHUT_WR)

    try:
        await asyncio.gather(up(), down())
    except (OSError, RpcError, Invalid):
        pass  # the step or the client has gone
    finally:
        call.cancel()
        sock.close()


def session_credentials(session: Session) -> "CredentialsOf":
    """What the client knows of registries, asked for one by one."""
    return CredentialsOf(session)


class CredentialsOf:
    """A callable for ``BuildRequest.credentials``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def __call__(self, domain: str) -> Credentials:
        if not self._session.offers(_CREDENTIALS):
            return ANONYMOUS
        host = _HUB if domain == "docker.io" else domain
        try:
            answer = await self._session.channel.unary(
                _CREDENTIALS, CredentialsRequest(host=host), CredentialsResponse
            )
        except RpcError:
            return ANONYMOUS
        if not answer.secret:
            return ANONYMOUS
        if not answer.username:
            return Credentials(identity_token=answer.secret)
        return Credentials(answer.username, answer.secret)
