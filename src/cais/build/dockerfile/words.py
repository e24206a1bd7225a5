"""The word rules of Dockerfile instructions: quotes, escapes, and every form of ``$variable``.

Source: Dockerfile reference, "Environment replacement"; POSIX shell "Parameter Expansion" for the modifiers.
"""

import re
from collections.abc import Mapping

import msgspec

from cais.build.dockerfile.fault import DockerfileError
from cais.build.dockerfile.glob import remove_prefix, remove_suffix, substitute

LIMIT = 1 << 20
"""Characters of one expanded text: each line can double the one before it."""
_DEPTH = 50
_SPECIAL = frozenset("@*#?-$!0")
_BLANKS = re.compile(r"\s+")


class Expansion(msgspec.Struct, frozen=True):
    """A text after expansion: whole, and split into words at blanks outside quotes (those that come out of unquoted
    variables count). ``used``: variables it named; ``unset``: those of them that have no value and no default."""

    text: str
    words: tuple[str, ...]
    used: frozenset[str]
    unset: frozenset[str]


def expand(text: str, env: Mapping[str, str], escape: str = "\\", *, quotes: bool = True) -> Expansion:
    """Put in variables, remove quotes and escapes. Not ``quotes``: they are letters like others (here-documents).

    Raises DockerfileError for an unfinished quote or brace, or a modifier that there is not.
    """
    scan = _Scan(text, env, escape, quotes=quotes)
    result = scan.until("")
    return Expansion(result, scan.words.ended(), frozenset(scan.used), frozenset(scan.unset))


def split_words(text: str, escape: str = "\\") -> list[str]:
    """Split at blanks outside quotes; quotes and escapes stay in the words."""
    words: list[str] = []
    word, quote, i = "", "", 0
    while i < len(text):
        char = text[i]
        if char == escape and quote != "'" and i + 1 < len(text):
            word += text[i : i + 2]
            i += 2
            continue
        if char.isspace() and not quote:
            words += [word] if word else []
            word = ""
        else:
            if char in "'\"" and quote in ("", char):
                quote = "" if quote else char
            word += char
        i += 1
    return words + ([word] if word else [])


def parse_exec(text: str) -> tuple[str, ...] | None:
    """The strings of the exec form ``["a", "b"]``; None if ``text`` is not one (then it is the shell form).

    Raises DockerfileError for a list that holds other things than strings.
    """
    if not text.startswith("["):
        return None
    try:
        found = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in found):
        raise DockerfileError("when using JSON array syntax, arrays must be comprised of strings only")
    return tuple(found)


def quote_word(text: str) -> str:
    """The shortest way to write ``text`` so that ``expand`` gives it back, in double quotes if it needs any."""
    if text and not any(char.isspace() or char in "\"'\\$" for char in text):
        return text
    return '"' + "".join("\\" + char if char in '"\\$' else char for char in text) + '"'


class _Words(msgspec.Struct):
    """Collects words while a text is expanded."""

    done: list[str] = msgspec.field(default_factory=list)
    parts: list[str] = msgspec.field(default_factory=list)

    def add(self, text: str) -> None:
        """Text outside quotes: blanks end the word."""
        pieces = _BLANKS.split(text)
        for index, piece in enumerate(pieces):
            if index:
                self.end()
            if piece:
                self.parts.append(piece)

    def add_quoted(self, text: str) -> None:
        """Text in quotes, which may be an empty word."""
        self.parts.append(text)

    def end(self) -> None:
        """A blank, or the end."""
        if self.parts:
            self.done.append("".join(self.parts))
        self.parts = []

    def ended(self) -> tuple[str, ...]:
        """All words."""
        self.end()
        return tuple(self.done)


class _Scan:
    """One pass over one text."""

    def __init__(self, text: str, env: Mapping[str, str], escape: str, *, quotes: bool) -> None:
        self._text = text
        self._env = env
        self._escape = escape
        self._quotes = quotes
        self._at = 0
        self._depth = 0
        self._grown = 0
        self.words = _Words()
        self.used: set[str] = set()
        self.unset: set[str] = set()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        self._at += 1
        return char

    def until(self, stop: str, *, keep_escapes: bool = False) -> str:
        """Everything up to the character ``stop`` (consumed; empty: the end). Only the outermost call makes words."""
        top = self._depth == 0
        self._depth += 1
        if self._depth > _DEPTH:
            raise DockerfileError("substitutions are nested too deeply")
        parts: list[str] = []
        while (char := self._peek()) and char != stop:
            part, quoted = self._part(char, keep_escapes)
            self._grow(len(part))
            parts.append(part)
            if top:
                (self.words.add_quoted if quoted else self.words.add)(part)
        self._depth -= 1
        if stop and not self._next():
            missing = "matching quote" if stop == '"' else f"'{stop}'"
            raise DockerfileError(f"syntax error: missing {missing}", hint="every ${ needs its }")
        return "".join(parts)

    def _grow(self, size: int) -> None:
        self._grown += size
        if self._grown > LIMIT:
            raise DockerfileError(f"the text grows to more than {LIMIT} characters")

    def _part(self, char: str, keep_escapes: bool) -> tuple[str, bool]:
        if char == "'" and self._quotes:
            return self._single(), True
        if char == '"' and self._quotes:
            return self._double(), True
        self._at += 1
        if char == "$":
            return self._dollar(), False
        if char == self._escape:
            escaped = self._next()
            return (char + escaped if keep_escapes else escaped), True
        return char, False

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise DockerfileError("unexpected end of statement while looking for matching single-quote")
        found = self._text[self._at + 1 : end]
        self._at = end + 1
        return found

    def _double(self) -> str:
        self._at += 1
        parts: list[str] = []
        while char := self._next():
            if char == '"':
                return "".join(parts)
            if char == "$":
                parts.append(self._dollar())
            elif char == self._escape and self._peek():
                following = self._next()
                # Inside double quotes only these lose their backslash, as in a shell.
                parts.append(following if following in ('"', "$", self._escape) else char + following)
            else:
                parts.append(char)
            self._grow(len(parts[-1]))
        raise DockerfileError("unexpected end of statement while looking for matching double-quote")

    # Variables

    def _dollar(self) -> str:
        if self._peek() == "{":
            self._at += 1
            return self._braces()
        name = self._name()
        return self._value(name) if name else "$"

    def _name(self) -> str:
        start, char = self._at, self._peek()
        if char.isascii() and char.isdigit():
            while self._peek().isascii() and self._peek().isdigit():
                self._at += 1
        elif char and char in _SPECIAL:
            self._at += 1
        else:
            while self._peek().isalnum() or self._peek() == "_":
                self._at += 1
        return self._text[start : self._at]

    def _value(self, name: str) -> str:
        self.used.add(name)
        if name not in self._env:
            self.unset.add(name)
        return self._env.get(name, "")

    def _braces(self) -> str:
        if self._peek() in ("}", ":"):
            raise DockerfileError("syntax error: bad substitution", hint="a name belongs behind ${")
        name = self._name()
        match self._next():
            case "":
                raise DockerfileError("syntax error: missing '}'", hint="every ${ needs its }")
            case "}":
                return self._value(name)
            case ":" if self._peek() in ("-", "+", "?") and self._peek():
                return self._default(name, self._next(), empty_is_unset=True)
            case ":":
                raise self._unsupported(":" + self._next())
            case "-" | "+" | "?" as modifier:
                return self._default(name, modifier, empty_is_unset=False)
            case "#" | "%" as modifier:
                return self._trim(name, modifier)
            case "/":
                return self._replace(name)
            case modifier:
                raise self._unsupported(modifier)

    def _unsupported(self, modifier: str) -> DockerfileError:
        return DockerfileError(
            f"unsupported modifier ({modifier}) in substitution",
            hint="use one of :- :+ :? - + ? # ## % %% / //",
        )

    def _default(self, name: str, modifier: str, *, empty_is_unset: bool) -> str:
        word = self.until("}")
        self.used.add(name)
        value = self._env.get(name)
        is_set = value is not None and not (empty_is_unset and not value)
        if modifier == "-":
            return value or "" if is_set else word
        if modifier == "+":
            return word if is_set else ""
        if not is_set:
            raise DockerfileError(
                f"{name}: {word or ('not set' if value is None else 'not allowed to be empty')}"
            )
        return value or ""

    def _trim(self, name: str, modifier: str) -> str:
        longest = self._peek() == modifier
        if longest:
            self._at += 1
        pattern = self.until("}", keep_escapes=True)
        cut = remove_prefix if modifier == "#" else remove_suffix
        return cut(self._value(name), pattern, longest=longest)

    def _replace(self, name: str) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._at += 1
        pattern = self.until("/", keep_escapes=True)
        replacement = self.until("}")
        return substitute(self._value(name), pattern, replacement, everywhere=everywhere)
