"""Version prefixes and Docker's refusals."""

import pytest

from cais.api.errors import is_ancient
from cais.api.version import parse_version, split_version
from cais.errors import Invalid


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/v1.41/info", ("1.41", "/info")),
        ("/info", ("", "/info")),
        ("/volumes/v1", ("", "/volumes/v1")),
        ("/v1/x", ("1", "/x")),
        ("/v1.x/x", ("", "/v1.x/x")),
        ("/v1.41", ("", "/v1.41")),
    ],
)
def test_split(path: str, parts: tuple[str, str]) -> None:
    """Only numbers after /v are a version; a path that merely begins so stays whole."""
    assert split_version(path) == parts


@pytest.mark.parametrize("text", ["1.24", "1.41", "1.51", "1.51.9"])
def test_supported(text: str) -> None:
    """1.24 to 1.51 are spoken."""
    assert (1, 24) <= parse_version(text) <= (1, 51)


def test_too_old() -> None:
    """The text is dockerd's."""
    with pytest.raises(
        Invalid, match=r"client version 1\.23 is too old\. Minimum supported API version is 1\.24"
    ):
        parse_version("1.23")


@pytest.mark.parametrize("text", ["1.52", "2", "99999999999999999999.1"])
def test_too_new(text: str) -> None:
    """The text is dockerd's; numbers of any length are handled."""
    with pytest.raises(Invalid, match=r"is too new\. Maximum supported API version is 1\.51"):
        parse_version(text)


def test_ancient() -> None:
    """Clients that read errors as plain text are those before 1.24."""
    assert is_ancient("1.9") and is_ancient("1") and not is_ancient("1.24") and not is_ancient("")
