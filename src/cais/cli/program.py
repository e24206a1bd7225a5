"""How the engine's own program is started from here."""

from __future__ import annotations

import os
import sys

import cais

MODULE = "cais.daemon.main"


def engine_command(module: str = MODULE) -> list[str]:
    """The interpreter and the module."""
    return [sys.executable, "-m", module]


def engine_environment() -> dict[str, str]:
    """This environment; a `cais` that was started without the site packages (a fast stub) names its own place."""
    environment = dict(os.environ)
    if sys.flags.no_site or sys.flags.isolated:
        place = os.path.dirname(os.path.dirname(os.path.abspath(cais.__file__)))
        environment["PYTHONPATH"] = place
    return environment
