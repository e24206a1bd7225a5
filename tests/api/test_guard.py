"""TCP requests that a web page could have made are refused."""

import pytest

from cais.api.guard import refusal


@pytest.mark.parametrize("host", ["localhost:2375", "127.0.0.1:2375", "[::1]:2375", "[::1]", "LOCALHOST", ""])
def test_own_names(host: str) -> None:
    """The loopback's names get in."""
    assert not refusal(host, False, False)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:2375", "127.0.0.1.evil.example", "localhost.evil"]
)
def test_rebinding(host: str) -> None:
    """A foreign name that was pointed at the loopback does not."""
    assert "not allowed" in refusal(host, False, False)


@pytest.mark.parametrize("any_host", [True, False])
def test_forgery(any_host: bool) -> None:
    """Whatever a page sends across sites carries Origin."""
    assert refusal("localhost", True, any_host)


def test_certificates_allow_any_name() -> None:
    """A listener that asks for client certificates may be called by any name."""
    assert not refusal("build.example:2376", False, True)
