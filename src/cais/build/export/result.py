"""What a build hands to its exporters, and what they hand on: results, and the receiving end."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from cais.build.cache import Layer
from cais.build.share.blobs import BlobSink
from cais.build.tree import Tree
from cais.images.image import Image, PushEvent
from cais.images.images import Images
from cais.images.unpack import Unpacker
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.spec.image import ImageConfig
from cais.spec.platform import Platform
from cais.store.gc import Lease

Lowers = Callable[[Sequence[Layer], Lease], Awaitable[tuple[str, ...]]]
"""The folders of these layers, top first, unpacked if they were not."""


class Attestation(msgspec.Struct, frozen=True):
    """Something to be said about a result: a JSON ``predicate`` of a type that its URI names. ``file``: its name where
    results are files; ``inline``: only where results are images."""

    type: str
    predicate: bytes
    file: str
    inline: bool = False


class Result(msgspec.Struct, frozen=True):
    """One platform's files and configuration. The first ``base_layers`` layers and ``base_steps`` entries of the
    history are the base image's, which no option changes. ``unchanged``: it is that image and nothing else.
    ``extra``: more fields for the configuration's JSON."""

    platform: Platform
    config: ImageConfig
    layers: Sequence[Layer]
    base_layers: int = 0
    base_steps: int = 0
    unchanged: Image | None = None
    attestations: Sequence[Attestation] = ()
    extra: Mapping[str, Any] = msgspec.field(default_factory=dict)


class StreamWriter(Protocol):
    """Where one archive goes."""

    async def write(self, data: bytes) -> None:
        """Send the next bytes; waits while the client is slow. Raises Unavailable when it has gone."""
        ...

    async def close(self) -> None:
        """All has been written. Not called after a failure: then the door breaks off."""
        ...


class Sink(Protocol):
    """The client's end of one output. Only the one method that fits the output's type is called, once."""

    async def open_stream(self, response: Mapping[str, str]) -> StreamWriter:
        """For types ``docker``, ``oci`` and ``tar``; ``response`` is what ``export`` will return. Raises Invalid (the
        client takes no stream), Unavailable."""
        ...

    async def send_tree(self, tree: Tree) -> None:
        """For type ``local``: all of ``tree``, which is read in a thread (or as a tar: ``rootfs.stream_tar``). Raises
        Invalid, Unavailable."""
        ...

    async def open_blobs(self) -> BlobSink:
        """For type ``oci`` with ``tar=false``. Raises Invalid, Unavailable."""
        ...


Fetch = Callable[[Sequence[Layer], Lease], Awaitable[None]]
"""Have the blobs of these layers here, for those that a cache elsewhere has."""


async def _anonymous(_: str) -> Credentials:
    return ANONYMOUS


async def _all_here(_: Sequence[Layer], __: Lease) -> None:
    return


def _nobody(_: PushEvent) -> None:
    return


class Tools(msgspec.Struct, frozen=True):
    """What exporters work with. ``lease`` is the build's; ``epoch_ns``: the time that everything gets; ``credentials``
    by a registry's domain; ``tell``: how far a push is; ``names``: those of the request, canonical, for outputs without
    any."""

    images: Images
    unpacker: Unpacker
    lease: Lease
    lowers: Lowers
    fetch: Fetch = _all_here
    epoch_ns: int | None = None
    names: Sequence[str] = ()
    credentials: Callable[[str], Awaitable[Credentials]] = _anonymous
    tell: Callable[[PushEvent], None] = _nobody
