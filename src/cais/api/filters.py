"""Docker's list filters, as far as all lists share them."""

from collections.abc import Mapping

from cais.errors import Invalid

Filters = dict[str, list[str]]


def check_filters(filters: Filters, known: frozenset[str]) -> None:
    """Raise ``Invalid`` for a filter that is not of ``known``, in dockerd's words."""
    for key in filters:
        if key not in known:
            raise Invalid(f"invalid filter '{key}'")


def has_labels(labels: Mapping[str, str], wanted: list[str]) -> bool:
    """Are all of ``key`` and ``key=value`` there?"""
    return all(_has_label(labels, label) for label in wanted)


def has_any_label(labels: Mapping[str, str], unwanted: list[str]) -> bool:
    """Is any of them there? (``label!`` of prune)"""
    return any(_has_label(labels, label) for label in unwanted)


def _has_label(labels: Mapping[str, str], label: str) -> bool:
    key, equals, value = label.partition("=")
    return key in labels and (not equals or labels[key] == value)


def is_true(filters: Filters, key: str, default: bool = False) -> bool:
    """The boolean filter ``key``. Raises ``Invalid`` in dockerd's words when it is no boolean."""
    values = filters.get(key)
    if not values:
        return default
    found = {value.lower() for value in values}
    if found <= {"1", "true"}:
        return True
    if found <= {"0", "false"}:
        return False
    raise Invalid(f"invalid filter '{key}={values}'")
