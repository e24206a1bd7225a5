"""The store of unpacked layers: one folder a diff_id, shared by all images, named only once it is whole."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cais.errors import Invalid, NotFound
from cais.spec.digest import Digest, chain_ids, parse_digest
from cais.store.layers.apply import AppliedLayer, apply_layer
from cais.store.layers.fit import Fit, choose_fit, make_attribute_folders
from cais.store.layers.limits import DEFAULT_LIMITS, Limits
from cais.store.layers.lower import LowerView
from cais.store.layers.record import LayerRecord, format_record, parse_record
from cais.store.layers.writer import NeedsLower

_TEMPORARY = ".tmp-"
_TRASH = ".trash-"
_CHAIN = "chain-"
_RECORD = "layer.json"
_SETTLED = "settled"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Layers:
    """``<root>/layers/<algorithm>-<hex>/fs`` is a layer, ready to be a lower folder of an overlay.

    Most layers mean the same whatever is below them. One that implies folders, links to files it does not have or
    writes through a symlink of a layer below also gets ``chain-<algorithm>-<hex>``, named by chain_id: a few folders
    with the right attributes, or a copy of its own (module ``fit``).

    Nothing is synced while unpacking: a crash of the engine cannot hurt a rename, and after a crash of the machine
    ``sweep`` drops what was unpacked in an earlier boot and never ``settle``d. Safe to use from several processes.
    """

    def __init__(self, root: Path, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self._root = root / "layers"
        self.limits = limits
        self._lowers: dict[Digest, tuple[str, ...]] = {}
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Layers hold setuid programs and device nodes: nobody but root may walk in (CVE-2021-41091).
        self._root.chmod(0o700)

    def ensure(self, blob: Path, diff_id: Digest, parents: Sequence[Digest]) -> None:
        """Have the layer ready on top of ``parents`` (bottom first), which must be ready. Idempotent.

        To unpack side by side, call ``unpack`` for each layer first, in any order; then this is quick.
        Raises Corrupt, Invalid, NotFound (a parent is missing), OSError.
        """
        self.unpack(blob, diff_id)
        self._fit(blob, diff_id, parents)

    def unpack(self, blob: BinaryIO | Path, diff_id: Digest) -> None:
        """Unpack the layer unless it is there. Idempotent; needs no parents. Raises Corrupt, Invalid, OSError."""
        if self.has(diff_id):
            return
        with self._temporary() as folder:
            try:
                target = _make_target(folder)
                applied = apply_layer(blob, target, diff_id=diff_id, limits=self.limits)
                record = _record(applied)
            except NeedsLower:
                shutil.rmtree(target)
                record = LayerRecord(diff_id=diff_id, needs_lower=True, boot=_boot_id())
            self._commit(folder, record, _name(diff_id))

    def unpack_new(self, tar: BinaryIO) -> Digest:
        """Unpack a layer whose diff_id is known only when all of it has been read, and return that. Idempotent.

        Raises as ``unpack``.
        """
        with self._temporary() as folder:
            applied = apply_layer(tar, _make_target(folder), limits=self.limits)
            self._commit(folder, _record(applied), _name(applied.diff_id))
            return applied.diff_id

    def has(self, diff_id: Digest) -> bool:
        """Whether the layer is unpacked."""
        return (self._root / _name(diff_id) / _RECORD).exists()

    def path(self, diff_id: Digest) -> Path:
        """The layer's own folder. Raises NotFound."""
        self._read(_name(diff_id))
        return self._root / _name(diff_id) / "fs"

    def size(self, diff_id: Digest) -> int:
        """Bytes of all files in the layer. Raises NotFound."""
        return self._read(_name(diff_id)).size

    def lower_paths(self, diff_ids: Sequence[Digest]) -> tuple[str, ...]:
        """The absolute folders to mount for this stack (given bottom first), from the top down.

        Raises NotFound if a layer is not ready on top of the ones below it.
        """
        if not diff_ids:
            return ()
        chain_id = chain_ids(diff_ids)[-1]
        known = self._lowers.get(chain_id)
        if known is None:
            own, hides_all = self._own_paths(diff_ids[-1], chain_id, bottom=len(diff_ids) == 1)
            rest = () if hides_all else self.lower_paths(diff_ids[:-1])
            # overlayfs refuses one folder twice (ELOOP), and images do have a layer twice, the empty one above all.
            # The upper of the two already shows and hides all that the lower would.
            known = tuple(dict.fromkeys((*own, *rest)))
            self._lowers[chain_id] = known
        return known

    def list(self) -> list[Digest]:
        """The diff_ids of all unpacked layers; other folders among them are passed over."""
        found = []
        for name in self._names():
            with suppress(Invalid):
                found.append(parse_digest(name.replace("-", ":", 1)))
        return found

    def folders(self) -> Sequence[str]:
        """The names of all folders: layers, chains, and whatever else lies there."""
        return self._names()

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder on the same file system for the time of a block; the next sweep takes it if we die."""
        return self._temporary()

    def remove(self, diff_id: Digest) -> int:
        """Remove the layer and what was made from it for chains; returns the bytes freed. Idempotent."""
        freed = self._remove(_name(diff_id))
        for name in self._names():
            if name.startswith(_CHAIN) and self._diff_id_of(name) == diff_id:
                freed += self._remove(name)
        return freed

    def discard(self, name: str) -> None:
        """Remove one of ``folders``, whatever it is. Idempotent."""
        self._remove(name)

    def prune(self, keep: Iterable[Sequence[Digest]]) -> int:
        """Remove every layer and chain that is in none of the stacks ``keep``; returns the bytes freed."""
        kept: set[str] = set()
        for diff_ids in keep:
            kept.update(_name(diff_id) for diff_id in diff_ids)
            kept.update(_CHAIN + _name(chain_id) for chain_id in chain_ids(diff_ids))
        return sum(self._remove(name) for name in self._names() if name[0] != "." and name not in kept)

    def sweep(self) -> None:
        """Remove left-overs of interrupted work. At the engine's start only: running work would lose its folder."""
        boot = _boot_id()
        for name in self._names():
            if name.startswith((_TEMPORARY, _TRASH)):
                shutil.rmtree(self._root / name, ignore_errors=True)
            elif not (self._root / name / _SETTLED).exists() and self._boot_of(name) != boot:
                self._remove(name)

    def settle(self) -> None:
        """Put every layer onto the disk for good, so that it survives a crash of the machine. Slow; idempotent."""
        names = [name for name in self._names() if name[0] != "."]
        loose = [name for name in names if not (self._root / name / _SETTLED).exists()]
        if loose:
            os.sync()
            for name in loose:
                with suppress(FileNotFoundError):  # removed meanwhile
                    (self._root / name / _SETTLED).touch()

    def _fit(self, blob: Path, diff_id: Digest, parents: Sequence[Digest]) -> None:
        record = self._read(_name(diff_id))
        chain_id = chain_ids([*parents, diff_id])[-1]
        name = _CHAIN + _name(chain_id)
        if not record.depends(bottom=not parents) or (self._root / name).exists():
            return
        below = LowerView(self.lower_paths(parents))
        own = self._root / _name(diff_id) / "fs"
        fit, folders = choose_fit(record, own, below)
        with self._temporary() as folder:
            size, hides_all = 0, record.hides_all
            if fit is Fit.COPY:
                applied = apply_layer(
                    blob, _make_target(folder), diff_id=diff_id, limits=self.limits, below=below
                )
                size, hides_all = applied.size, applied.hides_all
            elif fit is Fit.ATTRIBUTES:
                make_attribute_folders(_make_target(folder), folders, own, record, below)
            made = LayerRecord(
                diff_id=diff_id, size=size, fit=fit.value, hides_all=hides_all, boot=_boot_id()
            )
            self._commit(folder, made, name)

    def _own_paths(self, diff_id: Digest, chain_id: Digest, *, bottom: bool) -> tuple[tuple[str, ...], bool]:
        """The folders of the topmost layer of a stack, and whether it hides all others."""
        own = str(self._root / _name(diff_id) / "fs")
        record = self._read(_name(diff_id))
        if not record.depends(bottom=bottom):
            return (own,), record.hides_all
        chain = _CHAIN + _name(chain_id)
        record = self._read(chain)
        fitted = str(self._root / chain / "fs")
        match Fit(record.fit):
            case Fit.COPY:
                return (fitted,), record.hides_all
            case Fit.ATTRIBUTES:
                return (fitted, own), record.hides_all
            case Fit.SAME:
                return (own,), record.hides_all

    def _names(self) -> Sequence[str]:
        return os.listdir(self._root)

    def _read(self, name: str) -> LayerRecord:
        try:
            return parse_record((self._root / name / _RECORD).read_bytes())
        except FileNotFoundError:
            raise NotFound(f"no such layer: {name.replace('sha256-', 'sha256:')}") from None

    def _boot_of(self, name: str) -> str:
        try:
            return self._read(name).boot
        except (NotFound, Invalid):
            return ""

    def _diff_id_of(self, name: str) -> Digest | None:
        try:
            return self._read(name).diff_id
        except (NotFound, Invalid):
            return None

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        folder = self._root / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            try:
                shutil.rmtree(folder, ignore_errors=True)  # gone already if it was committed
            except SystemExit:
                # A worker is told to end just now; it is told once only.
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def _commit(self, folder: Path, record: LayerRecord, name: str) -> None:
        (folder / _RECORD).write_bytes(format_record(record))
        for _ in range(2):
            try:
                folder.rename(self._root / name)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                if (self._root / name / _RECORD).exists():
                    return  # another worker was faster, with the same bytes
                self._remove(name)  # no layer: it would be in the way for ever
            else:
                return

    def _remove(self, name: str) -> int:
        self._lowers.clear()
        trash = self._root / f"{_TRASH}{uuid.uuid4().hex}"
        try:
            size = self._read(name).size
        except (NotFound, Invalid):
            size = 0
        try:
            (self._root / name).rename(trash)
        except FileNotFoundError:
            return 0
        if trash.is_dir() and not trash.is_symlink():
            shutil.rmtree(trash, ignore_errors=True)
        else:
            trash.unlink()
        return size


def unpack_layer(root: Path, blob: Path, diff_id: Digest, limits: Limits = DEFAULT_LIMITS) -> None:
    """``Layers(root).unpack``, for a worker."""
    Layers(root, limits=limits).unpack(blob, diff_id)


def ensure_layers(
    root: Path, blobs: Sequence[Path], diff_ids: Sequence[Digest], limits: Limits = DEFAULT_LIMITS
) -> None:
    """``Layers(root).ensure`` for a whole stack, bottom first, for a worker."""
    layers = Layers(root, limits=limits)
    for index, (blob, diff_id) in enumerate(zip(blobs, diff_ids, strict=True)):
        layers.ensure(blob, diff_id, diff_ids[:index])


def _record(applied: AppliedLayer) -> LayerRecord:
    return LayerRecord(
        diff_id=applied.diff_id,
        size=applied.size,
        entries=applied.entries,
        implied=applied.implied,
        assumed=applied.assumed,
        whiteouts=applied.whiteouts,
        hides_all=applied.hides_all,
        boot=_boot_id(),
    )


def _name(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.hex}"


def _make_target(folder: Path) -> Path:
    target = folder / "fs"
    target.mkdir()
    target.chmod(0o755)
    return target


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
