"""Routes of images: list, inspect, history, tag, remove, load, import, save, prune, bootstrap."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from msgspec.structs import replace

from cais.api.call import Call
from cais.api.download import fetch
from cais.api.filters import check_filters, has_any_label, has_labels, is_true
from cais.api.replies import cancelled_when_gone, empty_reply, json_reply, stream_bytes, stream_json
from cais.api.router import Route
from cais.api.services import Services
from cais.api.wire.images import (
    ManifestSummary,
    error_line,
    history_reply,
    image_inspect,
    image_summary,
    manifest_summary,
    progress_line,
    pull_line,
    removal_replies,
)
from cais.errors import Conflict, Invalid, NotFound
from cais.events import Event
from cais.images.filters import matching_names
from cais.images.image import Deleted, Image, Untagged
from cais.images.prune import freed_size, order_for_removal, plan_prune
from cais.images.pull import PullRequest
from cais.images.sizes import shared_sizes
from cais.remotes.auth import ANONYMOUS, Credentials, parse_registry_auth
from cais.remotes.search import list_tags
from cais.spec.digest import Digest
from cais.spec.platform import Platform, normalize_platform, parse_platform
from cais.spec.reference import Reference, parse_reference

_PRUNE_FILTERS = frozenset(("dangling", "label", "label!", "until"))
_TAR = "application/x-tar"


Ids = list[str]
Steps = list[Untagged | Deleted]


class ImageRoutes:
    """``/images``."""

    def __init__(self, services: Services) -> None:
        self._images = services.images
        self._containers = services.containers
        self._driver = services.facts.storage_driver
        self._bus = services.bus

    def routes(self) -> list[Route]:
        """The table's part."""
        return [
            Route("GET", "/images/json", self.list),
            Route("GET", "/images/*/json", self.inspect),
            Route("GET", "/images/*/history", self.history),
            Route("POST", "/images/*/tag", self.tag),
            Route("DELETE", "/images/*", self.remove),
            Route("POST", "/images/load", self.load),
            Route("POST", "/images/create", self.create),
            Route("POST", "/images/prune", self.prune),
            Route("POST", "/cais/images/bootstrap", self.bootstrap),
            Route("GET", "/images/get", self.save),
            Route("GET", "/images/*/get", self.save),
        ]

    async def list(self, call: Call) -> web.Response:
        """All that pass the filters."""
        filters = call.filters()
        if call.version < (1, 25) and call.text("filter"):
            filters.setdefault("reference", []).append(call.text("filter"))
        images = await self._images.list(filters)
        # Without "all", what only other images stand on is left out.
        parents = set() if call.flag("all") else {image.parent for image in images if image.parent}
        shown = [image for image in images if image.names or image.id not in parents]
        if patterns := filters.get("reference"):
            # dockerd shows only the names that were asked for.
            shown = [replace(image, names=matching_names(image, patterns), digests=()) for image in shown]
        shared: dict[Digest, int] = {}
        if call.flag("shared-size"):
            # Shared with any image, not only with those that are shown.
            shared = shared_sizes(self._images.stacks(await self._images.list()))
        manifests = call.flag("manifests") and call.version >= (1, 47)
        return json_reply(
            [
                image_summary(
                    image,
                    call.version,
                    len(self._users(image.id)) if call.version >= (1, 51) else -1,
                    shared_size=shared.get(image.id, -1),
                    manifests=self._manifests(image) if manifests else None,
                )
                for image in shown
            ]
        )

    async def inspect(self, call: Call) -> web.Response:
        """One."""
        image = await self._images.resolve(call.name, platform=parse_platform_json(call.text("platform")))
        manifests = call.flag("manifests") and call.version >= (1, 48)
        if manifests and call.text("platform"):
            raise Invalid("conflicting options: manifests and platform options cannot both be set")
        shown = self._manifests(image) if manifests else None
        return json_reply(image_inspect(image, call.version, self._driver, shown))

    async def history(self, call: Call) -> web.Response:
        """How it came about."""
        platform = parse_platform_json(call.text("platform"))
        entries = await self._images.history(call.name, platform=platform)
        return json_reply([history_reply(entry) for entry in entries])

    async def tag(self, call: Call) -> web.Response:
        """One more name."""
        if not call.text("repo"):
            raise Invalid("invalid reference format")
        await self._images.tag(call.name, call.text("repo"), call.text("tag"))
        return empty_reply(201)

    async def remove(self, call: Call) -> web.Response:
        """A name, and the image with its last one."""
        done = await self._images.remove(
            call.name,
            force=call.flag("force"),
            no_prune=call.flag("noprune"),
            in_use=self._users,
            running=self._containers.is_running,
        )
        return json_reply(removal_replies(done))

    async def load(self, call: Call) -> web.StreamResponse:
        """Images from an archive in the body."""
        quiet = call.flag("quiet", True)
        platform = parse_platform_json(call.text("platform"))

        async def lines() -> AsyncIterator[dict[str, Any]]:
            async for event in self._images.load(call.stream.iter_any(), platform=platform):
                if event.text or not quiet:
                    yield progress_line(event)

        return await stream_json(call, lines(), error_line)

    async def create(self, call: Call) -> web.StreamResponse:
        """An image from a registry (``fromImage``), or from the tar of a root: in the body (``fromSrc=-``) or at a
        URL."""
        if call.text("fromImage"):
            return await self._pull(call)
        source = call.text("fromSrc")
        if not source:
            raise Invalid("nothing to import: fromSrc is empty")
        platform = parse_platform(call.text("platform")) if call.text("platform") else None
        message = call.text("message") or f"Imported from {source}"

        async def lines() -> AsyncIterator[dict[str, Any]]:
            stream: AsyncIterator[bytes] = call.stream.iter_any()
            if source != "-":
                stream = fetch(source)
                yield {"status": f"Downloading from {source}"}
            image = await self._images.import_root(
                stream,
                repo=call.text("repo"),
                tag=call.text("tag"),
                message=message,
                changes=call.texts("changes"),
                platform=platform,
            )
            yield {"status": image.id}

        return await stream_json(call, lines(), error_line)

    async def _pull(self, call: Call) -> web.StreamResponse:
        platform = parse_platform(call.text("platform")) if call.text("platform") else None
        every_platform = call.flag("allPlatforms")  # ours; Docker has no such thing
        reference = _pull_reference(call.text("fromImage"), call.text("tag"))
        try:
            credentials = parse_registry_auth(call.request.headers.get("X-Registry-Auth", ""))
        except Invalid:
            credentials = ANONYMOUS  # as dockerd: old clients send things here that mean nothing

        async def lines() -> AsyncIterator[dict[str, Any]]:
            for one in await self._list_tags(reference, credentials):
                request = PullRequest(one, platform, credentials, all_platforms=every_platform)
                async with aclosing(self._images.pull(request)) as events:
                    async for event in events:
                        yield pull_line(event)

        # A client that goes away ends its pull, even while nothing is to be told.
        with cancelled_when_gone(call):
            return await stream_json(call, lines(), error_line)

    async def _list_tags(self, reference: Reference, credentials: Credentials) -> Sequence[Reference]:
        """The reference itself, or without a tag every tag of its repository, as dockerd understands that."""
        if reference.tag or reference.digest:
            return (reference,)
        tags = await list_tags(self._images.remotes, reference, credentials)
        if not tags:
            raise NotFound(f"repository {reference.familiar_name} has no tags")
        return [parse_reference(f"{reference.name}:{tag}") for tag in tags]

    async def bootstrap(self, call: Call) -> web.StreamResponse:
        """A base image from the machine's own package mirror: ``name=busybox`` or ``debian[:SUITE]``. Ours;
        Docker has no such thing."""

        async def lines() -> AsyncIterator[dict[str, Any]]:
            async for event in self._images.bootstrap(call.text("name")):
                yield progress_line(event)

        return await stream_json(call, lines(), error_line)

    async def save(self, call: Call) -> web.StreamResponse:
        """An archive of images: the one in the path, or ``names``. ``format=oci`` is ours: a plain OCI layout."""
        names = [call.name] if call.name else call.texts("names")
        if len(call.texts("platform")) > 1:
            raise Invalid("specified multiple platforms: save one, or none for all that are here")
        platform = parse_platform_json(call.text("platform"))
        form = call.text("format", "docker")
        if form not in ("docker", "oci"):
            raise Invalid(f"unknown format {form!r}: use docker or oci")
        archive = self._images.save(names, platform=platform, docker=form == "docker")
        return await stream_bytes(call, archive, _TAR)

    async def prune(self, call: Call) -> web.Response:
        """Remove images that no container was made from: those without a name, or (``dangling=false``) all.
        ``dry-run`` is ours: only tell which."""
        filters = call.filters()
        check_filters(filters, _PRUNE_FILTERS)
        wanted = {"until": filters["until"]} if filters.get("until") else {}
        if is_true(filters, "dangling", True):
            wanted["dangling"] = ["true"]
        candidates = [
            image
            for image in await self._images.list(wanted)
            if not self._users(image.id) and _has_wanted_labels(image, filters)
        ]
        everything = await self._images.list()
        victims = order_for_removal(plan_prune(candidates, everything))
        sizes = self._images.place_sizes(everything)
        if call.flag("dry-run"):
            done = [step for image in victims for step in _would_remove(image)]
        else:
            done = await self._remove_all(victims)
        deleted = [image.id for image in victims if Deleted(image.id) in done]
        freed = freed_size(deleted, sizes, self._layers_in_use())
        if not call.flag("dry-run"):
            if not filters.keys() - {"dangling"}:  # the bytes of interrupted pulls have neither age nor label
                freed += await self._images.drop_partials()
            attributes = {"reclaimed": str(freed)}
            self._bus.publish(Event("image", "prune", "", time.time_ns(), attributes))
        return json_reply({"ImagesDeleted": removal_replies(done) or None, "SpaceReclaimed": freed})

    def _layers_in_use(self) -> set[str]:
        """Where the layers are that containers stand on: they stay, also when their image is gone."""
        lowers = {lower for record in self._containers.records() for lower in record.lowers}
        return {f"layers/{Path(lower).parent.name}" for lower in lowers}

    async def _remove_all(self, victims: Sequence[Image]) -> Steps:
        done: Steps = []
        for image in victims:
            # It went with a child, or somebody has just made something from it: not ours to report.
            with suppress(NotFound, Conflict):
                done += await self._images.remove(image.id, force=True, in_use=self._users)
        return done

    def _manifests(self, image: Image) -> tuple[ManifestSummary, ...]:
        """Every platform of the image that is here, each with the containers that stand on its layers."""
        records = [self._containers.record(id) for id in self._users(image.id)]
        found = []
        for size in self._images.sizes(image):
            config = size.image.config
            lowers = self._images.find_lowers(config.rootfs.diff_ids) if config else None
            users = tuple(record.id for record in records if record.lowers == lowers)
            found.append(manifest_summary(size, users))
        return tuple(found)

    def _users(self, image_id: Digest) -> Ids:
        return self._containers.image_users(image_id)


def _pull_reference(name: str, tag: str) -> Reference:
    """What a client wants to pull; ``tag`` may be a digest, and wins over one in ``name``; with neither all tags are
    meant. Raises Invalid."""
    reference = parse_reference(name)
    if tag:
        return parse_reference(f"{reference.name}{'@' if ':' in tag else ':'}{tag}")
    return reference


def _would_remove(image: Image) -> list[Untagged | Deleted]:
    names = [Untagged(parse_reference(name).familiar()) for name in image.names]
    return [*names, Deleted(image.id)]


def _has_wanted_labels(image: Image, filters: dict[str, list[str]]) -> bool:
    labels = image.config.config.labels
    return has_labels(labels, filters.get("label", [])) and not has_any_label(
        labels, filters.get("label!", [])
    )


def parse_platform_json(text: str) -> Platform | None:
    """``{"os": "linux", "architecture": "amd64"}``, as API 1.48 and newer send it; or ``linux/amd64``."""
    if not text:
        return None
    if not text.startswith("{"):
        return parse_platform(text)
    try:
        platform = msgspec.convert(_lowered(msgspec.json.decode(text, type=dict[str, Any])), Platform)
    except msgspec.DecodeError as error:
        raise Invalid(f"failed to parse platform: {error}") from error
    if not platform.os or not platform.architecture:
        raise Invalid("both OS and Architecture must be provided")
    return normalize_platform(platform)


def _lowered(fields: dict[str, Any]) -> dict[str, Any]:
    """Go reads the names of JSON fields without regard to case."""
    return {key.lower(): value for key, value in fields.items() if value is not None}
