"""The Engine API's version numbers: which are spoken, and which one a request asks for."""

from cais.errors import Invalid

ENGINE_VERSION = "0.1.0"
MIN_VERSION = (1, 24)
MAX_VERSION = (1, 51)

Version = tuple[int, int]


def format_version(version: Version) -> str:
    """``(1, 51)`` → ``1.51``."""
    return f"{version[0]}.{version[1]}"


def split_version(path: str) -> tuple[str, str]:
    """Cut ``/v1.51`` off ``path``: the version's text and the rest; an empty text when there is none."""
    if path[:2] != "/v":
        return "", path
    text, slash, rest = path[2:].partition("/")
    if not slash or not text or not all(part.isdecimal() and part.isascii() for part in text.split(".")):
        return "", path
    return text, "/" + rest


def parse_version(text: str) -> Version:
    """The version of ``1.51``; missing parts are 0 and what follows the second is ignored, as Docker does.

    Raises ``Invalid`` with Docker's words when it is too old or too new.
    """
    numbers = [min(int(part), 1 << 31) for part in text.split(".")]
    version = (numbers[0], numbers[1] if len(numbers) > 1 else 0)
    if version < MIN_VERSION:
        raise Invalid(
            f"client version {text} is too old. "
            f"Minimum supported API version is {format_version(MIN_VERSION)}, "
            "please upgrade your client to a newer version"
        )
    if version > MAX_VERSION:
        raise Invalid(
            f"client version {text} is too new. "
            f"Maximum supported API version is {format_version(MAX_VERSION)}"
        )
    return version
