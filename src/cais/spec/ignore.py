"""Path patterns of builds: ``.dockerignore`` files, and the wildcards of COPY.

Sources: Docker's documentation of .dockerignore files; Go's path.Match for what stands between two slashes. A pattern
takes time that grows with the path's length and no faster, whatever it is: stars that cannot cross a slash give nothing
back, and a pattern with many double stars is matched by its states.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cais.errors import Invalid

LIMIT = 4 << 20
"""Bytes of one ignore file."""
_MANY = 3
_STAR, _ANY, _DEEP, _FOLDERS = object(), object(), object(), object()


@dataclass(frozen=True, slots=True)
class _Set:
    """``[a-z]``, ``[^a-z]``."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def has(self, char: str) -> bool:
        found = any(low <= char <= high for low, high in self.ranges)
        return char != "/" and found != self.negated


@dataclass(frozen=True, slots=True)
class Rule:
    """One line. ``exception``: it starts with ``!`` and brings back what earlier lines exclude. ``pattern``: the path
    below the root that it is about."""

    pattern: str
    exception: bool
    matches: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Ignore:
    """The rules in order; the last one that says something about a path holds."""

    rules: tuple[Rule, ...] = ()

    @property
    def has_exceptions(self) -> bool:
        """Something below an excluded folder may be wanted."""
        return any(rule.exception for rule in self.rules)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The rules for whoever applies them elsewhere. Not as they were written: BuildKit's clients know ``a``, and
        neither ``/a`` nor ``a/``."""
        return tuple(f"{'!' * rule.exception}{rule.pattern}" for rule in self.rules if rule.pattern)

    def excludes(self, path: str) -> bool:
        """Whether ``path`` (relative, slashes, no dots) is left out: it or a folder above it is named."""
        excluded = False
        above = [path[:i] for i, char in enumerate(path) if char == "/"]
        for rule in self.rules:
            # A rule that can change nothing is not looked at.
            if rule.exception == excluded and (rule.matches(path) or any(map(rule.matches, above))):
                excluded = not rule.exception
        return excluded


def parse_ignore(data: bytes) -> Ignore:
    """Parse a .dockerignore file. Raises Invalid for a pattern that there cannot be."""
    if len(data) > LIMIT:
        raise Invalid(f".dockerignore has more than {LIMIT} bytes")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    return make_ignore(line for line in text.split("\n") if not line.startswith("#"))


def make_ignore(lines: Iterable[str]) -> Ignore:
    """Rules of patterns as they stand in such a file, one each. Raises Invalid."""
    rules = []
    for line in lines:
        text = line.strip()
        if not text:
            continue
        exception = text.startswith("!")
        pattern = clean_path(text[1:].strip() if exception else text)
        if exception and len(text) == 1:
            raise Invalid('illegal exclusion pattern: "!"')
        rules.append(Rule(pattern, exception, compile_pattern(pattern)))
    return Ignore(tuple(rules))


def clean_path(path: str) -> str:
    """``path`` without empty and dot parts, below the root: ``/a//./b/../c/`` is ``a/c``."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def has_wildcards(text: str) -> bool:
    """Whether ``text`` is more than a plain path."""
    return any(char in text for char in "*?[\\")


def compile_pattern(pattern: str, *, deep: bool = True) -> Callable[[str], bool]:
    """A test of whole paths. Not ``deep``: two stars are no more than one. Raises Invalid."""
    tokens = _tokenize(pattern, deep)
    if deep and pattern.startswith("**") and all(isinstance(token, str) for token in tokens[1:]):
        return _compile_suffix(pattern.lstrip("*"))
    if all(isinstance(token, str) for token in tokens):
        plain = "".join(token for token in tokens if isinstance(token, str))
        return lambda path: path == plain
    if sum(token is _FOLDERS for token in tokens) > _MANY:
        return lambda path: _match_states(tokens, path)
    compiled = re.compile(_translate(tokens), re.DOTALL)
    return lambda path: compiled.fullmatch(path) is not None


def _compile_suffix(suffix: str) -> Callable[[str], bool]:
    """``**name`` is everything that ends so, ``**/name`` that name in any folder."""
    if suffix.startswith("/"):
        return lambda path: path == suffix[1:] or path.endswith(suffix)
    return lambda path: path.endswith(suffix)


def _tokenize(pattern: str, deep: bool) -> list[object]:
    tokens: list[object] = []
    i = 0
    while i < len(pattern):
        char = pattern[i]
        i += 1
        if char == "*":
            double = pattern.startswith("*", i)
            i += double
            if not (double and deep):
                tokens.append(_STAR)
            else:
                # Whether or not a slash follows, in the middle it stands for whole folders.
                i += pattern.startswith("/", i)
                tokens.append(_FOLDERS if i < len(pattern) else _DEEP)
        elif char == "?":
            tokens.append(_ANY)
        elif char == "[":
            found, i = _parse_set(pattern, i)
            tokens.append(found)
        elif char == "\\":
            if i == len(pattern):
                raise Invalid(f"syntax error in pattern: {pattern!r}")
            tokens.append(pattern[i])
            i += 1
        else:
            tokens.append(char)
    return tokens


def _parse_set(pattern: str, i: int) -> tuple[_Set, int]:
    negated = pattern.startswith("^", i)
    i += negated
    ranges: list[tuple[str, str]] = []
    while not ranges or not pattern.startswith("]", i):
        low, i = _set_char(pattern, i)
        high = low
        if pattern.startswith("-", i):
            high, i = _set_char(pattern, i + 1)
        ranges.append((low, high))
    return _Set(tuple(ranges), negated), i + 1


def _set_char(pattern: str, i: int) -> tuple[str, int]:
    i += pattern.startswith("\\", i)
    if i >= len(pattern) or (pattern[i] in "-]" and pattern[i - 1] != "\\"):
        raise Invalid(f"syntax error in pattern: {pattern!r}")
    return pattern[i], i + 1


def _translate(tokens: list[object]) -> str:
    """A regular expression. A star takes the shortest text up to what follows it and gives nothing back: where that
    fits first it fits as well as later, since no star crosses a slash."""
    parts: list[str] = []
    for token in tokens:
        if token is _DEEP:
            parts.append(".*")
        elif token is _FOLDERS:
            parts.append("(?:[^/]*/)*")
        elif token is _STAR:
            parts.append("*")
        elif token is _ANY:
            parts.append("[^/]")
        elif isinstance(token, _Set):
            inside = "".join(
                f"{re.escape(low)}-{re.escape(high)}" for low, high in token.ranges if low <= high
            )
            shown = f"(?![{inside}])[^/]" if token.negated else f"(?!/)[{inside}]"
            parts.append(shown if inside else "[^/]" if token.negated else "(?!)")
        else:
            parts.append(re.escape(str(token)))
    return _without_backtracking(parts)


def _without_backtracking(parts: list[str]) -> str:
    groups: list[list[str]] = [[]]
    for part in parts:
        if part == "*":
            groups.append([])
        else:
            groups[-1].append(part)
    first, *rest = groups
    found = "".join(first)
    for index, group in enumerate(rest):
        text = "".join(group)
        if index == len(rest) - 1:
            # The end is fixed: the last star takes whatever is left in front of it.
            return found + "[^/]*" + text
        # What crosses slashes must be able to give back; only plain pieces of one name are final.
        final = not any(part in (".*", "(?:[^/]*/)*") for part in group)
        found += f"(?>[^/]*?{text})" if final else f"[^/]*{text}"
    return found


def _match_states(tokens: list[object], path: str) -> bool:
    """By sets of states, linear in the path: twice a token's index is in front of it, and one more is inside it."""
    states = _follow({0}, tokens)
    for char in path:
        moved = set()
        for state in states:
            at, inside = state >> 1, state & 1
            token = tokens[at] if at < len(tokens) else None
            if token is _FOLDERS:
                moved.add(2 * at + 1)
                if char == "/":
                    moved.add(2 * at + 2)
            elif token is _DEEP or (token is _STAR and char != "/"):
                moved.add(2 * at)
            elif not inside and (
                (token is _ANY and char != "/")
                or token == char
                or (isinstance(token, _Set) and token.has(char))
            ):
                moved.add(2 * at + 2)
        states = _follow(moved, tokens)
    return 2 * len(tokens) in states


def _follow(states: set[int], tokens: list[object]) -> set[int]:
    """Stars may stand for nothing."""
    found = set(states)
    for state in states:
        at = state >> 1
        while not state & 1 and at < len(tokens) and tokens[at] in (_STAR, _DEEP, _FOLDERS):
            at += 1
            found.add(2 * at)
    return found
