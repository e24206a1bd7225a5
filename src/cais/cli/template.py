"""Go templates, as far as `--format` needs them: fields, range, if, with, pipes, and Docker's functions.

text/template's documentation is the source for the grammar; docker/cli's templates package for the functions.
"""

from __future__ import annotations

import sys

from cais.cli.failure import Failure
from cais.cli.templatefuncs import FUNCTIONS, format_value, is_true
from cais.cli.templatelex import split_template
from cais.cli.wirejson import format_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Node = tuple[str, Any, Any, Any]


class Template:
    """A parsed template; ``render`` applies it to a value."""

    __slots__ = ("_nodes", "_strict", "_table")

    def __init__(self, text: str, *, strict: bool = True, table: bool = False) -> None:
        """Raises Failure for a text that is no template.

        ``strict``: a missing field is an error. ``table``: use the words and codes of Docker's lists, which
        differ from those of `inspect`.
        """
        self._strict = strict
        self._table = table
        try:
            nodes = split_template(text)
            self._nodes = _parse_block(nodes, ())[0]
        except ValueError as error:
            what, code = ("failed to parse template", 1) if table else ("template parsing error", 64)
            raise Failure(f"{what}: template: :1: {error}", code) from None

    def render(self, value: Any) -> str:
        """The text for ``value``. Raises Failure when a field does not exist."""
        out: list[str] = []
        try:
            _Run(value, self._strict, out).block(self._nodes, value)
        except (ValueError, TypeError, IndexError, KeyError) as error:
            what = "failed to execute template" if self._table else "template parsing error"
            raise Failure(f'{what}: template: :1: executing "": {error}') from None
        return "".join(out)


def _parse_block(items: list[tuple[str, list[Any]]], ends: tuple[str, ...]) -> tuple[list[Node], str]:
    """Nodes up to one of the words in ``ends``; consumes ``items``. Returns the word that ended it."""
    nodes: list[Node] = []
    while items:
        kind, words = items.pop(0)
        if kind == "text":
            nodes.append(("text", words, None, None))
            continue
        head = words[0][1] if words and words[0][0] == "name" else ""
        if head in ("end", "else"):
            if head not in ends:
                raise ValueError(f"unexpected {{{{{head}}}}}")
            if head == "else" and len(words) > 1:
                items[:0] = [("action", words[1:])]
                nested, _ = _parse_block_of_one(items)
                nodes.append(nested)
                return nodes, "else if"
            return nodes, head
        if head in ("if", "range", "with"):
            nodes.append(_parse_control(head, words[1:], items))
        elif words[1:2] == [("op", ":=")] and words[0][0] == "var":
            nodes.append(("set", words[0][1], _parse_pipe(words[2:]), None))
        elif words:
            nodes.append(("action", _parse_pipe(words), None, None))
    if ends:
        raise ValueError("unexpected EOF")
    return nodes, ""


def _parse_block_of_one(items: list[tuple[str, list[Any]]]) -> tuple[Node, str]:
    """The ``if`` of an ``else if``: its ``end`` is also the outer one's."""
    _, words = items.pop(0)
    return _parse_control(words[0][1], words[1:], items), ""


def _parse_control(head: str, words: list[Any], items: list[tuple[str, list[Any]]]) -> Node:
    names: list[str] = []
    for at, word in enumerate(words):
        if word == ("op", ":="):
            names = [item[1] for item in words[:at] if item[0] == "var"]
            words = words[at + 1 :]
            break
    body, ended = _parse_block(items, ("end", "else"))
    other: list[Node] = []
    if ended == "else":
        other, _ = _parse_block(items, ("end",))
    elif ended == "else if":
        other = [body.pop()]
    return (head, (names, _parse_pipe(words)), body, other)


def _parse_pipe(words: list[Any]) -> list[list[Any]]:
    """A pipeline as a list of commands, each a list of operands."""
    commands: list[list[Any]] = [[]]
    depth: list[list[list[Any]]] = []
    for kind, text in words:
        if (kind, text) == ("op", "("):
            depth.append(commands)
            commands = [[]]
        elif (kind, text) == ("op", ")"):
            if not depth:
                raise ValueError("unexpected right paren")
            inner, commands = commands, depth.pop()
            commands[-1].append(("pipe", inner))
        elif (kind, text) == ("op", "|"):
            commands.append([])
        elif kind == "field" and commands[-1] and commands[-1][-1][0] == "pipe" and text[0] == "":
            commands[-1][-1] = ("chain", (commands[-1][-1], text[1:]))
        else:
            commands[-1].append((kind, text))
    if depth:
        raise ValueError("unclosed left paren")
    if any(not command for command in commands):
        raise ValueError("missing value for command")
    for command in commands:
        if command[0][0] == "name" and command[0][1] not in FUNCTIONS:
            raise ValueError(f'function "{command[0][1]}" not defined')
    return commands


class _Run:
    """One rendering: the root value, the variables in sight, the text so far."""

    __slots__ = ("_out", "_root", "_strict", "_variables")

    def __init__(self, root: Any, strict: bool, out: list[str]) -> None:
        self._root = root
        self._strict = strict
        self._out = out
        self._variables: dict[str, Any] = {"$": root}

    def block(self, nodes: list[Node], dot: Any) -> None:
        for node in nodes:
            kind, value, body, other = node
            if kind == "text":
                self._out.append(value)
            elif kind == "set":
                self._variables[value] = self.pipe(body, dot)
            elif kind == "action":
                self._out.append(format_value(self.pipe(value, dot)))
            else:
                self.control(kind, value, (body, other), dot)

    def control(self, kind: str, head: Any, branches: tuple[list[Node], list[Node]], dot: Any) -> None:
        names, pipe = head
        value = self.pipe(pipe, dot)
        body, other = branches
        if not is_true(value):
            self.block(other, dot)
        elif kind != "range":
            self._variables.update(dict.fromkeys(names, value))
            self.block(body, value if kind == "with" else dot)
        else:
            pairs = sorted(value.items()) if isinstance(value, dict) else enumerate(value)
            for key, item in pairs:
                self._variables.update(zip(names, (key, item) if len(names) > 1 else (item,), strict=False))
                self.block(body, item)

    def pipe(self, commands: list[list[Any]], dot: Any) -> Any:
        value: Any = None
        for at, command in enumerate(commands):
            first = command[0]
            extra = [value] if at else []
            if first[0] == "name":
                arguments = [self.operand(word, dot) for word in command[1:]]
                value = FUNCTIONS[first[1]](*arguments, *extra)
            elif len(command) > 1 or extra:
                value = self.method(command, extra, dot)
            else:
                value = self.operand(first, dot)
        return value

    def method(self, command: list[Any], extra: list[Any], dot: Any) -> Any:
        """A field that takes arguments: ``.Label "name"``."""
        made = self.operand(command[0], dot)
        if not callable(made):
            raise ValueError(f"can't give argument to non-function {format_value(made)}")
        return made(*[self.operand(word, dot) for word in command[1:]], *extra)

    def operand(self, word: tuple[str, Any], dot: Any) -> Any:
        kind, text = word
        if kind == "literal":
            return text
        if kind == "field":
            return self.fields(dot, text)
        if kind == "var":
            name, *path = text.split(".")
            if name not in self._variables:
                raise ValueError(f'undefined variable "{name}"')
            return self.fields(self._variables[name], path)
        if kind == "pipe":
            return self.pipe(text, dot)
        if kind == "chain":
            return self.fields(self.operand(text[0], dot), text[1])
        return FUNCTIONS[text]()

    def fields(self, value: Any, path: list[str]) -> Any:
        """Follow ``.A.B``; names match exactly or, as Go's field names differ from the JSON's, without case."""
        for name in path:
            if not name:
                continue
            if not isinstance(value, dict):
                raise ValueError(f"can't evaluate field {name} in type {type(value).__name__}")
            found = (
                name if name in value else next((key for key in value if key.lower() == name.lower()), None)
            )
            if found is None and self._strict:
                raise ValueError(f'at <.{".".join(path)}>: map has no entry for key "{name}"')
            if found is None:
                return None
            value = value[found]
        return value


def print_each(text: str, values: Iterable[Any], *, table: bool = False) -> None:
    """One line for each value; ``json`` alone means the whole value. ``table``: as for Template."""
    write = sys.stdout.write
    if text == "json":
        for value in values:
            write(format_json(value) + "\n")
        return
    template = Template(unescape(text), table=table)
    for value in values:
        write(template.render(value) + "\n")


def unescape(text: str) -> str:
    """The two escapes Docker takes in a format: ``\\t`` and ``\\n``."""
    return text.replace("\\t", "\t").replace("\\n", "\n")
