"""The mounts of one RUN: what ``--mount`` shows it, and the marks they would leave in its layer."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cais.build.cache import BuildCache
from cais.build.dockerfile.evaluate import RunAct
from cais.build.dockerfile.values import MountOption
from cais.build.layering import Part
from cais.build.request import Secrets
from cais.build.tree import LayersTree, resolve
from cais.containers.record import MountPoint
from cais.errors import Invalid

STUB_FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
STUB_FOLDERS = ("dev", "proc", "sys")
"""Targets of the mounts that every container has."""
_PRIVATE_TRIES = 64


@dataclass(frozen=True, slots=True)
class Mounted:
    """What a container gets. ``tmpfs`` options by target; ``env`` secrets in variables; ``stub_files`` and
    ``stub_folders``: targets that the engine makes, and nobody wants in a layer."""

    points: tuple[MountPoint, ...]
    tmpfs: Mapping[str, str]
    env: tuple[str, ...]
    stub_files: frozenset[str]
    stub_folders: frozenset[str]


async def find_secret(mount: MountOption, secrets: Secrets) -> bytes | None:
    """The bytes of a secret; None if it is not there and need not be. Raises Invalid."""
    id = mount.id or mount.source or mount.target.rpartition("/")[2]
    data = await secrets.get(id)
    if data is None and mount.required:
        raise Invalid(f"secret {id}: not found: give it to the build with --secret id={id}")
    return data


class MountMaker:
    """Makes the mounts of steps; one for each engine, because cache mounts are shared by all builds."""

    def __init__(self, cache: BuildCache) -> None:
        self._cache = cache
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def mount(
        self,
        act: RunAct,
        lowers: tuple[str, ...],
        folder: Path,
        secrets: Secrets,
        parts: Mapping[int, str],
    ) -> AsyncIterator[Mounted]:
        """``folder`` is the step's own, gone with it; ``parts``: by the mount's index, what a bind shows. Raises
        Invalid."""
        view = LayersTree(lowers)
        points: list[MountPoint] = []
        tmpfs: dict[str, str] = {}
        env: list[str] = []
        async with AsyncExitStack() as stack:
            for index, mount in enumerate(act.mounts):
                target = _target(act, mount)
                if mount.type == "bind":
                    points.append(_point(parts[index], target, rw=mount.readonly is False))
                elif mount.type == "tmpfs":
                    tmpfs[target] = _tmpfs_options(mount)
                elif mount.type == "cache":
                    path = await stack.enter_async_context(self._cache_folder(mount, target))
                    points.append(_point(str(path), target, rw=not mount.readonly))
                elif mount.type == "secret":
                    data = await find_secret(mount, secrets)
                    if data is not None and mount.env:
                        env.append(f"{mount.env}={data.decode('utf-8', 'surrogateescape')}")
                    if data is not None and (mount.target or not mount.env):
                        points.append(
                            _point(_secret_file(mount, data, folder / f"{index}"), target, rw=False)
                        )
            if act.script:
                path = folder / "script"
                _write(path, act.script.data, 0o755)
                points.append(_point(str(path), f"/dev/pipes/{act.script.name}", rw=False))
            files, folders = _stubs(view, points, tmpfs)
            yield Mounted(tuple(points), tmpfs, tuple(env), files, folders)

    @asynccontextmanager
    async def _cache_folder(self, mount: MountOption, target: str) -> AsyncIterator[Path]:
        name = mount.id or target
        if mount.sharing == "private":
            busy = self._cache.busy
            tries = [name, *(f"{name}\0{number}" for number in range(_PRIVATE_TRIES))]
            name = next((each for each in tries if self._cache.mount_path(each).name not in busy), name)
        path = self._cache.mount_path(name)
        lock = self._locks.setdefault(path.name, asyncio.Lock()) if mount.sharing == "locked" else None
        async with AsyncExitStack() as stack:
            if lock:
                await stack.enter_async_context(lock)
            _make_folder(path, mount)
            busy = self._cache.busy
            busy[path.name] = busy.get(path.name, 0) + 1
            try:
                yield path
            finally:
                busy[path.name] -= 1
                if not busy[path.name]:
                    del busy[path.name]


def plan_part(mount: MountOption, context: Part, lowers: tuple[str, ...]) -> Part:
    """What a bind mount shows: a part of the context, or of a stage's or image's files."""
    path = mount.source or "/"
    return Part(path, None, lowers) if mount.from_ else Part(path, context.index)


def _target(act: RunAct, mount: MountOption) -> str:
    target = mount.target
    if mount.type == "secret" and not target:
        target = f"/run/secrets/{mount.id or mount.source}"
    whole = os.path.normpath(os.path.join("/", act.cwd, target))
    if whole == "/":
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


def _secret_file(mount: MountOption, data: bytes, path: Path) -> str:
    _write(path, data, 0o400 if mount.mode is None else mount.mode)
    os.chown(path, mount.uid or 0, mount.gid or 0)
    return str(path)


def _write(path: Path, data: bytes, mode: int) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(data)
    path.chmod(mode)


def _make_folder(path: Path, mount: MountOption) -> None:
    """The folder of a cache mount; who makes it first decides what it is."""
    if not path.is_dir():
        half = path.with_name(f".{path.name}-{os.urandom(4).hex()}")
        half.mkdir(mode=0o700)
        os.chown(half, mount.uid or 0, mount.gid or 0)
        half.chmod(0o755 if mount.mode is None else mount.mode)
        half.rename(path)


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
