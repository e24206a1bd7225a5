"""Detach keys: the sequence that leaves an attached terminal without ending the program."""

from cais.errors import Invalid

DEFAULT_KEYS = b"\x10\x11"
"""ctrl-p, ctrl-q."""

_PUNCTUATION = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_detach_keys(text: str) -> bytes:
    """The bytes of ``ctrl-p,ctrl-q`` or ``a,ctrl-\\``; empty text is the default. Raises ``Invalid`` in
    Docker's words (moby/term ascii.go is where the grammar is from)."""
    if not text:
        return DEFAULT_KEYS
    return bytes(_parse_key(key) for key in text.split(","))


def _parse_key(key: str) -> int:
    if len(key) == 1 and key.isascii():
        return ord(key)
    if key.startswith("ctrl-") and len(key) == 6:
        letter = key[5].lower()
        if "a" <= letter <= "z":
            return ord(letter) - ord("a") + 1
        if letter in _PUNCTUATION:
            return _PUNCTUATION[letter]
    if key == "DEL":
        return 127
    raise Invalid(f"Invalid escape keys ({key}) provided")


class DetachScanner:
    """Looks for ``keys`` in a stream of typed bytes, whatever the pieces it comes in."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What may be passed on, and whether the keys were typed (then nothing behind them counts). A
        beginning of the keys is held back until it is decided."""
        # Nearly all that is typed has nothing to do with the keys: one look is enough then.
        if not self._matched and self._keys[:1] not in data:
            return data, False
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self._matched = 0
                    return bytes(out), True
                continue
            out += self._keys[: self._matched]
            # As in moby/term: a broken match starts afresh with this byte and does not look back further.
            if self._matched and byte == self._keys[0]:
                self._matched = 1
            else:
                self._matched = 0
                out.append(byte)
        return bytes(out), False
