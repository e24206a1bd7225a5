"""Which addresses the hub may connect to on somebody else's word: webhooks' targets, upstreams, and what those redirect
to. Never into the network that the hub itself stands in, unless its administrator allows it.

The check is made where a socket is made for one address, after names were looked up. A name that is public when it is
checked and private when it is used (DNS rebinding) gains nothing, and an address in the URL itself is checked too,
which a resolver would never see.

Through a proxy (HTTPS_PROXY) it is the proxy that connects: then only the proxy's own address is checked here.
"""

import ipaddress
import socket
from typing import Any

import aiohttp

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# IANA's registries of special-purpose addresses. Not ``is_global``: that changed between versions of Python, and takes
# IPv6 ranges for global that lead to an IPv4 address inside.
_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local, and where clouds answer with credentials
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
# All that is public of IPv6 is in 2000::/3; ULA, link-local, multicast, mapped and compatible addresses are not.
_V6_PUBLIC = ipaddress.IPv6Network("2000::/3")
_V6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # Teredo and others that are no hosts
            "2001:db8::/32",
            "2002::/16",  # 6to4: any IPv4 address
            "3fff::/20",
        ),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class PrivateAddress(OSError):
    """The address is not one that may be connected to."""

    def __init__(self, address: str) -> None:
        # No number of the kernel's: those who explain errors would show the kernel's words for it.
        super().__init__(0, f"{address} is not a public address, and private ones are not allowed here")

    def __str__(self) -> str:
        return str(self.strerror)


def is_public(address: str | Address) -> bool:
    """Whether ``address`` is a single host of the public Internet. False for what is no address.

    Of NAT64 (RFC 6052) the IPv4 address inside counts: networks with IPv6 only reach everything through it.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _V4)
    if ip in _NAT64:
        return is_public(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    # A scope (fe80::1%eth0) is of this machine; the address may look like any.
    return ip.scope_id is None and ip in _V6_PUBLIC and not any(ip in network for network in _V6)


def open_connector(
    *, allow_private: bool, resolver: aiohttp.abc.AbstractResolver | None = None, limit: int = 100
) -> aiohttp.TCPConnector:
    """For a session that asks strangers' servers; the session closes it. Connecting to what is not public raises
    aiohttp.ClientConnectorError of a PrivateAddress. ``resolver``: asked for addresses instead of the system's;
    ``limit``: connections at the same time, 0: no limit."""
    factory = None if allow_private else _open_public_socket
    return aiohttp.TCPConnector(socket_factory=factory, resolver=resolver, limit=limit)


def _open_public_socket(info: tuple[Any, ...]) -> socket.socket:
    """aiohttp's factory: ``info`` is an entry of getaddrinfo, with the address that will be connected to."""
    family, kind, protocol, _, target = info
    if family not in (socket.AF_INET, socket.AF_INET6) or not is_public(target[0]):
        raise PrivateAddress(target[0])
    return socket.socket(family, kind, protocol)
