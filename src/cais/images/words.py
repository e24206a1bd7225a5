"""The word rules of Dockerfile instructions: quotes, escapes and ``$variables`` (Dockerfile reference,
"Parser")."""

import re
from collections.abc import Mapping

import msgspec

from cais.errors import Invalid

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse_json_words(text: str) -> tuple[str, ...] | None:
    """The strings of the exec form ``["a", "b"]``; None if ``text`` is not one (then it is the shell
    form)."""
    if not text.startswith("["):
        return None
    try:
        return tuple(msgspec.json.decode(text.encode(), type=list[str]))
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def split_words(text: str) -> list[str]:
    """Split at blanks outside quotes; quotes and escapes stay in the words."""
    words: list[str] = []
    word, quote, i = "", "", 0
    while i < len(text):
        char = text[i]
        if char == "\\" and quote != "'" and i + 1 < len(text):
            word += text[i : i + 2]
            i += 2
            continue
        if char.isspace() and not quote:
            words += [word] if word else []
            word = ""
        else:
            if char in "'\"":
                quote = "" if quote == char else quote or char
            word += char
        i += 1
    return words + ([word] if word else [])


def expand(word: str, env: Mapping[str, str]) -> str:
    """Remove quotes and escapes and put in ``$NAME``, ``${NAME}``, ``${NAME:-word}`` and ``${NAME:+word}``.

    An unset variable is empty; single quotes keep everything. Raises Invalid for an unfinished quote or
    brace.
    """
    result, quote, i = "", "", 0
    while i < len(word):
        char = word[i]
        if char == "'" and quote != '"':
            end = word.find("'", i + 1)
            if end < 0:
                raise Invalid("unexpected end of statement while looking for matching single-quote")
            result += word[i + 1 : end]
            i = end + 1
        elif char == '"':
            quote = "" if quote else '"'
            i += 1
        elif char == "\\" and i + 1 < len(word):
            escaped = word[i + 1]
            # Inside double quotes only these lose their backslash, as in a shell.
            result += escaped if not quote or escaped in '"$\\' else char + escaped
            i += 2
        elif char == "$":
            value, i = _variable(word, i + 1, env)
            result += value
        else:
            result += char
            i += 1
    if quote:
        raise Invalid("unexpected end of statement while looking for matching double-quote")
    return result


def parse_pairs(instruction: str, rest: str) -> list[tuple[str, str]]:
    """The (name, value) words of ENV and LABEL: ``a=b c="d e"``, or the old form ``name the rest``."""
    words = split_words(rest)
    if not words:
        raise Invalid(f"{instruction} requires at least one argument")
    if "=" not in words[0]:
        name, _, value = rest.strip().partition(" ")
        if not value.strip():
            raise Invalid(f"{instruction} must have two arguments")
        return [(name, value.strip())]
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise Invalid(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        if not name:
            raise Invalid(f"{instruction} names can not be blank")
        pairs.append((name, value))
    return pairs


def _variable(word: str, start: int, env: Mapping[str, str]) -> tuple[str, int]:
    """The value of the variable whose name starts at ``start``, and where the text goes on."""
    if word[start : start + 1] != "{":
        found = _NAME.match(word, start)
        return (env.get(found[0], ""), found.end()) if found else ("$", start)
    end = _closing_brace(word, start)
    found = _NAME.match(word, start + 1, end)
    if not found:
        raise Invalid(f"unsupported modifier in substitution: {word[start - 1 : end + 1]}")
    value, rest = env.get(found[0], ""), word[found.end() : end]
    match rest[:2]:
        case "":
            return value, end + 1
        case ":-":
            return value or expand(rest[2:], env), end + 1
        case ":+":
            return expand(rest[2:], env) if value else "", end + 1
    raise Invalid(f"unsupported modifier ({rest[:2]}) in substitution")


def _closing_brace(word: str, start: int) -> int:
    depth = 0
    for i in range(start, len(word)):
        depth += {"{": 1, "}": -1}.get(word[i], 0)
        if depth == 0:
            return i
    raise Invalid("syntax error: missing '}'")
