"""What a template may call, and how Go prints a value."""

from __future__ import annotations

from cais.cli.wirejson import format_json, format_pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def format_value(value: Any) -> str:
    """Go's ``%v``."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{k}:{_inner(v)}' for k, v in sorted(value.items()))}]"
    if isinstance(value, list):
        return f"[{' '.join(map(_inner, value))}]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)


def _inner(value: Any) -> str:
    return "<nil>" if value is None else format_value(value)


def is_true(value: Any) -> bool:
    """Go's idea of a non-empty value."""
    return bool(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key, "") if isinstance(value, dict) else value[key]
    return value


def _slice(value: Any, first: int = 0, last: int | None = None) -> Any:
    return value[first:last]


def _printf(pattern: str, *values: Any) -> str:
    """Go's Printf with %s %v %t (as text), %q (quoted), %d %x %o and %f with their widths."""
    out, rest = "", list(values)
    while pattern:
        before, percent, pattern = pattern.partition("%")
        out += before
        if not percent:
            break
        length = len(pattern) - len(pattern.lstrip("-+ 0123456789.#"))
        flags, verb, pattern = pattern[:length], pattern[length : length + 1], pattern[length + 1 :]
        if verb == "%":
            out += "%"
        elif not verb or verb not in "svtqdxof" or not rest:
            raise ValueError(f"printf: nothing for %{verb}")
        elif verb in "dxof":
            out += f"%{flags}{verb}" % rest.pop(0)
        else:
            text = format_value(rest.pop(0))
            out += f"%{flags}s" % (format_json(text) if verb == "q" else text)
    return out


def _truncate(text: str, length: int) -> str:
    return text[:length]


def _equal(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


def _to_json(value: Any) -> str:
    text: str = value.to_json() if hasattr(value, "to_json") else format_json(value)
    return text


def _and(*values: Any) -> Any:
    return next((value for value in values if not value), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if value), values[-1])


def _print(*values: Any) -> str:
    return "".join(map(format_value, values))


def _println(*values: Any) -> str:
    return " ".join(map(format_value, values)) + "\n"


def _pad(text: str, before: int, after: int) -> str:
    return f"{' ' * before}{text}{' ' * after}" if text else text


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "and": _and,
    "eq": _equal,
    "ge": lambda a, b: a >= b,
    "gt": lambda a, b: a > b,
    "index": _index,
    "join": lambda values, separator="": separator.join(values),
    "json": _to_json,
    "le": lambda a, b: a <= b,
    "len": len,
    "lower": lambda text: text.lower(),
    "lt": lambda a, b: a < b,
    "ne": lambda a, b: a != b,
    "not": lambda value: not value,
    "or": _or,
    "pad": _pad,
    "prettyjson": lambda value: format_pretty(value, "  "),
    "print": _print,
    "printf": _printf,
    "println": _println,
    "slice": _slice,
    "split": lambda text, separator: text.split(separator),
    "title": lambda text: text[:1].upper() + text[1:],
    "truncate": _truncate,
    "upper": lambda text: text.upper(),
}
