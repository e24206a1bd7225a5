"""All images of this engine: list, resolve, tag, remove, load, import, save, bootstrap."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path

from cais.errors import CaisError, Invalid, NotFound, Unavailable
from cais.events import Bus
from cais.images.bootstrap import PATH, open_root, parse_base, read_host_suite
from cais.images.catalog import Catalog, Victim
from cais.images.check import Damage, Standing, StoreCheck
from cais.images.commit import CommitRequest, Committer
from cais.images.filters import filter_images
from cais.images.image import Deleted, HistoryEntry, Image, LoadEvent, PullEvent, PushEvent, Untagged
from cais.images.importer import ImportOptions, make_image, make_options, store_layer
from cais.images.load import Loader
from cais.images.pull import Puller, PullRequest
from cais.images.push import Pusher, PushRequest
from cais.images.removal import Situation, User, plan_removal
from cais.images.save import Selection, write_archive
from cais.images.sizes import PlatformSize, places_of
from cais.images.tool import follow
from cais.images.tree import list_platforms
from cais.images.unpack import Unpacker
from cais.remotes.client import Remotes
from cais.spec.descriptor import Descriptor
from cais.spec.digest import Digest, chain_ids, parse_digest
from cais.spec.image import ContainerDefaults, parse_time_ns
from cais.spec.platform import Platform
from cais.spec.reference import parse_reference
from cais.store.content import Content
from cais.store.full import explain_full, is_full
from cais.store.gc import Lease, Leases, collect, mentioned
from cais.store.layers.layers import Layers
from cais.store.metadata import Metadata
from cais.store.workers import Workers

SETTLE_AFTER = 45.0
"""Seconds from a load until its bytes are synced; the kernel's own write-back starts after 30."""


def _nobody(_: Digest) -> Sequence[str]:
    return []


class Images:
    """The images room. One for each engine; everything on the event loop, the bytes in threads and
    workers."""

    def __init__(
        self,
        content: Content,
        layers: Layers,
        metadata: Metadata,
        workers: Workers,
        bus: Bus,
        *,
        root: Path,
        remotes: Remotes,
        downloads: int = 3,
        uploads: int = 5,
        commit_compression: str = "gzip",
        push_compression: str = "gzip",
    ) -> None:
        """``root``: the engine's root folder, in which the other stores lie. ``downloads``: layers that are fetched
        at once, ``uploads``: blobs that are sent; 0: no limit. ``commit_compression``: gzip, zstd or none for the
        layers that commits make, ``push_compression`` for plain ones that are pushed."""
        self._content = content
        self._layers = layers
        self._metadata = metadata
        self._scratch = root / "tmp"
        self._leases = Leases()
        self._kept: list[Callable[[], set[Digest]]] = []
        self._collecting = asyncio.Lock()
        self._settling: asyncio.TimerHandle | None = None
        self._catalog = Catalog(content, layers, metadata, bus)
        self.unpacker = self._unpacker = Unpacker(content, layers, workers, root)
        self._committer = Committer(content, self._catalog, self._unpacker, commit_compression)
        self._loader = Loader(content, self._catalog, self._unpacker)
        self._puller = Puller(content, self._catalog, self._unpacker, remotes, downloads=downloads)
        self.remotes = remotes
        """Other people's registries, for what is asked there and changes nothing here."""
        self._pusher = Pusher(
            content, self._catalog, metadata, workers, remotes, uploads=uploads, compression=push_compression
        )

    # Looking

    async def list(self, filters: Mapping[str, Iterable[str]] | None = None) -> Sequence[Image]:
        """Every image, newest first. Raises Invalid for unknown filters, NotFound for before and since."""
        return filter_images(self._catalog.list_images(), filters or {}, self._catalog.resolve)

    async def resolve(self, name_or_id: str, *, platform: Platform | None = None) -> Image:
        """The image of a name, name by digest, ID or unique start of one. Raises NotFound, Invalid."""
        return self._catalog.resolve(name_or_id, platform)

    def sizes(self, image: Image) -> Sequence[PlatformSize]:
        """What each platform of the image takes."""
        return self._catalog.platform_sizes(image)

    def find_lowers(self, diff_ids: Sequence[Digest]) -> tuple[str, ...] | None:
        """The folders that these layers are mounted from, if all are ready."""
        return self._unpacker.lowers(diff_ids) if self._unpacker.is_ready(diff_ids) else None

    def places(self, images: Iterable[Image]) -> dict[Digest, frozenset[str]]:
        """By image, where on disk it lies: see ``sizes.places_of``."""
        forms: dict[str, list[Digest]] = {}
        for form in self._metadata.list_forms():
            forms.setdefault(form.image, []).append(form.digest)
        return {image.id: places_of(image, forms.get(image.id, ())) for image in images}

    def place_sizes(self, images: Iterable[Image]) -> dict[Digest, dict[str, int]]:
        """By image, the bytes at each of its places: what its files are long, not the blocks that they take."""
        return {
            image: {place: self._catalog.place_size(place) for place in places}
            for image, places in self.places(images).items()
        }

    def stacks(self, images: Iterable[Image]) -> dict[Digest, dict[Digest, int]]:
        """By image, the bytes of its layers."""
        return {image.id: self._catalog.layers_of(image) for image in images}

    async def history(self, name_or_id: str, *, platform: Platform | None = None) -> Sequence[HistoryEntry]:
        """How the image came about, newest step first."""
        image = self._catalog.resolve(name_or_id, platform)
        sizes = iter(self._catalog.layer_sizes(image.chosen))
        entries = [
            HistoryEntry(
                id="",
                created_ns=_time_ns(step.created),
                created_by=step.created_by,
                tags=(),
                size=0 if step.empty_layer else next(sizes, 0),
                comment=step.comment,
            )
            for step in image.config.history
        ]
        # Layers that the history does not mention (some builders leave it out).
        entries += [HistoryEntry("", 0, "", (), size, "") for size in sizes]
        if entries:
            names = tuple(parse_reference(name).familiar() for name in image.names)
            last = entries[-1]
            entries[-1] = HistoryEntry(
                image.id, last.created_ns, last.created_by, names, last.size, last.comment
            )
        return entries[::-1]

    # Names

    async def tag(self, name_or_id: str, repo: str, tag: str = "") -> str:
        """Give the image one more name, taking it from whatever had it; the short form. Raises NotFound,
        Invalid."""
        image = self._catalog.resolve(name_or_id)
        reference = parse_reference(f"{repo}:{tag}" if tag else repo)
        if reference.digest:
            raise Invalid("refusing to create a tag with a digest reference")
        reference = reference.tagged()
        self._catalog.set_names(image.descriptor, [reference.canonical()])
        self._catalog.publish("tag", image.id, reference.familiar(), image.config.config.labels)
        return reference.familiar()

    async def remove(
        self,
        name_or_id: str,
        *,
        force: bool = False,
        no_prune: bool = False,
        in_use: Callable[[Digest], Sequence[str]] = _nobody,
        running: Callable[[str], bool] = lambda _: True,
    ) -> Sequence[Untagged | Deleted]:
        """Remove a name, and the image with its last one, by Docker's rules (``removal.plan_removal``).

        ``in_use`` gives the containers made from an image, ``running`` says whether one runs. A container
        that stays keeps the layers it stands on. ``no_prune`` spares the images that this one was committed
        from.
        """
        victim = self._catalog.victim(self._catalog.find_id(name_or_id))
        users = tuple(User(container, running(container)) for container in in_use(victim.id))
        situation = Situation(victim.id, victim.names, users, bool(self._catalog.children(victim.id)))
        plan = plan_removal(name_or_id, situation, force=force)
        self._catalog.drop_names(victim.id, plan.names, keep=not plan.delete)
        done: list[Untagged | Deleted] = []
        for name in plan.names:
            done.append(Untagged(parse_reference(name).familiar()))
            self._catalog.publish("untag", victim.id, victim.id, victim.labels)
        if not plan.delete:
            return done
        self._catalog.publish("delete", victim.id, victim.id, victim.labels)
        gone = [victim, *(() if no_prune else self._prune_parents(victim.parent, in_use))]
        removed = await self.collect()
        for one in gone:
            done.append(Deleted(one.id))
            pairs = reversed(list(zip(one.diff_ids, chain_ids(one.diff_ids), strict=True)))
            done += [Deleted(chain_id) for diff_id, chain_id in pairs if removed & {diff_id, chain_id}]
        return done

    def _prune_parents(self, parent: str, in_use: Callable[[Digest], Sequence[str]]) -> Sequence[Victim]:
        """Forget the nameless images that ``parent`` and its parents are, as long as nothing needs them."""
        gone: list[Victim] = []
        while parent:
            try:
                victim = self._catalog.victim(self._catalog.find_id(parent))
            except (NotFound, Invalid):
                break
            if victim.names or self._catalog.children(victim.id) or in_use(victim.id):
                break
            self._catalog.drop_names(victim.id, (), keep=False)
            self._catalog.publish("delete", victim.id, victim.id, victim.labels)
            gone.append(victim)
            parent = victim.parent
        return gone

    # In

    async def load(
        self, stream: AsyncIterator[bytes], *, platform: Platform | None = None
    ) -> AsyncIterator[LoadEvent]:
        """Load an archive (docker save, podman, skopeo, umoci; compressed or not) as it streams in. ``platform``: the
        one that must be in it and is made ready, in place of the host's.

        Raises Invalid, Corrupt, NotFound for archives that are wrong, damaged or not whole: nothing of them
        stays.
        """
        async with self._working() as lease:
            async for event in self._loader.load(stream, lease, platform):
                yield event
        self._settle_later()
        await self.collect()

    async def pull(self, request: PullRequest) -> AsyncGenerator[PullEvent]:
        """Pull an image. If it fails, or the engine dies, all bytes that had arrived wait for the next try.

        Raises NotFound, Corrupt, Invalid, Unsupported, Unauthenticated, Unavailable: then nothing has a new name.
        """
        async with self._working() as lease, aclosing(self._puller.pull(request, lease)) as events:
            async for event in events:
                yield event
        with suppress(NotFound):  # somebody may have removed it already
            image = self._catalog.get(self._catalog.find_id(request.name))
            self._pusher.note_pulled(request.reference, image)
            self._catalog.used.note(image.id)
        # No collection: all that came is needed, and looking through everything takes longer than a small pull.
        self._settle_later()

    async def import_root(
        self,
        stream: AsyncIterator[bytes],
        *,
        repo: str = "",
        tag: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        platform: Platform | None = None,
    ) -> Image:
        """An image of one layer from a root tar, plain or compressed. ``changes`` are Dockerfile
        instructions.

        Raises Invalid before anything is read, Corrupt for a damaged tar; then nothing stays.
        """
        options = make_options(
            repo, tag, message=message, changes=tuple(changes), platform=platform or self._catalog.host
        )
        return await self._import(stream, options)

    async def _import(self, stream: AsyncIterator[bytes], options: ImportOptions) -> Image:
        async with self._working() as lease:
            layer = await store_layer(self._content, stream, lease)
            target = await asyncio.to_thread(make_image, self._content, layer, options, lease)
            (chosen,) = await asyncio.to_thread(list_platforms, self._content, target)
            async for _ in self._unpacker.unpack([chosen], lease):
                pass
            self._catalog.set_names(target, options.names)
            image = self._catalog.get(target.digest, options.platform)
        self._settle_later()
        self._catalog.used.note(image.id)
        self._catalog.publish("import", image.id, image.id, image.config.config.labels)
        return image

    async def commit(self, request: CommitRequest) -> Image:
        """An image of a container. If it fails nothing stays. Raises NotFound, Conflict, Invalid, OSError."""
        async with self._working() as lease:
            image = await self._committer.commit(request, lease)
        self._catalog.used.note(image.id)
        self._settle_later()
        for name in request.names:
            shown = parse_reference(name).familiar()
            self._catalog.publish("tag", image.id, shown, image.config.config.labels)
        return image

    async def bootstrap(self, text: str) -> AsyncIterator[LoadEvent]:
        """Make a base image, ``busybox`` or ``debian[:SUITE]``, from the machine's package mirror.

        Raises Invalid for other texts, Unsupported when a tool is missing, Unavailable when the mirror is.
        """
        host_suite = await asyncio.to_thread(read_host_suite)
        base = parse_base(text, host_suite)
        yield LoadEvent(text=f"Making {base.names[0]}")
        async with open_root(base, host_suite, self._scratch) as root:
            options = ImportOptions(
                names=tuple(parse_reference(name).canonical() for name in base.names),
                message=f"cais image bootstrap {text}",
                defaults=ContainerDefaults(env=(f"PATH={PATH}",), cmd=base.command),
                platform=self._catalog.host,
                created_ns=root.created_ns,
            )
            importing = asyncio.create_task(self._import(root.tar, options))
            async for line in follow(root.lines, importing):
                yield LoadEvent(text=line)
            image = importing.result()
        for name in image.names:
            yield LoadEvent(text=f"Loaded image: {parse_reference(name).familiar()}")

    # Out

    async def push(self, request: PushRequest) -> AsyncGenerator[PushEvent]:
        """Push one tag, or all tags of a repository. What was compressed for it stays, also when it fails.

        Raises NotFound, Denied, Unauthenticated, Unsupported, Corrupt, Conflict, Invalid, Unavailable; then the tag
        stands for what it stood for before.
        """
        yield PushEvent(f"The push refers to repository [{request.reference.name}]")
        for one, image in self._pusher.select(request):
            async with self._working() as lease:
                async with self._collecting:
                    lease.add(self._catalog.get(image.id).id)
                async with aclosing(self._pusher.push(one, image, lease)) as events:
                    async for event in events:
                        yield event

    def save(
        self, names: Sequence[str], *, platform: Platform | None = None, docker: bool = True
    ) -> AsyncIterator[bytes]:
        """One archive of the images: an OCI layout, and with ``docker`` a docker-archive too. Raises NotFound,
        Invalid at once.

        A bare repository name means all of its tags, an ID means the image without names. With ``platform`` only
        that one is in it.
        """
        if not names:
            raise Invalid("no image to save: name at least one")
        selections: dict[Digest, Selection] = {}
        for text in names:
            for image, chosen in self._catalog.select(text, platform):
                if platform and not image.chosen.is_complete:
                    raise NotFound(f"{text} is not here as a whole for {platform}: pull it for that platform")
                old = selections.get(image.id)
                merged = dict.fromkeys((*(old.names if old else ()), *chosen))
                selections[image.id] = Selection(image, tuple(merged), alone=platform is not None)
        return self._save(tuple(selections.values()), docker)

    async def _save(self, selections: Sequence[Selection], docker: bool) -> AsyncIterator[bytes]:
        async with self._working() as lease:
            async with self._collecting:
                for selection in selections:
                    lease.add(selection.image.id)
            async for chunk in write_archive(self._content, selections, docker=docker):
                yield chunk

    # For containers

    async def root_lowers(self, image: Image) -> tuple[str, ...]:
        """The folders of the image's layers, top first, for ``Snapshots.prepare``; unpacks what is missing."""
        self._catalog.used.note(image.id)
        return await self._ready_lowers(image)

    async def _ready_lowers(self, image: Image) -> tuple[str, ...]:
        if not self._unpacker.is_ready(image.diff_ids):
            async with self._working() as lease:
                lease.digests.add(image.id)
                async for _ in self._unpacker.unpack([image.chosen], lease):
                    pass
        return self._unpacker.lowers(image.diff_ids)

    def note_used(self, image_id: str) -> None:
        """A container made from it was started. Costs nothing: it is written down later."""
        with suppress(Invalid):
            self._catalog.used.note(parse_digest(image_id))

    @asynccontextmanager
    async def acquire(self, image: Image) -> AsyncIterator[Image]:
        """Keep ``image`` and its layers for the time of the block, even if its names are removed meanwhile.

        Whoever makes a container holds this from ``resolve`` until the record, which keeps the image from
        then on, is written. Waits for nothing. Raises NotFound if the image has been removed since it was
        resolved.
        """
        # A collection that runs right now has marked the image by its name, the next one sees this lease, and
        # after that the record: so neither the beginning nor the end has to wait for a collection.
        self._catalog.get(image.id)
        with self._leases.lease() as lease:
            lease.digests.add(image.id)
            yield image

    # For builds

    @property
    def host(self) -> Platform:
        """The platform of this machine."""
        return self._catalog.host

    def working(self) -> AbstractAsyncContextManager[Lease]:
        """A lease for the time of the block, for whoever makes an image step by step."""
        return self._working()

    def keep_also(self, kept: Callable[[], set[Digest]]) -> None:
        """Collections leave what ``kept`` names, too: blobs and layers. Before the first ``sweep``."""
        self._kept.append(kept)

    def add_built(self, target: Descriptor, names: Sequence[str]) -> Image:
        """Make a manifest that was written under a lease an image, with canonical ``names``."""
        self._catalog.set_names(target, names)
        image = self._catalog.get(target.digest)
        self._catalog.used.note(image.id)
        self._settle_later()
        for name in names:
            shown = parse_reference(name).familiar()
            self._catalog.publish("tag", image.id, shown, image.config.config.labels)
        return image

    def preview(self, target: Descriptor) -> Image:
        """A manifest or index under a lease, as the image it would be. Raises NotFound, Corrupt, Invalid."""
        return self._catalog.preview(target)

    def push_built(self, target: Descriptor, request: PushRequest, lease: Lease) -> AsyncGenerator[PushEvent]:
        """Push what ``lease`` keeps, named here or not; without a tag by its digest alone. Raises as ``push``."""
        return self._pusher.push(request, self._catalog.preview(target), lease)

    # Cleaning

    async def sweep(self) -> None:
        """At the engine's start: remove what a killed engine left behind, and unpack again what containers
        stand
        on if a crash of the machine took it."""
        async with self._collecting:
            if self._leases.is_idle():  # else temporary files are those of running loads
                await asyncio.to_thread(self._content.sweep)
                await asyncio.to_thread(self._layers.sweep)
        await self.collect()
        self._catalog.write_index()
        targets = self._catalog.targets()
        for _, _, record in self._metadata.list_containers():
            for digest in mentioned(record) & targets.keys():
                with suppress(CaisError):
                    await self._ready_lowers(self._catalog.get(digest))

    async def drop_partials(self) -> int:
        """Remove what waits for another try of pulls that did not end well; the bytes of partial blobs freed."""
        freed = await asyncio.to_thread(self._content.ingest.clean, 0)
        await self.collect()
        return freed

    async def check(
        self, standing: Sequence[Standing], *, deep: bool = False, repair: bool = False
    ) -> Sequence[Damage]:
        """What is wrong in the store; with ``repair`` also what came of mending it. ``deep``: layers file by file."""
        check = StoreCheck(self._content, self._catalog, self._unpacker, self.remotes, standing)
        async with self._working() as lease:
            if repair:
                found = await check.repair(lease, deep=deep)
            else:
                found = await check.check(deep=deep)
        async with self._collecting:  # nobody can start to work in the store meanwhile
            if self._leases.is_idle():
                found += check.check_strays(repair=repair)
        return found

    async def close(self) -> None:
        """At the engine's end: have everything on the disk."""
        self._catalog.used.write()
        if self._settling:
            self._settling.cancel()
            await asyncio.to_thread(self._settle)

    def _settle_later(self) -> None:
        """By then the kernel has written most of it by itself, and the sync disturbs nobody."""
        if self._settling is None:
            loop = asyncio.get_running_loop()
            self._settling = loop.call_later(SETTLE_AFTER, self._start_settling)

    def _start_settling(self) -> None:
        self._settling = None
        asyncio.get_running_loop().run_in_executor(None, self._settle)

    def _settle(self) -> None:
        self._content.ingest.clean()
        self._content.settle()
        self._layers.settle()

    async def collect(self) -> set[Digest]:
        """Remove blobs and layers that no image, container or running act needs; the removed layers."""
        # A task of its own: if the caller is cancelled, the lock must not be released under the sweeping thread.
        return await asyncio.shield(asyncio.create_task(self._collect()))

    async def _collect(self) -> set[Digest]:
        async with self._collecting:
            roots = set(self._catalog.targets())
            for kept in self._kept:
                roots |= kept()
            for _, _, record in self._metadata.list_containers():
                roots |= mentioned(record)
            for form in self._metadata.list_forms():
                if form.image in roots:
                    roots.add(form.digest)
                else:
                    self._metadata.delete_forms(form.image)
            removed, _ = await asyncio.to_thread(collect, self._content, self._layers, self._leases, roots)
            self._catalog.forget()
        return set(removed)

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[Lease]:
        """A lease for the time of the block; if it fails, what it had stored so far is removed."""
        with ExitStack() as stack:
            async with self._collecting:
                lease = stack.enter_context(self._leases.lease())
            try:
                yield lease
            except BaseException as error:
                await self._end(stack)
                await self.collect()
                if is_full(error):
                    raise Unavailable(explain_full(error, self._scratch.parent)) from error
                raise
            await self._end(stack)

    async def _end(self, stack: ExitStack) -> None:
        # Not during a collection: it has read the names already, maybe before this act wrote its own.
        async with self._collecting:
            stack.close()


def _time_ns(text: str) -> int:
    try:
        return parse_time_ns(text)
    except Invalid:
        return 0
