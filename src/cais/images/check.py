"""Is everything in the store what it claims to be, and mending what is not."""

import asyncio
import shutil
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec
from msgspec.structs import replace

from cais.errors import CaisError, Corrupt, NotFound
from cais.images.catalog import NAMELESS, Catalog
from cais.images.feed import feed
from cais.images.needs import Need, Needs, collect_needs
from cais.images.unpack import Unpacker
from cais.remotes.client import Remotes
from cais.spec.descriptor import Descriptor
from cais.spec.digest import Digest, parse_digest
from cais.spec.reference import parse_reference
from cais.store.content import Content
from cais.store.gc import Lease
from cais.store.layers.check import check_layer

_ROUNDS = 8
"""What was mended may show more to mend: indexes, their manifests, configurations and layers; then what is loose."""


class Damage(msgspec.Struct, frozen=True):
    """One thing that is wrong. ``kind`` is blob, layer or left-over; ``names``: the images, as people write them,
    that need it; ``repair``: what was done about it, empty if nothing was asked for."""

    kind: str
    name: str
    problem: str
    names: tuple[str, ...] = ()
    repair: str = ""


class Standing(msgspec.Struct, frozen=True):
    """A container and the folders of layers that it stands on."""

    name: str
    lowers: Sequence[str]
    running: bool


class StoreCheck:
    """One check of one engine's store. ``standing``: all its containers."""

    def __init__(
        self,
        content: Content,
        catalog: Catalog,
        unpacker: Unpacker,
        remotes: Remotes,
        standing: Sequence[Standing],
    ) -> None:
        self._content = content
        self._catalog = catalog
        self._unpacker = unpacker
        self._remotes = remotes
        self._standing = standing

    async def check(self, *, deep: bool) -> list[Damage]:
        """Every blob and layer that is wrong; nothing is changed."""
        needs = await self._needs()
        return [*await self._check_blobs(needs), *await self._check_layers(needs, deep=deep)]

    async def repair(self, lease: Lease, *, deep: bool) -> list[Damage]:
        """Every blob and layer that was wrong, and what came of the attempt to mend it."""
        done: dict[tuple[str, str], Damage] = {}
        for _ in range(_ROUNDS):
            needs = await self._needs()
            await asyncio.to_thread(lease.add, *needs.blobs, *needs.layers)
            found = [damage for damage in await self._check_blobs(needs) if ("blob", damage.name) not in done]
            # Only in the end is it known what nothing needs: a mended index may lead there.
            fresh = [damage for damage in found if damage.name in needs.blobs] or found
            for damage in fresh:
                done[damage.kind, damage.name] = await self._repair_blob(damage, needs, lease)
            if not fresh:
                break
        for damage in await self._check_layers(needs, deep=deep):
            done[damage.kind, damage.name] = await self._repair_layer(damage, needs)
        await self._fit(lease)
        return [*done.values()]

    def check_strays(self, *, repair: bool) -> list[Damage]:
        """What lies about and belongs to nothing. Only while nobody works in the store: it would be his."""
        layers = self._unpacker.root / "layers"
        paths = [layers / name for name in self._unpacker.layers.folders() if name.startswith(".")]
        paths += self._content.strays()
        found = [Damage("left-over", str(path), "belongs to nothing") for path in sorted(paths)]
        if repair:
            for path in paths:
                _remove(path)
            found = [replace(damage, repair="removed") for damage in found]
        return found

    # Looking

    async def _needs(self) -> Needs:
        targets = [
            (
                Descriptor(media_type=rows[0].media_type, digest=digest, size=rows[0].size),
                tuple(row.name for row in rows),
            )
            for digest, rows in self._catalog.targets().items()
        ]
        return await asyncio.to_thread(collect_needs, self._content, targets, self._catalog.host)

    async def _check_blobs(self, needs: Needs) -> list[Damage]:
        """Every blob that is here, in workers side by side, and every one that should be."""
        digests = await asyncio.to_thread(self._content.list)
        root, run = self._unpacker.root, self._unpacker.workers.run
        problems = await asyncio.gather(*(run(check_blob, root, digest) for digest in digests))
        found = [(digest, problem) for digest, problem in zip(digests, problems, strict=True) if problem]
        found += [(digest, "is missing") for digest in sorted(needs.blobs.keys() - set(digests))]
        return [Damage("blob", digest, problem, _show(needs.names_of(digest))) for digest, problem in found]

    async def _check_layers(self, needs: Needs, *, deep: bool) -> list[Damage]:
        root, run = self._unpacker.root, self._unpacker.workers.run
        folders = [name for name in self._unpacker.layers.folders() if not name.startswith(".")]
        ids = [_diff_id(name) for name in folders]
        blobs = [self._content.path(needs.layers[one]) if one in needs.layers else None for one in ids]
        problems = await asyncio.gather(
            *(run(check_layer, root, *each, deep) for each in zip(folders, ids, blobs, strict=True))
        )
        found = []
        for name, diff_id, problem in zip(folders, ids, problems, strict=True):
            if problem:
                names = needs.names_of(diff_id) if diff_id else ()
                found.append(Damage("layer", name.replace("sha256-", "sha256:"), problem, _show(names)))
        there = {str(root / "layers" / name / "fs") for name in folders}
        lowers = sorted({lower for each in self._standing for lower in each.lowers} - there)
        return found + [
            Damage("layer", _layer_of(lower), "is missing, and a container stands on it") for lower in lowers
        ]

    # Mending

    async def _repair_blob(self, damage: Damage, needs: Needs, lease: Lease) -> Damage:
        digest = parse_digest(damage.name)
        need = needs.blobs.get(digest)
        if need is None:
            await asyncio.to_thread(self._content.remove, digest)
            return replace(damage, repair="removed: nothing needs it")
        errors = []
        for name in sorted(need.names):
            if name.startswith(NAMELESS):
                continue
            try:
                await self._fetch(name, need, lease)
            except (CaisError, OSError) as error:
                errors.append(str(error))
            else:
                return replace(damage, repair=f"fetched again from {parse_reference(name).domain}")
        reason = "; ".join(dict.fromkeys(errors)) or "the image has no name to fetch it by"
        return replace(damage, repair=f"not repaired: {reason}")

    async def _fetch(self, name: str, need: Need, lease: Lease) -> None:
        """The blob from where ``name`` comes from, in place of what is here. Raises CaisError, OSError."""
        digest = need.descriptor.digest
        async with self._remotes.open(parse_reference(name)) as repository:
            with self._content.writer(digest.algorithm) as writer:
                if need.is_document:
                    writer.write((await repository.fetch_manifest(digest)).data)
                else:
                    async with aclosing(repository.fetch_blob(need.descriptor)) as parts:
                        async for _ in feed(parts, writer.write):
                            pass
                await asyncio.to_thread(lease.commit, writer, digest)

    async def _repair_layer(self, damage: Damage, needs: Needs) -> Damage:
        folder = damage.name.replace("sha256:", "sha256-")
        diff_id = _diff_id(folder)
        place = str(self._unpacker.root / "layers" / folder / "fs")
        users = [each for each in self._standing if place in each.lowers]
        running = [each for each in users if each.running]
        if running and folder in self._unpacker.layers.folders():
            return replace(damage, repair=f"not repaired: {running[0].name} runs on it, stop it first")
        if diff_id is None:
            self._unpacker.layers.discard(folder)
            return replace(damage, repair="removed: it is made again when it is needed")
        if diff_id not in needs.layers and users:
            return replace(
                damage, repair=f"not repaired: {users[0].name} stands on it, and its image is gone"
            )
        if diff_id not in needs.layers:
            self._unpacker.layers.discard(folder)
            return replace(damage, repair="removed: nothing needs it")
        try:
            blob = needs.layers[diff_id]
            await asyncio.to_thread(self._content.verify, blob)
            await asyncio.to_thread(self._unpacker.layers.discard, folder)
            await self._unpacker.unpack_blob(diff_id, blob)
        except (CaisError, OSError) as error:
            return replace(damage, repair=f"not repaired: {error}")
        return replace(damage, repair="unpacked again from its blob")

    async def _fit(self, lease: Lease) -> None:
        """Have the layers of every image ready again that can be."""
        self._catalog.forget()
        for image in self._catalog.list_images():
            if image.chosen.is_complete:
                try:
                    async for _ in self._unpacker.unpack([image.chosen], lease):
                        pass
                except (CaisError, OSError):
                    continue  # its damage has been told of


def check_blob(root: Path, digest: Digest) -> str:
    """What is wrong with a blob; empty if nothing is. For a worker."""
    try:
        Content(root / "content").verify(digest)
    except Corrupt:
        return "is damaged: its bytes are not those of its digest"
    except NotFound:
        return ""  # collected meanwhile
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def _diff_id(folder: str) -> Digest | None:
    try:
        return parse_digest(folder.replace("-", ":", 1))
    except CaisError:
        return None


def _layer_of(lower: str) -> str:
    return Path(lower).parent.name.replace("sha256-", "sha256:")


def _show(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(
        name.removeprefix(NAMELESS) if name.startswith(NAMELESS) else parse_reference(name).familiar()
        for name in names
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
