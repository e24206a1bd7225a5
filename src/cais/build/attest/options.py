"""What ``--attest``, ``--provenance`` and ``--sbom`` say, as typed values.

Sources: BuildKit docs/attestations/slsa-provenance.md and sbom.md.
"""

from collections.abc import Sequence
from difflib import get_close_matches

import msgspec

from cais.build.export.options import parse_bool
from cais.build.request import Option
from cais.errors import Invalid, Unsupported

_PROVENANCE = frozenset(
    {
        "mode",
        "version",
        "builder-id",
        "filename",
        "reproducible",
        "inline-only",
        "disabled",
        "capture-usage",
        "complete-materials",
    }
)
_SBOM = frozenset({"generator", "filename", "inline-only", "disabled"})


class ProvenanceOptions(msgspec.Struct, frozen=True):
    """How a build is told of. ``everything``: mode=max; ``version``: v1 or v0.2 of SLSA; ``file``: its name where
    results are files; ``inline``: only where they are images; ``complete``: what is not all known is an error."""

    everything: bool = True
    version: str = "v1"
    builder_id: str = ""
    reproducible: bool = False
    file: str = "provenance.json"
    inline: bool = False
    complete: bool = False


class SbomOptions(msgspec.Struct, frozen=True):
    """How packages are listed."""

    file: str = "sbom.spdx.json"
    inline: bool = False


class Attests(msgspec.Struct, frozen=True):
    """What is to be attested; None: not that."""

    provenance: ProvenanceOptions | None = None
    sbom: SbomOptions | None = None


def parse_attests(options: Sequence[Option]) -> Attests:
    """The last option of a type counts. Raises Invalid, Unsupported."""
    found = Attests()
    for option in options:
        if option.type == "provenance":
            found = Attests(_parse_provenance(option), found.sbom)
        elif option.type == "sbom":
            found = Attests(found.provenance, _parse_sbom(option))
        else:
            raise Invalid(f"unknown attestation type {option.type!r}: use provenance or sbom")
    return found


def _parse_provenance(option: Option) -> ProvenanceOptions | None:
    attrs = option.attrs
    _check(option, _PROVENANCE)
    if _flag(option, "disabled"):
        return None
    mode = attrs.get("mode") or "max"
    if mode not in ("min", "max", "full"):
        raise Invalid(f"invalid mode {mode!r} of provenance: want min or max")
    version = attrs.get("version") or "v1"
    if version not in ("v1", "v0.2"):
        raise Invalid(f"invalid version {version!r} of provenance: want v1 or v0.2")
    return ProvenanceOptions(
        everything=mode != "min",
        version=version,
        builder_id=attrs.get("builder-id", ""),
        reproducible=_flag(option, "reproducible"),
        file=_file(option, "provenance.json"),
        inline=_flag(option, "inline-only"),
        complete=_flag(option, "complete-materials"),
    )


def _parse_sbom(option: Option) -> SbomOptions | None:
    _check(option, _SBOM)
    if _flag(option, "disabled"):
        return None
    if generator := option.attrs.get("generator", ""):
        raise Unsupported(
            f"generator {generator} is not run: this engine lists packages itself; leave it out"
        )
    return SbomOptions(_file(option, "sbom.spdx.json"), _flag(option, "inline-only"))


def _flag(option: Option, name: str) -> bool:
    return name in option.attrs and parse_bool(option.attrs[name], name)


def _file(option: Option, default: str) -> str:
    name = option.attrs.get("filename") or default
    if "/" in name or name in (".", "..") or "\0" in name:
        raise Invalid(f"invalid filename {name!r} of {option.type}: it cannot name a folder")
    return name


def _check(option: Option, known: frozenset[str]) -> None:
    for name in option.attrs:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f": do you mean {near[0]}?" if near else ""
            raise Invalid(f"unknown attribute {name!r} of attestation {option.type}{hint}")
