"""kill -9 of engine and keeper while everything is going on: nothing dies, nothing is lost, nothing is left."""

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.raw import Refused, call

pytestmark = pytest.mark.slow
KILLS = 100
GONE = (OSError, http.client.HTTPException, Refused, json.JSONDecodeError)
STORM = (
    "i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); [ $((i % 200)) -ne 0 ] || usleep 20000; done"
)
LiveEngine = Any
Wait = Callable[[Callable[[], object]], None]


class Traffic(threading.Thread):
    """A client that creates, starts, executes, stops and removes without end, whatever happens to the engine. A start
    that was answered is a promise: the exit code must arrive, now or from a later engine."""

    def __init__(self, engine: LiveEngine, number: int) -> None:
        super().__init__(name=f"traffic{number}")
        self.engine = engine
        self.number = number
        self.random = random.Random(number)
        self.promised: dict[str, int] = {}
        self.seen: set[str] = set()
        self.kept = 0
        self.broken: list[str] = []
        self.over = threading.Event()
        self.moment = threading.Event()  # never set: a pause between two looks

    def run(self) -> None:
        """Go round until ``over``, then settle what is open."""
        turn = 0
        while not self.over.is_set():
            turn += 1
            try:
                self.turn(turn)
            except GONE:
                self.moment.wait(0.02)
            self.settle(open_ones=6)
        self.settle(open_ones=0)

    def turn(self, turn: int) -> None:
        """One container's life; every step may be the last thing this engine hears."""
        code = self.random.randrange(1, 120)
        name = f"t{self.number}-{turn}"
        script = f"trap 'exit {code}' TERM; n=0; while [ $n -lt 3 ]; do usleep 20000; n=$((n+1)); done; exit {code}"
        path = self.engine.socket
        call(
            path, "POST", f"/containers/create?name={name}", {"Image": "busybox", "Cmd": ["sh", "-c", script]}
        )
        call(path, "POST", f"/containers/{name}/start")
        self.promised[name] = code
        if turn % 3 == 0:
            id = call(path, "POST", f"/containers/{name}/exec", {"Cmd": ["echo", "hello"]})["Id"]
            call(path, "POST", f"/exec/{id}/start", {"Detach": True})
        if turn % 4 == 0:
            call(path, "POST", f"/containers/{name}/stop?t=5")

    def settle(self, open_ones: int) -> None:
        """Hold the engine to its oldest promises until ``open_ones`` are left, through any number of engines."""
        while len(self.promised) > open_ones:
            name, code = next(iter(self.promised.items()))
            try:
                if name not in self.seen and not self.look(name, code):
                    self.moment.wait(0.02)
                    continue
                call(self.engine.socket, "DELETE", f"/containers/{name}")
            except Refused as refusal:
                if "404" not in str(refusal):
                    continue
                if name not in self.seen:
                    self.broken.append(f"{name}: lost")
                # else the engine was killed between removing it and saying so
            except GONE:
                self.moment.wait(0.02)
                continue
            del self.promised[name]
            self.kept += 1

    def look(self, name: str, code: int) -> bool:
        """Compare the exit code, once the container has ended."""
        found = state(self.engine, name)
        if found["Running"]:
            return False
        self.seen.add(name)
        if found["ExitCode"] != code:
            self.broken.append(f"{name}: {found['ExitCode']} instead of {code}")
        return True


@pytest.fixture
def traffic(own_engine: LiveEngine) -> Iterator[list[Traffic]]:
    """Three clients at work."""
    clients = [Traffic(own_engine, number) for number in range(3)]
    for client in clients:
        client.start()
    yield clients
    for client in clients:
        client.over.set()
        client.join()


def restart(engine: LiveEngine) -> None:
    """kill -9 and a new engine."""
    engine.stop(signal.SIGKILL)
    engine.start()


def logged(engine: LiveEngine, id: str) -> list[str]:
    """The text of the json-file log."""
    path = Path(engine.folder) / "root" / "containers" / id / f"{id}-json.log"
    return [json.loads(line)["log"].strip() for line in path.read_bytes().splitlines()]


def state(engine: LiveEngine, name: str) -> dict[str, Any]:
    """The State of one container."""
    found: dict[str, Any] = call(engine.socket, "GET", f"/containers/{name}/json")["State"]
    return found


def run(engine: LiveEngine, name: str, *command: str, **host: Any) -> str:
    """A started container; its id."""
    body = {"Image": "busybox", "Cmd": command, "HostConfig": host}
    id: str = call(engine.socket, "POST", f"/containers/create?name={name}", body)["Id"]
    call(engine.socket, "POST", f"/containers/{id}/start")
    return id


def test_a_hundred_kills_of_the_engine(own_engine: LiveEngine, traffic: list[Traffic], wait: Wait) -> None:
    """No container dies, no log byte is lost or doubled, every exit code arrives, the list is exact."""
    calm = run(own_engine, "calm", "sleep", "100000")
    storm = run(own_engine, "storm", "sh", "-c", STORM)
    pid = state(own_engine, "calm")["Pid"]
    chance = random.Random(7)
    pause = threading.Event()
    for _ in range(KILLS):
        pause.wait(chance.uniform(0, 0.4))
        restart(own_engine)
        assert state(own_engine, "calm")["Pid"] == pid
    for client in traffic:
        client.over.set()
        client.join()
        assert not client.broken
    assert sum(client.kept for client in traffic) > KILLS, "the traffic hardly came to do anything"
    wait(lambda: not state(own_engine, "storm")["Running"])
    assert logged(own_engine, storm) == [f"line {n}" for n in range(60000)]
    listed = call(own_engine.socket, "GET", "/containers/json")
    assert [each["Id"] for each in listed] == [calm] and tasks_in(own_engine) == {calm}


def tasks_in(engine: LiveEngine) -> set[str]:
    """Ids of the cgroups that have processes: what the kernel says is running."""
    base = Path("/sys/fs/cgroup")
    found = set()
    for path in (
        *base.glob(f"{engine.cgroup}/*/cgroup.procs"),
        *base.glob(f"*/{engine.cgroup}/*/cgroup.procs"),
    ):
        with contextlib.suppress(OSError):  # it may end while we look
            if path.read_text().strip():
                found.add(path.parent.name)
    return found


def test_kills_of_the_keeper_are_noticed_by_nobody(own_engine: LiveEngine, wait: Wait) -> None:
    """Containers write on without SIGPIPE, and their exit codes arrive, through several keepers."""
    writer = "trap 'exit 33' TERM; while true; do echo tick || exit 99; usleep 5000; done"
    id = run(own_engine, "writer", "sh", "-c", writer)
    for _ in range(5):
        old = keeper_of(own_engine)
        os.kill(old, signal.SIGKILL)
        wait(lambda old=old: keeper_of(own_engine) not in (0, old))  # type: ignore[misc]
        before = len(logged(own_engine, id))
        wait(lambda before=before: len(logged(own_engine, id)) > before)  # type: ignore[misc]
    call(own_engine.socket, "POST", f"/containers/{id}/stop?t=10")
    assert state(own_engine, id)["ExitCode"] == 33


def keeper_of(engine: LiveEngine) -> int:
    """The keeper's pid, 0 while there is none."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if b"cais.runtime.main" in line and f"{engine.folder}/run".encode() in line:
                    return int(entry.name)
    return 0


def test_after_removing_everything_nothing_is_left(own_engine: LiveEngine, wait: Wait) -> None:
    """Mounts, links, cgroups, processes, descriptors and disk are as before, and the engine's own check says so."""
    before = surroundings(own_engine)
    ports = {"80/tcp": [{}], "53/udp": [{}]}
    for number in range(12):
        binds = [f"named{number}:/data"]
        id = run(
            own_engine, f"box{number}", "sleep", "1000", PortBindings=ports, Memory=64 << 20, Binds=binds
        )
        body = {"Cmd": ["dd", "if=/dev/zero", "of=/file", "bs=1M", "count=2"]}
        exec_id = call(own_engine.socket, "POST", f"/containers/{id}/exec", body)["Id"]
        call(own_engine.socket, "POST", f"/exec/{exec_id}/start", {"Detach": True})
        if number % 3 == 0:
            restart(own_engine)
    for number in range(12):
        call(own_engine.socket, "DELETE", f"/containers/box{number}?force=1")
        call(own_engine.socket, "DELETE", f"/volumes/named{number}")
    wait(lambda: surroundings(own_engine) == before)
    assert check(own_engine)["Leaks"] == {}


def check(engine: LiveEngine) -> dict[str, Any]:
    """The engine's own check."""
    answer: dict[str, Any] = call(engine.socket, "GET", "/cais/system/check")
    return answer


def surroundings(engine: LiveEngine) -> dict[str, Any]:
    """What containers could leave behind, outside of the engine's own word."""
    links = subprocess.run(
        ["nsenter", f"--net=/proc/{engine.netns.pid}/ns/net", "ip", "-br", "link"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    root = Path(engine.folder) / "root"
    return {
        "mounts": Path("/proc/self/mountinfo").read_text().count("\n"),
        "links": sum(line.startswith("veth") for line in links.splitlines()),
        "tasks": tasks_in(engine),
        "folders": sorted(os.listdir(root / "containers"))
        + sorted(os.listdir(root / "trash"))
        + sorted(os.listdir(root / "volumes")),
        "keeper": len(os.listdir(f"/proc/{keeper_of(engine)}/fd")),
    }


def test_engine_and_keeper_killed_at_once(own_engine: LiveEngine, wait: Wait) -> None:
    """Nobody is left to read what a container writes: the next engine ends it, says so, and can start it again."""
    id = run(own_engine, "orphan", "sleep", "100000", PortBindings={"80/tcp": [{"HostPort": "8081"}]})
    os.kill(own_engine.pid, signal.SIGSTOP)  # or it would replace the keeper before it dies itself
    os.kill(keeper_of(own_engine), signal.SIGKILL)
    restart(own_engine)
    assert tasks_in(own_engine) == set()
    found = state(own_engine, id)
    assert (found["Status"], found["ExitCode"]) == ("exited", 137)
    call(own_engine.socket, "POST", f"/containers/{id}/start")
    assert tasks_in(own_engine) == {id} and check(own_engine)["Leaks"] == {}
