"""Docker's filters of the container list (pure)."""

import re
from collections.abc import Callable, Mapping, Sequence

from cais.containers.ports import parse_port
from cais.containers.record import Record
from cais.errors import Invalid

KNOWN = frozenset(
    """ancestor before exited expose health id is-task isolation label name network publish since status
    volume""".split()  # noqa: SIM905
)
STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")

_TAME = re.compile(r"\^?(?:(?:[A-Za-z0-9_/.-]|\\[/._-])[*+?]?|\|)*\$?", re.ASCII)

Filters = Mapping[str, Sequence[str]]
Test = Callable[[Record, str], bool]


def check_filters(filters: Filters) -> None:
    """Raises Invalid in Docker's words."""
    for key, values in filters.items():
        if key not in KNOWN:
            raise Invalid(f"invalid filter '{key}'")
        for value in values:
            if key == "status" and value not in STATES:
                raise Invalid(f"invalid filter 'status={value}'")
            if key == "exited" and not re.fullmatch(r"-?[0-9]+", value, re.ASCII):
                raise Invalid(f"invalid filter 'exited={value}'")


def is_wanted(record: Record, filters: Filters, images: frozenset[str] = frozenset()) -> bool:
    """Whether all filters let it through; the values of one filter are alternatives, except for labels. ``images``:
    ids of the images that ``ancestor`` names."""
    for key, values in filters.items():
        if key == "label":
            if not all(_label(record, value) for value in values):
                return False
        elif key == "ancestor":
            if record.image_id not in images and record.config.image not in values:
                return False
        elif values and key in _TESTS and not any(_TESTS[key](record, value) for value in values):
            return False
    return True


def _label(record: Record, text: str) -> bool:
    key, equals, value = text.partition("=")
    labels = record.config.labels
    return key in labels and (not equals or labels[key] == value)


def _name(record: Record, text: str) -> bool:
    """Docker searches for a regular expression in the name with and without its slash. Its engine is linear, ours
    is not: only patterns that cannot run away are taken as such (plain characters, classes of one, at most three
    repetitions, in a name of ordinary length), any other text is looked for as it stands."""
    if not _TAME.fullmatch(text) or sum(map(text.count, "*+")) > 3:
        return text in "/" + record.name
    found = re.compile(text)
    name = record.name[:256]
    return bool(found.search(name) or found.search("/" + name))


def _exposed(record: Record, text: str) -> bool:
    open_ports = {item for port in record.config.exposed_ports for item in parse_port(port)}
    return any(item in open_ports for item in parse_port(text))


def _published(record: Record, text: str) -> bool:
    mapped = {
        (port.container_port, port.protocol) for endpoint in record.endpoints for port in endpoint.ports
    }
    return any(item in mapped for item in parse_port(text))


def _network(record: Record, text: str) -> bool:
    names = {record.host.network_mode, *record.networking.endpoints_config}
    ids = [endpoint.network_id for endpoint in record.endpoints]
    return text in names or any(id.startswith(text) for id in ids if text)


_TESTS: dict[str, Test] = {
    "id": lambda record, text: record.id.startswith(text),
    "name": _name,
    "status": lambda record, text: record.state.status == text,
    "exited": lambda record, text: record.state.status == "exited" and record.state.exit_code == int(text),
    "volume": lambda record, text: any(text in (point.name, point.destination) for point in record.mounts),
    "expose": _exposed,
    "publish": _published,
    "network": _network,
    "health": lambda record, text: text == "none",
    "isolation": lambda record, text: text in ("", "default"),
    "is-task": lambda record, text: text.lower() in ("0", "false"),
}
