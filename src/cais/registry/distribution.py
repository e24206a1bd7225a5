"""Taking over what a server of the distribution project (``registry:2``, ``registry:3``, docker-registry) has in its
folder: repositories, tags, manifests with what refers to them, and the blobs that they name.

    docker/registry/v2/blobs/<algorithm>/<hex[:2]>/<hex>/data
    docker/registry/v2/repositories/<name>/_manifests/revisions/<algorithm>/<hex>/link
    docker/registry/v2/repositories/<name>/_manifests/tags/<tag>/current/link

Blobs are hard links where the file system allows; nothing in the folder is changed, and its server may go on. Every
blob is read through once. What is here already is passed over, so an import that was cut is simply done again, and
one that is done again later brings what is new. A tag that was pushed here after it was pushed there stays.
"""

import asyncio
import hashlib
import os
import shutil
import sqlite3
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from cais.errors import CaisError, Corrupt, Invalid, NotFound
from cais.registry.base import Caller, Document
from cais.registry.database import Database
from cais.registry.documents import MAX_MANIFEST, read_document
from cais.registry.files import FileBlobs, try_link
from cais.registry.naming import parse_name, parse_tag
from cais.registry.registry import Registry
from cais.spec.digest import Digest, parse_digest

CALLER = Caller(account="import")
"""Who the audit log says has pushed it."""


class Imported(msgspec.Struct):
    """What was brought; ``size`` is the bytes of the blobs, ``kept`` manifests that were here with all their tags."""

    repositories: int = 0
    manifests: int = 0
    tags: int = 0
    kept: int = 0
    blobs: int = 0
    linked: int = 0
    copied: int = 0
    size: int = 0
    skipped: list[str] = []
    """What could not be brought, or not as it was, each with the reason."""


class Tagged(msgspec.Struct, frozen=True):
    """A tag of the folder and when it was pushed there."""

    name: str
    pushed_ns: int


class Folder:
    """A distribution server's storage, read only."""

    def __init__(self, path: Path) -> None:
        """``path``: its root folder, or the ``v2`` within. Raises NotFound: it is none."""
        found = next(
            (
                each
                for each in (path / "docker" / "registry" / "v2", path)
                if (each / "repositories").is_dir()
            ),
            None,
        )
        if found is None:
            raise NotFound(f"{path} is not a registry's folder: it has no docker/registry/v2/repositories")
        self.path = found

    def repositories(self) -> Iterator[str]:
        """The names, in order."""
        root = self.path / "repositories"
        for folder, names, _ in os.walk(root):
            if "_manifests" in names:
                yield str(Path(folder).relative_to(root))
            names[:] = sorted(name for name in names if not name.startswith("_"))

    def revisions(self, repository: str) -> dict[Digest, int]:
        """The manifests of a repository, and when they were pushed."""
        found = {}
        for link in sorted((self._manifests(repository) / "revisions").glob("*/*/link")):
            with suppress(Invalid):
                found[parse_digest(f"{link.parts[-3]}:{link.parts[-2]}")] = link.stat().st_mtime_ns
        return found

    def tags(self, repository: str) -> Iterator[tuple[Tagged, str]]:
        """The tags of a repository, and what their links say."""
        for link in sorted((self._manifests(repository) / "tags").glob("*/current/link")):
            text = link.read_text(errors="replace").strip()
            yield Tagged(link.parts[-3], link.stat().st_mtime_ns), text

    def blob(self, digest: Digest) -> Path:
        """Where a blob is, if it is there."""
        return self.path / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex / "data"

    def _manifests(self, repository: str) -> Path:
        return self.path / "repositories" / repository / "_manifests"


class Importer:
    """Brings folders into the registry whose own folder is ``root``, and which nobody else uses meanwhile. ``copies``:
    no hard links. ``tell`` is given the name of each repository before it is brought."""

    def __init__(
        self,
        registry: Registry,
        database: Database,
        root: Path,
        *,
        copies: bool = False,
        tell: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._registry = registry
        self._database = database
        self._uploads = root / "uploads"
        self._copies = copies
        self._tell = tell

    async def bring(self, folder: Folder) -> Imported:
        """All that is in the folder. Raises OSError."""
        self._folder = folder
        self._done = Imported()
        for name in folder.repositories():
            try:
                parse_name(name)
            except CaisError as error:
                self._skip(name, error)
                continue
            self._tell(name)
            await self._bring_repository(name)
        return self._done

    def _skip(self, what: str, why: object) -> None:
        self._done.skipped.append(f"{what}: {why}")

    async def _bring_repository(self, name: str) -> None:
        revisions = self._folder.revisions(name)
        documents: dict[Digest, Document] = {}
        for digest in revisions:
            try:
                documents[digest] = await asyncio.to_thread(self._read, digest)
            except CaisError as error:
                self._skip(f"manifest {name}@{digest}", error)
        tags = self._read_tags(name, documents)
        here: set[Digest] = set()
        for document in _in_order(documents):
            try:
                is_new = await self._bring_manifest(name, document, tags[document.digest], here)
            except CaisError as error:
                self._skip(f"manifest {name}@{document.digest}", error)
                for tag in tags[document.digest]:
                    self._skip(f"tag {name}:{tag.name}", "its manifest was skipped")
                continue
            here.add(document.digest)
            if is_new:
                await self._set_times(
                    name, document.digest, revisions[document.digest], tags[document.digest]
                )
        self._done.repositories += bool(here)

    def _read(self, digest: Digest) -> Document:
        path = self._folder.blob(digest)
        _check_file(path, digest)
        if path.stat().st_size > MAX_MANIFEST:
            raise Invalid(f"it is larger than {MAX_MANIFEST} bytes")
        data = path.read_bytes()
        if hashlib.new(digest.algorithm, data).hexdigest() != digest.hex:
            raise Corrupt("its bytes are damaged")
        return read_document(data, "", digest)

    def _read_tags(self, name: str, documents: Mapping[Digest, Document]) -> dict[Digest, list[Tagged]]:
        found: dict[Digest, list[Tagged]] = {digest: [] for digest in documents}
        for tag, text in self._folder.tags(name):
            try:
                parse_tag(tag.name)
                found[parse_digest(text)].append(tag)
            except KeyError:
                self._skip(f"tag {name}:{tag.name}", f"its manifest {text} is not there, or was skipped")
            except CaisError as error:
                self._skip(f"tag {name}:{tag.name}", error)
        return found

    # Into the registry

    async def _bring_manifest(
        self, name: str, document: Document, tags: Sequence[Tagged], here: set[Digest]
    ) -> bool:
        """Whether it was not here as it is. Raises what says why it cannot be."""
        wanted = [tag.name for tag in tags if await self._is_news(name, tag, document.digest)]
        if not wanted and await self._registry.catalog.find_manifest(name, document.digest):
            self._done.kept += 1
            return False
        absent = [digest for digest in document.manifests if digest not in here]
        for digest, size in document.blobs:
            await self._bring_blob(name, digest, size)
        await self._registry.put_manifest(
            name, document.digest, "", document.data, CALLER, wanted, is_partial=bool(absent)
        )
        if absent:
            self._skip(
                f"index {name}@{document.digest}",
                f"brought without {len(absent)} manifests that are not there",
            )
        self._done.manifests += 1
        self._done.tags += len(wanted)
        return True

    async def _is_news(self, name: str, tag: Tagged, digest: Digest) -> bool:
        rows = self._database.read(
            "SELECT t.digest, t.pushed_ns FROM tags t JOIN repositories r ON r.id = t.repository "
            "WHERE r.name = ? AND t.name = ?",
            name,
            tag.name,
        )
        if not rows or (rows[0][0] != digest and rows[0][1] < tag.pushed_ns):
            return True
        if rows[0][0] != digest:
            self._skip(f"tag {name}:{tag.name}", "it was pushed here since")
        return False

    async def _bring_blob(self, name: str, digest: Digest, size: int) -> None:
        catalog, blobs = self._registry.catalog, self._registry.blobs
        if await catalog.find_blob(name, digest) == size:
            return
        if not await catalog.is_known(digest) or not await self._is_whole(digest, size):
            assert isinstance(blobs, FileBlobs)
            part = self._uploads / f"{uuid.uuid4().hex}-import"
            try:
                is_link = await asyncio.to_thread(self._take, digest, size, part)
                blobs.accept(part, digest)
            finally:
                part.unlink(missing_ok=True)
            self._done.linked += is_link
            self._done.copied += not is_link
            self._done.blobs += 1
            self._done.size += size
        await catalog.link_blob(name, digest, size)

    async def _is_whole(self, digest: Digest, size: int) -> bool:
        """Whether a blob on record is still what it should be, to be given to one more repository."""
        try:
            return await self._registry.blobs.size(digest) == size
        except NotFound:
            return False

    def _take(self, digest: Digest, size: int, part: Path) -> bool:
        """Have the blob's bytes at ``part``, verified there; whether they are a link."""
        source = self._folder.blob(digest)
        _check_file(source, digest)
        is_link = not self._copies and try_link(source, part)
        if not is_link:
            shutil.copyfile(source, part)
        if part.stat().st_size != size:
            raise Corrupt(f"blob {digest} has {part.stat().st_size} bytes instead of {size}")
        with part.open("rb") as file:
            found = hashlib.file_digest(file, digest.algorithm).hexdigest()
        if found != digest.hex:
            raise Corrupt(f"blob {digest} is damaged")
        return is_link

    async def _set_times(self, name: str, digest: Digest, pushed_ns: int, tags: Sequence[Tagged]) -> None:
        """As they were there: retention goes by them, and the next import."""

        def act(db: sqlite3.Connection) -> None:
            (id,) = db.execute("SELECT id FROM repositories WHERE name = ?", (name,)).fetchone()
            db.execute(
                "UPDATE manifests SET pushed_ns = ? WHERE repository = ? AND digest = ?",
                (pushed_ns, id, digest),
            )
            db.executemany(
                "UPDATE tags SET pushed_ns = ? WHERE repository = ? AND name = ? AND digest = ?",
                [(tag.pushed_ns, id, tag.name, digest) for tag in tags],
            )

        await self._database.write(act)


def _in_order(documents: Mapping[Digest, Document]) -> Iterator[Document]:
    """Every index behind the manifests that it names."""
    left = dict(documents)
    while left:
        ready = [each for each in left.values() if not any(digest in left for digest in each.manifests)]
        for document in ready:
            del left[document.digest]
        yield from ready


def _check_file(path: Path, digest: Digest) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise NotFound(f"{digest} is not there") from None
    if not stat.S_ISREG(found.st_mode):
        raise Invalid(f"{path} is no file")
