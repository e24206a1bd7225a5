"""Tables as Docker prints them, and rows by `--format`."""

from __future__ import annotations

import os
import sys

from cais.cli.late import load
from cais.cli.session import is_terminal
from cais.cli.wirejson import format_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    Columns = Mapping[str, tuple[str, Callable[[Any], str]]]
    """By the field's name in templates: the heading, and how to make the cell of a value."""

LEAST, GAP = 10, 3
"""A column's least width and the blanks after its longest cell (docker/cli, formatter)."""


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length in aligned columns; the last column is not padded."""
    if not rows:
        return ""
    widths = [max(LEAST, max(len(row[at]) for row in rows) + GAP) for at in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell + " " * (width - len(cell)) for cell, width in zip(row, widths, strict=False)]
        lines.append("".join([*cells, row[-1]]) + "\n")
    return "".join(lines)


def print_rows(values: Iterable[Any], columns: Columns, shown: Sequence[str], template: str = "") -> None:
    """Print ``values`` as a table of the ``shown`` columns, or as the template (or ``table TEMPLATE``) says."""
    if template in ("", "table"):
        rows = [[columns[name][0] for name in shown]]
        rows += [[columns[name][1](value) for name in shown] for value in values]
        _print_headed(rows)
        return
    cells = [Cells(columns, value) for value in values]
    if template == "json":
        sys.stdout.write("".join(row.to_json() + "\n" for row in cells))
    elif template.startswith("table "):
        _print_template_table(template.removeprefix("table "), columns, cells)
    else:
        load("cais.cli.template:print_each")(template, cells, table=True)


class Cells(dict[str, "Any"]):
    """A row's cells by name; ``Label`` is there for templates (``{{.Label "x"}}``) and is not a cell."""

    def __init__(self, columns: Columns, value: Any) -> None:
        super().__init__((name, make(value)) for name, (_, make) in columns.items())
        if "Labels" in columns:
            labels = value.get("Labels") or {}
            self["Label"] = lambda name: labels.get(name, "")

    def to_json(self) -> str:
        """The cells in the order of their names; like Go's encoder it spells <, > and & as escapes."""
        text = format_json({name: cell for name, cell in sorted(self.items()) if name != "Label"})
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _print_template_table(text: str, columns: Columns, cells: Sequence[Mapping[str, str]]) -> None:
    """``table {{.A}}\\t{{.B}}``: tabs part the columns, the headings are the fields' own."""
    template = load("cais.cli.template:Template")(load("cais.cli.template:unescape")(text), table=True)
    headings = {name: heading for name, (heading, _) in columns.items()}
    rows = [template.render(row).split("\t") for row in (headings, *cells)]
    _print_headed(rows)


def _print_headed(rows: Sequence[Sequence[str]]) -> None:
    """A table with its headings in bold on a terminal."""
    head, newline, rest = format_table(rows).partition("\n")
    if is_terminal(1) and "NO_COLOR" not in os.environ:
        head = f"\x1b[1m{head}\x1b[0m"
    sys.stdout.write(head + newline + rest)
