"""Exposed and published ports: Docker's texts read, checked and turned into wishes (pure)."""

import ipaddress
import re
from collections.abc import Iterable, Mapping

from cais.errors import Invalid
from cais.network.base import PortMapping
from cais.spec.container import PortBinding

_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.ASCII | re.IGNORECASE)
_HOST_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


def parse_port(text: str) -> list[tuple[int, str]]:
    """``80``, ``80/udp``, ``8000-8003/tcp`` → (port, protocol). Raises Invalid."""
    found = _PORT.fullmatch(text)
    if not found:
        raise Invalid(f'invalid port specification: "{text}"')
    first, last = int(found[1]), int(found[2] or found[1])
    if not 0 < first <= last <= 65535:
        raise Invalid(f'invalid port specification: "{text}"')
    return [(port, (found[3] or "tcp").lower()) for port in range(first, last + 1)]


def _host_range(text: str) -> tuple[int, int]:
    found = _HOST_PORT.fullmatch(text)
    if not found or not int(found[1]) <= int(found[2] or found[1]) <= 65535:
        raise Invalid(f'invalid port specification: "{text}"')
    return int(found[1]), int(found[2] or found[1])


def plan_ports(
    bindings: Mapping[str, tuple[PortBinding, ...]], exposed: Iterable[str], publish_all: bool
) -> tuple[PortMapping, ...]:
    """Every mapping to make; ``host_port`` 0 lets the engine choose. An empty list of bindings means one with a free
    port, as dockerd reads it. Raises Invalid."""
    mappings: list[PortMapping] = []
    for text, wishes in bindings.items():
        for port, protocol in parse_port(text):
            mappings += [_mapping(port, protocol, wish) for wish in wishes or (PortBinding(),)]
    if publish_all:
        known = {(mapping.container_port, mapping.protocol) for mapping in mappings}
        open_ports = {item for text in exposed for item in parse_port(text)} - known
        mappings += [_mapping(port, protocol, PortBinding()) for port, protocol in sorted(open_ports)]
    return tuple(mappings)


def _mapping(port: int, protocol: str, wish: PortBinding) -> PortMapping:
    first = _host_range(wish.host_port)[0] if wish.host_port else 0
    if wish.host_ip:
        try:
            ipaddress.ip_address(wish.host_ip)
        except ValueError as error:
            raise Invalid(f"invalid IP address: {wish.host_ip}") from error
    return PortMapping(protocol=protocol, container_port=port, host_ip=wish.host_ip, host_port=first)
