"""Style sheets, scripts and the icon: served under names with their hash, so a browser may keep them for a year."""

import gzip
import hashlib
import mimetypes
from pathlib import Path

import msgspec
from aiohttp import web

FOLDER = Path(__file__).parent / "static"
PREFIX = "/static/"


class Asset(msgspec.Struct, frozen=True):
    """One file, ready to be sent."""

    url: str
    media_type: str
    data: bytes
    packed: bytes


class Assets:
    """All files of a folder, read once."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._by_name = {path.name: _read(path) for path in sorted(folder.iterdir()) if path.is_file()}
        self._by_url = {asset.url: asset for asset in self._by_name.values()}

    def url(self, name: str) -> str:
        """Where the file is served. Raises KeyError."""
        return self._by_name[name].url

    def answer(self, path: str, accepted: str) -> web.Response:
        """The file at ``path``; ``accepted``: the request's Accept-Encoding."""
        asset = self._by_url.get(path)
        if asset is None:
            return web.Response(status=404, text="no such file\n")
        headers = {
            "Content-Type": asset.media_type,
            "Cache-Control": "public, max-age=31536000, immutable",
            "Vary": "Accept-Encoding",
        }
        if "gzip" in accepted and len(asset.packed) < len(asset.data):
            return web.Response(body=asset.packed, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=asset.data, headers=headers)


def _read(path: Path) -> Asset:
    data = path.read_bytes()
    mark = hashlib.sha256(data).hexdigest()[:12]
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if media_type.startswith("text/"):
        media_type += "; charset=utf-8"
    return Asset(f"{PREFIX}{path.stem}.{mark}{path.suffix}", media_type, data, gzip.compress(data, mtime=0))
