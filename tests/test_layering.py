"""The room table of docs/architecture.md, held as data: who may import whom."""

import ast
from pathlib import Path

import pytest

ROWS = [
    {"daemon"},
    {"api"},
    {"build"},
    {"containers"},
    {"images", "hub"},
    {"registry", "network", "volumes", "runtime"},
    {"store", "remotes"},
    {"linux", "grpc"},
    {"spec", "errors", "events", "config"},
]
# Doors: they speak HTTP to the engine and know only what is pure.
DOORS = {"cli": {"spec", "errors", "config"}, "client": {"spec", "errors", "config"}}
SOURCE = Path(__file__).resolve().parents[1] / "src" / "cais"
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The room a file belongs to: its first folder, or its own name at the top."""
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(tree: ast.AST) -> list[tuple[str, ast.AST]]:
    """Modules of this package that a tree imports, with the node."""
    found: list[tuple[str, ast.AST]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.module, node))
            if node.module == "cais":
                found += [(f"cais.{alias.name}", node) for alias in node.names if alias.name != "__version__"]
    return [(name, node) for name, node in found if name.startswith("cais.")]


def allowed(room: str) -> set[str]:
    """Rooms that ``room`` may import, itself included."""
    if room in DOORS:
        return DOORS[room] | {room}
    if room in ("__init__", "__main__"):
        return {"client", "cli"}
    row = next(index for index, rooms in enumerate(ROWS) if room in rooms)
    # of the lowest row, the error tree is below the rest: parsers raise it
    below: set[str] = {"errors"}
    return below.union(*ROWS[row + 1 :]) | {room}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_rooms_of_lower_rows(path: Path) -> None:
    """No file imports upwards or sideways."""
    may = allowed(room_of(path))
    for name, _ in imported(ast.parse(path.read_text())):
        assert name.split(".")[1] in may, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_is_imported_inside_a_function(path: Path) -> None:
    """Imports stand at the top; late ones go through the command table as text."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            assert not [n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)], (
                function.name
            )


def test_no_module_takes_part_in_an_import_cycle() -> None:
    """The module graph, type-only imports included, can be sorted."""
    names = {".".join(("cais", *p.relative_to(SOURCE).with_suffix("").parts)): p for p in FILES}
    graph = {
        name: {m for m, _ in imported(ast.parse(path.read_text())) if m in names and m != name}
        for name, path in names.items()
    }
    while ready := [name for name, needs in graph.items() if not needs]:
        for name in ready:
            del graph[name]
        for needs in graph.values():
            needs.difference_update(ready)
    assert not graph, f"in a cycle: {sorted(graph)}"


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name == "__init__.py" and p.parent != SOURCE], ids=str
)
def test_package_files_are_empty(path: Path) -> None:
    """Names are imported from the module that defines them."""
    assert not path.read_text()
