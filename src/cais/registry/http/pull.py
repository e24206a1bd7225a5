"""Reading: manifests, blobs, tags, catalog, referrers."""

import re

from aiohttp import web

from cais.registry.base import ManifestRecord
from cais.registry.http.ask import VERSION_HEADER, Ask, answer_json, next_link
from cais.registry.http.send import send_file
from cais.registry.naming import parse_digest_text, parse_page, parse_ref
from cais.registry.refusal import Refusal
from cais.registry.registry import Registry
from cais.spec.descriptor import OCI_INDEX
from cais.spec.digest import Digest

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
REFERRERS = 100
"""Descriptors on a page of referrers; with annotations they are large."""


class Puller:
    """The routes that change nothing."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def manifest(self, ask: Ask) -> web.StreamResponse:
        """GET and HEAD ``/v2/<name>/manifests/<reference>``."""
        found = self._registry.cached_manifest(ask.repository, ask.rest)
        if found is None:
            found = await self._registry.find_manifest(ask.repository, _wanted(ask.rest))
        headers = {
            "Content-Type": found.media_type,
            "Docker-Content-Digest": found.digest,
            "ETag": f'"{found.digest}"',
            **VERSION_HEADER,
        }
        if _is_known(ask, found.digest):
            return web.Response(status=304, headers=headers)
        if ask.request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(found.data))})
        self._registry.count_pull(ask.repository, found.digest)
        return web.Response(body=found.data, headers=headers)

    async def blob(self, ask: Ask) -> web.StreamResponse:
        """GET and HEAD ``/v2/<name>/blobs/<digest>``, with ranges (RFC 9110, section 14)."""
        digest = parse_digest_text(ask.rest)
        wants_bytes = ask.request.method == "GET"
        size = await self._registry.find_blob(ask.repository, digest, fetch=wants_bytes)
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, max-age=31536000, immutable",
            **VERSION_HEADER,
        }
        if _is_known(ask, digest):
            return web.Response(status=304, headers=headers)
        status, start, end = 200, 0, size
        # Of GET alone: RFC 9110, section 14.2.
        wanted = ask.request.headers.get("Range")
        if wanted and wants_bytes and ask.request.headers.get("If-Range", f'"{digest}"') == f'"{digest}"':
            span = parse_range(wanted, size)
            if span is not None:
                status, (start, end) = 206, span
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        headers["Content-Length"] = str(end - start)
        if not wants_bytes:
            return web.Response(status=status, headers=headers)
        arrival = self._registry.find_arrival(ask.repository, digest)
        if arrival is not None and status == 206:
            # Who asks for a part could not be told by a cut connection that the whole turned out wrong.
            await arrival.wait_whole()
            arrival = None
        with arrival.open() if arrival else self._registry.open_blob(digest) as file:
            return await send_file(ask.request, status, headers, file, range(start, end), arrival)

    async def tags(self, ask: Ask) -> web.StreamResponse:
        """GET ``/v2/<name>/tags/list``."""
        count = parse_page(ask.query.get("n"))
        found = await self._registry.catalog.list_tags(ask.repository, ask.query.get("last", ""), count + 1)
        names = [tag.name for tag in found]
        more = len(names) > count > 0
        link = (
            next_link(f"/v2/{ask.repository}/tags/list", n=str(count), last=names[count - 1]) if more else {}
        )
        return answer_json({"name": ask.repository, "tags": names[:count]}, link)

    async def referrers(self, ask: Ask) -> web.StreamResponse:
        """GET ``/v2/<name>/referrers/<digest>``."""
        subject = parse_digest_text(ask.rest)
        kind, after = ask.query.get("artifactType", ""), ask.query.get("last", "")
        count = min(parse_page(ask.query.get("n")), REFERRERS)
        found = await self._registry.referrers(ask.repository, subject, after, count + 1, kind)
        headers = {"OCI-Filters-Applied": "artifactType"} if kind else {}
        if len(found) > count > 0:
            path = f"/v2/{ask.repository}/referrers/{subject}"
            headers |= next_link(path, n=str(count), last=found[count - 1].digest, artifactType=kind)
        index = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [_describe(record) for record in found[:count]],
        }
        return answer_json(index, headers, media_type=OCI_INDEX)


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of the one range asked for; None for forms that may be ignored. Raises Refusal with
    status 416 for what is not there."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    if start >= end:
        refusal = Refusal("SIZE_INVALID", f"the blob has {size} bytes, not those of {text!r}", status=416)
        refusal.headers["Content-Range"] = f"bytes */{size}"
        raise refusal
    return start, end


def _wanted(text: str) -> Digest | str:
    """What cannot be a tag was never pushed: that is "not found" to who asks, and invalid only to who pushes."""
    try:
        return parse_ref(text)
    except Refusal as refusal:
        if refusal.code == "TAG_INVALID":
            raise Refusal("MANIFEST_UNKNOWN", str(refusal)) from None
        raise


def _is_known(ask: Ask, digest: Digest) -> bool:
    """If-None-Match: the client has these bytes."""
    known = ask.request.headers.get("If-None-Match")
    return known is not None and (known.strip() == "*" or f'"{digest}"' in known)


def _describe(record: ManifestRecord) -> dict[str, object]:
    entry: dict[str, object] = {
        "mediaType": record.media_type,
        "digest": record.digest,
        "size": record.size,
    }
    if record.artifact_type:
        entry["artifactType"] = record.artifact_type
    if record.annotations:
        entry["annotations"] = record.annotations
    return entry
