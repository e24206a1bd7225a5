"""Committing a container: what is checked before, and the container frozen while its files are read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import msgspec

from cais.containers.fleet import Fleet, Live
from cais.containers.lifecycle import Lifecycle
from cais.containers.record import DEAD, REMOVING, RUNNING
from cais.containers.services import Rooms
from cais.errors import Conflict
from cais.images.commit import CommitRequest, make_defaults, parse_target
from cais.images.image import Image
from cais.spec.container import ContainerConfig
from cais.spec.image import ContainerDefaults, Healthcheck
from cais.spec.reference import parse_reference
from cais.store.layers.diff import DiffSource

STUB_FILES = frozenset(("etc/hosts", "etc/hostname", "etc/resolv.conf"))
STUB_FOLDERS = frozenset(("dev", "proc", "sys"))
"""Targets of the mounts that every container has: made by the engine, and by nobody's wish part of an image."""


class CommitWish(msgspec.Struct, frozen=True):
    """What a client asks for. ``config``: in place of the container's own; ``changes``: Dockerfile instructions."""

    repo: str = ""
    tag: str = ""
    author: str = ""
    comment: str = ""
    changes: tuple[str, ...] = ()
    pause: bool = True
    config: ContainerConfig | None = None


class CommitImages(Protocol):
    """The images room, as far as a commit needs it."""

    async def commit(self, request: CommitRequest) -> Image:
        """Make the image and give it its names. Raises NotFound, Conflict, Invalid."""
        ...


class Commits:
    """Commits of all containers; of one container one after the other, since the first to end would thaw it."""

    def __init__(self, rooms: Rooms, fleet: Fleet, life: Lifecycle) -> None:
        self._rooms = rooms
        self._fleet = fleet
        self._life = life

    async def commit(self, live: Live, name: str, wish: CommitWish, images: CommitImages) -> Image:
        """The new image. Everything that was asked is checked before the container is touched.

        Raises Invalid, Conflict, NotFound (its image), in Docker's words.
        """
        names = parse_target(wish.repo, wish.tag)
        asked = image_defaults(wish.config) if wish.config else None
        defaults = make_defaults(image_defaults(live.record.config), asked, wish.changes)
        async with live.committing:
            self._check(live, name)
            record = live.record
            request = CommitRequest(
                base=record.image_id,
                source=DiffSource(
                    self._rooms.snapshots.mounts(live.id), record.lowers, STUB_FILES, STUB_FOLDERS
                ),
                defaults=defaults,
                names=names,
                author=wish.author,
                comment=wish.comment,
                created_by=" ".join(record.config.cmd or ()),
                check=lambda: self._check(live, name),
            )
            async with self._frozen(live, wish.pause):
                image = await images.commit(request)
        shown = parse_reference(names[0]).familiar() if names else ""
        self._fleet.publish(live, "commit", comment=wish.comment, imageID=image.id, imageRef=shown)
        return image

    def _check(self, live: Live, name: str) -> None:
        if live.removing or live.state.status == REMOVING or self._fleet.get(live.id) is not live:
            raise Conflict(f"You cannot commit container {name} which is being removed")
        if live.state.status == DEAD:
            raise Conflict(f"You cannot commit container {name} which is Dead")

    @asynccontextmanager
    async def _frozen(self, live: Live, wanted: bool) -> AsyncIterator[None]:
        """Paused for the time of the block, and thawed again whatever happens, by the next engine if need be; but a
        container that somebody had paused before stays so."""
        paused = False
        if wanted and live.state.status == RUNNING:
            # It may end in this very moment: then there is nothing to hold still.
            with suppress(Conflict):
                await self._life.pause(live, briefly=True)
                paused = True
        try:
            yield
        finally:
            if paused:
                # A task of its own: also when the commit is cancelled, nobody is left frozen.
                thaw = self._fleet.spawn(self._life.thaw_brief(live), f"thawing {live.id}")
                await asyncio.shield(thaw)


def image_defaults(config: ContainerConfig) -> ContainerDefaults:
    """The part of a container's configuration that an image can have."""
    health = config.healthcheck
    return ContainerDefaults(
        user=config.user,
        exposed_ports=dict(config.exposed_ports),
        env=config.env,
        entrypoint=config.entrypoint or (),
        cmd=config.cmd or (),
        volumes=dict(config.volumes),
        working_dir=config.working_dir,
        labels=dict(config.labels),
        stop_signal=config.stop_signal,
        stop_timeout=config.stop_timeout,
        shell=config.shell,
        healthcheck=Healthcheck(
            test=health.test,
            interval=health.interval,
            timeout=health.timeout,
            start_period=health.start_period,
            start_interval=health.start_interval,
            retries=health.retries,
        )
        if health
        else None,
        on_build=config.on_build,
        args_escaped=config.args_escaped,
    )
