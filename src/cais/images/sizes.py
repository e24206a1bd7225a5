"""What images take and what they share, from the layers and blobs that each of them needs (pure)."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from cais.images.image import Image, PlatformImage
from cais.spec.digest import Digest, chain_ids

Layers = Mapping[Digest, int]
"""Bytes by diff_id."""


class PlatformSize(msgspec.Struct, frozen=True):
    """One platform of an image: bytes of its blobs that are here, and of its unpacked layers."""

    image: PlatformImage
    content: int
    unpacked: int

    @property
    def total(self) -> int:
        """All it takes, shared or not."""
        return self.content + self.unpacked


def shared_sizes(stacks: Mapping[Digest, Layers]) -> dict[Digest, int]:
    """By image, the bytes of its layers that other images have too: Docker's ``SharedSize``."""
    users = Counter(diff_id for layers in stacks.values() for diff_id in layers)
    return {
        image: sum(size for diff_id, size in layers.items() if users[diff_id] > 1)
        for image, layers in stacks.items()
    }


def total_size(stacks: Mapping[Digest, Layers]) -> int:
    """Bytes of all layers, each counted once: Docker's ``LayersSize``."""
    return sum({diff_id: size for layers in stacks.values() for diff_id, size in layers.items()}.values())


def places_of(image: Image, forms: Iterable[Digest] = ()) -> frozenset[str]:
    """Where on disk the image may lie, below the engine's root: its blobs and its layers, of all platforms here;
    ``forms``: blobs that were made of it to push it."""
    digests = {image.id, *forms}
    places: set[str] = set()
    for platform in image.platforms:
        manifest = platform.manifest
        digests |= {platform.descriptor.digest, manifest.config.digest}
        digests |= {layer.digest for layer in manifest.layers}
        if platform.config:
            diff_ids = platform.config.rootfs.diff_ids
            places.update(f"layers/{_folder(digest)}" for digest in diff_ids)
            places.update(f"layers/chain-{_folder(digest)}" for digest in chain_ids(diff_ids))
    places.update(f"content/blobs/{digest.algorithm}/{digest.hex}" for digest in digests)
    return frozenset(places)


class Share(msgspec.Struct, frozen=True):
    """One image's part of the disk, in bytes: what only it needs, and what other images need too."""

    unique: int
    shared: int


def split(needs: Mapping[Digest, Iterable[str]], sizes: Mapping[str, int]) -> tuple[dict[Digest, Share], int]:
    """Each image's share of the places it ``needs``, and the bytes of all that are shared, each counted once."""
    here = {image: [place for place in places if place in sizes] for image, places in needs.items()}
    users = Counter(place for places in here.values() for place in places)
    shares = {
        image: Share(
            sum(sizes[place] for place in places if users[place] == 1),
            sum(sizes[place] for place in places if users[place] > 1),
        )
        for image, places in here.items()
    }
    return shares, sum(sizes[place] for place, count in users.items() if count > 1)


def _folder(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.hex}"
