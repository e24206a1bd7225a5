"""Paths and modes in copies to and from containers, by Docker's rules (pure)."""

import posixpath
import stat

import msgspec

from cais.containers.mountspec import clean
from cais.errors import Invalid
from cais.store.layers.tree import show

_GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


class PathStat(msgspec.Struct, frozen=True):
    """What stands at a path of a container. ``mode`` in the bits of Go's os.FileMode; ``link_target``: where a link
    leads in the end, as far as that can be told."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    link_target: str = ""


def clean_path(asked: str) -> str:
    """The absolute path that is meant: ``..`` is taken as text, and a slash or ``/.`` at the end stays, since it asks
    for what a link leads to. Raises Invalid for what no path is."""
    if not asked:
        raise Invalid("bad parameter: path cannot be empty")
    if "\0" in asked:
        raise Invalid("invalid path: it has a null byte")
    path = clean(f"/{asked}")
    if path == "/":
        return "/." if last_name(asked) == "." else path
    if last_name(asked) == ".":
        return f"{path}/."
    return f"{path}/" if asked.endswith("/") else path


def last_name(path: str) -> str:
    """Go's ``path.Base``: the last part, whatever slashes follow; ``/`` for the root."""
    return posixpath.basename(path.rstrip("/")) or ("/" if path else ".")


def go_mode(mode: int) -> int:
    """st_mode in the bits of Go's os.FileMode."""
    found = stat.S_IMODE(mode) & 0o777 | _GO_KINDS.get(stat.S_IFMT(mode), 0)
    for bit, theirs in _GO_BITS.items():
        if mode & bit:
            found |= theirs
    return found


def inner_path(name: bytes) -> bytes:
    """A member's place below the folder that a tar is unpacked into, empty for that folder. Absolute names count from
    there. Raises Invalid, in Docker's words, for a name that climbs out."""
    return _stay_inside(name, "entry name")


def inner_target(link: bytes) -> bytes:
    """The same for what a hard link names, which is no folder."""
    path = _stay_inside(link, "hardlink target")
    if not path:
        raise Invalid(f'invalid hardlink target "{show(link)}"')
    return path


def _stay_inside(name: bytes, what: str) -> bytes:
    path = posixpath.normpath(name.lstrip(b"/") or b".")
    if path == b".." or path.startswith(b"../") or b"\0" in path:
        raise Invalid(f'invalid {what} "{show(name)}"')
    return b"" if path == b"." else path
