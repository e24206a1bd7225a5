"""The mounts of one RUN: what ``--mount`` shows it, and the marks they would leave in its layer."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from cais.build.cache import BuildCache
from cais.build.context import Context
from cais.build.copying import Manner
from cais.build.dockerfile.evaluate import RunAct
from cais.build.dockerfile.values import MountOption
from cais.build.keys import fingerprint
from cais.build.layering import Part
from cais.build.relay import relay
from cais.build.request import Agents, Secrets
from cais.build.tree import LayersTree, resolve
from cais.build.vault import Vault
from cais.containers.record import MountPoint
from cais.errors import Invalid
from cais.store.snapshots.remove import remove_tree

STUB_FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
STUB_FOLDERS = ("dev", "proc", "sys")
"""Targets of the mounts that every container has."""
_PRIVATE_TRIES = 64
_AGENT = "/run/buildkit/ssh_agent.{}"
"""Where programs find an agent's socket unless the step says otherwise, as under BuildKit."""

Extract = Callable[[Part, Path], Awaitable[str]]
"""Writes a part of a tree below an empty folder; the path of it there. Raises NotFound, Invalid."""


class Mounted(msgspec.Struct, frozen=True):
    """What a container gets. ``tmpfs`` options by target; ``env`` secrets in variables; ``stub_files`` and
    ``stub_folders``: targets that the engine makes, and nobody wants in a layer."""

    points: tuple[MountPoint, ...]
    tmpfs: Mapping[str, str]
    env: tuple[str, ...]
    stub_files: frozenset[str]
    stub_folders: frozenset[str]


class Given(msgspec.Struct, frozen=True):
    """What mounts are made of. ``parts``: by the mount's index, what it shows of a tree."""

    parts: Mapping[int, Part]
    extract: Extract
    secrets: Secrets
    agents: Agents


async def find_secret(mount: MountOption, secrets: Secrets) -> bytes | None:
    """The bytes of a secret; None if it is not there and need not be. Raises Invalid."""
    id = _secret_id(mount)
    data = await secrets.get(id)
    if data is None and mount.required:
        raise Invalid(f"secret {id}: not found: give it to the build with --secret id={id}")
    return data


class MountMaker:
    """Makes the mounts of steps; one for each engine, because cache mounts are shared by all builds."""

    def __init__(self, cache: BuildCache) -> None:
        self._cache = cache
        self._vault = Vault(cache.mounts)
        self._locks: dict[str, asyncio.Lock] = {}
        self._making: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def mount(
        self, act: RunAct, lowers: tuple[str, ...], folder: Path, given: Given
    ) -> AsyncIterator[Mounted]:
        """``folder`` is the step's own, gone with it. Raises NotFound, Invalid, OSError."""
        async with AsyncExitStack() as stack:
            step = _Step(act, folder, given, stack)
            for index, mount in enumerate(act.mounts):
                target = _target(act, mount)
                if mount.type == "bind":
                    await step.bind(index, mount, target)
                elif mount.type == "tmpfs":
                    step.tmpfs[target] = _tmpfs_options(mount)
                elif mount.type == "cache":
                    cached = self._cache_folder(mount, target, given.parts.get(index), given.extract)
                    path = await stack.enter_async_context(cached)
                    step.points.append(_point(str(path), target, rw=not mount.readonly))
                elif mount.type == "secret":
                    await step.secret(index, mount, target, self._vault)
                else:
                    await step.agent(mount, self._vault)
            step.script()
            files, folders = _stubs(LayersTree(lowers), step.points, step.tmpfs)
            yield Mounted(tuple(step.points), step.tmpfs, tuple(step.env), files, folders)

    @asynccontextmanager
    async def _cache_folder(
        self, mount: MountOption, target: str, part: Part | None, extract: Extract
    ) -> AsyncIterator[Path]:
        content = await asyncio.to_thread(_content, part) if part and part.index else ""
        name = cache_name(mount, target, part, content)
        if mount.sharing == "private":
            busy = self._cache.busy
            tries = [name, *(f"{name}\0{number}" for number in range(_PRIVATE_TRIES))]
            name = next((each for each in tries if self._cache.mount_path(each).name not in busy), name)
        path = self._cache.mount_path(name)
        lock = self._locks.setdefault(path.name, asyncio.Lock()) if mount.sharing == "locked" else None
        async with AsyncExitStack() as stack:
            if lock:
                await stack.enter_async_context(lock)
            # Noted before it is filled: nobody else may take it for a free one, or prune it.
            busy = self._cache.busy
            busy[path.name] = busy.get(path.name, 0) + 1
            try:
                async with self._making.setdefault(path.name, asyncio.Lock()):
                    await _make_folder(path, mount, part, extract)
                yield path
            finally:
                busy[path.name] -= 1
                if not busy[path.name]:
                    del busy[path.name]


class _Step(msgspec.Struct):
    """Collects the mounts of one step. What ends with it is on the ``stack``."""

    act: RunAct
    folder: Path
    given: Given
    stack: AsyncExitStack
    points: list[MountPoint] = msgspec.field(default_factory=list)
    tmpfs: dict[str, str] = msgspec.field(default_factory=dict)
    env: list[str] = msgspec.field(default_factory=list)
    _hidden: Path | None = None
    _agents: int = 0

    async def bind(self, index: int, mount: MountOption, target: str) -> None:
        """A copy of what it shows: what is written there is the step's alone, and gone with it."""
        place = self.folder / f"bind-{index}"
        place.mkdir(mode=0o700)
        path = await self.given.extract(self.given.parts[index], place)
        self.points.append(_point(path, target, rw=mount.readonly is False))

    async def secret(self, index: int, mount: MountOption, target: str, vault: Vault) -> None:
        """A file in memory, a variable, or both."""
        data = await find_secret(mount, self.given.secrets)
        if data is None:
            return
        if mount.env:
            if b"\0" in data:
                raise Invalid(f"secret {_secret_id(mount)} holds a null byte: a variable cannot")
            self.env.append(f"{mount.env}={data.decode('utf-8', 'surrogateescape')}")
        if mount.target or not mount.env:
            path = self._hide(vault) / f"{index}"
            _write(path, data, 0o400 if mount.mode is None else mount.mode, mount)
            self.points.append(_point(str(path), target, rw=False))

    async def agent(self, mount: MountOption, vault: Vault) -> None:
        """A socket that leads to the client's agent; nothing if it has none and need not."""
        id = mount.id or "default"
        number, self._agents = self._agents, self._agents + 1
        target = _join(self.act, mount.target or _AGENT.format(number))
        if not await self.given.agents.has(id):
            if mount.required:
                raise Invalid(f"SSH agent {id} is not forwarded: build with --ssh {id}")
            return
        path = self._hide(vault) / f"agent-{number}"
        mode = 0o600 if mount.mode is None else mount.mode
        owner = (mount.uid or 0, mount.gid or 0)
        await self.stack.enter_async_context(relay(path, id, self.given.agents, owner, mode))
        self.points.append(_point(str(path), target, rw=False))
        names = [text.partition("=")[0] for text in (*self.act.env, *self.env)]
        if "SSH_AUTH_SOCK" not in names:
            self.env.append(f"SSH_AUTH_SOCK={target}")

    def script(self) -> None:
        """The here-document that is a program of its own."""
        script = self.act.script
        if script:
            path = self.folder / "script"
            _write(path, script.data, 0o755)
            self.points.append(_point(str(path), f"/dev/pipes/{script.name}", rw=False))

    def _hide(self, vault: Vault) -> Path:
        if self._hidden is None:
            self._hidden = self.stack.enter_context(vault.folder(self.folder))
        return self._hidden


def _content(part: Part) -> str:
    assert part.index is not None
    return fingerprint(Context(part.index), part.path, Manner())


def cache_name(mount: MountOption, target: str, part: Part | None, content: str = "") -> str:
    """What a cache mount is known by. One that begins with other files (``from``), or is to be another part
    (``source``, which here is a cache of its own: no path that earlier steps wrote is walked), is another one.
    ``content``: a digest of files that are no layers."""
    name = mount.id or target
    if part is None and not mount.source.strip("/"):
        return name
    lowers = list(part.lowers) if part else []
    start = msgspec.json.encode((mount.source.strip("/"), lowers, content))
    return f"{name}\0from\0{hashlib.sha256(start).hexdigest()}"


def plan_part(mount: MountOption, context: Part, lowers: tuple[str, ...]) -> Part:
    """What a bind mount shows: a part of the context, or of a stage's or image's files."""
    path = mount.source or "/"
    return Part(path, None, lowers) if mount.from_ else Part(path, context.index)


def _secret_id(mount: MountOption) -> str:
    return mount.source or mount.id or mount.target.rpartition("/")[2]


def _target(act: RunAct, mount: MountOption) -> str:
    target = mount.target
    if mount.type == "secret" and not target:
        target = f"/run/secrets/{_secret_id(mount).rpartition('/')[2]}"
    return _join(act, target) if target else ""


def _join(act: RunAct, target: str) -> str:
    whole = os.path.normpath(os.path.join("/", act.cwd, target))
    if whole.lstrip("/") == "":
        raise Invalid("a mount cannot be at /")
    return "/" + whole.lstrip("/")


def _point(source: str, target: str, *, rw: bool) -> MountPoint:
    return MountPoint(type="bind", source=source, destination=target, rw=rw, non_recursive=True)


def _tmpfs_options(mount: MountOption) -> str:
    words = [f"size={mount.size}"] if mount.size else []
    words += [f"mode={mount.mode:o}"] if mount.mode is not None else []
    words += [f"uid={mount.uid}"] if mount.uid is not None else []
    words += [f"gid={mount.gid}"] if mount.gid is not None else []
    return ",".join(words)


def _write(path: Path, data: bytes, mode: int, owner: MountOption | None = None) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(data)
    if owner is not None:
        os.chown(path, owner.uid or 0, owner.gid or 0)
    path.chmod(mode)


async def _make_folder(path: Path, mount: MountOption, part: Part | None, extract: Extract) -> None:
    """The folder of a cache mount; who makes it first decides what it is. Raises NotFound, Invalid."""
    half = _begin_folder(path)
    if half is None:
        return
    if part is None:
        _finish_folder(half, path, mount, part)
        return
    try:
        _finish_folder(Path(await extract(part, half)), path, mount, part)
    finally:
        await asyncio.to_thread(remove_tree, str(half))


def _begin_folder(path: Path) -> Path | None:
    """A folder to make it in; None if it is there."""
    if path.is_dir():
        return None
    half = path.with_name(f".{path.name}-{os.urandom(4).hex()}")
    half.mkdir(mode=0o700)
    return half


def _finish_folder(made: Path, path: Path, mount: MountOption, part: Part | None) -> None:
    """Give the folder owner and mode, as far as they are said, and its name."""
    if not made.is_dir():
        raise Invalid(f"mount of type cache needs a folder: {mount.source!r} is none")
    if part is None or mount.uid is not None or mount.gid is not None:
        os.chown(made, mount.uid or 0, mount.gid or 0)
    if part is None or mount.mode is not None:
        made.chmod(0o755 if mount.mode is None else mount.mode)
    made.rename(path)


def _stubs(
    view: LayersTree, points: Sequence[MountPoint], tmpfs: Mapping[str, str]
) -> tuple[frozenset[str], frozenset[str]]:
    """Where targets do not exist in the layers, and all that leads to them."""
    files, folders = set(STUB_FILES), set(STUB_FOLDERS)
    targets = [(point.destination, Path(point.source).is_dir()) for point in points]
    for target, is_folder in (*targets, *((path, True) for path in tmpfs)):
        path = os.fsdecode(resolve(view.look, os.fsencode(target)))
        (folders if is_folder else files).add(path)
        parts = path.split("/")
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
    return frozenset(files), frozenset(folders)
