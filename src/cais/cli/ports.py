"""Published and exposed ports: ``[[ip:][hostPort]:]containerPort[/proto]`` as the API's maps."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from cais.cli.flags import quote

PROTOCOLS = ("tcp", "udp", "sctp")


def parse_ip(text: str) -> str:
    """The address in its canonical spelling, zone left out. Raises ValueError."""
    family = AF_INET6 if ":" in text else AF_INET
    try:
        return inet_ntop(family, inet_pton(family, text))
    except (OSError, ValueError):
        raise ValueError(f"IP address is not correctly formatted: {text}") from None


def parse_range(text: str) -> tuple[int, int]:
    """``80`` or ``80-90``: first and last port. Raises ValueError."""
    first, dash, last = text.partition("-")
    low, high = parse_port(first), parse_port(last) if dash else 0
    if dash and high < low:
        raise ValueError(f"invalid range specified for port: {text}")
    return low, high if dash else low


def parse_port(text: str) -> int:
    """A port number. Raises ValueError in Go's words."""
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: invalid syntax")
    if int(text) > 65535:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return int(text)


def parse_publish(text: str) -> list[tuple[str, dict[str, str]]]:
    """Pairs of ``port/proto`` and host binding for one ``-p``. Raises ValueError."""
    spec = _long_form(text) if "=" in text else text
    before, _, container = spec.rpartition(":")
    address, _, host = before.rpartition(":")
    container, slash, protocol = container.partition("/")
    protocol = (protocol if slash else "tcp").lower()
    if address.startswith("["):
        address = address.strip("[]")
    if address:
        try:
            address = parse_ip(address) and address
        except ValueError:
            raise ValueError(f"invalid IP address: {address}") from None
    if not container:
        raise ValueError(f"no port specified: {text}<empty>")
    low, high = _range_of("containerPort", container)
    host_low, host_high = _range_of("hostPort", host) if host else (0, 0)
    if host and high - low != host_high - host_low and high != low:
        raise ValueError(f"invalid ranges specified for container and host Ports: {container} and {host}")
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    pairs = []
    for offset in range(high - low + 1):
        port = str(host_low + offset) if host else ""
        if high == low and host_high != host_low:
            port = f"{host_low}-{host_high}"  # the engine chooses one of the range
        pairs.append((f"{low + offset}/{protocol}", {"HostIp": address, "HostPort": port}))
    return pairs


def _range_of(what: str, text: str) -> tuple[int, int]:
    try:
        return parse_range(text)
    except ValueError:
        raise ValueError(f"invalid {what}: {text}") from None


def _long_form(text: str) -> str:
    """``target=80,published=8080,protocol=tcp`` in the short spelling."""
    given = {}
    for field in text.split(","):
        key, equals, value = field.partition("=")
        if not equals or not value:
            raise ValueError(f"invalid field {field}")
        if key not in ("target", "published", "protocol", "mode"):
            raise ValueError(f"invalid field key {key}")
        given[key] = value
    if "target" not in given:
        raise ValueError(f"no port specified: {text}")
    return f"{given.get('published', '')}:{given['target']}/{given.get('protocol', 'tcp')}".lstrip(":")


def parse_expose(text: str) -> list[str]:
    """The ``port/proto`` names one ``--expose`` stands for. Raises ValueError."""
    if ":" in text:
        raise ValueError(f"invalid port format for --expose: {text}")
    ports, slash, protocol = text.partition("/")
    try:
        low, high = parse_range(ports)
    except ValueError as error:
        raise ValueError(f"invalid range format for --expose: {text}, error: {error}") from None
    # an unknown protocol is the engine's to refuse, as with Docker
    return [f"{port}/{protocol.lower() if slash else 'tcp'}" for port in range(low, high + 1)]
