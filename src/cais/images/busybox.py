"""A small root file system around one static busybox, as a tar with the same bytes every time."""

import io
import posixpath
import tarfile
from collections.abc import Iterable, Iterator

_FOLDERS = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "run": 0o755,
    "sbin": 0o755,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "usr/sbin": 0o755,
    "var": 0o755,
    "var/log": 0o755,
    "var/spool": 0o755,
    "var/tmp": 0o1777,
    "var/www": 0o755,
}
_FILES = {
    "etc/passwd": (
        0o644,
        "root:x:0:0:root:/root:/bin/sh\n"
        "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
        "bin:x:2:2:bin:/bin:/bin/false\n"
        "sys:x:3:3:sys:/dev:/bin/false\n"
        "mail:x:8:8:mail:/var/spool/mail:/bin/false\n"
        "www-data:x:33:33:www-data:/var/www:/bin/false\n"
        "nobody:x:65534:65534:nobody:/home:/bin/false\n",
    ),
    "etc/group": (
        0o644,
        "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nmail:x:8:\nwheel:x:10:root\n"
        "www-data:x:33:\nutmp:x:43:\nstaff:x:50:\nusers:x:100:\nnogroup:x:65534:\n",
    ),
    "etc/shadow": (0o640, "root:*:::::::\ndaemon:*:::::::\nnobody:*:::::::\n"),
}


def make_busybox_tar(binary: bytes, applets: Iterable[str], mtime: int) -> bytes:
    """The root file system as an uncompressed tar.

    ``applets`` are busybox's own paths (``usr/bin/env``): each is a symlink there and in /bin, where people look
    first. ``mtime``: seconds since the epoch, of every entry.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, mode in _FOLDERS.items():
            info = _info(name, mode, mtime)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        for name, (mode, text) in _FILES.items():
            _add_file(archive, _info(name, mode, mtime), text.encode())
        _add_file(archive, _info("bin/busybox", 0o755, mtime), binary)
        for name in _link_names(applets):
            info = _info(name, 0o777, mtime)
            info.type = tarfile.SYMTYPE
            info.linkname = posixpath.relpath("bin/busybox", posixpath.dirname(name))
            archive.addfile(info)
    return out.getvalue()


def _link_names(applets: Iterable[str]) -> Iterator[str]:
    names = {path for path in applets if posixpath.dirname(path) in _FOLDERS}
    names |= {f"bin/{posixpath.basename(path)}" for path in names}
    yield from sorted(names - {"bin/busybox"})


def _info(name: str, mode: int, mtime: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = mode, mtime
    info.uname = info.gname = "root"
    return info


def _add_file(archive: tarfile.TarFile, info: tarfile.TarInfo, data: bytes) -> None:
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
