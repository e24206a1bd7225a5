"""An htpasswd file: names and bcrypt hashes that somebody else keeps, read again when it has changed."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from cais.hub.passwords import parse_cost

log = logging.getLogger(__name__)
MAX_FILE = 1 << 20
MIN_COST, MAX_COST = 4, 14
"""bcrypt's least, and what takes about a second: a dearer line would stop all who log in."""


class Htpasswd:
    """``path`` None: there is none. ``is_name``: whether somebody may be called so."""

    def __init__(self, path: Path | None, is_name: Callable[[str], bool]) -> None:
        self._path = path
        self._is_name = is_name
        self._mark: tuple[int, ...] | None = None
        self._hashes: Mapping[str, str] = {}
        self.cost = 0
        """The highest in the file, as it was read last."""

    def find(self, name: str) -> str | None:
        """The hash of who is called so. A file that cannot be read has nobody in it."""
        self._refresh()
        return self._hashes.get(name)

    def _refresh(self) -> None:
        if self._path is None:
            return
        try:
            status = self._path.stat()
            mark: tuple[int, ...] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if mark == self._mark:
                return
            with self._path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except OSError as error:
            mark, data = (-(error.errno or 1),), b""
            if mark == self._mark:
                return
            log.warning("cannot read %s: nobody logs in by it: %s", self._path, error.strerror)
        if len(data) > MAX_FILE:
            log.warning("%s is larger than %d bytes: nobody logs in by it", self._path, MAX_FILE)
            data = b""
        self._hashes, bad = parse_htpasswd(data, self._is_name)
        self.cost = max((parse_cost(hashed) or 0 for hashed in self._hashes.values()), default=0)
        self._mark = mark
        if bad:
            shown = ", ".join(map(str, bad[:10]))
            log.warning(
                "%s: lines that are not used (invalid name, or no bcrypt hash): %s", self._path, shown
            )


def parse_htpasswd(data: bytes, is_name: Callable[[str], bool]) -> tuple[dict[str, str], list[int]]:
    """Names and hashes, and the numbers of the lines that are neither these nor comments. Of lines with the same name
    the first counts, as for other readers of such files."""
    found: dict[str, str] = {}
    bad = []
    for number, line in enumerate(data.decode(errors="replace").split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        hashed = rest.partition(":")[0].strip()
        if is_name(name) and MIN_COST <= (parse_cost(hashed) or 0) <= MAX_COST:
            found.setdefault(name, hashed)
        else:
            bad.append(number)
    return found, bad
