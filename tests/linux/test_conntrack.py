"""Connections to a port are found and forgotten."""

import os
import socket
from collections.abc import Iterator

import pytest

from cais.linux import conntrack, links, netns, nft
from cais.linux.netlink import NETFILTER, ROUTE, Netlink

pytestmark = pytest.mark.kernel


@pytest.fixture
def tracking() -> Iterator[Netlink]:
    """A socket in a network namespace of the test's own that tracks connections, with two UDP ones."""
    table = nft.Table(nft.IP, "harbour")
    chain = nft.Chain(table, "out", "filter", nft.OUTPUT, 0)
    with netns.created() as fd:
        with Netlink(ROUTE) as route, Netlink(NETFILTER) as netlink:
            route.transact([links.set_up(1, "lo")])
            # The kernel tracks connections once a rule asks about them.
            rule = nft.new_rule(chain, nft.any_bit(nft.CT_STATE, nft.STATE_ESTABLISHED))
            nft.commit(netlink, [nft.new_table(table), nft.new_chain(chain), rule])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                for port in (5000, 5001):
                    client.sendto(b"x", ("127.0.0.1", port))
            yield netlink
        os.close(fd)


def test_list(tracking: Netlink) -> None:
    """All connections of a protocol, or those to one port."""
    assert {flow.destination_port for flow in conntrack.list_flows(tracking, 17)} == {5000, 5001}
    assert [flow.destination_port for flow in conntrack.list_flows(tracking, 17, 5001)] == [5001]
    assert conntrack.list_flows(tracking, 6) == []


def test_delete(tracking: Netlink) -> None:
    """A forgotten connection is gone, the other is not; forgetting it again changes nothing."""
    (flow,) = conntrack.list_flows(tracking, 17, 5000)
    conntrack.delete_flow(tracking, flow)
    conntrack.delete_flow(tracking, flow)
    assert [each.destination_port for each in conntrack.list_flows(tracking, 17)] == [5001]
