"""What a tag is: the platforms behind it, its configuration, and its layers with the instruction that made each."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import msgspec

from cais.errors import CaisError, NotFound
from cais.registry.base import ManifestRecord
from cais.registry.database import Database
from cais.registry.registry import Registry
from cais.spec.descriptor import INDEX_TYPES, Descriptor, Index, Manifest, parse_manifest
from cais.spec.digest import Digest
from cais.spec.image import ImageConfig, parse_image_config
from cais.spec.platform import Platform, format_platform

Order = Literal["pushed", "name"]
MAX_CONFIG = 4 << 20
REFERENCE_TYPE = "vnd.docker.reference.type"
REFERENCE_DIGEST = "vnd.docker.reference.digest"
"""Annotations with which BuildKit puts what it says about an image beside it into the index."""
_KNOWN_PLATFORMS = 20_000
_FIRST = Platform(os="linux", architecture="amd64")
_TAG_FIELDS = "t.name, t.digest, t.pushed_ns, m.pulled_ns, m.total, m.media_type, m.artifact_type"
_HIDDEN_TAG = "t.name NOT GLOB 'sha256-[0-9a-f]*'"
"""Tags that say something about an image (cosign, referrers' fallback) are no images to people."""
_SHELL = re.compile(r"(?:\|\d+ (?P<arguments>.*?) ?)?/bin/sh -c (?P<nop>#\(nop\)\s*)?(?P<text>.*)", re.DOTALL)
_VERB = re.compile(r"[A-Z]{3,11}")
_BUILDKIT = re.compile(r"\s*# buildkit$")


class TagRow(msgspec.Struct, frozen=True, kw_only=True):
    """A line in a repository's list of tags; ``size``: bytes to pull, of an index all of them."""

    name: str
    digest: Digest
    pushed_ns: int
    pulled_ns: int
    size: int
    media_type: str
    artifact_type: str
    platforms: tuple[str, ...]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """``number`` counts from the bottom, beginning with 1; ``diff_id`` is empty where the configuration says none."""

    number: int
    digest: Digest
    media_type: str
    size: int
    diff_id: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction of the history; ``layer`` is None for those that changed the configuration only."""

    verb: str
    text: str
    created: str = ""
    comment: str = ""
    layer: Layer | None = None


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest in an index; ``about``: the digest of the image that this is an attestation of, or empty."""

    digest: Digest
    platform: str
    size: int
    about: str = ""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest with all that it says. ``config`` is None for what is no image that runs; ``text`` and
    ``config_text`` are the documents as they were pushed."""

    digest: Digest
    media_type: str
    artifact_type: str
    platform: str
    size: int
    pushed_ns: int
    annotations: dict[str, str]
    subject: str
    layers: tuple[Layer, ...]
    steps: tuple[Step, ...]
    config: ImageConfig | None
    text: str
    config_text: str


class Tagged(msgspec.Struct, frozen=True, kw_only=True):
    """What a reference stands for: an ``image``, perhaps one of the ``members`` of the index ``root``."""

    root: ManifestRecord
    members: tuple[Member, ...]
    image: Image | None

    @property
    def platforms(self) -> tuple[Member, ...]:
        """The members that are images."""
        return tuple(member for member in self.members if not member.about)


class Images:
    """Reads only; the caller has asked the gate."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._db = database
        self._registry = registry
        self._platforms: OrderedDict[Digest, tuple[str, ...]] = OrderedDict()

    async def list_tags(
        self, repository: str, text: str = "", *, order: Order = "pushed", count: int = 50, offset: int = 0
    ) -> list[TagRow]:
        """Tags whose name has ``text`` in it; by the time of their push, the newest first, or by name."""
        by = "t.pushed_ns DESC, t.name" if order == "pushed" else "t.name"
        rows = self._db.read(
            f"SELECT {_TAG_FIELDS} FROM repositories r JOIN tags t ON t.repository = r.id "
            "JOIN manifests m ON m.repository = r.id AND m.digest = t.digest "
            f"WHERE r.name = ? AND {_HIDDEN_TAG} AND (? = '' OR instr(t.name, ?)) ORDER BY {by} LIMIT ? OFFSET ?",
            repository,
            text,
            text,
            count,
            offset,
        )
        return [
            TagRow(
                name=name,
                digest=Digest(digest),
                pushed_ns=pushed,
                pulled_ns=pulled,
                size=total,
                media_type=media_type,
                artifact_type=artifact_type,
                platforms=await self.list_platforms(repository, Digest(digest)),
            )
            for name, digest, pushed, pulled, total, media_type, artifact_type in rows
        ]

    def count_tags(self, repository: str, text: str = "") -> int:
        """How many ``list_tags`` finds altogether."""
        row = self._db.read_one(
            "SELECT COUNT(*) FROM repositories r JOIN tags t ON t.repository = r.id "
            f"WHERE r.name = ? AND {_HIDDEN_TAG} AND (? = '' OR instr(t.name, ?))",
            repository,
            text,
            text,
        )
        return int(row[0]) if row else 0

    def pulled_times(self, repository: str, digests: Sequence[str]) -> dict[str, int]:
        """When each of these manifests was pulled last, nanoseconds since the epoch; 0: never."""
        rows = self._db.read(
            "SELECT m.digest, m.pulled_ns FROM repositories r JOIN manifests m ON m.repository = r.id "
            f"WHERE r.name = ? AND m.digest IN ({','.join('?' * len(digests))})",
            repository,
            *digests,
        )
        return dict(rows)

    def tags_of(self, repository: str, digest: Digest) -> list[str]:
        """The names that stand for this manifest."""
        rows = self._db.read(
            "SELECT t.name FROM repositories r JOIN tags t ON t.repository = r.id AND t.digest = ? "
            "WHERE r.name = ? ORDER BY t.name LIMIT 50",
            digest,
            repository,
        )
        return [name for (name,) in rows]

    async def list_platforms(self, repository: str, digest: Digest) -> tuple[str, ...]:
        """Of a manifest or index. A digest's are always the same: they are remembered."""
        known = self._platforms.get(digest)
        if known is not None:
            return known
        found: list[str] = []
        try:
            record = await self._registry.find_manifest(repository, digest)
            document = parse_manifest(record.data, record.media_type)
            if isinstance(document, Index):
                found = [
                    format_platform(e.platform) for e in document.manifests if _is_image(e) and e.platform
                ]
            else:
                data = await self._registry.blobs.read(document.config.digest, MAX_CONFIG)
                found = [format_platform(parse_image_config(data).platform)]
        except CaisError:
            pass
        answer = tuple(dict.fromkeys(filter(None, found)))
        self._platforms[digest] = answer
        if len(self._platforms) > _KNOWN_PLATFORMS:
            self._platforms.popitem(last=False)
        return answer

    async def find(self, repository: str, ref: Digest | str, platform: str = "") -> Tagged:
        """What the reference stands for; of an index, the image for ``platform``, or else the one most likely meant.
        Raises NotFound, Corrupt."""
        root = await self._registry.catalog.find_manifest(repository, ref)
        if root is None:
            raise NotFound(f"no such image: {repository}{'@' if isinstance(ref, Digest) else ':'}{ref}")
        document = await self._read(repository, root)
        if isinstance(document, Manifest):
            return Tagged(root=root, members=(), image=await self._read_image(root, document))
        members = tuple([await self._describe(repository, entry) for entry in document.manifests])
        chosen = _choose(members, platform)
        image = None
        if chosen is not None:
            record = await self._registry.catalog.find_manifest(repository, chosen.digest)
            inner = await self._read(repository, record) if record else None
            if record and isinstance(inner, Manifest):
                image = await self._read_image(record, inner, chosen.platform)
        return Tagged(root=root, members=members, image=image)

    async def _read(self, repository: str, record: ManifestRecord) -> Manifest | Index:
        found = await self._registry.find_manifest(repository, record.digest)
        return parse_manifest(found.data, found.media_type)

    async def _describe(self, repository: str, entry: Descriptor) -> Member:
        record = await self._registry.catalog.find_manifest(repository, entry.digest)
        about = entry.annotations.get(REFERENCE_DIGEST, "") if REFERENCE_TYPE in entry.annotations else ""
        platform = format_platform(entry.platform) if entry.platform else ""
        if not platform and record is not None and not about:
            platform = ", ".join(await self.list_platforms(repository, entry.digest))
        return Member(
            digest=entry.digest,
            platform=platform or "unknown",
            size=record.total if record else entry.size,
            about=about,
        )

    async def _read_image(self, record: ManifestRecord, manifest: Manifest, platform: str = "") -> Image:
        text = config_text = ""
        config = None
        try:
            data = await self._registry.blobs.read(manifest.config.digest, MAX_CONFIG)
            config_text = data.decode("utf-8", "replace")
            config = parse_image_config(data)
        except CaisError:
            pass  # an artifact's configuration is whatever it likes, and a damaged one is not worth the page
        text = (await self._registry.blobs.read(record.digest, MAX_CONFIG)).decode("utf-8", "replace")
        layers = join_layers(manifest, config)
        return Image(
            digest=record.digest,
            media_type=record.media_type,
            artifact_type=record.artifact_type if config is None else "",
            platform=(format_platform(config.platform) if config else "") or platform,
            size=record.total,
            pushed_ns=record.pushed_ns,
            annotations=record.annotations,
            subject=record.subject,
            layers=layers,
            steps=join_history(layers, config),
            config=config,
            text=text,
            config_text=config_text,
        )


def join_layers(manifest: Manifest, config: ImageConfig | None) -> tuple[Layer, ...]:
    """The manifest's layers, with the diff_ids of the configuration if there are as many."""
    diff_ids = config.rootfs.diff_ids if config else ()
    known = diff_ids if len(diff_ids) == len(manifest.layers) else ("",) * len(manifest.layers)
    return tuple(
        Layer(
            number=number,
            digest=entry.digest,
            media_type=entry.media_type,
            size=entry.size,
            diff_id=str(diff_id),
        )
        for number, (entry, diff_id) in enumerate(zip(manifest.layers, known, strict=True), 1)
    )


def join_history(layers: Sequence[Layer], config: ImageConfig | None) -> tuple[Step, ...]:
    """The history's instructions with the layer that each made; a history that does not fit the layers is none."""
    history = config.history if config else ()
    if sum(not entry.empty_layer for entry in history) != len(layers):
        return tuple(Step(verb="", text="", layer=layer) for layer in layers)
    rest = iter(layers)
    steps = []
    for entry in history:
        verb, text = split_instruction(entry.created_by)
        layer = None if entry.empty_layer else next(rest)
        steps.append(Step(verb=verb, text=text, created=entry.created, comment=entry.comment, layer=layer))
    return tuple(steps)


def split_instruction(created_by: str) -> tuple[str, str]:
    """The Dockerfile's instruction that a history's ``created_by`` came from: its word, and what stands behind it.

    Classic builders wrote ``/bin/sh -c #(nop) CMD ["sh"]`` and ``/bin/sh -c make``, with ``|1 A=b`` in front for build
    arguments; BuildKit writes ``RUN /bin/sh -c make # buildkit``.
    """
    text = _BUILDKIT.sub("", created_by.strip())
    verb, _, rest = text.partition(" ")
    if verb == "RUN":
        text, shell = rest, True
    else:
        shell = False
    match = _SHELL.fullmatch(text)
    if match:
        body = match["text"].strip()
        if not match["nop"]:
            return "RUN", f"{match['arguments']} {body}" if match["arguments"] else body
        text = body
    if shell:
        return "RUN", text
    verb, _, rest = text.partition(" ")
    return (verb, rest.strip()) if _VERB.fullmatch(verb) else ("", text)


def is_index(media_type: str) -> bool:
    """Whether a manifest of this media type names others."""
    return media_type in INDEX_TYPES


def _is_image(entry: Descriptor) -> bool:
    return REFERENCE_TYPE not in entry.annotations


def _choose(members: Sequence[Member], platform: str) -> Member | None:
    images = [member for member in members if not member.about]
    for wanted in (platform, format_platform(_FIRST)):
        for member in images:
            if wanted and member.platform == wanted:
                return member
    return images[0] if images else None
