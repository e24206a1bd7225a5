"""Start-up time is a feature: what the fast verbs import, counted instead of timed."""

import subprocess
import sys
from typing import Any

import pytest

FORBIDDEN = {
    "re",
    "enum",
    "typing",
    "argparse",
    "json",
    "dataclasses",
    "inspect",
    "socket",
    "ssl",
    "asyncio",
} | {
    "http.client",
    "logging",
    "pathlib",
    "collections",
    "functools",
    "contextlib",
    "msgspec",
    "signal",
    "subprocess",
}

SHOW = "import sys; before = set(sys.modules); from cais.cli.main import run; run(sys.argv[1:]); sys.stdout.flush(); "
SHOW += "sys.stderr.write('\\n'.join(['MODULES', *sorted(set(sys.modules) - before)]))"


def imported(cais: Any, *argv: str) -> list[str]:
    """Modules the program imports for this command line, beyond a bare interpreter's."""
    done: subprocess.CompletedProcess[str] = cais(*argv, program=(sys.executable, "-S", "-c", SHOW))
    return done.stderr.partition("MODULES\n")[2].split()


@pytest.mark.parametrize(
    ("argv", "most"),
    [
        (("version",), 17),
        (("ps",), 20),
        (("run", "--rm", "-e", "A=b", "busybox", "true"), 28),
        (("run", "-d", "busybox", "true"), 24),
        (("exec", "x", "true"), 23),
        (("logs", "x"), 19),
        (("inspect", "x"), 17),
        (("create", "busybox"), 24),
        (("rm", "-f", "x"), 17),
        (("diff", "x"), 17),
    ],
)
def test_import_budget(argv: tuple[str, ...], most: int, cais: Any) -> None:
    """A fast verb imports few modules, none of the costly ones."""
    modules = imported(cais, *argv)
    assert "cais.cli.main" in modules
    assert not FORBIDDEN & set(modules)
    assert sum(name.startswith("cais") for name in modules) <= most, modules
