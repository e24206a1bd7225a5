"""What ``--output`` says, as typed values: the attributes of each type with BuildKit's names and meanings.

Sources: BuildKit's docs "Image and registry exporters", "Local and tar exporters", "OCI and Docker exporters", and
docs/annotations.md.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches

import msgspec

from cais.build.request import Option
from cais.errors import Invalid, Unsupported
from cais.spec.platform import Platform, format_platform, parse_platform
from cais.spec.reference import parse_reference

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_ANNOTATION = re.compile(r"annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)")
_KINDS = ("manifest", "manifest-descriptor", "index", "index-descriptor")
_CODECS = {"uncompressed": "none", "gzip": "gzip", "zstd": "zstd"}
_LEVELS = {"gzip": range(10), "zstd": range(23), "none": range(23)}

_TREE = frozenset({"source-date-epoch", "platform-split", "attestation-prefix", "mode", "dest"})
_IMAGE = frozenset(
    {
        "name",
        "push",
        "push-by-digest",
        "registry.insecure",
        "unpack",
        "store",
        "dangling-name-prefix",
        "danging-name-empty-only",
        "name-canonical",
        "oci-mediatypes",
        "oci-artifact",
        "attestation-inline",
        "prefer-nondist-layers",
        "source-date-epoch",
        "compression",
        "compression-level",
        "force-compression",
        "rewrite-timestamp",
        "tar",
        "dest",
        "containerimage.config",
        "buildinfo",
        "buildinfo-attrs",
    }
)


def parse_bool(text: str, name: str, *, empty: bool = True) -> bool:
    """A truth value as Go reads it; ``empty``: what no text means. Raises Invalid."""
    if not text:
        return empty
    if text not in _TRUE | _FALSE:
        raise Invalid(f"invalid value {text!r} for {name}: want true or false")
    return text in _TRUE


class Annotations(msgspec.Struct, frozen=True):
    """What is written into documents, by kind (``manifest``, ``manifest-descriptor``, ``index``, ``index-descriptor``)
    and platform (as ``format_platform`` writes it; empty: all)."""

    values: Mapping[tuple[str, str], Mapping[str, str]] = msgspec.field(default_factory=dict)

    def of(self, kind: str, platform: Platform | None = None) -> dict[str, str]:
        """Those of one kind for one platform."""
        found = dict(self.values.get((kind, ""), {}))
        if platform is not None:
            found |= self.values.get((kind, format_platform(platform)), {})
        return found


def parse_annotations(attrs: Mapping[str, str]) -> Annotations:
    """``annotation[-KIND][\\[PLATFORM\\]].KEY`` attributes. Raises Invalid."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name, value in attrs.items():
        if not is_annotation(name):
            continue
        match = _ANNOTATION.fullmatch(name)
        kind = (match[1] or "manifest") if match else ""
        if not match or kind not in _KINDS:
            raise Invalid(f"invalid annotation {name!r}: want annotation[-KIND][[PLATFORM]].KEY")
        if match[2] and kind.startswith("index"):
            raise Invalid(f"invalid annotation {name!r}: an index has no platform")
        platform = format_platform(parse_platform(match[2])) if match[2] else ""
        found.setdefault((kind, platform), {})[match[3]] = value
    return Annotations(found)


def is_annotation(name: str) -> bool:
    """Whether the attribute is one."""
    return name.startswith(("annotation.", "annotation-", "annotation["))


class ImageOptions(msgspec.Struct, frozen=True):
    """For types that make an image. ``names`` are canonical; ``codec`` (gzip, zstd, none) and ``level`` of layers that
    are not the base's (empty, None: as they are), ``force``: of all layers; ``docker_types``: Docker's media types in
    place of OCI's; ``artifact``: attestations as OCI artifacts; ``epoch_ns``: the time that everything gets at most."""

    names: tuple[str, ...] = ()
    push: bool = False
    by_digest: bool = False
    canonical: bool = False
    unpack: bool = False
    store: bool = True
    codec: str = ""
    level: int | None = None
    force: bool = False
    docker_types: bool = False
    artifact: bool = False
    rewrite: bool = False
    tar: bool = True
    epoch_ns: int | None = None
    annotations: Annotations = Annotations()


def parse_image_options(
    option: Option, names: tuple[str, ...] = (), epoch_ns: int | None = None
) -> ImageOptions:
    """``names`` and ``epoch_ns``: the build's, for an option that says nothing. Raises Invalid, Unsupported."""
    attrs = option.attrs
    _check_names(option, _IMAGE)
    codec, level = parse_compression(attrs)
    annotations = parse_annotations(attrs)
    oci = parse_bool(attrs.get("oci-mediatypes", ""), "oci-mediatypes")
    if not oci and annotations.values:
        raise Invalid("annotations are not possible with oci-mediatypes=false")
    epoch_ns = parse_epoch_attr(attrs, epoch_ns)
    rewrite = _flag(attrs, "rewrite-timestamp")
    if rewrite and epoch_ns is None:
        raise Invalid("rewrite-timestamp needs a time: build with --build-arg SOURCE_DATE_EPOCH=SECONDS")
    texts = [text for text in attrs.get("name", "").split(",") if text and text != "*"]
    by_digest = _flag(attrs, "push-by-digest")
    parsed = [parse_reference(text) for text in texts]
    if by_digest and any(reference.tag for reference in parsed):
        raise Invalid("can't push tagged ref by digest: leave the tag out of name")
    named = [(reference if by_digest else reference.tagged()).canonical() for reference in parsed]
    return ImageOptions(
        names=tuple(dict.fromkeys(named)) or names,
        push=_flag(attrs, "push") or option.type == "registry",
        by_digest=by_digest,
        canonical=_flag(attrs, "name-canonical"),
        unpack=_flag(attrs, "unpack"),
        store=parse_bool(attrs.get("store", ""), "store"),
        codec=codec,
        level=level,
        force=_flag(attrs, "force-compression"),
        docker_types=not oci,
        artifact=oci and _flag(attrs, "oci-artifact"),
        rewrite=rewrite,
        tar=parse_bool(attrs.get("tar", ""), "tar"),
        epoch_ns=epoch_ns,
        annotations=annotations,
    )


class TreeOptions(msgspec.Struct, frozen=True):
    """For types that make files. ``split``: one folder for each platform (None: if there are several); ``prefix`` of
    the names of attestations; ``dest``: the folder on this machine."""

    split: bool | None = None
    prefix: str = ""
    dest: str = ""
    epoch_ns: int | None = None


def parse_tree_options(option: Option, epoch_ns: int | None = None) -> TreeOptions:
    """Raises Invalid, Unsupported."""
    attrs = option.attrs
    _check_names(option, _TREE)
    split = attrs.get("platform-split", "")
    if attrs.get("mode", "copy") not in ("", "copy"):
        raise Unsupported(f"mode={attrs['mode']} of {option.type} is not possible: what is there stays")
    prefix = attrs.get("attestation-prefix", "")
    if "/" in prefix:
        raise Invalid(f"invalid attestation-prefix {prefix!r}: it cannot name a folder")
    return TreeOptions(
        split=parse_bool(split, "platform-split") if split else None,
        prefix=prefix,
        dest=attrs.get("dest", ""),
        epoch_ns=parse_epoch_attr(attrs, epoch_ns),
    )


def parse_compression(attrs: Mapping[str, str]) -> tuple[str, int | None]:
    """``compression`` and ``compression-level``; empty and None if they are not there. Raises Invalid, Unsupported."""
    text = attrs.get("compression", "")
    if text == "estargz":
        raise Unsupported("compression=estargz is not possible: use gzip, zstd or uncompressed")
    if text and text not in _CODECS:
        raise Invalid(f"unknown compression {text!r}: use {', '.join(_CODECS)}")
    codec = _CODECS.get(text, "")
    level = attrs.get("compression-level", "")
    if not level:
        return codec, None
    if not (level.isascii() and level.isdecimal() and int(level) in _LEVELS[codec or "gzip"]):
        most = _LEVELS[codec or "gzip"][-1]
        raise Invalid(f"invalid compression-level {level!r}: want 0 to {most}")
    return codec or "gzip", int(level)


def parse_epoch_attr(attrs: Mapping[str, str], epoch_ns: int | None) -> int | None:
    """``source-date-epoch`` in nanoseconds, or else the build's. Raises Invalid."""
    text = attrs.get("source-date-epoch", "")
    if not text:
        return epoch_ns
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise Invalid(f"invalid source-date-epoch {text!r}: want seconds since 1970")
    return int(text) * 1_000_000_000


def _flag(attrs: Mapping[str, str], name: str) -> bool:
    """False if the attribute is not there, true if it is there without a value."""
    return name in attrs and parse_bool(attrs[name], name)


def _check_names(option: Option, known: frozenset[str]) -> None:
    for name in option.attrs:
        if name in known or is_annotation(name):
            continue
        near = get_close_matches(name, known, 1)
        hint = f": do you mean {near[0]}?" if near else ""
        raise Invalid(f"unknown attribute {name!r} of output type {option.type}{hint}")
