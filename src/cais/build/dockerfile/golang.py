"""How Go prints values, which is how they stand in images' histories."""

from collections.abc import Iterable

from cais.spec.image import Healthcheck

_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
_ESCAPES |= {"\\": "\\\\", '"': '\\"'}
_UNITS = ((3600 * 10**9, "h"), (60 * 10**9, "m"))


def quote(text: str) -> str:
    """``%q`` of a string."""
    return '"' + "".join(map(_quote_char, text)) + '"'


def _quote_char(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char == " " or char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote_list(words: Iterable[str]) -> str:
    """``%q`` of a list of strings."""
    return f"[{' '.join(map(quote, words))}]"


def format_duration(ns: int) -> str:
    """Nanoseconds as ``time.Duration`` prints them: 1m30s, 500ms, 0s."""
    if ns == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if ns < size * 1000:
            return f"{_decimal(ns, size)}{unit}"
    text, rest, shown = "", ns, False
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        shown = shown or count > 0
        text += f"{count}{unit}" if shown else ""
    return f"{text}{_decimal(rest, 10**9)}s"


def _decimal(number: int, unit: int) -> str:
    whole, fraction = divmod(number, unit)
    digits = f"{fraction:0{len(str(unit)) - 1}d}".rstrip("0") if unit > 1 else ""
    return f"{whole}.{digits}" if digits else str(whole)


def quote_rune(number: int) -> str:
    """``%q`` of an integer, which Go takes for a character."""
    char = chr(number) if 0 <= number <= 0x10FFFF and not 0xD800 <= number < 0xE000 else "\ufffd"
    inside = "\\'" if char == "'" else char if char == '"' else quote(char)[1:-1]
    return f"'{inside}'"


def format_health(check: Healthcheck) -> str:
    """``%q`` of Docker's health configuration."""
    times = (check.interval, check.timeout, check.start_period, check.start_interval)
    texts = [quote_list(check.test), *(quote(format_duration(ns)) for ns in times), quote_rune(check.retries)]
    return f"&{{{' '.join(texts)}}}"
