"""Which packages there are in layers; for a worker. Nothing is mounted and nothing of the image runs.

Read are dpkg's status, apk's database, rpm's databases, and what lies beside Python packages. What is too large or
damaged is passed over and named.
"""

from collections.abc import Callable, Iterator

import msgspec

from cais.build.attest.debian import parse_apk, parse_dpkg
from cais.build.attest.packages import NO_DISTRIBUTION, Distribution, Package
from cais.build.attest.python import HEAD, METADATA, is_info_folder, parse_metadata
from cais.build.attest.rpm import FILES, FOLDERS, parse_rpm
from cais.build.tree import LayersTree, join, resolve
from cais.errors import CaisError, Invalid
from cais.store.layers.compare import list_below
from cais.store.layers.tar import REGULAR

_DATABASE_LIMIT = 128 << 20
_MAX_PACKAGES = 50_000
_MAX_ENTRIES = 3_000_000
_MAX_DEPTH = 64
_MAX_NOTES = 20
_APART = frozenset({b"proc", b"sys", b"dev"})
_OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
_APK = ("lib/apk/db/installed", "usr/lib/apk/db/installed")


class Found(msgspec.Struct):
    """What a root holds; ``notes``: what was passed over."""

    distribution: Distribution = NO_DISTRIBUTION
    packages: list[Package] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)


def scan_layers(lowers: tuple[str, ...]) -> Found:
    """The packages in the merged files of layers (top first), sorted."""
    scan = _Scan(lowers)
    scan.run()
    found = scan.found
    unique = {(one.kind, one.name, one.version, one.path): one for one in found.packages}
    found.packages = [unique[key] for key in sorted(unique)]
    return found


class _Scan:
    def __init__(self, lowers: tuple[str, ...]) -> None:
        self._lowers = lowers
        self._tree = LayersTree(lowers)
        self.found = Found()

    def run(self) -> None:
        found = self.found
        for name in _OS_RELEASE:
            data = self._read(name.encode(), 64 << 10)
            if data is not None:
                found.distribution = parse_os_release(data)
                break
        self._take(b"var/lib/dpkg/status", lambda data, path: parse_dpkg(data, path, whole=False))
        for entry in self._names(b"var/lib/dpkg/status.d"):
            if not entry.endswith(b".md5sums"):
                place = b"var/lib/dpkg/status.d/" + entry
                self._take(place, lambda data, path: parse_dpkg(data, path, whole=True))
        for text in _APK:
            self._take(text.encode(), parse_apk)
        self._scan_rpm()
        self._scan_python()

    def _scan_rpm(self) -> None:
        """One database of each folder, the first that can be read whole: rpm knows of one. Which folder it was told of
        is not known here, so all are read that are not links to one another: rather too many than too few."""
        seen = set()
        for folder in FOLDERS:
            real = self._resolve(folder.encode())
            if real in seen:
                continue
            seen.add(real)
            paths = [path for name in FILES if self._is_file(path := f"{folder}/{name}".encode())]
            while paths and not self._take(paths.pop(0), parse_rpm):
                pass
            for path in paths:
                self._note(f"/{path.decode()} lies beside a newer database of rpm")

    def _scan_python(self) -> None:
        for folder in self._info_folders():
            for name in METADATA:
                path = join(folder, name.encode())
                head = self._read(path, HEAD, cut=True)
                if head is not None:
                    self._add(parse_metadata(head, path.decode("utf-8", "backslashreplace")))
                    break

    def _info_folders(self) -> Iterator[bytes]:
        """Every folder that tells of a Python package; no link is followed."""
        waiting = [b""]
        count = 0
        while waiting:
            path = waiting.pop()
            listed = list_below(self._lowers, path)
            count += len(listed)
            if count > _MAX_ENTRIES:
                self._note(f"there are more than {_MAX_ENTRIES} files: Python packages may be missing")
                return
            for name in sorted(listed, reverse=True):
                if not listed[name].is_folder or (not path and name in _APART):
                    continue
                inner = join(path, name)
                if is_info_folder(name.decode("utf-8", "replace")):
                    yield inner
                elif inner.count(b"/") < _MAX_DEPTH:
                    waiting.append(inner)

    def _take(self, path: bytes, parse: Callable[[bytes, str], Iterator[Package]]) -> bool:
        """Whether all of it could be read."""
        data = self._read(path, _DATABASE_LIMIT)
        if data is None:
            return False
        try:
            for package in parse(data, path.decode("utf-8", "backslashreplace")):
                self._add(package)
        except Invalid as error:
            self._note(str(error))
            return False
        return True

    def _is_file(self, path: bytes) -> bool:
        real = self._resolve(path)
        node = self._tree.look(real) if real is not None else None
        return node is not None and node.kind == REGULAR

    def _add(self, package: Package) -> None:
        if not package.is_sound:
            self._note(f"/{package.path} names a package that cannot be")
        elif len(self.found.packages) < _MAX_PACKAGES:
            self.found.packages.append(package)
        else:
            self._note(f"there are more than {_MAX_PACKAGES} packages")

    def _names(self, path: bytes) -> list[bytes]:
        real = self._resolve(path)
        node = self._tree.look(real) if real is not None else None
        if real is None or node is None or not node.is_folder:
            return []
        return list(self._tree.names(real))[:_MAX_PACKAGES]

    def _resolve(self, path: bytes) -> bytes | None:
        try:
            return resolve(self._tree.look, path)
        except CaisError:
            return None

    def _read(self, path: bytes, limit: int, *, cut: bool = False) -> bytes | None:
        """The file at ``path``, links followed inside the root; None if there is none, or it is too large. ``cut``: its
        beginning will do."""
        real = self._resolve(path)
        node = self._tree.look(real) if real is not None else None
        if real is None or node is None or node.kind != REGULAR:
            return None
        if node.size > limit and not cut:
            self._note(f"/{path.decode('utf-8', 'backslashreplace')} is larger than {limit} bytes")
            return None
        data = bytearray()
        for part in self._tree.read(real):
            data += part
            if len(data) >= limit:
                break
        return bytes(data[:limit])

    def _note(self, text: str) -> None:
        notes = self.found.notes
        if text not in notes and len(notes) < _MAX_NOTES:
            notes.append(text)


def parse_os_release(data: bytes) -> Distribution:
    """ID and VERSION_ID (os-release(5))."""
    fields = {}
    for line in data.decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            fields[name.strip()] = value.strip().strip("\"'")[:64]
    kept = (
        "".join(each for each in fields.get(name, "") if each.isalnum() or each in "._-")
        for name in ("ID", "VERSION_ID")
    )
    return Distribution(*kept)
