"""Rebuilding an image to see whether it is what its Dockerfile and context say."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from cais.build.builder import Builder
from cais.build.building import Build, Solved
from cais.build.export.compare import Differences, compare_images
from cais.build.request import BuildRequest
from cais.errors import Invalid
from cais.images.image import Image, PullEvent

_SECOND = 1_000_000_000
EPOCH = "SOURCE_DATE_EPOCH"


def check_verification(request: BuildRequest) -> None:
    """Whether a build can be one that only compares. Raises Invalid."""
    if request.names or request.outputs or request.cache_to:
        raise Invalid("a build that verifies makes nothing: it takes no names, outputs or caches to write")
    if len(request.platforms) > 1:
        raise Invalid("a build verifies one platform at a time")


def rebuilding(request: BuildRequest, image: Image) -> BuildRequest:
    """The request with every step made anew, and dated like the image if that seems to be dated: then its time is a
    whole second, as SOURCE_DATE_EPOCH gives it."""
    created = image.config.created_ns
    if EPOCH in request.args or not created or created % _SECOND:
        return replace(request, no_cache=True)
    return replace(request, no_cache=True, args={**request.args, EPOCH: str(created // _SECOND)})


async def begin_verification(build: Build, builder: Builder, name: str) -> Image:
    """The image to compare with, pulled if it is not here; from now on the build is one that rebuilds it. Raises what
    pulling raises."""
    platform = build.request.platform
    image = await builder.resolve(build, name, platform, asyncio.Queue[PullEvent]())
    build.request = rebuilding(build.request, image)
    return image


async def end_verification(build: Build, image: Image, solved: Sequence[Solved]) -> tuple[Image, Differences]:
    """What was built, and in what ``image`` differs from it. Raises NotFound, Corrupt."""
    (made,) = solved
    parts = build.parts
    other = parts.images.preview(await build.write(made))
    times = EPOCH in build.request.args
    return other, await compare_images(parts.images, parts.workshop.unpacker, image, other, times=times)
