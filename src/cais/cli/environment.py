"""Environment variables and labels from flags and files (``-e``, ``--env-file``, ``--label-file``)."""

from __future__ import annotations

from cais.cli.failure import wrong_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BLANK = " \t\n\v\f\r"


def parse_variable(text: str) -> str:
    """A ``-e`` value as given. Raises ValueError if it has no name."""
    if not text.partition("=")[0]:
        raise ValueError(f"invalid environment variable: {text}")
    return text


def parse_label(text: str) -> str:
    """A ``--label`` value as given. Raises ValueError if it has no name."""
    if not text.partition("=")[0]:
        raise ValueError(f"invalid label '{text}': empty name")
    return text


def resolve_variable(text: str, outside: Mapping[str, str]) -> str:
    """``NAME`` takes its value from ``outside``; where it has none the bare name asks to unset it."""
    if "=" not in text and text in outside:
        return f"{text}={outside[text]}"
    return text


def parse_lines(data: bytes, path: str, outside: Mapping[str, str]) -> list[str]:
    """``NAME=value`` lines of a file: ``#`` comments, no quoting, values kept to the last blank.

    Raises ValueError that names the file for a line without a usable name.
    """
    found = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.removesuffix(b"\r").decode().lstrip(_BLANK)
        except UnicodeDecodeError:
            raise ValueError(f"env file {path} contains invalid utf8 bytes at line {number}") from None
        if not text or text.startswith("#"):
            continue
        name, equals, _ = text.partition("=")
        if any(blank in name for blank in _BLANK):
            raise ValueError(f"invalid env file ({path}): variable '{name}' contains whitespaces")
        if not name:
            raise ValueError(f"invalid env file ({path}): no variable name on line '{text}'")
        if equals:
            found.append(text)
        elif name in outside:
            found.append(f"{name}={outside[name]}")
    return found


def read_lines(paths: Iterable[str], outside: Mapping[str, str]) -> list[str]:
    """The variables of all files, in order. Raises Failure for an unreadable or malformed file."""
    found: list[str] = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                found += parse_lines(file.read(), path, outside)
        except OSError as error:
            raise wrong_option(f"open {path}: {(error.strerror or '').lower()}") from None
        except ValueError as error:
            raise wrong_option(str(error)) from None
    return found


def split_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """``k=v`` texts as a mapping; without ``=`` the value is empty."""
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
