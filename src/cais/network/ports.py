"""Host ports held for published ports: a bound socket each, so that no other program can take them."""

import errno
import os
import socket
from collections.abc import Iterable
from dataclasses import replace

from cais.errors import Conflict, Invalid, Unsupported
from cais.network.base import PortMapping
from cais.network.firewall import EVERYWHERE, PROTOCOLS

_TRIES = 32
"""Random ports tried before giving up."""


class Ports:
    """The published ports of one engine. The sockets never receive anything: packets are led away before."""

    def __init__(self) -> None:
        # Protocol and host port, then host address.
        self._held: dict[tuple[str, int], dict[str, socket.socket | None]] = {}

    def reserve(self, wanted: Iterable[PortMapping]) -> tuple[PortMapping, ...]:
        """Take all of them or none; answers with addresses and random ports filled in. ``Conflict`` when a port is
        taken, with dockerd's two texts: by a container of ours, or by another program."""
        held: list[PortMapping] = []
        try:
            for mapping in dict.fromkeys(wanted):
                held.append(self._reserve_one(replace(mapping, host_ip=mapping.host_ip or EVERYWHERE)))
        except BaseException:
            self.release(held)
            raise
        return tuple(held)

    def release(self, mappings: Iterable[PortMapping]) -> None:
        """Give them back. Idempotent."""
        for mapping in mappings:
            addresses = self._held.get(_key(mapping), {})
            held = addresses.pop(mapping.host_ip, None)
            if held is not None:
                held.close()
            if not addresses:
                self._held.pop(_key(mapping), None)

    def _reserve_one(self, mapping: PortMapping) -> PortMapping:
        for _ in range(_TRIES):
            if mapping.host_port and self._is_ours(mapping):
                place = f"{mapping.host_ip}:{mapping.host_port}"
                raise Conflict(f"Bind for {place} failed: port is already allocated")
            try:
                held, port = _bind(mapping)
            except OSError as error:
                if mapping.host_port == 0 and error.errno == errno.EADDRINUSE:
                    continue
                place = f"{mapping.host_ip}:{mapping.host_port}/{mapping.protocol}"
                reason = os.strerror(error.errno or 0).lower()
                raise Conflict(f"failed to bind host port {place}: {reason}") from error
            found = replace(mapping, host_port=port)
            self._held.setdefault(_key(found), {})[found.host_ip] = held
            return found
        raise Conflict(f"no free host port for {mapping.container_port}/{mapping.protocol}")

    def _is_ours(self, mapping: PortMapping) -> bool:
        addresses = self._held.get(_key(mapping), {})
        return (
            bool(addresses)
            if mapping.host_ip == EVERYWHERE
            else bool({EVERYWHERE, mapping.host_ip} & set(addresses))
        )


def check_ports(ports: Iterable[PortMapping]) -> None:
    """``Invalid`` for a protocol, number or address that cannot be; ``Unsupported`` for an IPv6 address."""
    for port in ports:
        if port.protocol not in PROTOCOLS:
            raise Invalid(f"invalid proto: {port.protocol}")
        if not 1 <= port.container_port <= 65535:
            raise Invalid(f"invalid containerPort: {port.container_port}")
        if not 0 <= port.host_port <= 65535:
            raise Invalid(f"invalid hostPort: {port.host_port}")
        _check_address(port.host_ip)


def _check_address(address: str) -> None:
    if not address:
        return
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.inet_pton(family, address)
    except OSError as error:
        raise Invalid(f"invalid IP address: {address}") from error
    if family == socket.AF_INET6:
        raise Unsupported(f"ports cannot be published on IPv6 addresses yet: {address}")


def _key(mapping: PortMapping) -> tuple[str, int]:
    return mapping.protocol, mapping.host_port


def _bind(mapping: PortMapping) -> tuple[socket.socket | None, int]:
    """A socket that holds the port, and the port. No socket where the kernel has no SCTP: nobody else can take it
    there either."""
    kind = socket.SOCK_DGRAM if mapping.protocol == "udp" else socket.SOCK_STREAM
    try:
        held = socket.socket(socket.AF_INET, kind, PROTOCOLS[mapping.protocol])
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT and mapping.host_port:
            return None, mapping.host_port
        raise
    try:
        if mapping.protocol == "udp":
            # Packets that come before the port is led to its container must not pile up here.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        else:
            # A server that ended a minute ago leaves connections in TIME_WAIT; only with this option do they not
            # refuse the port. With it two bound sockets may share a port until one listens: so listen.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((mapping.host_ip, mapping.host_port))
        if mapping.protocol != "udp":
            held.listen(1)
    except BaseException:
        held.close()
        raise
    return held, int(held.getsockname()[1])
