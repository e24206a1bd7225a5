"""Which addresses may be connected to on a stranger's word."""

import asyncio
import ipaddress
import socket

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import example, given
from hypothesis import strategies as st

from cais.registry.addresses import PrivateAddress, is_public, open_connector

SPECIAL = """
0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.8.8.8 169.254.169.254 172.16.0.1 172.31.255.255 192.0.2.1 192.168.1.1
198.18.0.1 203.0.113.9 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
:: ::1 ::10.0.0.1 ::8.8.8.8 ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::ffff:127.0.0.1 fe80::1 fe80::1%lo fc00::1 fd00:ec2::254
fec0::1 ff02::1 64:ff9b::a00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001:0:1::1 2001:db8::1 2002:a00:1::
2002:808:808:: 3fff::1 5f00::1 2606:4700::1111%eth0
"""
PUBLIC = "1.1.1.1 8.8.8.8 100.63.255.255 172.32.0.1 192.169.0.1 2606:4700::1111 64:ff9b::808:808"
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@pytest.mark.parametrize("text", [*SPECIAL.split(), "", "localhost", "1.2.3", "8.8.8.8/32", "0x7f.1"])
def test_what_is_not_a_host_of_the_internet_is_refused(text: str) -> None:
    """Every special range, also in the forms that hide an IPv4 address."""
    assert not is_public(text)


@pytest.mark.parametrize("text", PUBLIC.split())
def test_public_hosts_are_let_through(text: str) -> None:
    """Neighbours of the special ranges too, and IPv4 through NAT64."""
    assert is_public(text)


@given(ADDRESSES)
@example(ipaddress.ip_address("192.88.99.1"))
def test_nothing_is_public_that_python_takes_for_special(address: ipaddress.IPv4Address) -> None:
    """Python's own tables, made from the same registries, never disagree in the dangerous direction."""
    if is_public(address) and address not in ipaddress.ip_network("64:ff9b::/96"):
        assert address.is_global and not (address.is_multicast or address.is_loopback or address.is_reserved)


class Fixed(AbstractResolver):
    """Every name is this address."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See ``AbstractResolver``."""
        return [
            {
                "hostname": host,
                "host": self.address,
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
        ]

    async def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{}/", "http://[::ffff:127.0.0.1]:{}/", "http://any.example:{}/"]
)
async def test_the_connector_looks_at_the_address_it_connects_to(url: str) -> None:
    """Addresses in the URL, and those that a name turns out to have: nothing is sent, nobody is connected to."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        connector = open_connector(allow_private=False)
        connector._resolver = Fixed("127.0.0.1")
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises(aiohttp.ClientConnectorError) as refused:
                await session.get(url.format(listening.getsockname()[1]))
        assert isinstance(refused.value.os_error, PrivateAddress)
        assert "not a public address" in str(refused.value)
        with pytest.raises(BlockingIOError):
            listening.accept()


async def test_private_addresses_can_be_allowed() -> None:
    """The administrator may say that the hub stands among friends."""
    met: list[bytes] = []

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append(await reader.readline())
        writer.close()

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    async with server, aiohttp.ClientSession(connector=open_connector(allow_private=True)) as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert set(met) == {b"GET / HTTP/1.1\r\n"}  # aiohttp may ask again
