"""The engine that CAIS_TEST_HOST names; it has the image busybox."""

import os

import pytest


@pytest.fixture(scope="session")
def host() -> str:
    """Its host; without one the test says so and is skipped."""
    text = os.environ.get("CAIS_TEST_HOST", "")
    if not text:
        pytest.skip("CAIS_TEST_HOST names no engine")
    return text
