"""docker-py, the Python library, and raw requests that no library makes."""

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import docker
import pytest

Client = docker.DockerClient
Engine = Any


@pytest.fixture
def sleeper(client: Client) -> Iterator[Any]:
    """A running container."""
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True)
    yield container
    container.remove(force=True)


def test_run(client: Client) -> None:
    """Output, exit status and removal in one call."""
    assert client.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\n"
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 4"], remove=True)
    assert (caught.value.exit_status, caught.value.stderr) == (4, b"bad\n")


def test_errors(client: Client) -> None:
    """Errors arrive as the library's own kinds."""
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("nope")
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("nope")
    with pytest.raises(docker.errors.APIError, match="400 Client Error"):
        client.containers.create("busybox", mem_limit="1k")


def test_exec_output_is_never_lost(sleeper: Any) -> None:
    """However fast the program is: the library drops what comes together with the headers."""
    for number in range(20):
        assert sleeper.exec_run(["echo", str(number)]).output == f"{number}\n".encode()


def test_exec_streams(sleeper: Any) -> None:
    """Standard output and error apart, and the exit code."""
    result = sleeper.exec_run(["sh", "-c", "echo out; echo err >&2; exit 3"], demux=True)
    assert (result.exit_code, result.output) == (3, (b"out\n", b"err\n"))


def test_exec_twice(client: Client, sleeper: Any) -> None:
    """An exec runs once."""
    id = client.api.exec_create(sleeper.id, ["true"])["Id"]
    client.api.exec_start(id)
    with pytest.raises(docker.errors.APIError, match="has already run"):
        client.api.exec_start(id)


def test_attach_socket(client: Client) -> None:
    """Standard input through the library's socket, half-closed at the end."""
    container = client.containers.create("busybox", ["cat"], stdin_open=True)
    wanted = {"stdin": 1, "stdout": 1, "stream": 1}
    attached = container.attach_socket(params=wanted)
    container.start()
    connection = attached._sock
    connection.sendall(b"over and out")
    connection.shutdown(socket.SHUT_WR)
    data = b"".join(iter(lambda: connection.recv(65536), b""))
    attached.close()
    connection.close()
    container.remove(force=True)
    assert data == struct.pack(">BxxxI", 1, 12) + b"over and out"


def test_logs(client: Client) -> None:
    """By lines, with times, followed to the end."""
    container = client.containers.run(
        "busybox", ["sh", "-c", "echo a; sleep 0.05; echo b >&2; sleep 0.05; echo c"], detach=True
    )
    container.wait()
    assert container.logs(stderr=False) == b"a\nc\n" and container.logs(tail=1) == b"c\n"
    assert container.logs(timestamps=True).startswith(b"20")
    assert b"".join(container.logs(stream=True, follow=True)) == b"a\nb\nc\n"
    container.remove()


def test_events_live(client: Client) -> None:
    """A subscription sees what happens after it, in order."""
    with closing(client.events(decode=True, filters={"type": "volume", "volume": "seen"})) as events:
        client.volumes.create("seen").remove()
        actions = [next(events)["Action"] for _ in range(2)]
    assert actions == ["create", "destroy"]


def test_stats(sleeper: Any) -> None:
    """Two samples, with memory, processes and traffic."""
    found = sleeper.stats(stream=False)
    assert found["memory_stats"]["usage"] > 0 and found["pids_stats"]["current"] == 1
    assert found["cpu_stats"]["system_cpu_usage"] > found["precpu_stats"]["system_cpu_usage"] > 0
    assert "eth0" in found["networks"]


def test_list_and_prune(client: Client) -> None:
    """Filters, and prune with a label."""
    container = client.containers.create("busybox", labels={"prune": "me"})
    assert [each.id for each in client.containers.list(all=True, filters={"label": "prune=me"})] == [
        container.id
    ]
    assert client.containers.list(filters={"label": "prune=me"}) == []
    assert client.containers.prune({"label": ["prune=me"]})["ContainersDeleted"] == [container.id]


def test_volume_prune(client: Client) -> None:
    """Only unused volumes go, named ones only when all are meant."""
    client.volumes.create("pruned", labels={"p": "1"})
    assert client.volumes.prune({"label": ["p"]})["VolumesDeleted"] in (None, [])
    assert client.volumes.prune({"label": ["p"], "all": ["1"]})["VolumesDeleted"] == ["pruned"]


def test_image_removal_rules(client: Client) -> None:
    """An image that a container was made from stays, unless only a name goes."""
    container = client.containers.create("busybox")
    client.images.get("busybox").tag("another", "name")
    client.images.remove("another:name")
    with pytest.raises(docker.errors.APIError, match="409"):
        client.images.remove("busybox")
    container.remove()


def post(path: str, body: object = None, headers: str = "") -> bytes:
    """A request as bytes."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"POST /v1.51{path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"


def test_stats_stream(engine: Engine, sleeper: Any) -> None:
    """One answer a second, until the client goes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(engine.socket)
        connection.sendall(f"GET /containers/{sleeper.id}/stats HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        with connection.makefile("rb") as lines:
            found: list[dict[str, Any]] = []
            while len(found) < 2:
                line = lines.readline()
                found += [json.loads(line)] if line.startswith(b"{") else []
    assert found[1]["preread"] == found[0]["read"]


def test_input_right_behind_exec_start(client: Client, engine: Engine, sleeper: Any) -> None:
    """Body, input and half-close in one piece: all of it reaches the program, and its output comes back whole."""
    id = client.api.exec_create(sleeper.id, ["wc", "-c"], stdin=True)["Id"]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(engine.socket)
        connection.sendall(post(f"/exec/{id}/start", {"Detach": False, "Tty": False}, UPGRADE) + b"x" * 1000)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 101 UPGRADED\r\n") and answer.endswith(b"1000\n")


def test_detach_keys_on_the_server(client: Client, engine: Engine) -> None:
    """The engine finds the keys too: the connection ends, the program goes on, and an event says so."""
    container = client.containers.create("busybox", ["cat"], stdin_open=True, tty=True)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(engine.socket)
        path = f"/containers/{container.id}/attach?stream=1&stdin=1&stdout=1&detachKeys=a,b"
        connection.sendall(post(path, headers=UPGRADE))
        container.start()
        connection.sendall(b"1\nab2\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 101 UPGRADED\r\n") and b"2" not in answer.partition(b"\r\n\r\n")[2]
    container.reload()
    assert container.status == "running"
    since = {
        "since": 0,
        "until": 2**31,
        "filters": {"container": container.id, "event": "detach"},
        "decode": True,
    }
    with closing(client.api.events(**since)) as events:
        assert next(events)["Action"] == "detach"
    container.remove(force=True)


def test_unread_output_does_not_fill_the_engine(engine: Engine, client: Client) -> None:
    """A client that attaches and never reads holds its container back, not the engine's memory."""
    container = client.containers.create("busybox", ["sh", "-c", "yes | head -c 80000000"])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(engine.socket)
        connection.sendall(post(f"/containers/{container.id}/attach?stream=1&stdout=1", headers=UPGRADE))
        container.start()
        before = _memory(engine.pid)
        client.containers.run("busybox", ["true"], remove=True)
        assert _memory(engine.pid) - before < 32 << 20
    container.remove(force=True)


def _memory(pid: int) -> int:
    """Resident bytes of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096
