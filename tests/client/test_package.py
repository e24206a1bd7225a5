"""What `import cais` gives."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cais

ROOT = Path(__file__).parents[2]


def test_version_is_the_projects() -> None:
    """The version in the code is that of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cais.__version__ == project["version"]


@pytest.mark.parametrize("name", ["Engine", "AsyncEngine"])
def test_exports(name: str) -> None:
    """The client is there under the package's name."""
    assert getattr(cais, name).__name__ == name


def test_import_is_cheap() -> None:
    """`import cais` alone loads nothing of the client: the command line pays for it at every start."""
    code = "import sys, cais; print([m for m in sys.modules if m.startswith('cais.') or m == 'asyncio'])"
    env = {"PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-S", "-c", code], env=env, capture_output=True).stdout == b"[]\n"


def test_no_other_names() -> None:
    """A name that does not exist is an AttributeError."""
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        cais.nope  # noqa: B018
