"""What is in a result: an SPDX document of the packages that were found.

Source: SPDX specification 2.3, JSON; its "SPDX Lite" fields, package URLs as external references.
"""

import hashlib
import re
import uuid
from typing import Any

import msgspec

from cais import __version__
from cais.build.attest.options import SbomOptions
from cais.build.attest.packages import Distribution, Package, package_url
from cais.build.attest.scan import Found, scan_layers
from cais.build.export.result import Attestation, Result, Tools
from cais.errors import Invalid
from cais.spec.image import format_time_ns, parse_time_ns
from cais.spec.platform import format_platform

SPDX = "https://spdx.dev/Document"
_NONE = "NOASSERTION"
_ID_BAD = re.compile(r"[^A-Za-z0-9.-]+")
_ROOT = "SPDXRef-DocumentRoot-Image"
_WORDS = re.compile(r"[()]|[A-Za-z0-9.+-]+")
_OPERATORS = frozenset({"AND", "OR", "WITH", "(", ")"})
_LICENSE_NAMES = """
    0BSD AFL-2.1 AGPL-3.0-only AGPL-3.0-or-later Apache-2.0 Artistic-1.0-Perl Artistic-2.0 BSD-1-Clause
    BSD-2-Clause BSD-3-Clause BSD-4-Clause BSL-1.0 BlueOak-1.0.0 CC-BY-4.0 CC-BY-SA-3.0 CC0-1.0 CDDL-1.0
    CPL-1.0 EPL-1.0 EPL-2.0 EUPL-1.2 FSFAP FSFULLR FTL GFDL-1.3-or-later GPL-1.0-or-later GPL-2.0-only
    GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later HPND ICU IJG ISC LGPL-2.0-only LGPL-2.0-or-later
    LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later Libpng MIT MIT-0 MIT-CMU MPL-1.1
    MPL-2.0 NCSA OFL-1.1 OLDAP-2.8 OpenSSL PSF-2.0 PostgreSQL Python-2.0 Ruby SISSL Sleepycat TCL
    Unicode-3.0 Unlicense Vim W3C WTFPL X11 ZPL-2.1 Zlib bzip2-1.0.6 curl libtiff GPL-2.0 GPL-3.0 LGPL-2.1
    LGPL-3.0 GCC-exception-3.1 Classpath-exception-2.0 OpenSSL-exception
"""
_LICENSES = frozenset(_LICENSE_NAMES.split())


async def make_sbom(options: SbomOptions, result: Result, name: str, tools: Tools) -> Attestation:
    """Of one platform's files, read in a worker. ``name``: the image's, for people. Raises NotFound, Corrupt."""
    found = Found()
    if result.layers:
        lowers = await tools.lowers(result.layers, tools.lease)
        found = await tools.unpacker.workers.run(scan_layers, lowers)
    document = format_spdx(found, name or "result", format_platform(result.platform), result.config.created)
    return Attestation(SPDX, document, options.file, options.inline)


def format_spdx(found: Found, name: str, platform: str, created: str) -> bytes:
    """The SPDX document as JSON; the same packages give the same bytes. ``created``: an RFC 3339 time."""
    packages = [_describe(package, found.distribution) for package in found.packages]
    ids = [package["SPDXID"] for package in packages]
    body = [_root(name, platform), *packages]
    # What is named by its content is the same name on every machine.
    seed = hashlib.sha256(msgspec.json.encode([name, platform, created, body])).digest()
    document: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:uuid:{uuid.UUID(bytes=seed[:16], version=5)}",
        "creationInfo": {"created": _time(created), "creators": [f"Tool: cais-{__version__}"]},
        "packages": body,
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", _ROOT),
            *(_relation(_ROOT, "CONTAINS", each) for each in ids),
        ],
    }
    if found.notes:
        document["comment"] = "Not looked into: " + "; ".join(found.notes)
    return msgspec.json.encode(document)


def _root(name: str, platform: str) -> dict[str, Any]:
    return {
        "SPDXID": _ROOT,
        "name": name,
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "primaryPackagePurpose": "CONTAINER",
        "comment": f"files of the image for {platform}",
    }


def _describe(package: Package, distribution: Distribution) -> dict[str, Any]:
    url = package_url(package, distribution)
    mark = hashlib.sha256(f"{url}\0{package.path}".encode()).hexdigest()[:16]
    license = package.license if is_license(package.license) else _NONE
    found: dict[str, Any] = {
        "SPDXID": f"SPDXRef-Package-{package.kind}-{_ID_BAD.sub('-', package.name)}-{mark}",
        "name": package.name,
        "versionInfo": package.version,
        "supplier": f"Organization: {package.supplier}" if package.supplier else _NONE,
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "sourceInfo": f"listed in /{package.path}",
        "licenseConcluded": _NONE,
        "licenseDeclared": license,
        "copyrightText": _NONE,
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": url}
        ],
    }
    if package.license and license == _NONE:
        found["licenseComments"] = f"the package says: {package.license}"
    if package.homepage.startswith(("http://", "https://")) and " " not in package.homepage:
        found["homepage"] = package.homepage
    return found


def is_license(text: str) -> bool:
    """Whether it is an expression of licenses that SPDX knows, of the usual ones; others stay a comment."""
    words = _WORDS.findall(text)
    if not words or "".join(words) != "".join(text.split()) or text.count("(") != text.count(")"):
        return False
    names = [word for word in words if word not in _OPERATORS]
    joints = sum(word in ("AND", "OR", "WITH") for word in words)
    return bool(names) and joints == len(names) - 1 and all(word in _LICENSES for word in names)


def _relation(first: str, kind: str, second: str) -> dict[str, str]:
    return {"spdxElementId": first, "relationshipType": kind, "relatedSpdxElement": second}


def _time(text: str) -> str:
    """Whole seconds in UTC, as SPDX wants them."""
    try:
        return format_time_ns(parse_time_ns(text) // 1_000_000_000 * 1_000_000_000)
    except Invalid:
        return format_time_ns(0)
