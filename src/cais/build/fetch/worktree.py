"""What git makes of a blob when it writes a file: line ends and ``$Id$``, by attributes (pure; gitattributes(5)).

No filter is ever run: those stand in a configuration, and here is none.
"""

import re
from collections.abc import Mapping

ATTRIBUTES = ("text", "eol", "ident")
_IDENT = re.compile(rb"\$Id(?::[^$\n]?[^ $\n]* ?)?\$")
"""With blanks in the middle it is another system's."""


def needs_change(attributes: Mapping[str, str]) -> bool:
    """Whether a file with these attributes may look different from its blob."""
    return attributes.get("ident") == "set" or _has_dos_lines(attributes)


def _has_dos_lines(attributes: Mapping[str, str]) -> bool:
    return attributes.get("eol") == "crlf" and attributes.get("text") != "unset"


def write_out(data: bytes, attributes: Mapping[str, str], blob: str) -> bytes:
    """The file; ``blob`` is the name of the blob."""
    if attributes.get("ident") == "set":
        data = _IDENT.sub(b"$Id: " + blob.encode() + b" $", data)
    if _has_dos_lines(attributes) and _may_change(data, is_auto=attributes.get("text") == "auto"):
        data = re.sub(rb"(?<!\r)\n", b"\r\n", data)
    return data


def _may_change(data: bytes, *, is_auto: bool) -> bool:
    """With ``text=auto`` only what is text, and has no such line ends yet."""
    return not is_auto or (b"\r" not in data and not _is_binary(data))


def _is_binary(data: bytes) -> bool:
    """As git guesses: a NUL, or many bytes that no text has."""
    if b"\0" in data:
        return True
    odd = sum(count for byte, count in _counts(data) if byte < 32 and byte not in b"\b\t\n\f\r\x1b")
    odd += data.count(b"\x7f") - data.endswith(b"\x1a")
    return len(data) - odd < odd * 128


def _counts(data: bytes) -> list[tuple[int, int]]:
    return [(byte, data.count(bytes((byte,)))) for byte in range(32)]
