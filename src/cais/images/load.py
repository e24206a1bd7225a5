"""Loading image archives: blobs stream into the content store, layers unpack, names come last."""

import asyncio
from collections.abc import AsyncIterator
from typing import Self

import msgspec

from cais.errors import Invalid, NotFound
from cais.images.catalog import Catalog
from cais.images.feed import feed
from cais.images.image import LoadEvent, PlatformImage
from cais.images.layout import FoundImage, find_images
from cais.images.spool import Arrival, Files, Spool
from cais.images.tree import check_complete, choose, list_platforms
from cais.images.unpack import Unpacker
from cais.spec.digest import Digest
from cais.spec.platform import Platform
from cais.spec.reference import parse_reference
from cais.store.content import Content
from cais.store.gc import Lease


class EarlyUnpack:
    """Layers that are plain tars are unpacked while they and the rest still stream in.

    Whether they belong to an image is known later; their digests are right in any case, and so are their
    names in the store. Failures are kept for the real unpacking, which tries again and reports.
    """

    def __init__(self, unpacker: Unpacker) -> None:
        self._unpacker = unpacker
        self._tasks: dict[Digest, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks.values():
            task.cancel()
        await self.wait()

    def start(self, tar: Arrival) -> None:
        """Unpack ``tar``, reading it while it grows."""
        if tar.digest.algorithm == "sha256" and tar.digest not in self._tasks:
            self._tasks[tar.digest] = asyncio.create_task(self._unpacker.unpack_tar(tar))

    async def wait(self) -> None:
        """Until all of them have ended, well or not."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


class Loader(msgspec.Struct, frozen=True):
    """Loads one archive at a time from a stream; several loads may run side by side."""

    content: Content
    catalog: Catalog
    unpacker: Unpacker

    async def load(
        self, stream: AsyncIterator[bytes], lease: Lease, platform: Platform | None = None
    ) -> AsyncIterator[LoadEvent]:
        """Everything of the archive, or nothing: names are written once all layers are verified.

        Raises Invalid, Corrupt or NotFound (a blob is missing). What was stored until then stays under
        ``lease``; the caller collects it.
        """
        loop = asyncio.get_running_loop()
        async with EarlyUnpack(self.unpacker) as early:
            with Spool(self.content, lease, lambda tar: loop.call_soon_threadsafe(early.start, tar)) as spool:
                async for _ in feed(stream, spool.feed):
                    progress = spool.progress()
                    if progress:
                        yield progress
                files = await asyncio.to_thread(spool.finish)
                found = await asyncio.to_thread(self._find, files, spool, lease)
            await early.wait()
        images = []
        for image in found:
            chosen = await asyncio.to_thread(self._check, image, platform)
            images.append((image, chosen))
        async for event in self.unpacker.unpack([chosen for _, chosen in images], lease):
            yield event
        self.catalog.forget()
        for image, chosen in images:
            for event in self._name(image, chosen):
                yield event

    def _find(self, files: Files, spool: Spool, lease: Lease) -> list[FoundImage]:
        """The archive's images, with every document in the content store."""
        found = find_images(files, spool.store)
        for image in found:
            lease.add(image.target.digest)
            if image.document:
                self.content.put(image.document)
        return found

    def _check(self, image: FoundImage, platform: Platform | None) -> PlatformImage:
        """The platform to unpack: the one asked for, else the host's, else any that is whole. Raises if none is."""
        platforms = [one for one in list_platforms(self.content, image.target) if one.is_image]
        if not platforms:
            raise Invalid(f"invalid archive: {image.target.digest} holds no image")
        chosen = choose(platforms, self.catalog.host, platform)
        if platform and chosen is None:
            shown = ", ".join(sorted({str(one.platform) for one in platforms}))
            raise NotFound(f"the archive has {image.target.digest} for {shown}, not for {platform}")
        if platform and chosen:
            check_complete(self.content, chosen)
            return chosen
        if chosen is None or not chosen.is_complete:
            chosen = next((one for one in platforms if one.is_complete), chosen or platforms[0])
        check_complete(self.content, chosen)
        return chosen

    def _name(self, image: FoundImage, chosen: PlatformImage) -> list[LoadEvent]:
        moved = self.catalog.set_names(image.target, image.names)
        labels = chosen.config.config.labels if chosen.config else {}
        self.catalog.publish("load", image.target.digest, image.target.digest, labels)
        shown = [parse_reference(name).familiar() for name in image.names]
        events = [
            LoadEvent(
                text=f"The image {parse_reference(name).familiar()} already exists, the old one lost it"
            )
            for name in moved
        ]
        if not shown:
            events.append(LoadEvent(text=f"Loaded image ID: {image.target.digest}"))
        return events + [LoadEvent(text=f"Loaded image: {name}") for name in shown]
