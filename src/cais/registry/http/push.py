"""Writing: uploads in all their forms, manifests, removals."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from cais.errors import CaisError, Corrupt
from cais.registry.base import Action, Caller, Gate, Upload
from cais.registry.documents import MAX_MANIFEST
from cais.registry.http.ask import Ask, answer
from cais.registry.naming import parse_digest_text, parse_name, parse_ref, parse_upload
from cais.registry.refusal import Refusal
from cais.registry.registry import Registry
from cais.registry.turns import Busy, Turns
from cais.spec.digest import Digest

CHUNK = 1 << 20
"""Bytes that are gathered before they are hashed and written: fewer hand-overs to a thread."""
MANY = 4096
"""Pieces that are gathered at most: a client may send one byte at a time."""
TURN = 3.0
"""Seconds that a request waits for another one that writes to the same upload."""
_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/(?:\d+|\*))?")


class Pusher:
    """The routes that change a repository. ``max_blob``: bytes of one blob at most; 0: no limit."""

    def __init__(self, registry: Registry, gate: Gate, max_blob: int = 0) -> None:
        self._registry = registry
        self._gate = gate
        self._max_blob = max_blob
        self._turns = Turns()

    # Uploads

    async def start(self, ask: Ask) -> web.StreamResponse:
        """POST ``/v2/<name>/blobs/uploads/``: begin one, or mount, or send all at once."""
        if "mount" in ask.query and await self._try_mount(ask):
            return _created(ask.repository, parse_digest_text(ask.query["mount"]))
        if "digest" in ask.query:
            digest = parse_digest_text(ask.query["digest"])
            upload = await self._registry.blobs.start(ask.repository)
            try:
                await self._receive(ask, upload)
                await self._finish(ask, upload, digest)
            finally:
                await upload.abort()
            return _created(ask.repository, digest)
        upload = await self._registry.blobs.start(ask.repository)
        return _accepted(ask.repository, upload, 202)

    async def chunk(self, ask: Ask) -> web.StreamResponse:
        """PATCH: add what comes to the upload."""
        async with self._turn(ask) as upload:
            self._check_order(ask, upload)
            await self._receive(ask, upload)
            return _accepted(ask.repository, upload, 202)

    async def finish(self, ask: Ask) -> web.StreamResponse:
        """PUT: the last of it, perhaps all of it or nothing, and what it must be."""
        digest = parse_digest_text(ask.query.get("digest", ""))
        async with self._turn(ask) as upload:
            self._check_order(ask, upload)
            await self._receive(ask, upload)
            await self._finish(ask, upload, digest)
        return _created(ask.repository, digest)

    async def status(self, ask: Ask) -> web.StreamResponse:
        """GET: how much has arrived. Of a request whose client has just gone, what had come is still being written: it
        is waited for, or the client would take up the upload in the wrong place."""
        with suppress(Refusal):
            async with self._turn(ask):
                pass
        return _accepted(ask.repository, await self._find(ask), 204)

    async def cancel(self, ask: Ask) -> web.StreamResponse:
        """DELETE: forget it."""
        async with self._turn(ask) as upload:
            await upload.abort()
        return answer(204)

    async def _find(self, ask: Ask) -> Upload:
        return await self._registry.find_upload(ask.repository, parse_upload(ask.rest))

    @asynccontextmanager
    async def _turn(self, ask: Ask) -> AsyncIterator[Upload]:
        """The upload, for one request at a time. Raises Refusal when another writes to it for longer than TURN: the
        bytes of both would be out of order."""
        try:
            async with self._turns.turn(f"{ask.repository}/{parse_upload(ask.rest)}", TURN):
                # Looked for only now: who had the turn before may have ended it.
                upload = await self._find(ask)
                try:
                    yield upload
                finally:
                    upload.release()
        except Busy:
            message = "another request is writing to this upload"
            raise Refusal("BLOB_UPLOAD_INVALID", message, status=409) from None

    async def _try_mount(self, ask: Ask) -> bool:
        """Take the blob from another repository that the caller may read, or from a store beside ours. Refusing is no
        error: the client then sends it (distribution spec, "Mounting a blob from another repository")."""
        digest = parse_digest_text(ask.query["mount"])
        source = ask.query.get("from", "")
        if source:
            parse_name(source)
            readable = await self._may(ask.caller, source, "pull")
            if readable and await self._registry.mount_blob(ask.repository, source, digest):
                return True
        return _is_near(ask.caller) and await self._registry.adopt_blob(ask.repository, digest)

    async def _may(self, caller: Caller, repository: str, action: Action) -> bool:
        try:
            await self._gate.check(caller, repository, action)
        except CaisError:
            return False
        return True

    async def _receive(self, ask: Ask, upload: Upload) -> None:
        async for pieces in gather(ask.request, CHUNK, skip_rest=upload.size == 0):
            if self._max_blob and upload.size + sum(map(len, pieces)) > self._max_blob:
                await upload.abort()
                raise Refusal("SIZE_INVALID", f"a blob may have {self._max_blob} bytes", status=413)
            await upload.append(*pieces)

    async def _finish(self, ask: Ask, upload: Upload, digest: Digest) -> None:
        try:
            await self._registry.finish_upload(ask.repository, upload, digest)
        except Corrupt as error:
            raise Refusal("DIGEST_INVALID", str(error)) from None

    def _check_order(self, ask: Ask, upload: Upload) -> None:
        """A chunk that says where it belongs must be the next one (distribution spec, "Pushing a blob in chunks")."""
        text = ask.request.headers.get("Content-Range")
        if not text:
            return
        match = _CONTENT_RANGE.fullmatch(text.strip())
        length = ask.request.content_length
        if match is None or (length is not None and int(match[2]) - int(match[1]) + 1 != length):
            raise Refusal("BLOB_UPLOAD_INVALID", f"invalid Content-Range: {text[:100]!r}", status=400)
        if int(match[1]) != upload.size:
            refusal = Refusal(
                "BLOB_UPLOAD_INVALID", f"the upload has {upload.size} bytes: the next chunk begins there"
            )
            refusal.headers.update(_place(ask.repository, upload))
            raise refusal

    # Manifests and removals

    async def put_manifest(self, ask: Ask) -> web.StreamResponse:
        """PUT ``/v2/<name>/manifests/<reference>``."""
        ref = parse_ref(ask.rest)
        data = b"".join(
            [piece async for pieces in gather(ask.request, CHUNK, limit=MAX_MANIFEST) for piece in pieces]
        )
        media_type = ask.request.headers.get("Content-Type", "")
        document = await self._registry.put_manifest(ask.repository, ref, media_type, data, ask.caller)
        headers = {
            "Location": f"/v2/{ask.repository}/manifests/{document.digest}",
            "Docker-Content-Digest": document.digest,
        }
        if document.subject:
            headers["OCI-Subject"] = document.subject
        return answer(201, headers)

    async def delete_manifest(self, ask: Ask) -> web.StreamResponse:
        """DELETE by digest or tag."""
        await self._registry.delete_manifest(ask.repository, parse_ref(ask.rest), ask.caller)
        return answer(202)

    async def delete_blob(self, ask: Ask) -> web.StreamResponse:
        """DELETE ``/v2/<name>/blobs/<digest>``."""
        await self._registry.delete_blob(ask.repository, parse_digest_text(ask.rest), ask.caller)
        return answer(202)


async def gather(
    request: web.BaseRequest, size: int, *, limit: int = 0, skip_rest: bool = False
) -> AsyncIterator[Sequence[bytes]]:
    """The request's body, some pieces of about ``size`` bytes together at a time, as they came: nothing is copied.

    Raises Refusal SIZE_INVALID when it is longer than ``limit``; ConnectionError when the client goes away, after the
    pieces that had come. ``skip_rest``: nothing was there before. A single byte of a cut request is then dropped,
    because "Range: 0-0", which says that one byte is here, is what clients read as none.
    """
    content, parts, have, total = request.content, list[bytes](), 0, 0
    try:
        while not content.at_eof():
            data, _ = await content.readchunk()
            parts.append(data)
            have += len(data)
            total += len(data)
            if limit and total > limit:
                raise Refusal("SIZE_INVALID", f"it may have {limit} bytes", status=413)
            if have >= size or len(parts) >= MANY:
                yield parts
                parts, have = [], 0
    except OSError:
        if have and not limit and not (skip_rest and total == 1):
            yield parts  # an upload can be taken up where it was cut
        raise
    if have:
        yield parts


def _place(repository: str, upload: Upload) -> dict[str, str]:
    return {
        "Location": f"/v2/{repository}/blobs/uploads/{upload.id}",
        "Range": f"0-{max(upload.size - 1, 0)}",
        "Docker-Upload-Uuid": upload.id,
    }


def _accepted(repository: str, upload: Upload, status: int) -> web.Response:
    return answer(status, _place(repository, upload))


def _created(repository: str, digest: Digest) -> web.Response:
    headers = {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": str(digest)}
    return answer(201, headers)


def _is_near(caller: Caller) -> bool:
    """Of this machine: another's word that it has a blob is worth nothing, as nobody saw its bytes."""
    return caller.address.startswith("127.") or caller.address in ("::1", "unix")
