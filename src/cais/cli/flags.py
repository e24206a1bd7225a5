"""Command-line flags by table: Docker's (pflag's) grammar and error texts, without importing a parser.

A row is ``(name, short, kind, help)``. Kinds are keys of ``KINDS`` or of the ``kinds`` a command brings; a
kind that ends in ``...`` may be given several times and collects its values; one that begins with ``[=`` may stand
alone, and has a value only behind a ``=``.
"""

from __future__ import annotations

from cais.cli.failure import Failure, wrong_usage

TYPE_CHECKING = False  # `typing` itself would cost 8 ms a start
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Row = tuple[str, str, str, str]
    Parser = Callable[[str], object]

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_INT64 = 1 << 63


def parse_bool(text: str) -> bool:
    """Go's strconv.ParseBool."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")


def parse_int(text: str) -> int:
    """Go's strconv.ParseInt(text, 0, 64), decimal only."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not digits.isascii() or not digits.isdigit():
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: invalid syntax")
    value = int(text)
    if not -_INT64 <= value < _INT64:
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    return value


def parse_uint(text: str) -> int:
    """Go's strconv.ParseUint(text, 0, 16)."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: invalid syntax")
    if int(text) > 0xFFFF:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return int(text)


def parse_text(text: str) -> str:
    """Any text."""
    return text


def parse_filter(text: str) -> str:
    """A ``key=value`` filter, or empty. Raises ValueError."""
    if text and "=" not in text:
        raise ValueError("bad format of filter (expected name=value)")
    return text


def quote(text: str) -> str:
    """Go's %q for what people type."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


KINDS: Mapping[str, Parser] = {
    "bool": parse_bool,
    "string": parse_text,
    "int": parse_int,
    "uint16": parse_uint,
    "list...": parse_text,
    "filter...": parse_filter,
}


class Flags:
    """What was given, and the arguments that are left."""

    __slots__ = ("_values", "args")

    def __init__(self, values: dict[str, Any], args: list[str]) -> None:
        self._values = values
        self.args = args

    def given(self, name: str) -> bool:
        """Whether the flag stood on the command line at all."""
        return name in self._values

    def on(self, name: str, default: bool = False) -> bool:
        """A bool flag."""
        value: bool = self._values.get(name, default)
        return value

    def text(self, name: str, default: str = "") -> str:
        """A string flag."""
        value: str = self._values.get(name, default)
        return value

    def number(self, name: str, default: int = 0) -> int:
        """A flag of a numeric kind."""
        value: int = self._values.get(name, default)
        return value

    def many(self, name: str) -> list[Any]:
        """The values of a flag that may be repeated, in order."""
        value: list[Any] = self._values.get(name, [])
        return value


class Command:
    """One verb: how it is called, its flags, what it does. ``raw``: its flags are another program's."""

    __slots__ = (
        "act",
        "example",
        "flags",
        "interspersed",
        "kinds",
        "least",
        "most",
        "raw",
        "summary",
        "usage",
    )

    def __init__(
        self,
        usage: str,
        summary: str,
        act: Callable[[Any, Flags], int],
        *,
        flags: Sequence[Row] = (),
        example: str = "",
        least: int = 0,
        most: int | None = None,
        interspersed: bool = True,
        raw: bool = False,
        kinds: Mapping[str, Parser] = KINDS,
    ) -> None:
        self.usage = usage
        self.summary = summary
        self.act = act
        self.flags = flags
        self.example = example
        self.least = least
        self.most = most
        self.interspersed = interspersed
        self.raw = raw
        self.kinds = kinds


HOST_ROW: Row = ("host", "", "string", "Engine to talk to, this time")
HELP_ROW: Row = ("help", "", "bool", "Print usage")


class _Parse:
    """One walk over an argv."""

    __slots__ = ("argv", "at", "kinds", "longs", "shorts", "values")

    def __init__(self, rows: Sequence[Row], kinds: Mapping[str, Parser], argv: Sequence[str]) -> None:
        self.longs = {row[0]: row for row in rows}
        self.shorts = {row[1]: row for row in rows if row[1]}
        self.kinds = kinds
        self.argv = argv
        self.at = 0
        self.values: dict[str, Any] = {}

    def long(self, word: str) -> None:
        name, equals, value = word[2:].partition("=")
        if not name or name[0] == "-":
            raise wrong_usage(f"bad flag syntax: {word}")
        row = self.longs.get(name)
        if row is None:
            raise wrong_usage(f"unknown flag: --{name}")
        if equals:
            self.put(row, value)
        elif row[2] == "bool":
            self.put(row, "true")
        elif row[2].startswith("[="):
            self.put(row, "")
        elif self.at < len(self.argv):
            self.put(row, self.next())
        else:
            raise wrong_usage(f"flag needs an argument: --{name}")

    def short(self, word: str) -> None:
        cluster = word[1:]
        while cluster:
            letter, rest = cluster[0], cluster[1:]
            row = self.shorts.get(letter)
            if row is None:
                raise wrong_usage(f"unknown shorthand flag: {letter!r} in -{cluster}")
            if rest[:1] == "=" and len(cluster) > 2:
                self.put(row, rest[1:])
                return
            if row[2] == "bool":
                self.put(row, "true")
                cluster = rest
                continue
            if not rest and self.at >= len(self.argv):
                raise wrong_usage(f"flag needs an argument: {letter!r} in -{cluster}")
            self.put(row, rest or self.next())
            return

    def next(self) -> str:
        self.at += 1
        return self.argv[self.at - 1]

    def put(self, row: Row, text: str) -> None:
        name, short, kind, _ = row
        try:
            value = self.kinds[kind](text)
        except ValueError as error:
            flag = f"-{short}, --{name}" if short else f"--{name}"
            raise wrong_usage(f"invalid argument {quote(text)} for {quote(flag)} flag: {error}") from None
        name = ALIASES.get(name, name)
        if kind.endswith("..."):
            self.values.setdefault(name, []).append(value)
        else:
            self.values[name] = value


ALIASES = {"net": "network", "net-alias": "network-alias", "dns-opt": "dns-option", "time": "timeout"}
"""Older spellings that Docker still takes."""


def parse_flags(
    rows: Sequence[Row],
    argv: Sequence[str],
    *,
    kinds: Mapping[str, Parser] = KINDS,
    interspersed: bool = True,
) -> Flags:
    """Flags and arguments of ``argv``. Raises Failure with pflag's words for what is not in the table."""
    parse = _Parse(rows, kinds, argv)
    args: list[str] = []
    while parse.at < len(argv):
        word = parse.next()
        if word == "--":
            args += argv[parse.at :]
            break
        if len(word) < 2 or word[0] != "-":
            args.append(word)
            if not interspersed:
                args += argv[parse.at :]
                break
        elif word[1] == "-":
            parse.long(word)
        else:
            parse.short(word)
    return Flags(parse.values, args)


def check_count(command: Command, args: Sequence[str], name: str) -> None:
    """Docker's complaint when the number of arguments is wrong, exit code 1."""
    count, least, most = len(args), command.least, command.most
    if count >= least and (most is None or count <= most):
        return
    if most == 0:
        raise Failure(f"'cais {name}' accepts no arguments", 1, "count")
    if least == most:
        text = f"requires {least} argument{'s'[: least != 1]}"
    elif count < least:
        text = f"requires at least {least} argument{'s'[: least != 1]}"
    elif least:
        text = f"requires at least {least} and at most {most} arguments"
    else:
        text = f"requires at most {most} argument{'s'[: most != 1]}"
    raise Failure(f"'cais {name}' {text}", 1, "count")
