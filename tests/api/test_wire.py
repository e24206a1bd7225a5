"""Records as Docker's JSON: texts for people, ports, states, images' history."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from msgspec.structs import replace as replaced

from cais.api.wire.base import format_time
from cais.api.wire.containers import inspect_reply, legacy_config, summary_reply
from cais.api.wire.human import human_duration, human_state
from cais.api.wire.images import config_reply, progress_bar
from cais.api.wire.stats import parse_system_time
from cais.api.wire.system import Commit, FirewallBackend, legacy_info
from cais.containers.containers import Container
from cais.containers.record import Record, State
from cais.network.base import Endpoint, PortMapping
from cais.spec.container import ContainerConfig, HostConfig
from cais.spec.image import ContainerDefaults

RECORD = Record(
    id="a" * 64,
    name="web",
    created_ns=1_700_000_000_000_000_000,
    config=ContainerConfig(image="bb", cmd=("sh", "-c", "a b"), exposed_ports={"80/tcp": {}, "53/udp": {}}),
    host=HostConfig(network_mode="bridge"),
    state=State(status="running", pid=7, started_ns=1_700_000_000_000_000_000),
    endpoints=(
        Endpoint(
            "bridge", "n", "e", "a" * 64, "172.29.0.2", 16, "172.29.0.1", "02:00:00:00:00:01",
            (PortMapping("tcp", 80, "", 8080),), "veth0",
        ),
    ),
)  # fmt: skip
FOUND = Container(RECORD, Path("/r/c"), Path("/r/c"), "/r/c/log")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"),
        (119, "About a minute"), (120, "2 minutes"), (3599, "59 minutes"), (3600, "About an hour"),
        (5399, "About an hour"), (5400, "2 hours"),
        (47 * 3600, "47 hours"), (48 * 3600, "2 days"), (13 * 86400, "13 days"), (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"), (2 * 365 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_human_duration(seconds: float, text: str) -> None:
    """The words of docker/go-units."""
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (State(status="running", started_ns=1), "Up 10 seconds"),
        (State(status="paused", started_ns=1), "Up 10 seconds (Paused)"),
        (State(status="exited", exit_code=3, finished_ns=1), "Exited (3) 10 seconds ago"),
        (State(status="restarting", exit_code=1, finished_ns=1), "Restarting (1) 10 seconds ago"),
        (State(), "Created"),
        (State(status="removing"), "Removal In Progress"),
    ],
)
def test_human_state(state: State, text: str) -> None:
    """The STATUS column of ps."""
    assert human_state(state, 10_000_000_001) == text


def test_summary() -> None:
    """Command, ports and addresses as ps shows them."""
    row = msgspec.to_builtins(summary_reply(FOUND, "bb", RECORD.created_ns + 10**9))
    assert (row["Command"], row["Status"], row["Names"]) == ("sh -c 'a b'", "Up 1 second", ("/web",))
    assert row["Ports"] == (
        {"PrivatePort": 53, "Type": "udp"},
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
    )
    assert row["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == "172.29.0.2"
    assert "SizeRw" not in row


def test_inspect_ports() -> None:
    """Published ports have bindings, exposed ones null; one that does not run has none."""
    reply = msgspec.to_builtins(inspect_reply(FOUND))
    ports = reply["NetworkSettings"]["Ports"]
    assert ports == {"80/tcp": ({"HostIp": "0.0.0.0", "HostPort": "8080"},), "53/udp": None}
    assert reply["Path"] == "sh" and reply["Args"] == ("-c", "a b") and reply["LogPath"] == "/r/c/log"
    ended = replace(RECORD, state=State(status="exited"), endpoints=())
    stopped = msgspec.to_builtins(inspect_reply(replaced(FOUND, record=ended)))
    assert stopped["NetworkSettings"]["Ports"] == {} and "bridge" in stopped["NetworkSettings"]["Networks"]


def test_legacy_mac_address() -> None:
    """Before API 1.44 Config has it."""
    reply = inspect_reply(FOUND)
    assert legacy_config(reply, (1, 44)) is reply
    old = legacy_config(reply, (1, 43))
    assert isinstance(old, dict) and old["Config"]["MacAddress"] == "02:00:00:00:00:01"


def test_times() -> None:
    """Go's zero time, nanoseconds without trailing zeros."""
    assert format_time(0) == "0001-01-01T00:00:00Z"
    assert format_time(1_700_000_000_120_000_000) == "2023-11-14T22:13:20.12Z"
    assert format_time(1_700_000_000_000_000_000) == "2023-11-14T22:13:20Z"


def test_image_config() -> None:
    """Absent lists are null; what is set and not always shown comes behind; old clients get more."""
    shown = config_reply(ContainerDefaults(cmd=("sh",), stop_signal="KILL"), (1, 51))
    assert (shown["Cmd"], shown["Env"], shown["User"], shown["StopSignal"]) == (("sh",), None, "", "KILL")
    assert "Hostname" not in shown and "Hostname" in config_reply(ContainerDefaults(), (1, 49))


def test_progress_bar() -> None:
    """50 wide, whatever the numbers."""
    assert progress_bar(0, 100) == "[>" + " " * 49 + "]  0B/100B"
    assert progress_bar(1500, 3000).startswith("[" + "=" * 25 + ">" + " " * 24 + "]  1.5kB/3kB")
    assert progress_bar(5, 5).startswith("[" + "=" * 50 + "]")


def test_system_time() -> None:
    """Seven fields of the first line of /proc/stat, in nanoseconds."""
    assert parse_system_time("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1", 100) == 28 * 10_000_000


def test_legacy_info() -> None:
    """Clients of before API 1.49 know no firewall backend, and those of before 1.50 ask for two flags more."""
    reply: Any = SimpleReply()
    assert legacy_info(reply, (1, 50)) is reply
    old, older = legacy_info(reply, (1, 49)), legacy_info(reply, (1, 48))
    assert isinstance(old, dict) and isinstance(older, dict)
    assert old["BridgeNfIptables"] is False and "FirewallBackend" in old
    assert "FirewallBackend" not in older and older["RuncCommit"] == {"ID": "", "Expected": ""}


class SimpleReply(msgspec.Struct, rename="pascal"):
    """The parts of the answer that depend on the version."""

    firewall_backend: FirewallBackend = FirewallBackend()
    containerd_commit: Commit = Commit()
    runc_commit: Commit = Commit()
    init_commit: Commit = Commit()
