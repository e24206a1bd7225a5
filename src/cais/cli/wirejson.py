"""JSON by the standard library's C core alone: the `json` package imports `re`, which costs 5 ms a start.

`_json` is CPython's private module; its two callables take all their settings as arguments and have had the same
shape since 3.7. `tests/cli/test_wirejson.py` compares them with `json`.
"""

from __future__ import annotations

from _json import encode_basestring, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BLANK = " \t\r\n"


class _Settings:
    """What the C scanner reads its options from."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  (the scanner wants the attribute; it keeps a memo of its own)


_scan = make_scanner(_Settings)  # type: ignore[arg-type]


def parse_json(data: bytes | str) -> Any:
    """The one value in ``data``. Raises ValueError for anything else."""
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogatepass")
    text = text.strip(_BLANK)
    try:
        value, end = _scan(text, 0)
    except (StopIteration, SystemError):  # SystemError: it looks for json.decoder, which is not loaded
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError("more than one JSON value")
    return value


def _unknown(value: object) -> object:
    raise TypeError(f"not a JSON value: {type(value).__name__}")


_encode = make_encoder(None, _unknown, encode_basestring, None, ":", ",", False, False, False)


def format_json(value: object) -> str:
    """``value`` as compact JSON, characters beyond ASCII as they are."""
    return "".join(_encode(value, 0))


def format_pretty(value: object, indent: str = "    ", _at: str = "") -> str:
    """``value`` over several lines, as Docker's inspect shows it (four spaces)."""
    inner = _at + indent
    if isinstance(value, dict) and value:
        rows = [f"{inner}{format_json(k)}: {format_pretty(v, indent, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{_at}}}"
    if isinstance(value, list) and value:
        rows = [inner + format_pretty(item, indent, inner) for item in value]
        return "[\n" + ",\n".join(rows) + f"\n{_at}]"
    return format_json(value)


class JsonLines:
    """Values of a stream of JSON values, whole lines or not (events, progress)."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Any]:
        """Values that are complete now. A value is taken at its line's end."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [parse_json(line) for line in lines if line.strip()]

    def end(self) -> list[Any]:
        """What the last line holds when the stream ends without a line break."""
        rest, self._buffer = self._buffer, b""
        return [parse_json(rest)] if rest.strip() else []
