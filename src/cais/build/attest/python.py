"""Python packages by what is written beside them. Pure.

Source: packaging.python.org "Core metadata specifications".
"""

from cais.build.attest.packages import Package, clip

HEAD = 64 << 10
"""Bytes of a file that are read: fields stand in front of the description."""
METADATA = ("METADATA", "PKG-INFO")


def is_info_folder(name: str) -> bool:
    """Whether a folder of this name tells of a package."""
    return name.endswith((".dist-info", ".egg-info"))


def parse_metadata(head: bytes, path: str) -> Package:
    """The package; without a sound name if the file is none."""
    fields: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").splitlines():
        if not line.strip():
            break
        name, colon, value = line.partition(":")
        if colon and line[0] not in " \t":
            fields.setdefault(name.lower(), value.strip())
    return Package(
        "pypi",
        fields.get("name", ""),
        fields.get("version", ""),
        path,
        license=clip(fields.get("license-expression") or fields.get("license", "")),
        supplier=clip(fields.get("author") or fields.get("author-email", "")),
        homepage=clip(fields.get("home-page", "")),
    )
