"""Files that a step takes from elsewhere: known by a key before any byte of them is here, if that is possible."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from cais.build.context import Index


class Files(msgspec.Struct, eq=False):
    """``key`` says what they are; or they are ``known`` already, and have keys by what is taken of them. ``path``: the
    one file of the tree that is meant, empty: all of it; ``unpack``: an archive is to be unpacked."""

    key: str
    fetch: Callable[[], Awaitable[Index]]
    path: bytes = b""
    unpack: bool = False
    known: Index | None = None
    _loaded: Index | None = None
    _lock: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)

    async def load(self) -> Index:
        """The tree, fetched once. Raises what fetching raises."""
        if self.known is not None:
            return self.known
        async with self._lock:
            if self._loaded is None:
                self._loaded = await self.fetch()
            return self._loaded


async def _nothing() -> Index:
    raise AssertionError("files that are known are not fetched")


def known_files(index: Index) -> Files:
    """Files that are here."""
    return Files("", _nothing, known=index)


NO_FILES: Mapping[str, Files] = {}
"""A step takes nothing from elsewhere."""
