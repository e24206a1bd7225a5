"""Which images there are, and what a name or ID means: names from the database, the rest from the content
store."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

import msgspec
from msgspec.structs import replace

from cais.errors import CaisError, Corrupt, Invalid, NotFound
from cais.events import Bus, Event
from cais.images.image import Image, PlatformImage
from cais.images.lastused import LastUsed
from cais.images.sizes import PlatformSize
from cais.images.tree import choose, list_platforms
from cais.spec.descriptor import IMAGE_NAME, REF_NAME, Descriptor, Index
from cais.spec.digest import Digest, chain_ids, parse_digest
from cais.spec.platform import Platform, host_platform
from cais.spec.reference import Reference, parse_reference
from cais.store.content import Content
from cais.store.layers.layers import Layers
from cais.store.metadata import ImageName, Metadata

NAMELESS = "@"
"""First character of the database's names for images that have none."""
_HEX = frozenset("0123456789abcdef")


class Victim(msgspec.Struct, frozen=True):
    """What must be known of an image to remove it; of one whose blobs are damaged ``diff_ids`` are empty."""

    id: Digest
    names: tuple[str, ...]
    parent: str
    labels: dict[str, str]
    diff_ids: tuple[Digest, ...]


class Catalog:
    """Reads are cheap: parsed documents are kept until ``forget`` is called (something was added or
    removed)."""

    def __init__(self, content: Content, layers: Layers, metadata: Metadata, bus: Bus) -> None:
        self._content = content
        self._layers = layers
        self._metadata = metadata
        self._bus = bus
        self.used = LastUsed(metadata)
        system = os.uname()
        self.host = host_platform(system.sysname, system.machine)
        self._platforms: dict[Digest, list[PlatformImage]] = {}
        self._sizes: dict[Digest, int] = {}

    def forget(self) -> None:
        """Read everything anew from now on."""
        self._platforms.clear()
        self._sizes.clear()

    # Names

    def targets(self) -> dict[Digest, list[ImageName]]:
        """Every image with its names, sorted."""
        found: dict[Digest, list[ImageName]] = {}
        for row in self._metadata.list_images():
            found.setdefault(row.digest, []).append(row)
        return found

    def set_names(self, target: Descriptor, names: Iterable[str], *, parent: str = "") -> list[str]:
        """Point canonical ``names`` at ``target``, which stays without a name if there are none.

        An image that loses its last name is kept nameless. Returns the names that pointed elsewhere before.
        """
        now = time.time_ns()
        moved = []
        with self._metadata.transaction():
            rows = self.targets()
            mine = rows.get(target.digest, [])
            created = min([row.created_ns for row in mine], default=now)
            used = max([row.used_ns for row in mine], default=0)
            known_parent = parent or next((row.parent for row in mine if row.parent), "")
            wanted = list(names)
            if not wanted and not mine:
                wanted = [NAMELESS + target.digest]
            for name in wanted:
                old = self._metadata.find_image(name)
                if old and old.digest != target.digest:
                    moved.append(name)
                    self._drop(old, rows)
                row = ImageName(
                    name, target.digest, target.media_type, target.size, created, now, used, known_parent
                )
                self._metadata.set_image(row)
            if any(not row.startswith(NAMELESS) for row in wanted):
                self._metadata.delete_image(NAMELESS + target.digest)
        self.write_index()
        return moved

    def drop_names(self, digest: Digest, names: Iterable[str], *, keep: bool) -> None:
        """Forget ``names`` of the image; with ``keep`` it stays, nameless if these were the last."""
        with self._metadata.transaction():
            for name in names:
                rows = self.targets()
                for row in rows.get(digest, []):
                    if row.name == name:
                        self._drop(row, rows)
            if not keep:
                for row in self.targets().get(digest, []):
                    self._metadata.delete_image(row.name)
        self.write_index()

    def write_index(self) -> None:
        """Tell other tools that read the content store as an OCI layout which images there are."""
        entries = []
        for row in self._metadata.list_images():
            annotations = {}
            if not row.name.startswith(NAMELESS):
                annotations = {IMAGE_NAME: row.name, REF_NAME: parse_reference(row.name).tag or ""}
            entries.append(msgspec.structs.replace(_target(row), annotations=annotations))
        self._content.write_index(Index(manifests=tuple(entries)))

    def _drop(self, row: ImageName, rows: dict[Digest, list[ImageName]]) -> None:
        if [other.name for other in rows[row.digest]] == [row.name]:
            self._metadata.set_image(replace(row, name=NAMELESS + row.digest))
        self._metadata.delete_image(row.name)
        rows[row.digest] = [other for other in rows[row.digest] if other.name != row.name]

    # Resolving

    def resolve(self, text: str, platform: Platform | None = None) -> Image:
        """The image that ``text`` means: name, name by digest, ID or the unique start of an ID.

        Raises NotFound ``No such image: …``; Invalid for a text that can be no name, or that fits several
        IDs.
        """
        digest = self.find_id(text)
        try:
            return self.get(digest, platform)
        except NotFound as error:
            if platform is None:
                raise
            raise NotFound(
                f"image with reference {text} was found but does not provide the specified platform ({platform})"
            ) from error

    def find_id(self, text: str) -> Digest:
        """The ID of the image that ``text`` means; raises as ``resolve``."""
        if text.startswith("sha256:"):
            return _match_prefix(text, text.removeprefix("sha256:"), self.targets())
        if len(text) == 64 and _HEX.issuperset(text):
            return _match_prefix(text, text, self.targets())
        reference = parse_reference(text)
        if not reference.digest:
            row = self._metadata.find_image(reference.tagged().canonical())
            if row:
                return row.digest
        rows = self.targets()
        for digest, names in rows.items():
            if any(_matches(reference, digest, row.name) for row in names):
                return digest
        if reference.digest:
            # What a push made of an image has another digest, by which the registry knows it.
            for form in self._metadata.list_forms():
                if (form.digest, form.repository) == (
                    reference.digest,
                    reference.name,
                ) and form.image in rows:
                    return form.image
        if _HEX.issuperset(text):
            with suppress(NotFound):
                return _match_prefix(text, text, rows)
        raise NotFound(f"No such image: {reference.tagged().familiar()}")

    def get(self, digest: Digest, platform: Platform | None = None) -> Image:
        """The image with this ID. Raises NotFound if it has not the ``platform`` asked for."""
        rows = self._metadata.list_names(digest)
        if not rows:
            raise NotFound(f"No such image: {digest}")
        target = _target(rows[0])
        platforms = self.platforms(target)
        chosen = choose(platforms, self.host, platform)
        if chosen is None and platform is None:
            # Made for other machines: it can be looked at, tagged and saved all the same.
            chosen = next((image for image in platforms if image.config), None)
        if chosen is None or chosen.config is None:
            wanted = f" for platform {platform}" if platform else ""
            raise NotFound(f"image {_show(rows[0])} has no content{wanted} on this machine")
        return self._image(rows, target, platforms, chosen)

    def preview(self, target: Descriptor) -> Image:
        """A manifest or index that is here but may have no name, as an image. Raises NotFound, Corrupt, Invalid."""
        platforms = list_platforms(self._content, target)
        chosen = choose(platforms, self.host, None) or next((one for one in platforms if one.config), None)
        if chosen is None or chosen.config is None:
            raise NotFound(f"image {target.digest} has no content on this machine")
        row = ImageName(NAMELESS + target.digest, target.digest, target.media_type, target.size, 0, 0)
        return self._image([row], target, platforms, chosen)

    def victim(self, digest: Digest) -> Victim:
        """The image ``digest`` as something to remove, which must work for damaged ones too."""
        rows = self._metadata.list_names(digest)
        names = tuple(row.name for row in rows if not row.name.startswith(NAMELESS))
        parent = next((row.parent for row in rows if row.parent), "")
        try:
            config = self.get(digest).config
        except CaisError:
            return Victim(digest, names, parent, {}, ())
        return Victim(digest, names, parent, config.config.labels, config.rootfs.diff_ids)

    def list_images(self) -> list[Image]:
        """Every image, newest first; images whose blobs are damaged are left out."""
        images = []
        for digest in self.targets():
            try:
                images.append(self.get(digest))
            except (NotFound, Corrupt, Invalid):
                continue
        return sorted(images, key=lambda image: (image.created_ns, image.updated_ns), reverse=True)

    def platforms(self, target: Descriptor) -> list[PlatformImage]:
        """Every platform of ``target`` that is here."""
        if target.digest not in self._platforms:
            self._platforms[target.digest] = list_platforms(self._content, target)
        return self._platforms[target.digest]

    def select(self, text: str, platform: Platform | None = None) -> list[tuple[Image, tuple[str, ...]]]:
        """The images that saving ``text`` means, with the canonical names to save them under: all tags of a bare
        repository name, the one name of a full one, no name for an ID. Raises NotFound, Invalid."""
        try:
            reference = parse_reference(text)
        except Invalid:
            return [(self.resolve(text, platform), ())]
        tags = [
            row
            for row in self._metadata.list_images()
            if not row.name.startswith(NAMELESS) and parse_reference(row.name).name == reference.name
        ]
        if not reference.tag and not reference.digest and tags:
            return [(self.resolve(row.name, platform), (row.name,)) for row in tags]
        image = self.resolve(text, platform)
        name = reference.tagged().canonical()
        return [(image, (name,) if name in image.names else ())]

    def list_tags(self, repository: str) -> list[tuple[Reference, Digest]]:
        """Every tag of a repository (a full name) that is here, sorted, and the image it stands for."""
        rows = [row for row in self._metadata.list_images() if not row.name.startswith(NAMELESS)]
        named = [(parse_reference(row.name), row.digest) for row in rows]
        return [(name, digest) for name, digest in named if name.name == repository and name.tag]

    def children(self, digest: Digest) -> list[Digest]:
        """Images that were committed from this one."""
        return [other for other, rows in self.targets().items() if any(row.parent == digest for row in rows)]

    def layer_sizes(self, chosen: PlatformImage) -> list[int]:
        """Bytes of each layer, bottom first: unpacked, or of its blob while it is not."""
        if chosen.config is None:
            return [layer.size for layer in chosen.manifest.layers]
        diff_ids = chosen.config.rootfs.diff_ids
        chain = chain_ids(diff_ids)
        sizes = []
        for layer, diff_id, chain_id in zip(chosen.manifest.layers, diff_ids, chain, strict=False):
            size = self._layer_size(diff_id) or self._layer_size(chain_id)
            sizes.append(layer.size if size is None else size)
        return sizes

    def layers_of(self, image: Image) -> dict[Digest, int]:
        """Bytes of each layer of the image's chosen platform."""
        return dict(zip(image.diff_ids, self.layer_sizes(image.chosen), strict=False))

    def platform_sizes(self, image: Image) -> list[PlatformSize]:
        """What each platform of the image that is here takes, artifacts in its index included."""
        return [self._platform_size(platform) for platform in image.platforms]

    def place_size(self, place: str) -> int:
        """Bytes at one of ``sizes.places_of``; 0 where nothing is."""
        kind, _, name = place.rpartition("/")
        if kind == "layers":
            algorithm, _, rest = name.partition("-")
            return 0 if algorithm == "chain" else self._layer_size(parse_digest(f"{algorithm}:{rest}")) or 0
        try:
            return self._content.size(parse_digest(f"{kind.rpartition('/')[2]}:{name}"))
        except NotFound:
            return 0

    def _platform_size(self, platform: PlatformImage) -> PlatformSize:
        manifest = platform.manifest
        blobs = (platform.descriptor, manifest.config, *manifest.layers)
        content = sum(blob.size for blob in blobs if self._content.has(blob.digest))
        diff_ids = platform.config.rootfs.diff_ids if platform.config and platform.is_image else ()
        unpacked = (
            self._layer_size(diff_id) or self._layer_size(chain_id) or 0
            for diff_id, chain_id in zip(diff_ids, chain_ids(diff_ids), strict=True)
        )
        return PlatformSize(platform, content, sum(unpacked))

    def _layer_size(self, digest: Digest) -> int | None:
        if digest not in self._sizes:
            try:
                self._sizes[digest] = self._layers.size(digest)
            except (CaisError, OSError):
                return None
        return self._sizes[digest]

    def _image(
        self,
        rows: list[ImageName],
        target: Descriptor,
        platforms: list[PlatformImage],
        chosen: PlatformImage,
    ) -> Image:
        names = [row.name for row in rows if not row.name.startswith(NAMELESS)]
        config = chosen.config
        assert config is not None
        references = [parse_reference(name) for name in names]
        return Image(
            id=target.digest,
            descriptor=target,
            names=tuple(str(reference) for reference in references if not reference.digest),
            digests=tuple(dict.fromkeys(self._digests(references, target.digest))),
            chosen=chosen,
            config=config,
            platforms=tuple(platforms),
            size=sum(self.layer_sizes(chosen)),
            created_ns=config.created_ns,
            updated_ns=max(row.updated_ns for row in rows),
            parent=next((row.parent for row in rows if row.parent), ""),
            used_ns=self.used.of(target.digest, max(row.used_ns for row in rows)),
        )

    def _digests(self, references: Iterable[Reference], digest: Digest) -> Iterator[str]:
        """Names by digest: where an image was pushed in another form (compressed), the registry's own digest."""
        forms = {
            form.repository: form.digest for form in self._metadata.list_forms(digest) if form.repository
        }
        for reference in references:
            yield f"{reference.name}@{forms.get(reference.name, digest)}"

    # Events

    def publish(self, action: str, image_id: str, name: str, labels: dict[str, str] | None = None) -> None:
        """Tell the bus, with the attributes that dockerd gives image events."""
        attributes = {**(labels or {}), "name": name}
        self._bus.publish(Event("image", action, image_id, time.time_ns(), attributes))


def _target(row: ImageName) -> Descriptor:
    return Descriptor(media_type=row.media_type, digest=row.digest, size=row.size)


def _show(row: ImageName) -> str:
    return row.name.removeprefix(NAMELESS)


def _match_prefix(text: str, prefix: str, rows: Iterable[Digest]) -> Digest:
    if not prefix or not _HEX.issuperset(prefix):
        parse_digest(text)
    found = [digest for digest in rows if digest.hex.startswith(prefix)]
    if len(found) > 1:
        raise Invalid(f"ambiguous reference: {text}")
    if not found:
        raise NotFound(f"No such image: {text}")
    return found[0]


def _matches(reference: Reference, digest: Digest, name: str) -> bool:
    """Whether the database's ``name`` of ``digest`` is what ``reference`` means."""
    if name.startswith(NAMELESS):
        return False
    if not reference.digest:
        return name == reference.tagged().canonical()
    return reference.digest == digest and parse_reference(name).name == reference.name
