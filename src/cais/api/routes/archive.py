"""Routes that copy files from and to containers, and say what containers changed."""

import base64

from aiohttp import web

from cais.api.call import Call
from cais.api.replies import COMMON_HEADERS, empty_reply, json_bytes, json_reply, stream_bytes
from cais.api.router import Route
from cais.api.services import Services
from cais.containers.archivepath import PathStat
from cais.containers.archivewrite import CopyWish
from cais.errors import CaisError
from cais.spec.image import format_time_ns

TAR = "application/x-tar"
STAT_HEADER = "X-Docker-Container-Path-Stat"


class ArchiveRoutes:
    """``/containers/{id}/archive`` and ``changes``."""

    def __init__(self, services: Services) -> None:
        self._containers = services.containers

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("HEAD", "/containers/*/archive", self.stat),
            Route("GET", "/containers/*/archive", self.read),
            Route("PUT", "/containers/*/archive", self.write),
            Route("GET", "/containers/*/changes", self.changes),
        ]

    async def stat(self, call: Call) -> web.Response:
        """What stands at a path, in a header."""
        found = await self._containers.stat_path(call.name, call.text("path"))
        return web.Response(headers={**COMMON_HEADERS, STAT_HEADER: format_stat(found)})

    async def read(self, call: Call) -> web.StreamResponse:
        """The same header, and a tar."""
        found, parts = await self._containers.read_path(call.name, call.text("path"))
        return await stream_bytes(call, parts, TAR, {STAT_HEADER: format_stat(found)})

    async def write(self, call: Call) -> web.Response:
        """Unpack the body, a tar of any compression, in a folder."""
        wish = CopyWish(
            call.text("path"),
            same_kinds=call.flag("noOverwriteDirNonDir"),
            own_user=call.flag("copyUIDGID"),
        )
        try:
            await self._containers.write_path(call.name, wish, call.stream.iter_any())
        except (CaisError, OSError):
            await call.discard()
            raise
        await call.discard()
        return empty_reply(200)

    async def changes(self, call: Call) -> web.Response:
        """Names and kinds of change; null when there is none."""
        found = await self._containers.changes(call.name)
        return json_reply(
            [{"Path": _text(change.path), "Kind": int(change.kind)} for change in found] or None
        )


def format_stat(found: PathStat) -> str:
    """The header's value: JSON in base64."""
    return base64.b64encode(
        json_bytes(
            {
                "name": _text(found.name),
                "size": found.size,
                "mode": found.mode,
                "mtime": format_time_ns(min(max(found.mtime_ns, _FIRST), _LAST)),
                "linkTarget": _text(found.link_target),
            }
        ).rstrip()
    ).decode()


_FIRST, _LAST = -62_135_596_800_000_000_000, 253_402_300_799_000_000_000
"""The years 1 to 9999: what RFC 3339 can say, and file systems go beyond."""


def _text(name: str) -> str:
    """JSON is Unicode: bytes that are no UTF-8 are replaced, as by Go's encoder."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
