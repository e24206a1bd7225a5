"""From results to what was ordered of them: images, archives, folders, and caches for other machines."""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from cais.build.attest.attest import make_attestations, step_layers
from cais.build.attest.options import parse_attests
from cais.build.attest.provenance import Facts
from cais.build.building import Build, Solved
from cais.build.cache import CacheRecord
from cais.build.export.export import check_option, export
from cais.build.export.result import Result, Sink, Tools
from cais.build.narrate import name_digest
from cais.build.output import parse_epoch
from cais.build.request import BuildRequest, Option
from cais.build.share.options import Places, parse_cache_from, parse_cache_to
from cais.build.share.save import Travel, gather_records, make_inline, send_cache
from cais.build.vertex import Tell, VertexDone, VertexProgress, VertexStarted, VertexWarned
from cais.images.image import PushEvent

IMAGE = Option("image")
_TITLES = {
    "image": "exporting to image",
    "moby": "exporting to image",
    "registry": "exporting to image",
    "docker": "exporting to docker image format",
    "oci": "exporting to oci image format",
    "local": "exporting to client directory",
    "tar": "exporting to client tarball",
    "rootfs": "exporting to a folder",
}


def check_orders(request: BuildRequest) -> None:
    """Whether all that is ordered is possible; before anything is built. Raises Invalid, Unsupported."""
    for option in request.outputs:
        check_option(option, request.names, parse_epoch(request.args))
    parse_attests(request.attests)
    for option in request.cache_to:
        parse_cache_to(option)
    for option in request.cache_from:
        parse_cache_from(option)


def make_results(solved: Sequence[Solved]) -> list[Result]:
    """What exporters take."""
    results = []
    for each in solved:
        base = each.plan.target.base.image
        results.append(
            Result(
                each.platform,
                each.config,
                each.layers,
                len(base.diff_ids) if base else 0,
                len(base.config.history) if base else 0,
                each.unchanged,
            )
        )
    return results


@dataclass(slots=True)
class Delivery:
    """What one build delivers. ``sinks``: the client's end of each output, by its index; ``places`` finds caches."""

    build: Build
    tell: Tell
    places: Places

    async def deliver(
        self, solved: Sequence[Solved], outputs: Sequence[tuple[Option, Sink]]
    ) -> dict[str, str]:
        """Everything that is ordered; the exporters' answers. Raises what ``export`` and ``send_cache`` raise."""
        results = make_results(solved)
        if self.build.request.attests:
            results = await self._attest(solved, results)
        caches = [parse_cache_to(option) for option in self.build.request.cache_to]
        if any(cache.type == "inline" for cache in caches):
            results = [self._inline(each, result) for each, result in zip(solved, results, strict=True)]
        response: dict[str, str] = {}
        for index, (option, sink) in enumerate(outputs):
            told = _Told(self.tell, _TITLES.get(option.type, f"exporting to {option.type}"), index)
            with told:
                found = await export(results, option, sink, self._tools(told))
                told.made(found)
            response |= found
        for index, cache in enumerate(caches):
            if cache.type == "inline":
                continue
            told = _Told(
                self.tell,
                "exporting cache to " + ("client directory" if cache.type == "local" else cache.type),
                index,
            )
            with told:
                travel = Travel(self.places, self.build.parts.cache, self._tools(told))
                sent = await send_cache([each.plan for each in solved], self._find, cache, travel)
                for warning in sent.warnings:
                    self.tell(VertexWarned(told.digest, 1, warning))
            response |= sent.response
        return response

    async def _attest(self, solved: Sequence[Solved], results: Sequence[Result]) -> list[Result]:
        """The results with what is said of them."""
        build, request = self.build, self.build.request
        attests = parse_attests(request.attests)
        facts = Facts(
            build.parts.images.host,
            uuid.uuid4().hex,
            build.started_ns,
            time.time_ns(),
            parse_epoch(request.args),
            locals=() if build.origin else ("context", "dockerfile"),
            source=build.origin,
            vcs=build.vcs,
        )
        found = []
        with _Told(self.tell, "making attestations", 0) as said:
            for each, result in zip(solved, results, strict=True):
                made = (each.plan, result, step_layers(each.plan, self._find))
                attestations = await make_attestations(attests, request, made, facts, self._tools(said))
                found.append(replace(result, attestations=attestations))
        return found

    def _inline(self, solved: Solved, result: Result) -> Result:
        records = gather_records([solved.plan], self._find, all_steps=False)
        return replace(result, extra={**result.extra, **make_inline(records, solved.layers)})

    def _find(self, key: str) -> CacheRecord | None:
        build = self.build
        return build.parts.cache.find(key) or (build.imports.find(key) if build.imports else None)

    def _tools(self, told: "_Told") -> Tools:
        build = self.build
        parts, imports = build.parts, build.imports
        tools = Tools(
            parts.images,
            parts.workshop.unpacker,
            build.lease,
            parts.workshop.lowers,
            epoch_ns=parse_epoch(build.request.args),
            names=build.request.names,
            credentials=build.request.credentials,
            tell=told.pushed,
        )
        return replace(tools, fetch=imports.fetch) if imports else tools


class _Told:
    """The vertex of one output, for the time of the block."""

    def __init__(self, tell: Tell, title: str, index: int) -> None:
        self.digest = name_digest(f"{title} {index}")
        self._title = title
        self._tell = tell
        self._at = time.time_ns()
        self._pushes: dict[str, int] = {}

    def __enter__(self) -> "_Told":
        self._tell(VertexStarted(self.digest, self._title, self._at))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        text = "" if error is None else str(error) or type(error).__name__
        self._tell(VertexDone(self.digest, time.time_ns(), error=text))

    def made(self, response: Mapping[str, str]) -> None:
        """Name what was made."""
        lines = []
        if digest := response.get("containerimage.digest"):
            lines.append(f"writing image {digest}")
        lines += [f"naming to {name}" for name in response.get("image.name", "").split(",") if name]
        now = time.time_ns()
        for line in lines:
            self._tell(VertexProgress(self.digest, line, 0, 0, now, self._at, is_done=True))

    def pushed(self, event: PushEvent) -> None:
        """How far a push is."""
        if not event.is_layer:
            return
        now = time.time_ns()
        started = self._pushes.setdefault(event.id, now)
        done = event.status in ("Pushed", "Layer already exists") or event.status.startswith("Mounted")
        name = f"pushing {event.id}"
        self._tell(VertexProgress(self.digest, name, event.current, event.total, now, started, done))
