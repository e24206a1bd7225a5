"""Collection by budget: which images go when they take too much or are long unused, and the task that sees to it."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from cais.config import Budget
from cais.errors import CaisError
from cais.events import Bus, Event
from cais.images.image import Deleted, Image, Untagged
from cais.images.prune import freed_size
from cais.spec.digest import Digest
from cais.spec.reference import parse_reference

log = logging.getLogger(__name__)

KEEP_LABEL = "cais.keep"
"""An image with this label is never removed by a budget, unless its value is ``false``."""
EVERY = 3600.0
"""Seconds between two runs that nothing else asked for."""
SETTLE = 1.0
"""Seconds from the coming of an image until the next run."""
_TRIGGERS = frozenset(("pull", "load", "import", "commit", "tag"))

InUse = Callable[[Digest], Sequence[str]]


class Candidate(msgspec.Struct, frozen=True):
    """What a budget knows of one image. ``places``: bytes by place on disk; times in nanoseconds since the epoch;
    ``kept``: in use, the parent of another image, or labelled."""

    id: Digest
    name: str
    used_ns: int
    places: Mapping[str, int]
    kept: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """One image that goes, and why."""

    id: Digest
    name: str
    reason: str


class Report(msgspec.Struct, frozen=True):
    """What a run removed, or would: images with their reasons, bytes that came free, bytes that all images took
    before."""

    verdicts: tuple[Verdict, ...]
    freed: int
    size: int


def plan_budget(candidates: Iterable[Candidate], budget: Budget, now_ns: int) -> list[Verdict]:
    """What has to go, the longest unused first.

    The ``keep_newest`` most recently used images stay in any case, and so does what was used within ``grace``. Of the
    others those unused for longer than ``unused_for`` go, and then as many as it takes to get below ``max_size``.
    With ``keep_newest`` alone all others go.
    """
    newest = sorted(candidates, key=lambda each: (each.used_ns, each.id), reverse=True)
    spared = {each.id for each in newest[: budget.keep_newest]}
    free = [
        each
        for each in reversed(newest)
        if each.id not in spared and not each.kept and now_ns - each.used_ns >= budget.grace_ns
    ]
    verdicts: dict[Digest, Verdict] = {}
    for each in free:
        if budget.unused_for_ns and now_ns - each.used_ns >= budget.unused_for_ns:
            verdicts[each.id] = Verdict(each.id, each.name, "unused for too long")
    if budget.max_size:
        for each in free:
            if total_of(other for other in newest if other.id not in verdicts) <= budget.max_size:
                break
            verdicts.setdefault(each.id, Verdict(each.id, each.name, "images take too much space"))
    if budget.keep_newest and not (budget.unused_for_ns or budget.max_size):
        verdicts = {each.id: Verdict(each.id, each.name, "not among the newest") for each in free}
    return list(verdicts.values())


def total_of(candidates: Iterable[Candidate]) -> int:
    """Bytes that they take together, what they share once."""
    places: dict[str, int] = {}
    for each in candidates:
        places.update(each.places)
    return sum(places.values())


class BudgetImages(Protocol):
    """The images room, as far as a budget needs it."""

    async def list(self) -> Sequence[Image]:
        """Every image."""
        ...

    def place_sizes(self, images: Iterable[Image]) -> dict[Digest, dict[str, int]]:
        """By image, bytes by place."""
        ...

    async def remove(
        self, name_or_id: str, *, force: bool = False, in_use: InUse = ...
    ) -> Sequence[Untagged | Deleted]:
        """Remove it."""
        ...


class Budgeter:
    """Keeps the images of one engine within a budget. ``in_use`` gives the containers that were made from an image."""

    def __init__(self, images: BudgetImages, budget: Budget, in_use: InUse, bus: Bus) -> None:
        self._images = images
        self._budget = budget
        self._in_use = in_use
        self._bus = bus
        self._running = asyncio.Lock()
        self.settle = SETTLE

    async def run(self, *, dry_run: bool = False) -> Report:
        """Look, and remove what has to go, or only tell. An image that came into use meanwhile stays."""
        async with self._running:
            images = await self._images.list()
            sizes = self._images.place_sizes(images)
            candidates = make_candidates(images, sizes, self._in_use)
            verdicts = plan_budget(candidates, self._budget, time.time_ns())
            if not dry_run:
                verdicts = [verdict for verdict in verdicts if await self._remove(verdict)]
            freed = freed_size([verdict.id for verdict in verdicts], sizes)
            report = Report(tuple(verdicts), freed, total_of(candidates))
        if verdicts and not dry_run:
            self._tell(report)
        return report

    async def _remove(self, verdict: Verdict) -> bool:
        if self._in_use(verdict.id):
            return False
        with suppress(CaisError):
            await self._images.remove(verdict.id, force=True, in_use=self._in_use)
            return True
        return False  # it got a child or a container in this very moment, or went by itself

    def _tell(self, report: Report) -> None:
        for verdict in report.verdicts:
            log.info("removed image %s (%s): %s", verdict.name or verdict.id, verdict.id, verdict.reason)
        attributes = {
            "reclaimed": str(report.freed),
            "reason": "budget",
            "images": ",".join(verdict.name or verdict.id for verdict in report.verdicts),
        }
        self._bus.publish(Event("image", "prune", "", time.time_ns(), attributes))

    async def watch(self) -> None:
        """For ever: run soon after images have come, and now and then. A failure is logged; the next run tries again"""
        clock = asyncio.get_running_loop().time
        deadline = clock() + EVERY
        with self._bus.subscribe() as events:
            waiting = asyncio.ensure_future(anext(events))
            try:
                while True:
                    await asyncio.wait((waiting,), timeout=max(deadline - clock(), 0))
                    if waiting.done():
                        if waiting.result().action in _TRIGGERS:
                            # Not at once: an archive of many images tells of each.
                            deadline = min(deadline, clock() + self.settle)
                        waiting = asyncio.ensure_future(anext(events))
                    elif clock() >= deadline:
                        await self._try()
                        deadline = clock() + EVERY
            finally:
                waiting.cancel()

    async def _try(self) -> None:
        try:
            await self.run()
        except Exception:
            log.exception("keeping the images within their budget failed")


def make_candidates(
    images: Sequence[Image], sizes: Mapping[Digest, Mapping[str, int]], in_use: InUse
) -> list[Candidate]:
    """The images as the budget sees them. One that was never used counts from when it came here."""
    parents = {image.parent for image in images}
    return [
        Candidate(
            image.id,
            parse_reference(image.names[0]).familiar() if image.names else "",
            max(image.used_ns, image.updated_ns),
            sizes.get(image.id, {}),
            bool(in_use(image.id)) or image.id in parents or _is_labelled(image),
        )
        for image in images
    ]


def _is_labelled(image: Image) -> bool:
    return image.config.config.labels.get(KEEP_LABEL, "false").lower() != "false"
