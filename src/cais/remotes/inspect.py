"""What a name stands for in its registry, without pulling it."""

import msgspec

from cais.remotes.auth import ANONYMOUS, Credentials
from cais.remotes.client import Remotes
from cais.spec.descriptor import CONFIG_TYPES, Descriptor, Index, parse_manifest
from cais.spec.image import parse_image_config
from cais.spec.platform import Platform
from cais.spec.reference import Reference


class RemoteImage(msgspec.Struct, frozen=True):
    """The manifest or index of a name, as it is and described, and the platforms it has."""

    data: bytes
    descriptor: Descriptor
    platforms: tuple[Platform, ...]


async def inspect_remote(
    remotes: Remotes, reference: Reference, credentials: Credentials = ANONYMOUS
) -> RemoteImage:
    """Ask the registry. Raises NotFound, Unauthenticated, Corrupt, Invalid, Unavailable."""
    async with remotes.open(reference, credentials) as repository:
        found = await repository.fetch_manifest()
        document = parse_manifest(found.data, found.media_type)
        descriptor = Descriptor(media_type=document.media_type, digest=found.digest, size=len(found.data))
        if isinstance(document, Index):
            platforms = [child.platform for child in document.manifests if child.platform]
        elif document.config.media_type in CONFIG_TYPES:
            platforms = [parse_image_config(await repository.fetch_document(document.config)).platform]
        else:
            platforms = []
    return RemoteImage(found.data, descriptor, tuple(platforms))
