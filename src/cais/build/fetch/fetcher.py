"""What builds take from elsewhere: the engine's one door to servers of files and of git repositories."""

import asyncio
import os
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from cais.build.cache import Usage
from cais.build.context import Index, Item
from cais.build.dockerfile.evaluate import CopyAct
from cais.build.dockerfile.values import Copy, Value
from cais.build.fetch.access import Access
from cais.build.fetch.download import Downloads, Pin, check_body
from cais.build.fetch.files import Files
from cais.build.fetch.repositories import Repositories
from cais.build.fetch.sources import (
    UNNAMED,
    GitSource,
    UrlSource,
    is_remote,
    parse_checksum,
    parse_source,
    with_flags,
)
from cais.build.fetch.store import Body, FetchedStore
from cais.build.keys import key_of
from cais.build.request import BuildRequest
from cais.build.tree import Node
from cais.errors import CaisError, Corrupt
from cais.store.layers.tar import REGULAR
from cais.store.workers import Workers

FILE_MODE = 0o600
"""Of what comes by URL, as BuildKit has it."""


class Fetcher:
    """One engine's; belongs to one event loop. ``close`` it."""

    def __init__(self, root: Path, workers: Workers) -> None:
        """``root``: the engine's root folder."""
        self.downloads = Downloads(FetchedStore(root))
        self.repositories = Repositories(root, workers)
        self.workers = workers

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self.downloads.close()

    def usage(self) -> list[Usage]:
        """What is kept of earlier builds."""
        return [*self.downloads.store.usage(), *self.repositories.usage()]

    def forget(self, ids: Sequence[str]) -> int:
        """Remove some of it, by the ids that ``usage`` gave; the bytes. What builds use right now stays with them."""
        return sum(self.downloads.store.forget(id) + self.repositories.forget(id) for id in ids)


class Fetching(msgspec.Struct):
    """One build's. ``folder`` is the build's own. Each thing is asked for once, however often it is named."""

    fetcher: Fetcher
    request: BuildRequest
    folder: Path
    _found: dict[tuple[object, ...], "Files | CaisError"] = msgspec.field(default_factory=dict)
    _locks: dict[tuple[object, ...], asyncio.Lock] = msgspec.field(default_factory=dict)

    async def look(self, act: CopyAct) -> dict[str, Files]:
        """Of an ADD the sources that are no paths, by their texts; ``check_act`` has passed it.

        Raises NotFound, Denied, Unavailable, Invalid, Unsupported.
        """
        if not act.is_add or act.from_:
            return {}
        texts = [text for text in act.sources if is_remote(text)]
        found = await asyncio.gather(*(self._look(text, act) for text in texts))
        return dict(zip(texts, found, strict=True))

    async def prefetch(self, values: Sequence[Value]) -> None:
        """Look for what these instructions name without variables, all at once; what fails is told when its turn
        comes."""
        acts = [act for value in values if (act := _plain_act(value))]
        await asyncio.gather(*(self.look(act) for act in acts), return_exceptions=True)

    async def _look(self, text: str, act: CopyAct) -> Files:
        memo = (text, act.checksum, act.keep_git_dir, act.unpack_fetched)
        async with self._locks.setdefault(memo, asyncio.Lock()):
            found = self._found.get(memo)
            if found is None:
                try:
                    found = await self._find(text, act)
                except CaisError as error:
                    found = error
                self._found[memo] = found
        if isinstance(found, CaisError):
            raise found
        return found

    async def _find(self, text: str, act: CopyAct) -> Files:
        source = parse_source(text)
        assert source is not None
        if isinstance(source, UrlSource):
            pin = parse_checksum(act.checksum) if act.checksum else None
            return await self.url(source, pin, unpack=act.unpack_fetched)
        return await self.git(with_flags(source, keep_git_dir=act.keep_git_dir, checksum=act.checksum))

    async def url(
        self, source: UrlSource, pin: Pin | None = None, *, name: str = "", unpack: bool = False
    ) -> Files:
        """A file behind a URL, as a tree of one. What is pinned is fetched when it is needed, all else now: its content
        is its key. ``name``: what it is called, whatever the URL or the server says.

        Raises NotFound, Denied, Unavailable, Invalid, OSError.
        """
        if pin:
            name = name or source.name or UNNAMED
            pinned = partial(self._pinned, source, pin, name)
            return Files(key_of("url", name, list(pin)), pinned, os.fsencode(name), unpack=unpack)
        path = self.new_path()
        body, is_new = await self.fetcher.downloads.get(source, path)
        name = name or source.name or body.facts.name or UNNAMED

        async def load() -> Index:
            if not is_new:
                await self._check(body, path)
            return _single(path, body, name)

        key = key_of("url", name, ["sha256", body.facts.digest])
        return Files(key, load, os.fsencode(name), unpack=unpack)

    async def _pinned(self, source: UrlSource, pin: Pin, name: str) -> Index:
        path = self.new_path()
        body, is_new = await self.fetcher.downloads.get(source, path, pin)
        if not is_new:
            await self._check(body, path)
        return _single(path, body, name)

    def new_path(self) -> Path:
        """A path in the build's folder that nothing is at."""
        return self.folder / f"fetched-{uuid.uuid4().hex}"

    async def _check(self, body: Body, path: Path) -> None:
        try:
            await asyncio.to_thread(check_body, body, path)
        except (Corrupt, OSError):
            self.fetcher.downloads.store.forget(body.id)
            raise

    async def git(self, source: GitSource) -> Files:
        """The files of a commit; what it is, is asked for now, the files when they are needed.

        Raises NotFound, Denied, Unavailable, Invalid, Unsupported.
        """
        access = Access(self.request.secrets, self.request.agents, source.remote)
        repositories = self.fetcher.repositories
        commit = await repositories.resolve(source, access)
        kept = [commit.ref, source.show()] if source.keep_git_dir and not source.subdir else []
        key = key_of("git", commit.id, source.subdir, source.submodules is not False, kept)
        return Files(key, partial(repositories.read, source, commit, access, self.new_path()))


def _plain_act(value: Value) -> CopyAct | None:
    """The remote sources of an ADD, as far as they are known before it is evaluated."""
    if not isinstance(value, Copy) or not value.is_add or "$" in value.checksum:
        return None
    sources = tuple(text for text in value.sources if "$" not in text and is_remote(text))
    act = CopyAct(
        sources,
        (),
        "/",
        is_add=True,
        checksum=value.checksum,
        unpack_fetched=value.unpack is True,
        keep_git_dir=value.keep_git_dir,
    )
    return act if sources else None


def _single(path: Path, body: Body, name: str) -> Index:
    """A tree with one file, whose bytes are at ``path``."""
    facts = body.facts
    node = Node(REGULAR, FILE_MODE, size=facts.size, mtime=facts.mtime)
    item = Item(node, bytes.fromhex(facts.digest), ((0, 0, facts.size),))
    return Index(str(path), {os.fsencode(name): item})
