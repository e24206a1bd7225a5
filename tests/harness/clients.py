"""Docker's own commands on this machine, for the tests that drive them."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

_PLUGINS = (
    "/usr/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
)


def find_docker() -> str:
    """Docker's command: of CAIS_DOCKER_CLI, or the one in PATH; empty if there is none."""
    named = os.environ.get("CAIS_DOCKER_CLI", "").split(":")[0]
    return named or shutil.which("docker") or ""


@cache
def find_old_docker() -> str:
    """One of before version 23, which speaks to BuildKit by ``POST /build``: that of CAIS_DOCKER_OLD, if it is so old;
    empty if there is none."""
    named = os.environ.get("CAIS_DOCKER_OLD", "")
    if not named:
        return ""
    said = re.search(rb"version (\d+)", subprocess.check_output([named, "--version"]))
    return named if said and int(said[1]) < 23 else ""


def find_plugin(name: str) -> Path | None:
    """A plugin of it: in the folder CAIS_DOCKER_PLUGINS, or where Debian and Docker put them."""
    folders = (
        os.environ.get("CAIS_DOCKER_PLUGINS", ""),
        *_PLUGINS,
        os.path.expanduser("~/.docker/cli-plugins"),
    )
    return next((Path(folder, name) for folder in folders if folder and Path(folder, name).exists()), None)
