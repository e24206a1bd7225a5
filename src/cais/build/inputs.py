"""Where a build's files come from: a Dockerfile, a context, and other contexts by name."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import msgspec

from cais.build.context import Context, Index, index_context
from cais.errors import NotFound
from cais.images.feed import feed
from cais.spec.ignore import Ignore
from cais.store.workers import Workers

TRANSFERRED: ContextVar[Callable[[int], None] | None] = ContextVar("TRANSFERRED", default=None)
"""Called with the bytes that have come so far, by inputs whose client sends while somebody waits."""
MAIN = "context"
"""The name of the context that COPY takes from when nothing else is said."""
_IN_THREAD = 4 << 20
"""Bytes of a context up to which it is read in a thread: a worker may have to be started first."""


class DockerfileText(msgspec.Struct, frozen=True):
    """A Dockerfile as it came, and the ignore file that goes with it."""

    name: str
    data: bytes
    ignore: bytes | None = None


class Inputs(Protocol):
    """What a client gives; asked once for each thing, when it is needed."""

    async def dockerfile(self, name: str) -> DockerfileText:
        """The Dockerfile at ``name``. Raises NotFound, Invalid, Unavailable."""
        ...

    async def context(
        self, name: str, ignore: Ignore, folder: Path, paths: frozenset[str] | None = None
    ) -> Index:
        """The files of the context ``name``, ignored ones left out; what must be kept of them goes into ``folder``,
        which lives as long as the build. ``paths``: no others are wanted (patterns are possible); None: all.

        Raises NotFound (the client has no such context), Invalid, Corrupt, Unavailable.
        """
        ...


class TarInputs:
    """One tar with everything, compressed or not, as it is received."""

    def __init__(self, stream: AsyncIterator[bytes], folder: Path, workers: Workers) -> None:
        """``folder``: where it is kept, alive as long as the build."""
        self._stream = stream
        self._folder = folder
        self._workers = workers
        self._index: Index | None = None

    async def dockerfile(self, name: str) -> DockerfileText:
        """Inputs.dockerfile."""
        whole = Context(await self._received())
        try:
            return read_dockerfile(whole, name)
        finally:
            whole.close()

    async def context(
        self, name: str, ignore: Ignore, folder: Path, paths: frozenset[str] | None = None
    ) -> Index:
        """Inputs.context. Nothing is left out: the client has done that, and what it sent in spite of it counts."""
        if name != MAIN:
            raise NotFound(f"no context {name!r} came with the build")
        return await self._received()

    async def _received(self) -> Index:
        if self._index is None:
            path = self._folder / "context"
            with path.open("xb", buffering=0) as file:
                async for _ in feed(self._stream, lambda data: _write_all(cast(BinaryIO, file), data)):
                    pass
            names = (str(path), str(self._folder / "plain"))
            if path.stat().st_size <= _IN_THREAD:
                self._index = await asyncio.to_thread(index_context, *names)
            else:
                self._index = await self._workers.run(index_context, *names)
        return self._index


def read_dockerfile(context: Context, name: str) -> DockerfileText:
    """The Dockerfile and what it ignores, from a tree that holds both. Raises NotFound, Invalid."""
    name, data = _read_named(context, name)
    for ignore_name in (f"{name}.dockerignore", ".dockerignore"):
        with suppress(NotFound):
            return DockerfileText(name, data, context.read_text(ignore_name))
    return DockerfileText(name, data)


def _read_named(context: Context, name: str) -> tuple[str, bytes]:
    try:
        return name, context.read_text(name)
    except NotFound:
        if name == "Dockerfile":
            # As Docker: the lower-case name is taken if it is the only one.
            with suppress(NotFound):
                return "dockerfile", context.read_text("dockerfile")
        raise


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
