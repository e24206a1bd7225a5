"""Host ports are held for containers, refused when taken, and free when given back."""

from typing import Any

import pytest

from cais.errors import Conflict, Invalid, Unsupported
from cais.linux import netns

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("kind", ["tcp", "udp"])
async def test_taken_by_container(engine: Any, lab: Any, kind: str) -> None:
    """A port of another container is refused in dockerd's words, with the endpoint's name."""
    port = getattr(lab, kind)
    await engine.add(port(80, 8080))
    with pytest.raises(
        Conflict,
        match=r"endpoint box1 \([0-9a-f]{64}\): Bind for 0\.0\.0\.0:8080 failed: port is already allocated$",
    ):
        await engine.add(port(80, 8080))
    with pytest.raises(Conflict, match=r"Bind for 127\.0\.0\.1:8080 failed"):
        await engine.add(port(80, 8080, "127.0.0.1"))


async def test_sctp(engine: Any) -> None:
    """SCTP ports are published and held, with or without the kernel's own SCTP."""
    await engine.add(engine.port("sctp", 80, "", 8080))
    assert await engine.networks.find_leaks() == []
    with pytest.raises(Conflict, match="port is already allocated"):
        await engine.add(engine.port("sctp", 80, "", 8080))


@pytest.mark.parametrize("kind", ["tcp", "udp"])
async def test_taken_by_program(engine: Any, lab: Any, kind: str) -> None:
    """A port of another program is refused in dockerd's words."""
    lab.listen(None, 8080, lab.stream if kind == "tcp" else lab.datagram)
    with pytest.raises(
        Conflict, match=rf"failed to bind host port 0\.0\.0\.0:8080/{kind}: address already in use$"
    ):
        await engine.add(getattr(lab, kind)(80, 8080))


async def test_held_against_programs(engine: Any, lab: Any) -> None:
    """While a container publishes a port no program of the host can listen on it, address reuse or not."""
    await engine.add(lab.tcp(80, 8080))
    rival = lab.open(None)
    rival.setsockopt(1, 2, 1)
    with pytest.raises(OSError, match="in use"):
        rival.bind(("0.0.0.0", 8080))


async def test_failed_wish_leaves_nothing(engine: Any, lab: Any) -> None:
    """When one of several ports is taken, the others are free again."""
    await engine.add(lab.tcp(80, 8081))
    with pytest.raises(Conflict):
        await engine.add(lab.tcp(80, 8080), lab.tcp(80, 8081))
    await engine.add(lab.tcp(80, 8080))


async def test_same_number_side_by_side(engine: Any, lab: Any) -> None:
    """TCP and UDP, and two addresses, may have the same port number."""
    await engine.add(lab.tcp(80, 8080, "127.0.0.1"), lab.tcp(81, 8080, "127.0.0.2"), lab.udp(80, 8080))


async def test_random_ports(engine: Any, lab: Any) -> None:
    """Port 0 becomes a free one of the host's own range, a different one each time."""
    box = await engine.add(lab.tcp(80), lab.tcp(81), lab.udp(80))
    low, high = (int(each) for each in netns.read_sysctl("ipv4/ip_local_port_range").split())
    numbers = [port.host_port for port in box.endpoint.ports]
    assert all(low <= number <= high for number in numbers)
    assert numbers[0] != numbers[1]
    lab.talk(None, lab.listen(box.netns, 81), ("127.0.0.1", numbers[1]))


async def test_free_after_detach(engine: Any, lab: Any) -> None:
    """A port is free for programs and containers as soon as its container is detached."""
    box = await engine.add(lab.tcp(80, 8080))
    await engine.remove(box)
    lab.listen(None, 8080).close()
    other = await engine.add(lab.tcp(80, 8080))
    lab.talk(None, lab.listen(other.netns, 80), ("127.0.0.1", 8080))


async def test_many_ports(engine: Any, lab: Any) -> None:
    """A range of a thousand ports is published and withdrawn."""
    box = await engine.add(*(lab.udp(port, port) for port in range(20000, 21000)))
    lab.talk(None, lab.listen(box.netns, 20999, lab.datagram), ("127.0.0.1", 20999))
    await engine.remove(box)
    await engine.add(lab.udp(80, 20999))


async def test_running_client_follows_to_the_next_container(engine: Any, lab: Any) -> None:
    """A UDP client that never stops sending reaches whoever has the port now."""
    client = lab.open(None, lab.datagram)
    client.bind(("127.0.0.1", 0))
    client.sendto(b"nobody", ("127.0.0.1", 5353))
    for _ in range(2):
        box = await engine.add(lab.udp(53, 5353))
        server = lab.listen(box.netns, 53, lab.datagram)
        client.sendto(b"hello", ("127.0.0.1", 5353))
        assert server.recv(64) == b"hello"
        await engine.remove(box)


async def test_running_client_is_not_led_to_the_ended(engine: Any, lab: Any) -> None:
    """After a container's end a UDP client that goes on sending reaches the host's own server, not the address."""
    client = lab.open(None, lab.datagram)
    box = await engine.add(lab.udp(53, 5353))
    client.sendto(b"hello", ("127.0.0.1", 5353))
    await engine.remove(box)
    server = lab.listen(None, 5353, lab.datagram)
    client.sendto(b"again", ("127.0.0.1", 5353))
    assert server.recv(64) == b"again"


@pytest.mark.parametrize(
    ("port", "error"),
    [
        (("tcp", 0, "", 80), Invalid),
        (("tcp", 65536, "", 80), Invalid),
        (("tcp", 80, "", 65536), Invalid),
        (("tcp", 80, "", -1), Invalid),
        (("icmp", 80, "", 80), Invalid),
        (("tcp", 80, "localhost", 80), Invalid),
        (("tcp", 80, "1.2.3", 80), Invalid),
        (("tcp", 80, "::1", 80), Unsupported),
    ],
)
async def test_wrong_port(engine: Any, port: tuple[str, int, str, int], error: type[Exception]) -> None:
    """A port that cannot be is refused before anything is made."""
    with pytest.raises(error):
        await engine.add(engine.port(*port))
    assert engine.networks.inspect("bridge").endpoints == ()


async def test_address_of_nobody(engine: Any, lab: Any) -> None:
    """A host address that the host does not have is named in the refusal."""
    with pytest.raises(Conflict, match=r"203\.0\.113\.9:8080/tcp: cannot assign requested address"):
        await engine.add(lab.tcp(80, 8080, "203.0.113.9"))
