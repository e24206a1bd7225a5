"""`cais explain`, engine side: what is told of a container is what the kernel says of it."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.raw import Refused, call

LiveEngine = Any


@pytest.fixture
def names(engine: LiveEngine) -> Iterator[tuple[str, str]]:
    """A container with a limit, a volume and a dropped capability; and one that shares its network."""
    first, second = (f"explain-{uuid.uuid4().hex[:8]}" for _ in range(2))
    host = {"Memory": 64 << 20, "CapDrop": ["NET_RAW"], "Binds": ["/tmp:/shared:ro"]}
    for name, options in ((first, host), (second, {"NetworkMode": f"container:{first}"})):
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": options}
        call(engine.socket, "POST", f"/containers/create?name={name}", body)
        call(engine.socket, "POST", f"/containers/{name}/start")
    yield first, second
    for name in (second, first):
        call(engine.socket, "DELETE", f"/containers/{name}?force=1")


def test_a_running_container_is_explained(engine: LiveEngine, names: tuple[str, str]) -> None:
    """Namespaces and who shares them, limits, capabilities, filter, mounts, layers, network."""
    told = call(engine.socket, "GET", f"/cais/containers/{names[0]}/explain")
    pid = call(engine.socket, "GET", f"/containers/{names[0]}/json")["State"]["Pid"]
    spaces = {each["kind"]: each for each in told["namespaces"]}
    assert spaces["network"]["shared with"] == names[1]
    assert spaces["pid"]["shared with"] == "nobody" and spaces["user"]["shared with"] == "the host"
    assert spaces["pid"]["id"] in str(Path(f"/proc/{pid}/ns/pid").readlink())
    assert {each["of"]: each["limit"] for each in told["limits"]}["memory"] == "64MiB"
    assert (
        "net_raw" in told["capabilities"]["dropped"].split()
        and "chown" in told["capabilities"]["kept"].split()
    )
    assert told["seccomp"]["mode"] == "filter"
    assert {"destination": "/shared", "type": "bind", "source": "/tmp", "mode": "ro"} in told["mounts"]
    assert [each["layer"] for each in told["layers"]] == ["writable", "read-only"]
    assert told["network"]["address"].endswith("/16")


def test_an_unknown_container_is_not_explained(engine: LiveEngine) -> None:
    """404 in Docker's words."""
    with pytest.raises(Refused, match=r"404 .*No such container: nobody-here"):
        call(engine.socket, "GET", "/cais/containers/nobody-here/explain")
