"""`--filter key=value` as the API's ``filters`` parameter."""

from __future__ import annotations

from cais.cli.wirejson import format_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def format_filters(texts: Iterable[str]) -> str:
    """``{"key": {"value": true}}``, or empty without filters."""
    filters: dict[str, dict[str, bool]] = {}
    for text in texts:
        if not text:
            continue
        key, _, value = text.partition("=")
        filters.setdefault(key.strip().lower(), {})[value.strip()] = True
    return format_json(filters) if filters else ""


FILTER_ROW = ("filter", "f", "filter...", "Only what matches, key=value")
LONG_FILTER_ROW = ("filter", "", "filter...", "Only what matches, key=value")
FORMAT_ROW = ("format", "", "string", "'table', 'json', or a Go template")
SHORT_FORMAT_ROW = ("format", "f", "string", "'json' or a Go template")
