"""The words of a Go template."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_STOPS = frozenset(" \t\r\n|()")


def split_template(text: str) -> list[tuple[str, Any]]:
    """``("text", str)`` and ``("action", words)`` in order; ``{{-`` and ``-}}`` trim. Raises ValueError."""
    items: list[tuple[str, Any]] = []
    at = 0
    trim = False
    while True:
        start = text.find("{{", at)
        piece = text[at:] if start < 0 else text[at:start]
        if trim:
            piece = piece.lstrip()
        if start >= 0 and text[start + 2 : start + 3] == "-" and text[start + 3 : start + 4].isspace():
            piece = piece.rstrip()
        if piece:
            items.append(("text", piece))
        if start < 0:
            return items
        end = _find_end(text, start + 2)
        inside = text[start + 2 : end].strip()
        trim = text[end - 1] == "-" and text[end - 2 : end - 1].isspace()
        inside = inside.removeprefix("- ").removesuffix(" -")
        if not inside.startswith("/*"):
            items.append(("action", read_words(inside)))
        at = end + 2


def _find_end(text: str, at: int) -> int:
    """Where the action's ``}}`` is; those in quotes do not count."""
    quote = ""
    while at < len(text):
        char = text[at]
        if quote:
            if char == "\\" and quote == '"':
                at += 1
            elif char == quote:
                quote = ""
        elif char in "\"`'":
            quote = char
        elif text.startswith("}}", at):
            return at
        at += 1
    raise ValueError("unclosed action")


def read_words(text: str) -> list[tuple[str, Any]]:
    """Words of one action: field, var, name, literal, op. Raises ValueError."""
    words: list[tuple[str, Any]] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char in " \t\r\n":
            at += 1
        elif char in "()|,":
            if char != ",":
                words.append(("op", char))
            at += 1
        elif char in "\"`'":
            value, at = _read_quoted(text, at)
            words.append(("literal", value))
        elif text.startswith(":=", at):
            words.append(("op", ":="))
            at += 2
        else:
            end = at
            while end < len(text) and text[end] not in _STOPS and text[end] not in ",":
                end += 1
            glued = at > 0 and text[at - 1] == ")"
            words.append(_make_word(text[at:end], glued=glued))
            at = end
    return words


def _read_quoted(text: str, at: int) -> tuple[str, int]:
    quote, out = text[at], ""
    at += 1
    while at < len(text):
        char = text[at]
        if char == quote:
            return out, at + 1
        if char == "\\" and quote != "`":
            at += 1
            char = _ESCAPES.get(text[at : at + 1], text[at : at + 1])
        out += char
        at += 1
    raise ValueError("unterminated quoted string")


def _make_word(word: str, *, glued: bool) -> tuple[str, Any]:
    if word == ".":
        return "field", []
    if word[0] == ".":
        path = word[1:].split(".")
        if not all(part and part.replace("_", "a").isalnum() for part in path):
            raise ValueError(f'unexpected "{word}" in operand')
        return "field", ["", *path] if glued else path
    if word[0] == "$":
        return "var", word
    if word in ("true", "false", "nil"):
        return "literal", {"true": True, "false": False, "nil": None}[word]
    if word.lstrip("-").replace(".", "", 1).isdigit():
        return "literal", float(word) if "." in word else int(word)
    if not word.replace("_", "a").isalnum():
        raise ValueError(f'unexpected "{word}" in operand')
    return "name", word
