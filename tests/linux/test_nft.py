"""nf_tables objects are made, listed as nft(8) lists them, and removed; transactions are all or nothing."""

import os
import struct
import subprocess
from collections.abc import Iterator

import pytest

from cais.linux import netns, nft
from cais.linux.netlink import NETFILTER, Netlink

pytestmark = pytest.mark.kernel

TABLE = nft.Table(nft.IP, "harbour")
PORTS = nft.Set(TABLE, "ports", (nft.Type.PROTOCOL, nft.Type.PORT), (nft.Type.ADDRESS, nft.Type.PORT))
NAMES = nft.Set(TABLE, "names", (nft.Type.INTERFACE,))
CHAIN = nft.Chain(TABLE, "in", "nat", nft.PREROUTING, -100)
WEB = (nft.pack(b"\x06", struct.pack(">H", 80)), nft.pack(b"\x0a\0\0\2", struct.pack(">H", 8080)))
DNS = (nft.pack(b"\x11", struct.pack(">H", 53)), nft.pack(b"\x0a\0\0\3", struct.pack(">H", 5353)))


@pytest.fixture
def filter() -> Iterator[Netlink]:
    """A socket in a network namespace of the test's own, in which the test runs, with an empty table."""
    with netns.created() as fd:
        with Netlink(NETFILTER) as netlink:
            nft.commit(
                netlink, [nft.new_table(TABLE), nft.new_set(PORTS), nft.new_set(NAMES), nft.new_chain(CHAIN)]
            )
            yield netlink
        os.close(fd)


def listed() -> str:
    """The rules as nft shows them, on one line."""
    shown = subprocess.run(["nft", "-n", "list", "ruleset"], check=True, capture_output=True, text=True)
    return " ".join(shown.stdout.split())


@pytest.mark.parametrize(
    ("expressions", "shown"),
    [
        (
            (
                nft.meta(nft.META_L4PROTO),
                nft.payload(nft.TRANSPORT_HEADER, 2, 2, slot=1),
                nft.lookup(PORTS),
                nft.dnat(),
            ),
            "dnat ip to meta l4proto . th dport map @ports",
        ),
        ((nft.destination_type(), nft.compare(nft.EQUAL, struct.pack("=I", nft.LOCAL))), "fib daddr type 2"),
        ((nft.interface(nft.META_IIFNAME, "br0"), nft.verdict(nft.DROP)), 'iifname "br0" drop'),
        (
            (nft.interface(nft.META_IIFNAME, "br0", nft.NOT_EQUAL), nft.verdict(nft.ACCEPT)),
            'iifname != "br0" accept',
        ),
        ((nft.network(12, b"\x0a\0\0\0", 8), nft.verdict(nft.RETURN)), "ip saddr 10.0.0.0/8 return"),
        ((nft.any_bit(nft.CT_STATE, nft.STATE_ESTABLISHED | nft.STATE_RELATED),), "ct state 0x2,0x4"),
        ((nft.any_bit(nft.CT_STATUS, nft.STATUS_DNAT),), "ct status 0x20"),
        ((nft.meta(nft.META_IIFNAME), nft.lookup(NAMES), nft.verdict(nft.ACCEPT)), "iifname @names accept"),
    ],
)
def test_rule(filter: Netlink, expressions: tuple[bytes, ...], shown: str) -> None:
    """A rule means what nft reads in it."""
    nft.commit(filter, [nft.new_rule(CHAIN, *expressions)])
    assert shown in listed()


def test_masquerade(filter: Netlink) -> None:
    """Masquerading stands in a postrouting chain."""
    chain = nft.Chain(TABLE, "out", "nat", nft.POSTROUTING, 100)
    nft.commit(filter, [nft.new_chain(chain), nft.new_rule(chain, nft.masquerade())])
    assert "type nat hook postrouting priority 100; policy accept; masquerade" in listed()


def test_elements(filter: Netlink) -> None:
    """Elements are added, listed and deleted."""
    nft.commit(filter, nft.add_elements(PORTS, [WEB, DNS]))
    assert "6 . 80 : 10.0.0.2 . 8080" in listed()
    assert sorted(nft.list_elements(filter, PORTS)) == sorted([WEB, DNS])
    nft.commit(filter, nft.delete_elements(PORTS, [WEB]))
    assert nft.list_elements(filter, PORTS) == [DNS]


def test_names(filter: Netlink) -> None:
    """A set of interface names is shown as such."""
    nft.commit(filter, nft.add_elements(NAMES, [(nft.pack_name("cais0"), b"")]))
    assert 'elements = { "cais0" }' in listed()


def test_many_elements(filter: Netlink) -> None:
    """More elements than one message holds go in and out in one transaction."""
    many = [(nft.pack(b"\x06", struct.pack(">H", port)), WEB[1]) for port in range(1, 3001)]
    nft.commit(filter, nft.add_elements(PORTS, many))
    assert len(nft.list_elements(filter, PORTS)) == 3000
    nft.commit(filter, nft.delete_elements(PORTS, many))
    assert nft.list_elements(filter, PORTS) == []


def test_all_or_nothing(filter: Netlink) -> None:
    """When one message is refused the others did not happen, and the refusal names the set."""
    wrong = [*nft.add_elements(PORTS, [WEB]), *nft.delete_elements(PORTS, [DNS])]
    with pytest.raises(FileNotFoundError, match="nft table harbour, ports"):
        nft.commit(filter, wrong)
    assert nft.list_elements(filter, PORTS) == []


def test_other_data_is_refused(filter: Netlink) -> None:
    """A key that is there cannot be given other data unnoticed."""
    nft.commit(filter, nft.add_elements(PORTS, [WEB]))
    with pytest.raises(FileExistsError):
        nft.commit(filter, nft.add_elements(PORTS, [(WEB[0], DNS[1])]))


def test_tables(filter: Netlink) -> None:
    """A table is there until it is deleted; deleting it again is refused."""
    assert nft.has_table(filter, TABLE)
    nft.commit(filter, [nft.delete_table(TABLE)])
    assert not nft.has_table(filter, TABLE)
    assert listed() == ""
    with pytest.raises(FileNotFoundError):
        nft.commit(filter, [nft.delete_table(TABLE)])


def test_chains(filter: Netlink) -> None:
    """Base chains are listed as they were made."""
    drop = nft.Chain(TABLE, "fw", "filter", nft.FORWARD, 5, nft.DROP)
    nft.commit(filter, [nft.new_chain(drop)])
    assert nft.list_chains(filter, nft.IP) == [CHAIN, drop]
    assert nft.list_chains(filter, nft.INET) == []
