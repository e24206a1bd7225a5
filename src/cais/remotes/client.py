"""Other people's registries: what a name means there, and the bytes of manifests and blobs (distribution spec)."""

import asyncio
import hashlib
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec

from cais.errors import CaisError, Corrupt, Invalid, NotFound, Unavailable
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.remotes.hosts import Host, Hosts
from cais.remotes.lanes import DEFAULT_LANES, Lanes, Pace, Watch, fetch_pieces
from cais.remotes.refusals import Interrupted, make_refusal
from cais.remotes.transport import Ask, Transport, read_body
from cais.spec.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from cais.spec.digest import Digest, parse_digest
from cais.spec.reference import Reference

T = TypeVar("T")

ACCEPT = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))
DOCUMENT_LIMIT = 4 << 20
"""Bytes of a manifest or index; the distribution spec lets registries refuse larger ones."""
_ERROR_LIMIT = 64 << 10
_ENOUGH = 1 << 20
"""Bytes that make an interrupted transfer worth as many new attempts as the first had."""
_RANGE = re.compile(r"bytes (\d+)-\d*/(?:\d+|\*)")


class Patience(msgspec.Struct, frozen=True):
    """How often and how long to try again: ``attempts`` without progress, ``first`` seconds of waiting, doubled each
    time; a server that wants us to wait more than ``longest`` seconds is not waited for."""

    attempts: int = 5
    first: float = 0.5
    longest: float = 60.0

    def pause(self, failures: int, error: Interrupted) -> float | None:
        """Seconds to wait after so many failures in a row; None to give up."""
        if failures >= self.attempts or (error.after or 0) > self.longest:
            return None
        # Not all at the same moment: others may have been cut off together with us.
        backoff = self.first * float(1 << (failures - 1)) * random.uniform(0.5, 1.0)
        return max(error.after or 0.0, backoff)


class Document(msgspec.Struct, frozen=True):
    """The bytes of a manifest, index or configuration; ``media_type`` is what the server said, if it is one of ours."""

    digest: Digest
    media_type: str
    data: bytes


class Remotes(msgspec.Struct, frozen=True):
    """All registries, by the rules of this engine."""

    hosts: Hosts
    patience: Patience = Patience()
    lanes: Lanes = DEFAULT_LANES

    def open(self, reference: Reference, credentials: Credentials = ANONYMOUS) -> "Repository":
        """The repository that ``reference`` names; nothing is sent yet. A context manager."""
        transport = Transport(self.hosts, credentials, f"repository:{reference.path}:pull")
        hosts = self.hosts.find(reference)
        return Repository(reference, hosts, transport, self.patience, credentials, lanes=self.lanes)


class Repository:
    """One repository of one registry, or of the mirrors that stand before it.

    ``async with`` may be entered several times, by tasks that come and go: the last one closes the connections.
    """

    def __init__(
        self,
        reference: Reference,
        hosts: tuple[Host, ...],
        transport: Transport,
        patience: Patience,
        credentials: Credentials,
        *,
        lanes: Lanes = DEFAULT_LANES,
    ) -> None:
        self.reference = reference
        self._hosts = hosts
        self._transport = transport
        self._patience = patience
        self._secrets = credentials.secrets()
        self._users = 0
        self._lanes = lanes
        self._pace = Pace()
        self._has_ranges = False

    async def __aenter__(self) -> Self:
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if not self._users:
            await self._transport.close()

    async def find_digest(self) -> Digest | None:
        """The digest that the reference stands for now; None if the server will not say without sending it all.

        Raises Interrupted, Unauthenticated, Denied.
        """
        return await self._persist(self._head)

    async def fetch_manifest(self, digest: Digest | None = None) -> Document:
        """The manifest or index ``digest``, or the one the reference stands for; verified.

        Raises NotFound, Corrupt, Invalid (too large), Unavailable.
        """
        name = digest or self.reference.digest or self.reference.tag

        async def get(host: Host) -> Document:
            return await self._get_manifest(host, str(name), digest or self.reference.digest)

        return await self._persist(get)

    async def fetch_document(self, descriptor: Descriptor) -> bytes:
        """A small blob (a configuration) as a whole; verified. Raises NotFound, Corrupt, Invalid, Unavailable."""
        if descriptor.size > DOCUMENT_LIMIT:
            raise Invalid(f"blob {descriptor.digest} is larger than {DOCUMENT_LIMIT} bytes")
        data = b"".join([part async for part in self.fetch_blob(descriptor)])
        _check_digest(data, descriptor.digest)
        return data

    async def fetch_blob(self, descriptor: Descriptor, start: int = 0) -> AsyncGenerator[bytes]:
        """The bytes from ``start`` to ``descriptor.size``, not verified. A cut connection is resumed where it was cut,
        also at another server; a large blob on a slow line comes by several connections.

        Raises NotFound, Corrupt (the server has more or fewer bytes than the manifest says), Unavailable.
        """
        offset, size = start, descriptor.size
        watch = Watch(self._lanes, self._pace)

        def fetch(begin: int, end: int) -> AsyncGenerator[bytes]:
            return watch.parts(self._fetch_range(descriptor, begin, end))

        async with aclosing(fetch(start, size)) as parts:
            async for part in parts:
                offset += len(part)
                yield part
                if size - offset >= self._lanes.large and watch.is_slow() and self._has_ranges:
                    break
            else:
                return
        # What several connections may not have, one may: servers count them.
        with suppress(Unavailable):
            pieces = fetch_pieces(fetch, offset, size, count=self._lanes.count, rate=watch.rate)
            async with aclosing(pieces):
                async for part in pieces:
                    offset += len(part)
                    yield part
                return
        async with aclosing(self._fetch_range(descriptor, offset, size)) as parts:
            async for part in parts:
                yield part

    async def _fetch_range(self, descriptor: Descriptor, start: int, stop: int) -> AsyncGenerator[bytes]:
        """The bytes from ``start`` to ``stop``, however often the line is cut."""
        if start and start == stop:
            return
        offset, failures, good = start, 0, start
        hosts = list(self._hosts)
        while True:
            try:
                async with aclosing(self._get_blob(hosts[0], descriptor, offset, stop)) as parts:
                    async for part in parts:
                        offset += len(part)
                        yield part
                return
            except NotFound:
                if len(hosts) == 1:
                    raise
                del hosts[0]
            except Interrupted as error:
                if 0 < offset == stop:
                    return  # cut behind the last byte
                # A mirror that does not answer is not waited for.
                if len(hosts) > 1:
                    del hosts[0]
                    continue
                failures = 1 if offset - good >= _ENOUGH else failures + 1
                good = offset if failures == 1 else good
                pause = self._patience.pause(failures, error)
                if pause is None:
                    raise
                await asyncio.sleep(pause)

    async def _persist(self, act: Callable[[Host], Awaitable[T]]) -> T:
        """The result from the first server that has one; the last server's error if none has.

        That server stays first: what it said is what is fetched.
        """
        for host in self._hosts:
            try:
                result = await self._try_often(host, act)
            except (CaisError, OSError):
                if host is self._hosts[-1]:
                    raise
            else:
                self._hosts = self._hosts[self._hosts.index(host) :]
                return result
        raise AssertionError("a reference has a host")

    async def _try_often(self, host: Host, act: Callable[[Host], Awaitable[T]]) -> T:
        failures = 0
        while True:
            try:
                return await act(host)
            except Interrupted as error:
                failures += 1
                pause = self._patience.pause(failures, error)
                # Nobody there: said at once, as docker does. Mirrors are only asked once.
                if pause is None or not error.is_answered or host.is_mirror:
                    raise
                await asyncio.sleep(pause)

    async def _head(self, host: Host) -> Digest | None:
        name = self.reference.digest or self.reference.tag
        ask = Ask("HEAD", f"{self.reference.path}/manifests/{name}", {"Accept": ACCEPT})
        async with self._transport.send(host, ask) as response:
            if response.status != 200:
                return None  # a HEAD has no words: the GET that follows will
            said = _read_digest(response)
        if self.reference.digest:
            return self.reference.digest
        return said

    async def _get_manifest(self, host: Host, name: str, digest: Digest | None) -> Document:
        path = f"{self.reference.path}/manifests/{name}"
        ask = Ask("GET", path, {"Accept": ACCEPT}, is_pinned=digest is not None)
        async with self._transport.send(host, ask) as response:
            await self._check(response)
            data = await read_body(response, DOCUMENT_LIMIT)
            said = _read_digest(response)
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if len(data) > DOCUMENT_LIMIT:
            raise Invalid(f"manifest of {self.reference.familiar()} is larger than {DOCUMENT_LIMIT} bytes")
        # By tag the header is the server's word for its own bytes: a proxy between us that changed them is found.
        wanted = digest or said
        found = _digest_of(data, wanted.algorithm if wanted else "sha256")
        if wanted and found != wanted:
            raise Corrupt(
                f"manifest verification failed for digest {wanted}: the registry sent {found} for {name}"
            )
        known = media_type in MANIFEST_TYPES | INDEX_TYPES or "schema" in media_type
        return Document(found, media_type if known else "", data)

    async def _get_blob(
        self, host: Host, descriptor: Descriptor, offset: int, stop: int
    ) -> AsyncGenerator[bytes]:
        """The bytes from ``offset`` to ``stop``; Interrupted if they end before they should."""
        is_piece = stop < descriptor.size
        headers = {"Range": f"bytes={offset}-{stop - 1 if is_piece else ''}"} if offset or is_piece else {}
        ask = Ask("GET", f"{self.reference.path}/blobs/{descriptor.digest}", headers, is_pinned=True)
        async with self._transport.send(host, ask) as response:
            if response.status == 416:
                raise Corrupt(
                    f"blob {descriptor.digest} has fewer than the {descriptor.size} bytes announced"
                )
            if response.status not in (200, 206):
                await self._check(response)
            if is_piece and response.status != 206:
                raise Unavailable("the registry does not send parts of blobs")
            self._has_ranges = response.status == 206 or response.headers.get("Accept-Ranges") == "bytes"
            skip = _first_byte(response, offset)
            left = stop - offset
            _check_length(response, descriptor, offset - skip)
            async for part in response.content.iter_any():
                if skip:
                    part, skip = part[skip:], max(0, skip - len(part))
                left -= len(part)
                if left < 0:
                    raise Corrupt(
                        f"blob {descriptor.digest} has more than the {descriptor.size} bytes announced"
                    )
                if part:
                    yield part
            if left:
                raise Interrupted(f"unexpected EOF: {left} bytes of blob {descriptor.digest} are missing")

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raise what an answer other than 200 means."""
        if response.status == 200:
            return
        body = await read_body(response, _ERROR_LIMIT)
        after = read_seconds(response.headers.get("Retry-After", ""))
        refusal = make_refusal(response.status, body, self.reference, secrets=self._secrets, after=after)
        # One that talks of success or redirection is not understood; it is no reason to try again.
        raise refusal if response.status >= 400 else Unavailable(str(refusal))


def _digest_of(data: bytes, algorithm: str) -> Digest:
    return parse_digest(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")


def _check_digest(data: bytes, digest: Digest) -> None:
    found = _digest_of(data, digest.algorithm)
    if found != digest:
        raise Corrupt(f"blob is not what it claims: its digest is {found}, want {digest}")


def _read_digest(response: aiohttp.ClientResponse) -> Digest | None:
    try:
        return parse_digest(response.headers.get("Docker-Content-Digest", ""))
    except Invalid:
        return None


def read_seconds(text: str) -> float | None:
    """``Retry-After`` in seconds (RFC 9110 section 10.2.3); its other form, a date, is not used by registries."""
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 9 else None


def _first_byte(response: aiohttp.ClientResponse, offset: int) -> int:
    """How many of the bytes that come we have already. Raises Interrupted for a range that does not fit."""
    if response.status == 200:
        return offset
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    start = int(found[1]) if found and len(found[1]) < 19 else -1
    if not 0 <= start <= offset:
        raise Interrupted("the registry sent another part of the blob than the one asked for")
    return offset - start


def _check_length(response: aiohttp.ClientResponse, descriptor: Descriptor, start: int) -> None:
    """Raise Corrupt at once, and not after gigabytes, if the server announces another size than the manifest."""
    length = response.content_length
    if length is not None and length != descriptor.size - start and response.status == 200:
        raise Corrupt(f"blob {descriptor.digest} has {length} bytes, its manifest says {descriptor.size}")
