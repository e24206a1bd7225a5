"""Named contexts (``--build-context``): what a client says that a stage's or an image's name stands for."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from cais.build.context import Context, Index
from cais.build.fetch.fetcher import Fetching
from cais.build.fetch.files import Files, known_files
from cais.build.fetch.remote import fetch_files
from cais.build.fetch.sources import is_remote
from cais.build.inputs import Inputs
from cais.errors import Invalid, NotFound, Unsupported
from cais.images.image import Image
from cais.spec.ignore import Ignore, parse_ignore
from cais.spec.platform import Platform

_IGNORE_FILE = ".dockerignore"

Special = Callable[[str, str, Platform | None], Awaitable[Image | Files]]
"""Gives what only a door knows of: called with the kind (``oci-layout``, ``target``, ``input``) and the rest."""


class Reference(msgspec.Struct, frozen=True):
    """An image, by its name in a registry or here; ``scratch`` is nothing."""

    text: str


Meaning = Reference | Image | Files


class NamedContexts(msgspec.Struct):
    """One build's. ``inputs`` gives the folders of the client; ``special`` what is neither a folder, nor an image, nor
    to be fetched."""

    fetching: Fetching
    inputs: Inputs | None = None
    special: Special | None = None
    _files: dict[str, Files] = msgspec.field(default_factory=dict)
    _lock: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)

    async def find(self, name: str, platform: Platform | None) -> Meaning:
        """What the context ``name`` of the request is. Raises Invalid, Unsupported, NotFound, and what fetching
        raises."""
        text = self.fetching.request.contexts[name]
        kind, colon, rest = text.partition(":")
        rest = rest.removeprefix("//")
        if kind == "docker-image" and colon:
            return Reference(rest)
        async with self._lock:
            if name in self._files:
                return self._files[name]
            if kind == "local" and colon:
                found = self._files[name] = known_files(await self._local(rest))
                return found
            if is_remote(text):
                found = self._files[name] = await fetch_files(text, self.fetching)
                return found
        if self.special and colon:
            return await self.special(kind, rest, platform)
        if not colon:
            raise Invalid(f"invalid context specifier {text!r} for {name}")
        raise Unsupported(f"unsupported context source {kind!r} for {name}")

    async def _local(self, name: str) -> Index:
        """A folder of the client's, without what its own ignore file leaves out."""
        if self.inputs is None:
            raise NotFound(f"no context {name!r} came with the build")
        first, second = self.fetching.new_path(), self.fetching.new_path()
        await asyncio.to_thread(first.mkdir, 0o700)
        await asyncio.to_thread(second.mkdir, 0o700)
        index = await self.inputs.context(name, Ignore(), first, frozenset((_IGNORE_FILE,)))
        ignore = await asyncio.to_thread(_read_ignore, index)
        return await self.inputs.context(name, ignore, second)


def _read_ignore(index: Index) -> Ignore:
    tree = Context(index)
    try:
        return parse_ignore(tree.read_text(_IGNORE_FILE))
    except NotFound:
        return Ignore()
    finally:
        tree.close()
