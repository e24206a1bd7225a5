"""A corpus of builds: configuration, history and files of each are what docker build with BuildKit makes.

``expected.json`` was written by dockerd's BuildKit: ``CAIS_RIVAL_HOST`` names a dockerd with the images ``busybox`` and
``debian`` of the tests, and ``CAIS_GOLDEN=write`` writes anew from there. Cases on Debian install packages from the
machine's own mirror; ``CAIS_RIVAL_PROXY`` is a proxy by which that dockerd's builds reach it (harness/mirror.py).
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from harness.corpus import Case, Viewer, differences, find_cases, viewing, wait_for
from harness.debian import DebianEngine
from harness.live import SOURCES, LiveEngine

CASES = find_cases()
SMALL = [case for case in CASES if case.base == "busybox"]
LARGE = [case for case in CASES if case.base != "busybox"]
RIVAL = os.environ.get("CAIS_RIVAL_HOST", "")
RIVAL_PROXY = os.environ.get("CAIS_RIVAL_PROXY", "")
DOCKER = os.environ.get("CAIS_RIVAL_DOCKER", "docker")
"""A docker client with buildx; its DOCKER_CONFIG is the environment's."""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="a real engine needs root"),
]
each_small = pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
each_large = pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def viewer(shared_engine: LiveEngine) -> Iterator[Viewer]:
    """Of the shared engine."""
    with viewing(shared_engine.client()) as viewer:
        yield viewer


def build(case: Case, host: str, folder: Path, *more: str) -> None:
    """By our own command line."""
    case.write_context(folder)
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "CAIS_HOST": host}
    for flags in case.builds(folder, "corpus"):
        command = [sys.executable, "-m", "cais", "build", *flags, *more, str(folder)]
        done = subprocess.run(command, capture_output=True, env=environment, timeout=300, check=False)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:] + done.stderr.decode()


@each_small
def test_a_build_makes_what_buildkit_makes(
    case: Case, viewer: Viewer, shared_engine: LiveEngine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Configuration, history, files with owners and modes, and what is gone."""
    if why := case.asked.get("not-yet"):
        request.applymarker(pytest.mark.xfail(reason=why, strict=True))
    build(case, f"unix://{shared_engine.socket}", tmp_path)
    assert not differences(viewer.describe(case, "corpus"), json.loads(case.expected.read_text()))


@pytest.mark.slow
@each_large
def test_a_build_on_debian_makes_what_buildkit_makes(
    case: Case, debian: DebianEngine, tmp_path: Path
) -> None:
    """With packages from the mirror: what the image holds of the program, and what it says when it runs."""
    wait_for(case)
    build(case, f"unix://{debian.engine.socket}", tmp_path, "--build-arg", f"http_proxy={debian.proxy}")
    with viewing(debian.engine.client()) as viewer:
        assert not differences(viewer.describe(case, "corpus"), json.loads(case.expected.read_text()))


@pytest.mark.rival
@pytest.mark.slow
@pytest.mark.skipif(not RIVAL, reason="needs CAIS_RIVAL_HOST: a dockerd with the images busybox and debian")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_record_is_what_buildkit_makes(case: Case, tmp_path: Path) -> None:
    """dockerd says so itself."""
    if case.asked.get("by-hand"):
        pytest.skip(f"the record was made by hand: {case.asked['by-hand']}")
    wait_for(case)
    case.write_context(tmp_path)
    environment = {**os.environ, "DOCKER_HOST": RIVAL, "DOCKER_BUILDKIT": "1"}
    proxy = ["--build-arg", f"http_proxy={RIVAL_PROXY}"] if case in LARGE else []
    for flags in case.builds(tmp_path, "corpus"):
        command = [DOCKER, "build", "--provenance=false", *flags, *proxy, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, env=environment, timeout=300, check=False)
        assert done.returncode == 0, done.stderr.decode()
    with contextlib.closing(docker.DockerClient(base_url=RIVAL, timeout=60)) as rival:
        found = Viewer(rival).describe(case, "corpus")
    if os.environ.get("CAIS_GOLDEN") == "write":
        text = json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True)
        case.expected.write_text(text + "\n")
    assert not differences(found, json.loads(case.expected.read_text()))


def test_the_corpus_is_there() -> None:
    """No case without a record."""
    assert len(CASES) >= 90 and all(case.expected.exists() for case in CASES)
    assert len({case.name for case in LARGE}) >= 6
