"""What the registry's tests share: one served registry a module, a repository of its own for every test."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.serving import Served, serving
from harness.wire import Repository, Wire

_numbers = itertools.count()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry in this process, for a whole module."""
    root = tmp_path_factory.mktemp("served")
    with serving(root) as served:
        yield served


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    """A connection to it."""
    with closing(Wire(served.port)) as wire:
        yield wire


@pytest.fixture
def repository(wire: Wire) -> Repository:
    """One that nobody else uses, and that does not exist yet."""
    return Repository(wire, f"team{next(_numbers)}/app")


@pytest.fixture
def other(wire: Wire) -> Repository:
    """Another one."""
    return Repository(wire, f"other{next(_numbers)}/app")


@pytest.fixture
def served_descriptors(served: Served) -> Callable[[], int]:
    """How many files of its folder the registry has open."""

    def count() -> int:
        root = f"{served.root}/uploads"
        return sum(
            os.readlink(link).startswith(root)
            for link in Path("/proc/self/fd").iterdir()
            if link.is_symlink()
        )

    return count
