"""Contexts that the engine fetches itself: a repository, a tar behind a URL, or just a Dockerfile there."""

import asyncio
from pathlib import Path

from msgspec.structs import replace

from cais.build.context import Context, Index, index_context
from cais.build.copying import is_archive
from cais.build.fetch.fetcher import Fetching
from cais.build.fetch.files import Files
from cais.build.fetch.sources import GitSource, Source, UrlSource, parse_context
from cais.build.inputs import MAIN, DockerfileText, Inputs, read_dockerfile
from cais.build.keys import key_of
from cais.errors import Invalid, NotFound
from cais.spec.ignore import Ignore

FILE = "context"
"""What the one file of a context is called that is neither a repository nor an archive, as BuildKit has it."""
_KEEP_GIT = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
_IN_THREAD = 4 << 20


async def fetch_files(text: str, fetching: Fetching) -> Files:
    """The files that ``text`` names: a repository, or a URL of a tar (compressed or not) or of any other file, which is
    called ``context``. Raises Invalid for what is neither, and what fetching raises."""
    return await _fetch(text, parse_context(text), fetching)


async def _fetch(text: str, source: Source | None, fetching: Fetching) -> Files:
    if source is None:
        raise Invalid(f"invalid context {text!r}: want a git repository, or a URL of a tar or a Dockerfile")
    if isinstance(source, GitSource):
        return await fetching.git(source)
    return await _fetch_url(source, fetching)


async def _fetch_url(source: UrlSource, fetching: Fetching) -> Files:
    """An archive as a tree, any other file as a tree of one."""
    files = await fetching.url(source, name=FILE)
    index = await files.load()
    if not await asyncio.to_thread(_holds_archive, index):
        return files

    async def unpack() -> Index:
        plain = str(fetching.new_path())
        size = next(iter(index.items.values())).node.size
        if size <= _IN_THREAD:
            return await asyncio.to_thread(index_context, index.path, plain)
        return await fetching.fetcher.workers.run(index_context, index.path, plain)

    return Files(key_of("archive", files.key), unpack)


def _holds_archive(index: Index) -> bool:
    tree = Context(index)
    try:
        return is_archive(tree, FILE.encode())
    finally:
        tree.close()


class RemoteInputs:
    """Inputs of a build whose main context is named by a text, as ``fetch_files`` takes it; what has another name comes
    from ``client``, and the Dockerfile too if ``has_dockerfile``.

    As under BuildKit nothing of such a context is left out for its ``.dockerignore``.
    """

    def __init__(
        self, text: str, fetching: Fetching, client: Inputs | None = None, *, has_dockerfile: bool = False
    ) -> None:
        self._text = text
        self._fetching = fetching
        self._client = client
        self._has_dockerfile = has_dockerfile
        self._lock = asyncio.Lock()
        self._index: Index | None = None
        self._is_dockerfile = False

    async def dockerfile(self, name: str) -> DockerfileText:
        """Inputs.dockerfile."""
        if self._has_dockerfile and self._client:
            return await self._client.dockerfile(name)
        whole = Context(await self._load())
        try:
            if self._is_dockerfile:
                return DockerfileText(name, whole.read_text(FILE))
            return read_dockerfile(whole, name)
        finally:
            whole.close()

    async def context(
        self, name: str, ignore: Ignore, folder: Path, paths: frozenset[str] | None = None
    ) -> Index:
        """Inputs.context."""
        if name != MAIN:
            if self._client is None:
                raise NotFound(f"no context {name!r} came with the build")
            return await self._client.context(name, ignore, folder, paths)
        index = await self._load()
        return Index("", {}) if self._is_dockerfile else index

    async def _load(self) -> Index:
        async with self._lock:
            if self._index is None:
                source = parse_context(self._text)
                if isinstance(source, GitSource) and source.keep_git_dir is None:
                    keep = self._fetching.request.args.get(_KEEP_GIT, "").lower() in ("1", "t", "true")
                    source = replace(source, keep_git_dir=keep)
                files = await _fetch(self._text, source, self._fetching)
                self._index = await files.load()
                self._is_dockerfile = bool(files.path)
            return self._index
