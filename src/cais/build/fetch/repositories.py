"""Git repositories: what a ref means there, and the files of a commit, with as little traffic as can be.

    build/git/<id>/repo         objects of one remote, bare; the time of ``url`` is when it was used last
    build/git/<id>/url          the remote, as it may be shown
    build/git/<id>/known_hosts  keys of its server, for ssh

A folder belongs to the user id that git runs under (``command``), and one command at a time changes what is in it.
"""

import asyncio
import hashlib
import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

from cais.build.cache import Usage
from cais.build.context import MAX_FILES, Index, Item
from cais.build.fetch.access import Access, Way
from cais.build.fetch.command import (
    LOCAL,
    OWN_UID,
    PLACE,
    SSH_UID,
    Git,
    GitFailed,
    check_tools,
    make_repository,
)
from cais.build.fetch.gittree import (
    GitTree,
    Module,
    TreeJob,
    implied_folders,
    read_git_folder,
    read_git_tree,
)
from cais.build.fetch.sources import (
    GitSource,
    check_ref,
    check_remote,
    is_commit,
    join_remote,
    scheme_of,
    show_url,
)
from cais.build.tree import Node, show
from cais.errors import CaisError, Denied, Invalid, NotFound, Unavailable
from cais.remotes.refusals import clean_text
from cais.store.layers.tar import FOLDER
from cais.store.snapshots.tree import measure
from cais.store.workers import Workers

_ASK_SECONDS = 120.0
_FETCH_SECONDS = 3600.0
_MAX_MODULES = 200
_MAX_DEPTH = 10
_DENIED = (
    "authentication failed",
    "could not read username",
    "could not read password",
    "permission denied",
    "host key verification failed",
    "the requested url returned error: 401",
    "the requested url returned error: 403",
)
_EMPTY_WORDS = (
    "warning:",
    "Warning: Permanently added",
    "Please make sure you have",
    "and the repository exists",
)
_MOVED = ("error: 301", "error: 302", "error: 307", "error: 308")
_MISSING = ("not found", "does not appear to be a git repository", "no such file or directory", "error: 404")


@dataclass(frozen=True, slots=True)
class Commit:
    """What a ref means. ``id`` is the commit; ``ref`` its whole name, empty if a commit was asked for."""

    id: str
    ref: str = ""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One repository that a build takes files of: ``prefix`` is where they go, ``depth`` how many repositories are
    above it."""

    source: GitSource
    commit: Commit
    prefix: bytes = b""
    depth: int = 0


class Repositories:
    """One engine's; belongs to one event loop."""

    def __init__(self, root: Path, workers: Workers) -> None:
        """``root``: the engine's root folder."""
        self._folder = root / "build" / "git"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._workers = workers
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._checked: set[bool] = set()
        for path in self._folder.iterdir():
            for left in (*path.glob(".*"), *path.glob("keep-*")):  # an earlier engine's
                _remove(left)

    async def resolve(self, source: GitSource, access: Access) -> Commit:
        """The commit that ``source`` means now. A whole commit is not asked for.

        Raises NotFound (no such ref or repository), Denied, Unavailable, Invalid (not the checksum), Unsupported.
        """
        if is_commit(source.ref):
            _check_commit(source, source.ref)
            return Commit(source.ref)
        git, way = await self._open(source.remote, access)
        words = [source.ref, f"{source.ref}^{{}}"] if source.ref else ["HEAD"]
        try:
            async with access.agent(source.remote, git.folder, git.uid) as agent:
                asking = replace(git, agent=agent)
                text = await asking.run("ls-remote", "--symref", "--", way.url, *words, seconds=_ASK_SECONDS)
        except GitFailed as error:
            raise _explain(source, way, error) from None
        commit, also = find_ref(text.decode("utf-8", "replace"), source)
        _check_commit(source, commit.id, also)
        return commit

    async def read(self, source: GitSource, commit: Commit, access: Access, pack: Path) -> Index:
        """The files of a commit, their contents in the new file ``pack``; submodules included, unless ``source`` says
        otherwise. Raises what ``resolve`` raises, Corrupt, OSError."""
        await asyncio.to_thread(pack.touch, mode=0o600, exist_ok=False)
        items: dict[bytes, Item] = {}
        waiting = [_Wanted(source, commit)]
        mtime = count = 0
        while waiting:
            wanted = waiting.pop()
            tree = await self._read_one(wanted, access, pack)
            mtime = mtime or tree.mtime
            items |= tree.items
            if len(items) > MAX_FILES:
                raise Invalid(f"{source.show()} has more than {MAX_FILES} files")
            for module in tree.modules:
                count += 1
                if source.submodules is False:
                    items[module.path] = Item(Node(FOLDER, 0o755, mtime=mtime))
                elif count > _MAX_MODULES or wanted.depth >= _MAX_DEPTH:
                    raise Invalid(f"{source.show()} has too many submodules, or too deep ones")
                else:
                    items[module.path] = Item(Node(FOLDER, 0o755, mtime=mtime))
                    waiting.append(_inner(wanted, module))
        items = _strip(items, source.subdir.encode("utf-8", "surrogateescape"))
        return Index(str(pack), implied_folders(items, mtime))

    async def _read_one(self, wanted: _Wanted, access: Access, pack: Path) -> GitTree:
        source, commit = wanted.source, wanted.commit
        git, way = await self._open(source.remote, access)
        async with self._lock(git.folder):
            await self._fetch(git, way, wanted, access)
            subdir = source.subdir.encode("utf-8", "surrogateescape")
            plain = replace(git, settings=())
            job = TreeJob(plain, commit.id, subdir, str(pack), wanted.prefix)
            tree = await self._workers.run(read_git_tree, job)
            if source.keep_git_dir and not subdir and not wanted.depth:
                tree.items.update(await self._keep(plain, way, commit, pack, tree.mtime))
        return tree

    async def _open(self, remote: str, access: Access) -> tuple[Git, Way]:
        """The folder of a remote, made if need be, and how to speak to it."""
        is_ssh = scheme_of(remote) == "ssh"
        if is_ssh not in self._checked:
            await asyncio.to_thread(check_tools, is_ssh)
            self._checked.add(is_ssh)
        way = await access.way(remote)
        uid = SSH_UID if is_ssh else OWN_UID
        folder = self._folder / hashlib.sha256(way.url.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        if not _touch(folder):
            async with self._lock(folder):
                await asyncio.to_thread(_prepare, folder, way.url, uid)
        return Git(folder, uid, settings=way.settings), way

    def _lock(self, folder: Path) -> asyncio.Lock:
        return self._locks.setdefault(folder.name, asyncio.Lock())

    async def _fetch(self, git: Git, way: Way, wanted: _Wanted, access: Access) -> None:
        """Have the commit here."""
        source, commit = wanted.source, wanted.commit
        if await _has(git, commit.id):
            return
        await asyncio.to_thread(_unlock, git.folder / git.repository)
        async with access.agent(source.remote, git.folder, git.uid) as agent:
            asking = replace(git, agent=agent)
            failure: GitFailed | None = None
            for words in _attempts(git, way, commit):
                try:
                    await asking.run("fetch", "--no-write-fetch-head", *words, seconds=_FETCH_SECONDS)
                except GitFailed as error:
                    failure = error
                    if _is_final(error):
                        break
                if await _has(git, commit.id):
                    # By this name it stays when branches move on.
                    await git.run("update-ref", f"refs/cais/{commit.id}", commit.id)
                    return
        if failure is not None:
            raise _explain(source, way, failure) from None
        raise NotFound(
            f"commit {commit.id} is not in {show_url(source.remote)}, or not any more: build again"
        )

    async def _keep(self, git: Git, way: Way, commit: Commit, pack: Path, mtime: int) -> dict[bytes, Item]:
        """A ``.git`` folder with this one commit, as ``git clone --depth=1`` makes it."""
        name = f"keep-{uuid.uuid4().hex}"
        own = replace(git, repository=name, protocols=LOCAL)
        branch = commit.ref if commit.ref.startswith(("refs/heads/", "refs/tags/")) else "refs/heads/master"
        path = git.folder / name
        try:
            await asyncio.to_thread(make_repository, git.folder, name, git.uid)
            source = f"refs/cais/{commit.id}"
            fetching = ("fetch", "--depth=1", "--no-tags", "--no-write-fetch-head", "--")
            await own.run(
                *fetching, f"{PLACE}/{git.repository}", f"{source}:{branch}", seconds=_FETCH_SECONDS
            )
            await own.run("config", "remote.origin.url", way.url)
            await own.run("config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")
            await own.run("config", "core.bare", "false")
            await own.run("update-ref", "--no-deref", "HEAD", commit.id)
            await own.run("read-tree", commit.id)
            return await self._workers.run(read_git_folder, path, str(pack), b".git", mtime)
        except GitFailed as error:
            raise Unavailable(f"cannot make a .git folder: {clean_text(error.text)}") from None
        finally:
            await asyncio.to_thread(_remove, path)

    # What is kept

    def usage(self) -> list[Usage]:
        """Everything there is; looks at every file."""
        found = []
        for path in self._folder.iterdir():
            with suppress(OSError):
                status = (path / "url").stat()
                title = f"shared git repo for {(path / 'url').read_text()}"
                in_use = self._is_busy(path.name)
                size = measure(str(path))
                found.append(
                    Usage(
                        path.name,
                        "source.git.checkout",
                        title,
                        size,
                        status.st_ctime_ns,
                        status.st_mtime_ns,
                        0,
                        in_use=in_use,
                    )
                )
        return found

    def _is_busy(self, id: str) -> bool:
        lock = self._locks.get(id)
        return lock is not None and lock.locked()

    def forget(self, id: str) -> int:
        """The bytes that it had; 0 if it is not here, or in use. Idempotent."""
        path = self._folder / id
        if not id.isalnum() or self._is_busy(id) or not path.is_dir():
            return 0
        size = measure(str(path))
        _remove(path)
        return size


# Pure


def find_ref(text: str, source: GitSource) -> tuple[Commit, str]:
    """The commit in the answer of ``git ls-remote`` for a ref, and the tag's own object if it was a tag (or empty).
    Branches go before tags, as with ``git checkout``. Raises NotFound, Invalid."""
    found: dict[str, str] = {}
    head = ""
    for line in text.splitlines():
        id, _, name = line.partition("\t")
        if id.startswith("ref: ") and name == "HEAD":
            head = _check_head(id.removeprefix("ref: "))
        elif is_commit(id):
            found.setdefault(name, id)
    ref = source.ref
    if not ref:
        if "HEAD" not in found:
            raise NotFound(f"{source.show()} has no default branch: name one with #BRANCH")
        return Commit(found["HEAD"], head), ""
    short = ref.removeprefix("refs/")
    for name in (f"refs/{short}", f"refs/heads/{ref.removeprefix('refs/heads/')}"):
        if name in found and not name.startswith("refs/tags/"):
            return Commit(found[name], name), ""
    tag = f"refs/tags/{ref.removeprefix('refs/tags/')}"
    if tag in found:
        return Commit(found.get(f"{tag}^{{}}", found[tag]), tag), found[tag]
    raise NotFound(f"{show_url(source.remote)} has no branch or tag {ref}")


def _check_head(ref: str) -> str:
    """The branch that a server says is its default one; empty if that can be none."""
    with suppress(Invalid):
        return check_ref(ref) if ref.startswith("refs/heads/") else ""
    return ""


def _check_commit(source: GitSource, *ids: str) -> None:
    if source.checksum and not any(id.startswith(source.checksum) for id in ids):
        shown = " or ".join(filter(None, dict.fromkeys(ids)))
        raise Invalid(f"{source.show()}: expected checksum to match {source.checksum}, got {shown}")


def _inner(outer: _Wanted, module: Module) -> _Wanted:
    """A submodule as a repository of its own. Raises Invalid."""
    if not module.url:
        raise Invalid(
            f"{outer.source.show()}: no URL for the submodule at {show(module.path)} in .gitmodules: build with "
            "?submodules=false to leave submodules out"
        )
    if not is_commit(module.commit):
        raise Invalid(f"{outer.source.show()}: the submodule at {show(module.path)} has no commit")
    remote = check_remote(join_remote(outer.source.remote, module.url))
    subdir = module.subdir.decode("utf-8", "surrogateescape")
    source = GitSource(remote, module.commit, subdir=subdir)
    return _Wanted(source, Commit(module.commit), module.path + b"/", outer.depth + 1)


def _strip(items: dict[bytes, Item], subdir: bytes) -> dict[bytes, Item]:
    """With ``subdir`` as the root."""
    if not subdir:
        return items
    inside = subdir + b"/"
    return {path[len(inside) :]: item for path, item in items.items() if path.startswith(inside)}


def _attempts(git: Git, way: Way, commit: Commit) -> Sequence[Sequence[str]]:
    """What to ask for, one after the other, until the commit is there: by itself; by its ref, from servers that give
    nothing else; all there is."""
    shallow = ("--unshallow",) if (git.folder / git.repository / "shallow").exists() else ()
    tries: list[Sequence[str]] = [("--depth=1", "--no-tags", "--", way.url, commit.id)]
    if commit.ref:
        tries.append(("--depth=1", "--no-tags", "--", way.url, commit.ref))
    everything = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
    tries.append((*shallow, "--no-tags", "--", way.url, *everything))
    if shallow:
        tries.append(("--no-tags", "--", way.url, *everything))
    return tries


def _is_final(error: GitFailed) -> bool:
    text = error.text.lower()
    return any(words in text for words in (*_DENIED, "does not appear to be a git repository"))


def _explain(source: GitSource, way: Way, error: GitFailed) -> CaisError:
    lines = [
        line for line in way.clean(error.text).splitlines() if line and not line.startswith(_EMPTY_WORDS)
    ]
    said = clean_text("; ".join(lines[-3:]))
    text = said.lower()
    start = f"cannot fetch {source.show()}"
    if any(words in text for words in _DENIED):
        return Denied(f"{start}: {said}: {_advise(source, text)}")
    if way.secrets and any(words in text for words in _MOVED):
        return Denied(
            f"{start}: {said}: a token is not sent where a server redirects to, so name the new URL"
        )
    if any(words in text for words in _MISSING):
        return NotFound(f"{start}: {said}")
    return Unavailable(f"{start}: {said or f'git ended with {error.code}'}")


def _advise(source: GitSource, text: str) -> str:
    if "host key" in text:
        return "if the server has a new key, forget the old one with builder prune"
    if scheme_of(source.remote) == "ssh":
        return "the agent has no key that the server takes"
    return "give a token with --secret id=GIT_AUTH_TOKEN"


# Folders


async def _has(git: Git, commit: str) -> bool:
    try:
        await replace(git, settings=()).run("cat-file", "-e", f"{commit}^{{commit}}")
    except GitFailed:
        return False
    return True


def _prepare(folder: Path, url: str, uid: int) -> None:
    """Make the remote's folder, the note of its use last. Raises OSError, Unavailable."""
    folder.mkdir(mode=0o700, exist_ok=True)
    os.chown(folder, uid, uid)
    make_repository(folder, "repo", uid)
    (folder / "url").write_text(show_url(url))


def _touch(folder: Path) -> bool:
    """Note that a remote's folder is used now; False if there is none."""
    try:
        os.utime(folder / "url")
    except FileNotFoundError:
        return False
    return True


def _unlock(repository: Path) -> None:
    """Remove what a killed command has left: nobody else is at work here."""
    for base, _, files in os.walk(repository):
        for name in files:
            if name.endswith(".lock") or (name.startswith("tmp_") and "/objects" in base):
                Path(base, name).unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Idempotent."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
