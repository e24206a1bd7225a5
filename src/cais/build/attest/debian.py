"""The packages that dpkg and apk have on record. Pure.

Sources: dpkg(1) "status" and deb-control(5); Alpine wiki "Apk spec", installed database.
"""

from collections.abc import Iterator

from cais.build.attest.packages import Package, clip

_LINE_LIMIT = 64 << 10


def parse_dpkg(data: bytes, path: str, *, whole: bool) -> Iterator[Package]:
    """What ``var/lib/dpkg/status`` lists as installed. ``whole``: no status is needed (a file of ``status.d``)."""
    for fields in _stanzas(data):
        if not whole and not fields.get("status", "").endswith(" installed"):
            continue
        if whole and "status" in fields and not fields["status"].endswith(" installed"):
            continue
        source, _, source_version = fields.get("source", "").partition(" ")
        upstream = source + (f"@{source_version.strip('()')}" if source_version else "")
        yield Package(
            "deb",
            fields.get("package", ""),
            fields.get("version", ""),
            path,
            supplier=clip(fields.get("maintainer", "")),
            homepage=clip(fields.get("homepage", "")),
            qualifiers={"arch": clip(fields.get("architecture", "")), "upstream": clip(upstream)},
        )


def parse_apk(data: bytes, path: str) -> Iterator[Package]:
    """What ``lib/apk/db/installed`` lists."""
    fields: dict[str, str] = {}
    for line in (*_lines(data), ""):
        if line:
            key, colon, value = line.partition(":")
            if colon and len(key) == 1:
                fields.setdefault(key, value)
            continue
        if fields.get("P"):
            origin = fields.get("o", "")
            yield Package(
                "apk",
                fields["P"],
                fields.get("V", ""),
                path,
                license=clip(fields.get("L", "")),
                supplier=clip(fields.get("m", "")),
                homepage=clip(fields.get("U", "")),
                qualifiers={
                    "arch": clip(fields.get("A", "")),
                    "upstream": clip(origin if origin != fields["P"] else ""),
                },
            )
        fields = {}


def _stanzas(data: bytes) -> Iterator[dict[str, str]]:
    """Fields by lower-case name, of each block between empty lines; only their first lines."""
    fields: dict[str, str] = {}
    for line in (*_lines(data), ""):
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif line[0] not in " \t":
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.lower(), value.strip())


def _lines(data: bytes) -> Iterator[str]:
    for line in data.split(b"\n"):
        yield line[:_LINE_LIMIT].decode("utf-8", "replace").rstrip("\r")
