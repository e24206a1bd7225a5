"""The texts of a container's /etc/hosts, /etc/hostname and /etc/resolv.conf (pure)."""

import ipaddress
from collections.abc import Iterable, Sequence

import msgspec

from cais.containers.options import split_extra_host

DEFAULT_SERVERS = ("8.8.8.8", "8.8.4.4")
"""What Docker gives a container when the host's own name servers are unreachable from inside."""

_LOCAL = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


class DnsWishes(msgspec.Struct, frozen=True):
    """``--dns``, ``--dns-search``, ``--dns-option``; empty takes the host's. A search list of ``.`` means none."""

    servers: Sequence[str] = ()
    search: Sequence[str] = ()
    options: Sequence[str] = ()


def make_hosts(names: Sequence[str], address: str, extra: Iterable[str], gateway: str) -> str:
    """/etc/hosts. ``names`` stand for ``address`` (which may be empty); ``gateway`` is what ``host-gateway`` means."""
    lines = [_LOCAL]
    for text in extra:
        name, _, where = split_extra_host(text)
        where = gateway if where == "host-gateway" else where.strip("[]")
        if where:
            lines.append(f"{where}\t{name}\n")
    if address and names:
        lines.append(f"{address}\t{' '.join(names)}\n")
    return "".join(lines)


def make_resolv(host: str, wishes: DnsWishes, *, own_network: bool) -> str:
    """/etc/resolv.conf from the host's text. In a network namespace of its own the host's loopback name servers
    cannot be reached, so they are left out (resolv.conf(5); Docker's rule)."""
    servers, search, options = _parse_resolv(host)
    if own_network:
        servers = [server for server in servers if not _is_loopback(server)]
    servers = list(wishes.servers) or servers
    if own_network and not servers:
        servers = list(DEFAULT_SERVERS)
    search = [domain for domain in wishes.search if domain != "."] if wishes.search else search
    options = list(wishes.options) or options
    lines = [f"nameserver {server}\n" for server in servers]
    if search:
        lines.append(f"search {' '.join(search)}\n")
    if options:
        lines.append(f"options {' '.join(options)}\n")
    return "".join(lines)


def _parse_resolv(text: str) -> tuple[list[str], list[str], list[str]]:
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.partition("#")[0].partition(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = words[1:]
        elif words[0] == "options":
            options += words[1:]
    return servers, search, options


def _is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True
