"""A real engine of the tests' own: own network namespace, folders, bridge and cgroup; nothing is left at the
end."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from harness.live import LiveEngine, living_engine, load_busybox, wait_until

Wait = Callable[[Callable[[], object]], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here start a real engine as root."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.kernel)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="a real engine needs root"))


@pytest.fixture(scope="session")
def engine(shared_engine: LiveEngine) -> LiveEngine:
    """The shared one, for tests that do not end it; with the image ``busybox``."""
    return shared_engine


@pytest.fixture
def own_engine(tmp_path: Path) -> Iterator[LiveEngine]:
    """An engine for one test, which may kill and start it as it likes; it has ``busybox`` too."""
    folder = tmp_path / "own"
    folder.mkdir()
    with living_engine(folder) as engine:
        load_busybox(engine, tmp_path)
        yield engine


@pytest.fixture
def start_engine(tmp_path: Path) -> Callable[..., contextlib.AbstractContextManager[LiveEngine]]:
    """Engines with flags of the test's own, without an image."""

    def start(*flags: str) -> contextlib.AbstractContextManager[LiveEngine]:
        folder = tmp_path / f"engine{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return living_engine(folder, *flags)

    return start


@pytest.fixture
def client(engine: LiveEngine) -> Iterator[docker.DockerClient]:
    """docker-py, connected to the shared engine."""
    with contextlib.closing(engine.client()) as client:
        yield client


@pytest.fixture
def wait() -> Wait:
    """``wait(condition)`` with a deadline."""
    return wait_until


@dataclass(frozen=True)
class Cli:
    """One docker command line client."""

    path: str
    host: str
    config: str

    def run(self, *words: str, stdin: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""
        run = subprocess.run(
            [self.path, *words], input=stdin, capture_output=True, env=self.environment(), timeout=60
        )
        assert not check or run.returncode == 0, run.stderr.decode()
        return run

    def text(self, *words: str, stdin: bytes = b"") -> str:
        """Its standard output."""
        return self.run(*words, stdin=stdin).stdout.decode().strip()

    def environment(self) -> dict[str, str]:
        """With our engine as the one it speaks to."""
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": self.config}

    def inspect(self, name: str) -> dict[str, object]:
        """``docker inspect``."""
        (found,) = json.loads(self.text("inspect", name))
        assert isinstance(found, dict)
        return found


def _clients() -> list[str]:
    """Docker clients on this machine: those of CAIS_DOCKER_CLI (paths with colons between), and the one in
    PATH."""
    named = os.environ.get("CAIS_DOCKER_CLI", "").split(":")
    return list(
        dict.fromkeys(path for path in (*named, shutil.which("docker")) if path and os.access(path, os.X_OK))
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``cli`` runs with every client there is."""
    if "cli" in metafunc.fixturenames:
        found = _clients()
        missing = pytest.param(
            "", marks=pytest.mark.skip(reason="no docker client: install docker-cli or set CAIS_DOCKER_CLI")
        )
        metafunc.parametrize("cli", found or [missing], indirect=True)


@pytest.fixture
def cli(request: pytest.FixtureRequest, engine: LiveEngine, tmp_path: Path) -> Cli:
    """An unmodified docker client that speaks to the shared engine."""
    return Cli(request.param, f"unix://{engine.socket}", str(tmp_path / "config"))
