"""One package that is installed somewhere, and how its kind is named in package URLs.

Source: package-url specification, types deb, apk, rpm and pypi.
"""

import re
from collections.abc import Mapping
from urllib.parse import quote

import msgspec

_NAME = re.compile(r"[\w.+:~^@()\[\]-][\w.+:~^@()\[\] -]{0,255}")
_VERSION = re.compile(r"[\w.+:~^!*-]{1,255}")
_PYPI_RUN = re.compile(r"[-_.]+")
TEXT_LIMIT = 1024


class Package(msgspec.Struct, frozen=True):
    """``kind``: deb, apk, rpm, pypi; ``license`` and ``supplier`` as the package says them; ``path``: where it is told
    of; ``qualifiers`` for the package URL."""

    kind: str
    name: str
    version: str
    path: str
    license: str = ""
    supplier: str = ""
    homepage: str = ""
    qualifiers: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether name and version are ones that a package can have: what is in an image is anybody's."""
        return bool(_NAME.fullmatch(self.name) and _VERSION.fullmatch(self.version))


class Distribution(msgspec.Struct, frozen=True):
    """What os-release says."""

    id: str = ""
    version: str = ""

    @property
    def label(self) -> str:
        """``debian-12``."""
        return "-".join(filter(None, (self.id, self.version)))


NO_DISTRIBUTION = Distribution()


def package_url(package: Package, distribution: Distribution) -> str:
    """The package URL."""
    name, namespace = package.name, ""
    qualifiers = dict(package.qualifiers)
    if package.kind == "pypi":
        name = _PYPI_RUN.sub("-", name).lower()
    else:
        namespace = distribution.id or {"deb": "debian", "apk": "alpine"}.get(package.kind, "")
        if distribution.label:
            qualifiers["distro"] = distribution.label
    path = "/".join(quote(part, safe="") for part in (namespace, name) if part)
    text = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{package.kind}/{path}@{quote(package.version, safe='')}{'?' + text if text else ''}"


def clip(text: str) -> str:
    """A text of a package, short and printable."""
    return "".join(each if each.isprintable() else " " for each in text[:TEXT_LIMIT]).strip()
