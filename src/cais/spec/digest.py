"""Content digests: ``algorithm:hex`` texts that are checked once and trusted afterwards."""

import hashlib
import re
from collections.abc import Iterable

from cais.errors import Invalid

_HEX_LENGTHS = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


class Digest(str):
    """A well-formed digest; made only by ``parse_digest`` and ``digest_bytes``, so it is safe in a path."""

    __slots__ = ()

    @property
    def algorithm(self) -> str:
        """``sha256`` or ``sha512``."""
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        """The lower-case hexadecimal part."""
        return self.partition(":")[2]


def parse_digest(text: str) -> Digest:
    """Check ``text`` by OCI image-spec, descriptor.md "Digests"; only registered algorithms are taken.

    Raises Invalid: unknown algorithm, upper-case letters, wrong length.
    """
    algorithm, _, encoded = text.partition(":")
    length = _HEX_LENGTHS.get(algorithm)
    if length is None:
        raise Invalid(f"invalid digest: {text!r}: algorithm must be sha256 or sha512")
    if len(encoded) != length or not _HEX.fullmatch(encoded):
        raise Invalid(f"invalid digest: {text!r}: want {length} lower-case hexadecimal characters")
    return Digest(text)


def digest_bytes(data: bytes | bytearray | memoryview) -> Digest:
    """The sha256 digest of ``data``."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def chain_ids(diff_ids: Iterable[Digest]) -> list[Digest]:
    """One chain_id for each prefix of ``diff_ids``, bottom layer first (image-spec config.md, ChainID)."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(digest_bytes(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain
