"""What ``--cache-to`` and ``--cache-from`` say, as typed values, and where that leads.

Source: BuildKit's docs "Cache storage backends" (registry, inline, local). ``mounts`` is Cais's own.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import msgspec

from cais.build.export.options import parse_bool, parse_compression
from cais.build.request import Option
from cais.build.share.blobs import (
    BlobSink,
    BlobSource,
    FolderPlace,
    open_registry_sink,
    open_registry_source,
)
from cais.errors import Invalid, Unsupported
from cais.remotes.auth import Credentials
from cais.remotes.client import Remotes
from cais.spec.digest import Digest, parse_digest
from cais.spec.reference import parse_reference

_FOREIGN = frozenset({"gha", "s3", "azblob"})
_TO = frozenset(
    {
        "ref",
        "dest",
        "tag",
        "mode",
        "compression",
        "compression-level",
        "force-compression",
        "image-manifest",
        "oci-mediatypes",
        "ignore-error",
        "registry.insecure",
        "mounts",
        "name",
    }
)
_FROM = frozenset({"ref", "src", "tag", "digest", "registry.insecure", "name"})


class CacheTo(msgspec.Struct, frozen=True):
    """One ``--cache-to``. ``type``: registry, inline, local. ``all_steps``: mode=max; ``mounts``: names of cache mounts
    to take along, None: all that the build uses; ``tolerant``: a failure is only told of."""

    type: str
    where: str = ""
    tag: str = "latest"
    all_steps: bool = False
    codec: str = ""
    level: int | None = None
    force: bool = False
    docker_types: bool = False
    tolerant: bool = False
    mounts: tuple[str, ...] | None = ()


class CacheFrom(msgspec.Struct, frozen=True):
    """One ``--cache-from``. ``type``: registry, local. ``digest``: that manifest, whatever the tag says."""

    type: str
    where: str
    tag: str = "latest"
    digest: Digest | None = None


def parse_cache_to(option: Option) -> CacheTo:
    """Raises Invalid, Unsupported."""
    attrs = option.attrs
    _check(option, "cache-to", _TO)
    mode = attrs.get("mode", "min")
    if mode not in ("min", "max"):
        raise Invalid(f"invalid mode {mode!r} of cache-to: want min or max")
    mounts = attrs.get("mounts", "")
    named: tuple[str, ...] | None = tuple(filter(None, mounts.split(",")))
    if mounts in ("true", "false", ""):
        named = None if mounts == "true" else ()
    if option.type == "inline" and (mode == "max" or named != ()):
        what = "mode=max" if mode == "max" else "mounts"
        raise Invalid(f"{what} is not possible for an inline cache, which has only the image's own layers")
    codec, level = parse_compression(attrs)
    parse_bool(attrs.get("image-manifest", ""), "image-manifest")
    return CacheTo(
        type=option.type,
        where=_where(option, "cache-to", "dest"),
        tag=attrs.get("tag") or "latest",
        all_steps=mode == "max",
        codec=codec,
        level=level,
        force=parse_bool(attrs.get("force-compression", ""), "force-compression", empty=False),
        docker_types=not parse_bool(attrs.get("oci-mediatypes", ""), "oci-mediatypes"),
        tolerant=parse_bool(attrs.get("ignore-error", ""), "ignore-error", empty=False),
        mounts=named,
    )


def parse_cache_from(option: Option) -> CacheFrom:
    """Raises Invalid, Unsupported."""
    _check(option, "cache-from", _FROM)
    digest = option.attrs.get("digest", "")
    return CacheFrom(
        type=option.type,
        where=_where(option, "cache-from", "src"),
        tag=option.attrs.get("tag") or "latest",
        digest=parse_digest(digest) if digest else None,
    )


def _check(option: Option, flag: str, known: frozenset[str]) -> None:
    types = ("registry", "local", "inline") if flag == "cache-to" else ("registry", "local")
    if option.type in _FOREIGN:
        raise Unsupported(f"{flag} type={option.type} is a service of others: use {', '.join(types)}")
    if option.type not in types:
        raise Invalid(f"unknown type {option.type!r} of {flag}: use {', '.join(types)}")
    for name in option.attrs:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f": do you mean {near[0]}?" if near else ""
            raise Invalid(f"unknown attribute {name!r} of {flag} type={option.type}{hint}")


def _where(option: Option, flag: str, folder: str) -> str:
    attrs = option.attrs
    if option.type == "inline":
        return ""
    name = "ref" if option.type == "registry" else folder
    text = attrs.get(name) or (attrs.get("name", "") if name == "ref" else "")
    if not text:
        raise Invalid(f"{flag} type={option.type} needs {name}=…")
    return parse_reference(text).canonical() if option.type == "registry" else text


class Places(Protocol):
    """Finds what ``--cache-to`` and ``--cache-from`` name. A client's door has its own: local folders are the
    client's."""

    def sink(self, to: CacheTo) -> AbstractAsyncContextManager[BlobSink]:
        """For the time of the block. Raises Invalid, Unavailable."""
        ...

    def source(self, cache: CacheFrom) -> AbstractAsyncContextManager[BlobSource]:
        """For the time of the block. Raises Invalid, Unavailable."""
        ...


class EnginePlaces(msgspec.Struct, frozen=True):
    """Registries, and folders of the engine's own machine."""

    remotes: Remotes
    credentials: Callable[[str], Awaitable[Credentials]]

    @asynccontextmanager
    async def sink(self, to: CacheTo) -> AsyncIterator[BlobSink]:
        """Places.sink."""
        if to.type == "local":
            yield FolderPlace(_absolute(to.where), to.tag)
            return
        reference = parse_reference(to.where)
        credentials = await self.credentials(reference.domain)
        async with open_registry_sink(self.remotes, reference, credentials) as sink:
            yield sink

    @asynccontextmanager
    async def source(self, cache: CacheFrom) -> AsyncIterator[BlobSource]:
        """Places.source."""
        if cache.type == "local":
            yield FolderPlace(_absolute(cache.where), cache.tag)
            return
        reference = parse_reference(cache.where)
        credentials = await self.credentials(reference.domain)
        async with open_registry_source(self.remotes, reference, credentials) as source:
            yield source


def _absolute(text: str) -> Path:
    if not text.startswith("/"):
        raise Invalid(f"{text} is no absolute path on the engine's machine")
    return Path(text)
