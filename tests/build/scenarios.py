"""Builds on a real engine inside this process, for what no door of the tests' own can ask for: agents, rights, limits.

``python scenarios.py NAME FOLDER``, in a network and mount namespace of its own; exit status 0 if all is as it should
be.
"""

import asyncio
import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from cais.build.builder import Builder
from cais.build.guard import StepLimits
from cais.build.request import BuildRequest, HeldSecrets, StepOutput
from cais.build.vault import MEMORY, Vault
from cais.config import Config
from cais.daemon.engine import Engine
from cais.errors import CaisError
from cais.spec.container import HostConfig

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
MARK = b"hidden-word"


class Bench:
    """One engine, and what its builds said."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.folder = folder
        self.builder: Builder = engine.services.builder
        self.images = engine.services.images

    async def build(self, dockerfile: str, request: BuildRequest | None = None, **files: bytes) -> str:
        """What its steps wrote. Raises as a build does."""
        asked = replace(request or BuildRequest(), names=("docker.io/library/t:latest",))
        said = b""
        async for event in self.builder.build(asked, context({"Dockerfile": dockerfile.encode(), **files})):
            said += event.data if isinstance(event, StepOutput) else b""
        return said.decode("utf-8", "replace")

    async def fail(self, dockerfile: str, request: BuildRequest | None = None) -> str:
        """The message of a build that must fail."""
        try:
            said = await self.build(dockerfile, request)
        except CaisError as error:
            return str(error)
        raise AssertionError(f"it did not fail: {said}")

    async def digest(self) -> str:
        """Of the image that was built last."""
        return str((await self.images.resolve("t")).id)

    def limit(self, limits: StepLimits) -> None:
        """Steps from now on."""
        self.builder._runner._limits = limits


def call(*words: str | Path) -> str:
    """What a program says, whatever its exit status."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


async def context(files: dict[str, bytes]) -> AsyncIterator[bytes]:
    """A tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 1_600_000_000, 0o755
            tar.addfile(info, io.BytesIO(data))
    yield out.getvalue()


async def make_busybox(bench: Bench) -> None:
    """An image of the machine's static busybox."""
    program = shutil.which("busybox") or "/bin/busybox"
    names = call(program, "--list").split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in names:
            if name != "busybox":
                info = tarfile.TarInfo(f"bin/{name}")
                info.type, info.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(info)
    file = "FROM scratch\nCOPY busybox /bin/busybox\nADD links.tar /\nWORKDIR /tmp\nWORKDIR /\n"
    files = {"Dockerfile": file.encode(), "busybox": Path(program).read_bytes(), "links.tar": out.getvalue()}
    request = BuildRequest(names=("docker.io/library/busybox:latest",), args=EPOCH)
    async for _ in bench.builder.build(request, context(files)):
        pass


# Secrets and agents


class Agent:
    """An agent of the client's: it answers in capitals."""

    def __init__(self, names: tuple[str, ...] = ("default",)) -> None:
        self.names = names
        self.heard: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def has(self, id: str) -> bool:
        """Agents.has."""
        return id in self.names

    async def connect(self, id: str) -> socket.socket:
        """Agents.connect."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        task = asyncio.create_task(self._answer(theirs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return ours

    async def _answer(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection:
            while data := await loop.sock_recv(connection, 1 << 16):
                self.heard.append(data)
                await loop.sock_sendall(connection, data.upper())


TALK = """#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(void) {
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    char text[99];
    strncpy(place.sun_path, getenv("SSH_AUTH_SOCK"), sizeof place.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&place, sizeof place) || write(fd, "question", 8) != 8) {
        perror(place.sun_path);
        return 1;
    }
    ssize_t got = read(fd, text, sizeof text);
    return got <= 0 || printf("%.*s at %s\\n", (int)got, text, place.sun_path) < 0;
}
"""


async def agents(bench: Bench) -> None:
    """A program in a step talks to the client's agent, and nothing of it stays."""
    source = bench.folder / "talk.c"
    source.write_text(TALK)
    call("gcc", "-static", "-o", bench.folder / "talk", source)
    talk = (bench.folder / "talk").read_bytes()
    agent = Agent()
    file = "FROM busybox\nRUN --mount=type=ssh --mount=type=bind,target=/py /py/talk\n"
    said = await bench.build(file, BuildRequest(agents=agent), talk=talk)
    assert said == "QUESTION at /run/buildkit/ssh_agent.0\n", said
    as_user = (
        "FROM busybox\nUSER 7\nRUN --mount=type=ssh,uid=7,target=/a --mount=type=bind,target=/py /py/talk\n"
    )
    assert await bench.build(as_user, BuildRequest(agents=agent), talk=talk) == "QUESTION at /a\n"
    assert agent.heard == [b"question"] * 2
    # Nothing in a layer, and no other agent makes another key.
    image = await bench.images.resolve("t")
    assert len(image.diff_ids) == len((await bench.images.resolve("busybox")).diff_ids)
    assert await bench.build(file, BuildRequest(agents=Agent()), talk=talk) == ""
    refused = await bench.fail("FROM busybox\nRUN --mount=type=ssh,id=x,required true\n")
    assert "SSH agent x is not forwarded: build with --ssh x" in refused, refused


async def secrets(bench: Bench) -> None:
    """They are read, and are nowhere below the root folder afterwards, nor while the step runs."""
    request = BuildRequest(secrets=HeldSecrets({"word": MARK, "var": MARK[::-1]}))
    file = """FROM busybox
RUN --mount=type=secret,id=word --mount=type=secret,id=var,env=VAR \\
    rev /run/secrets/word && stat -c %a:%u /run/secrets/word && echo $VAR | rev
"""
    said = await bench.build(file, request)
    assert said == f"{MARK[::-1].decode()}400:0\n{MARK.decode()}\n", said
    prefix = Vault(bench.folder / "root/build/mounts").prefix
    assert not list(MEMORY.glob(f"{prefix}*"))
    found = call("grep", "-rlF", MARK.decode(), bench.folder / "root")
    assert not found, found
    refused = await bench.fail("FROM busybox\nRUN --mount=type=secret,id=x,required true\n")
    assert "secret x: not found: give it" in refused, refused


SEEDED = """FROM busybox AS seed
RUN mkdir /s && echo 1 > /s/n && touch -d @9 /s/n /s
FROM busybox
RUN --mount=type=cache,id=x,from=seed,source=/s,target=/c echo $(($(cat /c/n) + 1)) > /c/n; cat /c/n
RUN --mount=from=seed,source=/s,target=/b,rw echo 9 > /b/n && cat /b/n
RUN --mount=from=seed,source=/s,target=/b cat /b/n; ! touch /b/x 2>/dev/null
RUN --mount=type=tmpfs,target=/t,size=1m ! head -c 2000000 /dev/zero > /t/x 2>/dev/null && ls /c /b /t 2>&1 | grep -c x
"""
"""The seed has one date: one of another second would be another seed, with a cache of its own."""


async def mounts(bench: Bench) -> None:
    """A cache that begins with a stage's files and lives on; a bind that can be written to and forgets."""
    assert await bench.build(SEEDED) == "2\n9\n1\n1\n"
    assert await bench.build(SEEDED, BuildRequest(no_cache=True)) == "3\n9\n1\n1\n"
    # Of all that only the stage's own step is a layer, and that is not in the image.
    base = await bench.images.resolve("busybox")
    assert (await bench.images.resolve("t")).diff_ids == base.diff_ids
    other = SEEDED.replace("echo 1", "echo 7")
    assert (await bench.build(other)).startswith("8\n")


# Rights


async def rights(bench: Bench) -> None:
    """What --allow gives, and nothing without it."""
    look = "grep CapEff /proc/self/status; cat /proc/self/attr/current 2>/dev/null; grep Seccomp: /proc/self/status"
    plain = await bench.build(f"FROM busybox\nRUN {look}; ! mount -t tmpfs x /mnt\n")
    file = f"FROM busybox\nRUN --security=insecure {look}; mkdir /m && mount -t tmpfs x /m\n"
    refused = await bench.fail(file)
    assert "security.insecure is not allowed: build with --allow security.insecure" in refused, refused
    allowed = BuildRequest(entitlements=frozenset(("security.insecure", "network.host")))
    full = await bench.build(file, allowed)
    assert "00000000a80425fb" in plain and "Seccomp:\t2" in plain, plain
    assert "Seccomp:\t0" in full and plain != full, full
    links = "readlink /proc/self/ns/net; hostname"
    own = os.readlink("/proc/self/ns/net")
    assert own in await bench.build(f"FROM busybox\nRUN --network=host {links}\n", allowed)
    assert own not in await bench.build(f"FROM busybox\nRUN {links}\n", allowed)
    none = await bench.build("FROM busybox\nRUN --network=none ip -o link | wc -l\n", allowed)
    assert none == "1\n", none
    refused = await bench.fail("FROM busybox\nRUN --network=host true\n")
    assert "network.host is not allowed: build with --allow network.host" in refused, refused


async def hostile(bench: Bench) -> None:
    """Working folders and mounts that would lead out (CVE-2024-21626, CVE-2023-27561, CVE-2024-23652)."""
    mark = bench.folder / "mark"
    mark.write_text("outside")
    for number in range(3, 16):
        file = f"FROM busybox\nRUN cd /proc/self/fd/{number} && ls -a && cat {mark} ../../..{mark}\n"
        await bench.fail(file)
        message = await bench.fail(
            f"FROM busybox\nWORKDIR /proc/self/fd/{number}\nRUN ls -a; cat ../../..{mark}\n"
        )
        assert "outside" not in message, message
    for target in ("/proc", "/proc/self/x", "/proc/sys/kernel"):
        message = await bench.fail(f"FROM busybox\nRUN --mount=type=cache,target={target} true\n")
        assert "proc" in message, message
    links = f"FROM busybox\nRUN ln -s {bench.folder} /out && ln -s /proc/1/root /up\n"
    said = await bench.build(
        f"{links}RUN --mount=type=cache,target=/out/made touch /out/made/x; ls /out; exit 0\n"
    )
    assert said == "made\n" and not (bench.folder / "made").exists(), said
    assert mark.read_text() == "outside"


# Limits

BOMB = "FROM busybox\nRUN mkfifo /p; sh -c 'while :; do sleep 1000 & done' & read x <> /p\n"


async def processes(bench: Bench) -> None:
    """A step that forks for ever is stopped and named; the machine lives on, and so does the engine."""
    bench.limit(StepLimits(pids=100, patience=1.0, interval=0.05))
    message = await bench.fail(BOMB)
    assert "stopped: it kept 100 processes, the limit for a step, for 1 s" in message, message
    bench.limit(StepLimits(pids=100, interval=0.05))
    message = await bench.fail(
        "FROM busybox\nRUN (while :; do sleep 1000 & done); read -t 1 x </dev/zero; exit 3\n"
    )
    assert "its processes came up to 100, the limit for a step" in message, message
    assert await bench.build("FROM busybox\nRUN echo fine\n") == "fine\n"
    bench.limit(StepLimits())
    file = "FROM busybox\nRUN cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null || true\n"
    assert await bench.build(file, BuildRequest(host=HostConfig(pids_limit=50))) == "50\n"
    assert await bench.build(file, BuildRequest(no_cache=True)) == "4096\n"


async def memory(bench: Bench) -> None:
    """A step that takes more than its limit."""
    request = BuildRequest(host=HostConfig(memory=32 << 20, memory_swap=32 << 20))
    message = await bench.fail("FROM busybox\nRUN x=a; while :; do x=$x$x; done\n", request)
    assert "out of memory: the limit for a step is 32 MiB" in message, message


async def disk(bench: Bench) -> None:
    """A step that writes more than it may, in one file or many; files that were deleted do not count."""
    bench.limit(StepLimits(disk=40 << 20, interval=0.05, count_every=0.1))
    fill = "dd if=/dev/zero of=/big bs=1M count=60 2>/dev/null"
    message = await bench.fail(f"FROM busybox\nRUN {fill}; sleep 1000\n")
    assert "stopped: it wrote " in message and "the limit for a step is 40 MiB" in message, message
    many = "mkdir /d; i=0; while :; do dd if=/dev/zero of=/d/$i bs=64k count=16 2>/dev/null; i=$((i+1)); done"
    assert "the limit for a step is 40 MiB" in await bench.fail(f"FROM busybox\nRUN {many}\n")
    half = fill.replace("60", "30")
    file = f"FROM busybox\nRUN {half}; rm /big; sleep 0.3; {half}; rm /big; sleep 0.3; echo ok\n"
    assert await bench.build(file) == "ok\n"


async def full_disk(bench: Bench) -> None:
    """On a small disk: who fills it is named."""
    message = await bench.fail("FROM busybox\nRUN cat /dev/zero > /big; sleep 1000\n")
    assert "stopped: the disk is nearly full" in message, message


async def full_disk_noticed(bench: Bench) -> None:
    """The same if the program notices it first."""
    bench.limit(StepLimits(interval=60))
    message = await bench.fail("FROM busybox\nRUN cat /dev/zero > /big\n")
    assert "the disk is nearly full" in message and "stopped" not in message, message


async def flood(bench: Bench) -> None:
    """Endless output is clipped, and the step goes on."""
    said = await bench.build("FROM busybox\nRUN head -c 40000000 /dev/zero; echo done > /done\n")
    assert 15 << 20 < len(said) < 17 << 20 and "output clipped: more than" in said[-100:]


# The same again

DATED = """FROM busybox AS made
RUN mkdir -p /d/e && echo a > /d/e/f && ln -s f /d/e/l && ln /d/e/f /d/h && mkfifo /d/p
RUN rm -r /tmp && rm /d/p && touch /d/e/f && mkdir /tmp
COPY <<here /here
text
here
FROM busybox
WORKDIR /w
COPY --from=made /d /here /w/
COPY --link x /linked/
RUN <<sh
date > /dev/null; echo b >> /w/e/f; mkdir -p /usr/x; chmod 700 /w/e
sh
"""


async def dated(bench: Bench) -> None:
    """Prints the digest; with a date nothing depends on when and where."""
    await bench.build(DATED, BuildRequest(args=EPOCH), x=b"x")
    image = await bench.images.resolve("t")
    newest = 0
    for layer in image.manifest.layers:
        data = bench.builder.unpacker.content.path(layer.digest)
        with tarfile.open(data) as tar:
            newest = max(newest, *(int(entry.mtime) for entry in tar))
    assert newest == 1_700_000_000, newest
    sys.stdout.write(f"{image.id}\n")


# What is made again


async def linked(bench: Bench) -> None:
    """A linked layer is the same on every base, and the step behind it is not."""
    file = "FROM busybox{}\n{}COPY --link x /in/x\nRUN cat /in/x /mark > /seen; echo ran\n"
    mark = "RUN echo {} > /mark\n"
    layers = []
    for word in ("one", "two"):
        said = await bench.build(file.format("", mark.format(word)), x=b"x")
        assert said == "ran\n", said
        layers.append((await bench.images.resolve("t")).diff_ids[-2:])
    (first, then), (second, later) = layers
    assert first == second and then != later
    assert len([record for record in bench.builder.cache.usage() if record.title.startswith("--link")]) == 1
    assert await bench.build(file.format("", mark.format("one")), x=b"y") == "ran\n"
    assert (await bench.images.resolve("t")).diff_ids[-2] != first


async def fresh_stages(bench: Bench) -> None:
    """What is planned of stages that are to be made anew: they and what stands on them, nothing else."""
    file = "FROM busybox AS a\nRUN echo ran-a > /a; echo ran-a\nFROM busybox AS b\nRUN echo ran-b > /b; echo ran-b\n"
    file += "FROM a\nCOPY --from=b /b /\nRUN echo ran-c\n"
    await bench.build(file)
    assert await bench.build(file) == ""
    said = await bench.build(file, BuildRequest(no_cache_filter=frozenset(("A",))))
    assert said == "ran-a\nran-c\n", said


SCENARIOS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    each.__name__: each
    for each in (
        *(
            agents,
            secrets,
            mounts,
            rights,
            hostile,
            processes,
            memory,
            disk,
            full_disk,
            full_disk_noticed,
            flood,
            dated,
            linked,
            fresh_stages,
        ),
    )
}


async def main(name: str, folder: Path) -> None:
    """Start an engine, run the scenario, stop it."""
    root, run = folder / "root", folder / "run"
    for path in (root, run):
        path.mkdir(parents=True, exist_ok=True)
    config = Config(root=root, run=run, bridge="caistest1", cgroup_parent=f"cais-test-{os.getpid()}")
    engine = await Engine.start(config)
    try:
        bench = Bench(engine, folder)
        await make_busybox(bench)
        await SCENARIOS[name](bench)
        containers = [path.name for path in (root / "containers").iterdir()]
        assert not containers and not list((root / "build/tmp").iterdir()), containers
    finally:
        await engine.stop()
        base = Path("/sys/fs/cgroup")
        for group in (base / config.cgroup_parent, *base.glob(f"*/{config.cgroup_parent}")):
            with contextlib.suppress(OSError):
                group.rmdir()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
