"""What holds for all tests, and the engine that they share."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from harness.debian import DebianEngine, debian_engine
from harness.live import LiveEngine, living_engine, load_busybox

# A shell that runs the tests in the background has these ignored, and so would be everything that the tests start.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# A deadline would measure the machine, and fail where it is busy.
settings.register_profile("cais", deadline=None)
settings.load_profile("cais")


@pytest.fixture(scope="session")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEngine]:
    """One engine for all tests that do not end it, with the image ``busybox``."""
    with living_engine(tmp_path_factory.mktemp("engine")) as engine:
        load_busybox(engine, tmp_path_factory.mktemp("image"))
        yield engine


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DebianEngine]:
    """An engine with an image of this machine's Debian and a way to its mirror."""
    with debian_engine(tmp_path_factory.mktemp("debian")) as engine:
        yield engine


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> str:
    """Where an engine with busybox listens: the one CAIS_TEST_HOST names, else the shared one of the tests."""
    named = os.environ.get("CAIS_TEST_HOST", "")
    if named:
        return named
    if os.geteuid() != 0:
        pytest.skip("a real engine needs root")
    return f"unix://{request.getfixturevalue('shared_engine').socket}"
