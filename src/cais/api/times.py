"""The time texts of Docker's query parameters (``since``, ``until``)."""

from cais.errors import Invalid


def parse_unix_time(text: str, what: str) -> int:
    """Nanoseconds since the epoch of ``seconds[.nanoseconds]`` (moby daemon/internal/timestamp); 0 for empty
    text.

    Raises ``Invalid`` naming ``what``.
    """
    if not text:
        return 0
    seconds, _, fraction = text.partition(".")
    sign = -1 if seconds.startswith("-") else 1
    digits = seconds.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()) or (fraction and not fraction.isdecimal()):
        raise Invalid(f"invalid value for '{what}': {text!r} is not a Unix time")
    return sign * (int(digits) * 1_000_000_000 + int(fraction[:9].ljust(9, "0")))
