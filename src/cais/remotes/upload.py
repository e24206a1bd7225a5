"""One repository to push into: blobs, by mount or upload, and manifests (distribution spec, "Push")."""

import asyncio
import errno
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from cais.errors import CaisError, Corrupt, NotFound, Unauthenticated, Unavailable
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.remotes.client import ACCEPT, Patience, Remotes, read_seconds
from cais.remotes.hosts import Host, is_loopback
from cais.remotes.refusals import Interrupted, LostUpload, TooLarge, clean_text, make_push_refusal
from cais.remotes.transport import Ask, Transport, find_location, read_body
from cais.spec.digest import Digest
from cais.spec.reference import Reference

T = TypeVar("T")

PIECE = 1 << 20
"""Bytes that are read and sent at once."""
CHUNK = 32 << 20
"""Bytes of one request, for registries that do not take a whole blob in one."""
_MAX_MOUNTS = 3
_ERROR_LIMIT = 64 << 10
_STALL_SECONDS = 60.0
_ENOUGH = 1 << 20
"""Bytes that make an interrupted upload worth as many new attempts as the first had."""
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")
_BINARY = "application/octet-stream"


class Blob(msgspec.Struct, frozen=True):
    """What is to be there: ``size`` bytes in the file ``path``."""

    digest: Digest
    size: int
    path: Path


def open_uploads(
    remotes: Remotes,
    reference: Reference,
    credentials: Credentials = ANONYMOUS,
    *,
    mounts: Sequence[str] = (),
) -> "Uploads":
    """The repository of ``reference`` to push into; nothing is sent yet. ``mounts``: paths of other repositories of
    the same registry that blobs may be mounted from, for the token to allow."""
    scopes = [f"repository:{reference.path}:pull,push", *(f"repository:{path}:pull" for path in mounts)]
    transport = Transport(remotes.hosts, credentials, extra=" ".join(scopes))
    host = remotes.hosts.origin(reference.domain)
    return Uploads(reference, host, transport, remotes.patience, credentials)


class Uploads:
    """Pushes into one repository, side by side; a context manager."""

    def __init__(
        self,
        reference: Reference,
        host: Host,
        transport: Transport,
        patience: Patience,
        credentials: Credentials,
    ) -> None:
        self.reference = reference
        self._host = host
        self._transport = transport
        self._patience = patience
        self._secrets = credentials.secrets()
        self._chunk = 0  # 0: whole blobs in one request

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    # Blobs

    async def has_blob(self, digest: Digest) -> bool:
        """Whether the repository has the blob. Raises Denied, Unauthenticated, Unavailable."""
        return await self._persist(lambda: self._head_blob(digest))

    async def mount(self, digest: Digest, sources: Sequence[str]) -> str:
        """Have the blob taken over from another repository of the registry: the first of ``sources`` (paths) that
        has it; empty if none has. Raises what ``has_blob`` raises."""
        for source in sources[:_MAX_MOUNTS]:
            if await self._persist(lambda source=source: self._try_mount(digest, source)):  # type: ignore[misc]
                return source
        return ""

    async def push_blob(self, blob: Blob, tell: Callable[[int], None]) -> None:
        """Upload the blob; an upload that was cut goes on where the registry says it stands. ``tell`` is called with
        how many bytes are on their way.

        Raises Denied, Unauthenticated, Unsupported, Corrupt (the bytes are not what their digest says, or did not
        arrive so), Unavailable.
        """
        failures, good = 0, 0
        upload: _Upload | None = None
        while True:
            try:
                if failures and await self._head_blob(blob.digest):
                    return  # it was only the answer that was lost
                if failures and upload and not await self._find_offset(upload, blob):
                    upload = None  # from the beginning, but not for ever: ``good`` stays
                if upload is None:
                    location = await self._start(blob.digest)
                    if location is None:
                        return
                    upload = _Upload(location)
                await self._finish(upload, blob, tell)
                return
            except TooLarge:
                if self._chunk:
                    raise
                self._chunk, upload, failures = CHUNK, None, failures + 1
            except Interrupted as error:
                if upload and upload.offset - good >= _ENOUGH:
                    good, failures = upload.offset, 0
                failures += 1
                pause = self._patience.pause(failures, error)
                if pause is None or not (error.is_answered or upload):
                    raise
                if isinstance(error, LostUpload):
                    upload = None
                await asyncio.sleep(pause)

    async def _head_blob(self, digest: Digest) -> bool:
        ask = Ask("HEAD", f"{self.reference.path}/blobs/{digest}", is_pinned=True)
        async with self._send(ask, f"blob {digest}") as response:
            if response.status in (401, 403, 429) or response.status >= 500:
                await self._refuse(response, f"blob {digest}")
            return response.status == 200

    async def _try_mount(self, digest: Digest, source: str) -> bool:
        """False if the registry has begun an ordinary upload instead (it is given up), or will not hear of it."""
        ask = Ask(
            "POST", f"{self.reference.path}/blobs/uploads/?mount={digest}&from={quote(source, safe='')}"
        )
        async with self._send(ask, f"blob {digest}") as response:
            if response.status == 429 or response.status >= 500:
                await self._refuse(response, f"blob {digest}")
            if response.status == 202 and "Location" in response.headers:
                await self._give_up(find_location(response))
            return response.status == 201

    async def _give_up(self, location: URL) -> None:
        """Let the registry forget an upload; whether it does is its own affair."""
        try:
            async with self._send(Ask("DELETE", "", url=location), "upload"):
                return
        except CaisError:
            return

    async def _start(self, digest: Digest) -> URL | None:
        """Where to upload to; None: the registry has taken the blob from where it lies. One on this machine is asked to
        (our hub shares the engine's store); those that cannot begin an upload all the same (distribution spec,
        "Mounting a blob from another repository")."""
        near = is_loopback(URL(f"//{self._host.name}").host or "")
        path = f"{self.reference.path}/blobs/uploads/"
        if near:
            async with self._send(Ask("POST", f"{path}?mount={digest}"), f"blob {digest}") as response:
                if response.status == 201:
                    return None
                if response.status == 202:
                    return find_location(response)
                if response.status not in (400, 404, 405, 501):
                    await self._refuse(response, f"blob {digest}")
        async with self._send(Ask("POST", path), f"blob {digest}") as response:
            if response.status != 202:
                await self._refuse(response, f"blob {digest}")
            return find_location(response)

    async def _find_offset(self, upload: "_Upload", blob: Blob) -> bool:
        """How far the registry got (distribution spec, "Pushing a blob in chunks"); False if it has lost the upload.
        Docker's registry loses what was cut: what it has does not fit what its address says."""
        async with self._send(Ask("GET", "", url=upload.location), f"blob {blob.digest}") as response:
            found = _RANGE.fullmatch(response.headers.get("Range", ""))
            if response.status == 429 or response.status >= 500:
                await self._refuse(response, f"blob {blob.digest}")
            if response.status not in (200, 202, 204) or (found and int(found[1]) >= blob.size):
                return False
            # "0-0" is what registries say for nothing at all, though it could be one byte: that one is sent again.
            upload.offset = int(found[1]) + 1 if found and int(found[1]) else 0
            if "Location" in response.headers:
                upload.location = find_location(response)
            return True

    async def _finish(self, upload: "_Upload", blob: Blob, tell: Callable[[int], None]) -> None:
        """Send what is missing: the last part with the digest, which makes it a blob."""
        while self._chunk and blob.size - upload.offset > self._chunk:
            await self._send_part(upload, blob, upload.offset + self._chunk, tell)
        await self._send_part(upload, blob, blob.size, tell)

    async def _send_part(self, upload: "_Upload", blob: Blob, end: int, tell: Callable[[int], None]) -> None:
        is_last = end == blob.size
        url = _with_digest(upload.location, blob.digest) if is_last else upload.location
        headers = {"Content-Type": _BINARY}
        if upload.offset or not is_last:
            headers["Content-Range"] = f"{upload.offset}-{end - 1}"
        if upload.offset == end:
            headers.pop("Content-Range", None)
        start, part = upload.offset, _Part(blob, upload.offset, end, tell)
        ask = Ask("PUT" if is_last else "PATCH", "", headers, url=url, body=part.open, size=end - start)
        async with part.watch(), self._send(ask, f"blob {blob.digest}", part) as response:
            if response.status not in ((200, 201, 204) if is_last else (202, 204)):
                await self._refuse(response, f"blob {blob.digest}")
            if is_last:
                _compare_digest(response, blob.digest, f"blob {blob.digest}")
                return
            upload.location = find_location(response)
        upload.offset = end

    # Manifests

    async def has_manifest(self, name: str, digest: Digest) -> bool:
        """Whether ``name``, a tag or digest, stands for ``digest`` there already."""

        async def head() -> bool:
            path = f"{self.reference.path}/manifests/{name}"
            async with self._send(Ask("HEAD", path, {"Accept": ACCEPT}), f"manifest {name}") as response:
                if response.status == 429 or response.status >= 500:
                    await self._refuse(response, f"manifest {name}")
                return response.status == 200 and response.headers.get("Docker-Content-Digest") == digest

        return await self._persist(head)

    async def push_manifest(self, name: str, digest: Digest, media_type: str, data: bytes) -> None:
        """Put ``data`` there under ``name``, its own digest or a tag. All that it names must be there.

        Raises Denied, Unauthenticated, Unsupported, Corrupt, Unavailable.
        """

        async def put() -> None:
            path = f"{self.reference.path}/manifests/{name}"
            ask = Ask("PUT", path, {"Content-Type": media_type}, body=lambda: data, size=len(data))
            async with self._send(ask, f"manifest {name}") as response:
                if response.status not in (200, 201, 202, 204):
                    await self._refuse(response, f"manifest {name}")
                _compare_digest(response, digest, f"manifest {name}")

        await self._persist(put)

    # Requests

    async def _persist(self, act: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        while True:
            try:
                return await act()
            except Interrupted as error:
                failures += 1
                pause = self._patience.pause(failures, error)
                if pause is None or not error.is_answered:
                    raise
                await asyncio.sleep(pause)

    @asynccontextmanager
    async def _send(
        self, ask: Ask, what: str, part: "_Part | None" = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer. What goes wrong on the way names ``what``; a file that cannot be read is its own error."""
        try:
            async with self._transport.send(self._host, ask) as response:
                try:
                    yield response
                finally:
                    if part and not part.is_sent:
                        # Refused in the middle: what is on its way would hold the connection open until it is read.
                        if response.connection and response.connection.transport:
                            response.connection.transport.abort()
                        response.close()
        except Interrupted as error:
            if part and part.failure:
                raise part.failure from error
            if isinstance(error, LostUpload) or what in str(error):
                raise
            raise Interrupted(
                f"cannot push {what} to {self.reference.familiar_name}: {error}",
                after=error.after,
                is_answered=error.is_answered,
            ) from error
        except Unauthenticated as error:
            raise Unauthenticated(
                f"push access denied for {self.reference.familiar_name}, repository does not exist or may require "
                f"'docker login': {error}"
            ) from error

    async def _refuse(self, response: aiohttp.ClientResponse, what: str) -> None:
        """Raise what the answer means."""
        body = await read_body(response, _ERROR_LIMIT)
        after = read_seconds(response.headers.get("Retry-After", ""))
        refusal = make_push_refusal(
            response.status, body, self.reference, what, secrets=self._secrets, after=after
        )
        raise refusal if response.status >= 400 else Unavailable(str(refusal))


class _Upload(msgspec.Struct):
    """An upload that the registry has begun: where it goes on, and how many bytes are there."""

    location: URL
    offset: int = 0


class _Part:
    """Bytes of a blob on their way: read in a thread, in big pieces."""

    def __init__(self, blob: Blob, start: int, end: int, tell: Callable[[int], None]) -> None:
        self._blob = blob
        self._start = start
        self._end = end
        self._tell = tell
        self._deadline: asyncio.Timeout | None = None
        self._fd = -1
        self.is_sent = False
        self.failure: CaisError | OSError | None = None

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        """TimeoutError (as Interrupted) when the server takes no bytes for a minute: HTTP's own limits begin after
        the last one."""
        try:
            async with asyncio.timeout(None) as self._deadline:
                try:
                    yield
                finally:
                    self._deadline = None  # who sends may end later than we do, or never be told
                    self._close()
        except TimeoutError as error:
            raise Interrupted(f"cannot push blob {self._blob.digest}: i/o timeout") from error

    def _move_deadline(self, seconds: float | None) -> None:
        if self._deadline:
            self._deadline.reschedule(seconds and asyncio.get_running_loop().time() + seconds)

    def open(self) -> "_Once":
        """The bytes, from the start."""
        return _Once(self._read())

    async def _read(self) -> AsyncIterator[bytes]:
        self.is_sent = False
        try:
            self._reopen()
            at = self._start
            while at < self._end:
                self._move_deadline(_STALL_SECONDS)
                # pread: should the descriptor be closed and another's under a thread, nothing of that is moved.
                piece = await asyncio.to_thread(os.pread, self._fd, min(PIECE, self._end - at), at)
                if not piece:
                    raise Corrupt(f"blob {self._blob.digest} has fewer than {self._blob.size} bytes here")
                at += len(piece)
                yield piece
                self._tell(at)
            self.is_sent = True
        except (CaisError, OSError) as error:
            self.failure = error
            raise
        finally:
            self._move_deadline(None)

    def _reopen(self) -> None:
        self._close()
        try:
            self._fd = os.open(self._blob.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"no such blob: {self._blob.digest}") from None

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class _Once:
    """An iterable that can be iterated once. aiohttp sends a PUT again by itself when the connection breaks, all of it:
    before that it is to be asked how much is there."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts: AsyncIterator[bytes] | None = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        parts, self._parts = self._parts, None
        if parts is None:
            raise ConnectionResetError(errno.ECONNRESET, "the connection broke")
        return parts


def _with_digest(location: URL, digest: Digest) -> URL:
    """The location with the digest in its query, which is kept as the server wrote it: it may be signed."""
    text = str(location)
    return URL(f"{text}{'&' if '?' in text else '?'}digest={quote(digest, safe='')}", encoded=True)


def _compare_digest(response: aiohttp.ClientResponse, digest: Digest, what: str) -> None:
    """Raise Corrupt if the server says that it got something else."""
    said = response.headers.get("Docker-Content-Digest", digest)
    if said != digest and said.startswith(f"{digest.algorithm}:"):
        raise Corrupt(f"the registry says that {what} is {clean_text(said)} there")
