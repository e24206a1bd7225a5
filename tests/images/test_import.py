"""Making images from root tars."""

import gzip
import lzma
from pathlib import Path
from typing import Any

import pytest

from cais.errors import CaisError, Invalid
from cais.spec.platform import Platform

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
async def test_a_root_tar_becomes_an_image(store: Any, archives: Any, stream: Any, compress: Any) -> None:
    """Name, defaults, comment and files are as asked for, whatever the tar's compression."""
    image = await store.images.import_root(
        stream(compress(archives.layer("root"))),
        repo="mine",
        tag="1",
        message="by hand",
        changes=['CMD ["sh"]', "ENV A=1"],
    )
    assert image.names == ("docker.io/library/mine:1",)
    assert (image.config.config.cmd, image.config.config.env) == (("sh",), ("A=1",))
    assert [step.comment for step in await store.images.history("mine:1")] == ["by hand"]
    (lower,) = await store.images.root_lowers(image)
    assert Path(lower, "etc/name").read_text() == "root"
    assert store.bus.history(0)[-1].action == "import"


async def test_an_import_may_have_no_name_and_another_platform(
    store: Any, archives: Any, stream: Any
) -> None:
    """Without a repository the image is found by its ID; the platform is what was said."""
    platform = Platform(os="linux", architecture="arm64")
    image = await store.images.import_root(stream(archives.layer("root")), platform=platform)
    assert image.names == () and image.config.architecture == "arm64"
    assert (await store.images.resolve(image.id)).id == image.id


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repo": "UPPER"}, "must be lowercase"),
        ({"repo": "x@sha256:" + "0" * 64}, "cannot import digest reference"),
        ({"repo": "x", "changes": ["RUN true"]}, "RUN is not a valid change command"),
    ],
)
async def test_wrong_wishes_are_refused_before_anything_is_read(
    store: Any, options: dict[str, Any], message: str
) -> None:
    """The stream is not touched."""

    async def untouched() -> Any:
        raise AssertionError
        yield b""

    with pytest.raises(Invalid, match=message):
        await store.images.import_root(untouched(), **options)


@pytest.mark.parametrize("data", [b"this is no tar" * 100, gzip.compress(b"x" * 10_000)[:-20]])
async def test_what_is_no_tar_leaves_nothing(store: Any, stream: Any, data: bytes) -> None:
    """Garbage and truncated streams make no image and leave no blob."""
    with pytest.raises(CaisError):
        await store.images.import_root(stream(data), repo="x")
    assert store.leftovers() == [] and await store.images.list() == []
