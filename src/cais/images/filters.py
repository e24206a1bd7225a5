"""The filters of the image list: dangling, label, reference, before, since and until."""

import re
import time
from collections.abc import Callable, Iterable, Mapping

from cais.errors import CaisError, Invalid
from cais.images.changes import parse_duration_ns
from cais.images.image import Image
from cais.spec.image import parse_time_ns
from cais.spec.reference import parse_reference

_TRUE = frozenset({"1", "true"})
_FALSE = frozenset({"0", "false"})
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
NAMES = frozenset({"dangling", "label", "before", "since", "reference", "until"})


def filter_images(
    images: Iterable[Image], filters: Mapping[str, Iterable[str]], resolve: Callable[[str], Image]
) -> list[Image]:
    """The images that pass all ``filters`` (values of one name are alternatives, except labels).

    ``resolve`` finds the images that before and since name. Raises Invalid for a filter that does not exist.
    """
    tests: list[Callable[[Image], bool]] = []
    for name, values in filters.items():
        if name not in NAMES:
            raise Invalid(f"invalid filter '{name}'")
        if wanted := list(values):
            tests.append(_make_test(name, wanted, resolve))
    return [image for image in images if all(test(image) for test in tests)]


def _make_test(name: str, values: list[str], resolve: Callable[[str], Image]) -> Callable[[Image], bool]:
    match name:
        case "dangling":
            wanted = _parse_bool(name, values)
            return lambda image: image.is_dangling == wanted
        case "label":
            return lambda image: all(_has_label(image, value) for value in values)
        case "before":
            newest = min(resolve(value).created_ns for value in values)
            return lambda image: image.created_ns < newest
        case "since":
            oldest = max(resolve(value).created_ns for value in values)
            return lambda image: image.created_ns > oldest
        case "until":
            limit = min(parse_moment_ns(value, time.time_ns()) for value in values)
            return lambda image: image.created_ns < limit
    return lambda image: bool(matching_names(image, values))


def matching_names(image: Image, patterns: Iterable[str]) -> tuple[str, ...]:
    """The canonical names of ``image`` that fit one of Docker's reference patterns (``busy*``,
    ``*:latest``)."""
    return tuple(name for name in image.names if any(_fits(name, pattern) for pattern in patterns))


def _fits(name: str, pattern: str) -> bool:
    """Docker's FamiliarMatch: the short form with tag, or without it, by shell rules."""
    reference = parse_reference(name)
    return glob_match(pattern, reference.familiar()) or glob_match(pattern, reference.familiar_name)


def glob_match(pattern: str, text: str) -> bool:
    """Go's path.Match: ``*`` and ``?`` do not cross a slash, ``[a-z]`` and ``[^a-z]`` are classes."""
    parts = []
    for part in re.findall(r"\*|\?|\[\^?[^\]]*\]|\\.|.", pattern, re.DOTALL):
        if part == "*":
            parts.append("[^/]*")
        elif part == "?":
            parts.append("[^/]")
        elif len(part) > 1 and part.startswith("["):
            parts.append(part)
        else:
            parts.append(re.escape(part[-1]))
    try:
        return re.fullmatch("".join(parts), text) is not None
    except re.error:
        raise Invalid(f"syntax error in pattern: {pattern}") from None


def parse_moment_ns(text: str, now_ns: int) -> int:
    """Nanoseconds since the epoch of ``until``: Unix seconds, an RFC 3339 time or date, or a duration ago."""
    if re.fullmatch(r"\d+(\.\d{1,9})?", text):
        seconds, _, fraction = text.partition(".")
        return int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
    try:
        return parse_time_ns(f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text)
    except CaisError:
        return now_ns - parse_duration_ns(text)


def _has_label(image: Image, wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    labels = image.config.config.labels
    return name in labels and (not equals or labels[name] == value)


def _parse_bool(name: str, values: list[str]) -> bool:
    lowered = {value.lower() for value in values}
    if len(lowered) == 1:
        (value,) = lowered
        if value in _TRUE | _FALSE:
            return value in _TRUE
    raise Invalid(f"invalid filter '{name}={values}'")
