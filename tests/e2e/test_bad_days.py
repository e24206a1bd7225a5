"""Bad days of a real engine: a full disk, kill -9 in the middle of a pull, bombs, damage in the store."""

import asyncio
import contextlib
import http.client
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from harness.engines import until
from harness.live import LiveEngine, load_busybox
from harness.raw import Refused, call
from harness.registry import Fault, Proxy, Registry, running_registry, sha256, start_proxy

OCI = "application/vnd.oci.image."
SOURCES = Path(__file__).parents[2] / "src"
BLOBS = "GET .*/blobs/"
KILLS = int(os.environ.get("CAIS_TEST_KILLS", "12"))
Start = Callable[..., AbstractContextManager[LiveEngine]]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on the tests' own loopback."""
    with running_registry(tmp_path_factory.mktemp("registry") / "r") as registry:
        yield registry


@contextlib.asynccontextmanager
async def proxied(registry: Registry, engine: LiveEngine) -> AsyncIterator[Proxy]:
    """The registry as the engine sees it: behind a proxy on the engine's loopback."""
    async with AsyncExitStack() as stack:
        yield await start_proxy(registry.address, stack.push_async_callback, netns=engine.netns.pid)


def make_tar(*files: tuple[str, bytes]) -> bytes:
    """A layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that no codec makes smaller."""
    return random.Random(seed).randbytes(size)


def push(registry: Registry, repository: str, *layers: bytes) -> dict[str, bytes]:
    """An image under ``:1``; its blobs by digest."""
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [*map(sha256, layers)]}}
    data = json.dumps(config).encode()
    kind = OCI + "layer.v1.tar"
    described = [{"mediaType": kind, "digest": sha256(each), "size": len(each)} for each in layers]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": {"mediaType": OCI + "config.v1+json", "digest": sha256(data), "size": len(data)},
        "layers": described,
    }
    for blob in (*layers, data):
        registry.put_blob(repository, blob)
    manifest = json.dumps(document).encode()
    registry.put_manifest(repository, "1", manifest)
    return {sha256(blob): blob for blob in (*layers, data, manifest)}


def cais(engine: LiveEngine, *words: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """Our own command line."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "CAIS_HOST": f"unix://{engine.socket}"}
    command = [sys.executable, "-m", "cais", *words]
    return subprocess.run(command, capture_output=True, input=stdin, env=environment, timeout=60)


def names(engine: LiveEngine) -> list[str]:
    """All images."""
    return sorted(tag for image in call(engine.socket, "GET", "/images/json") for tag in image["RepoTags"])


def damage(engine: LiveEngine) -> list[dict[str, Any]]:
    """What the engine's deep check finds."""
    answer = call(engine.socket, "GET", "/cais/system/check?content=1&deep=1")
    assert answer["Leaks"] == {}
    found: list[dict[str, Any]] = answer["Damage"]
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """A file that takes all but ``leave`` bytes of the disk."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 << 10))
    os.truncate(ballast, max(0, ballast.stat().st_size - leave))
    return ballast


async def test_a_full_disk(start_engine: Start, registry: Registry, small_disk: Path, tmp_path: Path) -> None:
    """Load, pull, import, commit and create fail, say that the disk is full and which, and leave nothing; when there is
    room again, each works."""
    push(registry, "full/x", make_tar(("bin/one", noise(5 << 20))))
    with start_engine("--root", str(small_disk / "root")) as engine:
        load_busybox(engine, tmp_path)
        box = cais(
            engine, "run", "-d", "busybox", "sh", "-c", "head -c 3000000 /dev/urandom > /f; sleep 1000"
        )
        id = box.stdout.decode().strip()
        await asyncio.to_thread(cais, engine, "exec", id, "sh", "-c", "while [ ! -s /f ]; do :; done; sync")
        archive = cais(engine, "save", "busybox").stdout
        async with proxied(registry, engine) as proxy:
            acts: list[tuple[bytes, tuple[str, ...]]] = [
                (make_tar(("big", noise(6 << 20))), ("import", "-", "imported:1")),
                (archive_of("loaded:1", noise(6 << 20)), ("load",)),
                (b"", ("pull", f"{proxy.address}/full/x:1")),
                (b"", ("commit", id, "committed:1")),
            ]
            before = names(engine)
            ballast = fill(small_disk, leave=2 << 20)
            for stdin, words in acts:
                run = await asyncio.to_thread(cais, engine, *words, stdin=stdin)
                text = run.stderr.decode() + run.stdout.decode()
                assert run.returncode == 1 and "no space left on device: " in text, (words, text)
                assert names(engine) == before and await wait_for_health(engine), words
            fill(small_disk)
            run = await asyncio.to_thread(cais, engine, "create", "--name", "none", "busybox")
            assert run.returncode != 0 and b"no space left on device" in run.stderr, run.stderr
            ballast.unlink()
            for stdin, words in acts:
                run = await asyncio.to_thread(cais, engine, *words, stdin=stdin)
                assert run.returncode == 0, (words, run.stderr)
                assert cais(engine, "create", "--name", "some", "busybox").returncode == 0
                cais(engine, "rm", "some")
                added = sorted(set(names(engine)) - set(before))
                assert len(added) == 1, words
                cais(engine, "rmi", "-f", *added)
        assert archive and await wait_for_health(engine)


def archive_of(name: str, data: bytes) -> bytes:
    """A docker-archive of one image with one layer."""
    layer = make_tar(("big", data))
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [sha256(layer)]}}
    ).encode()
    manifest = json.dumps([{"Config": "c.json", "RepoTags": [name], "Layers": ["l.tar"]}]).encode()
    return make_tar(("l.tar", layer), ("c.json", config), ("manifest.json", manifest))


async def wait_for_health(engine: LiveEngine) -> bool:
    """Nothing is damaged or left over; a worker that was ended may still clear up."""
    await until(lambda: damage(engine) == [], 10.0)
    return True


async def test_a_killed_engine_goes_on_pulling(start_engine: Start, registry: Registry) -> None:
    """kill -9 in the middle of a slow pull, start, pull: the registry sends less than 1.2 times the image."""
    layers = [make_tar((f"bin/{number}", noise(6 << 20, number))) for number in (1, 2)]
    size = sum(map(len, layers))
    push(registry, "resume/x", *layers)
    with start_engine() as engine:
        async with proxied(registry, engine) as proxy:
            name = f"{proxy.address}/resume/x:1"
            proxy.faults = [Fault(sha256(layers[1]), rate=6 << 20)]
            pulling = asyncio.create_task(asyncio.to_thread(cais, engine, "pull", name))
            partial = engine.folder / "root/content/ingest" / sha256(layers[1]).replace(":", "-")
            await until(lambda: partial.exists() and partial.stat().st_size > 3 << 20, 20.0)
            engine.stop(signal.SIGKILL)
            assert (await pulling).returncode != 0
            await asyncio.to_thread(engine.start)
            assert names(engine) == [] and damage(engine) == []
            accounts = call(engine.socket, "GET", "/system/df?accounts=1")
            assert "partial" in json.dumps(accounts)
            run = await asyncio.to_thread(cais, engine, "pull", "-q", name)
            assert run.returncode == 0, run.stderr
            assert proxy.sent < 1.2 * size
            assert names(engine) == [name] and damage(engine) == [] and not partial.exists()


def kill_within(engine: LiveEngine, seconds: float, *words: str) -> None:
    """Kill the engine that long after a command was given to it, and start another."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "CAIS_HOST": f"unix://{engine.socket}"}
    command = [sys.executable, "-m", "cais", *words]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        engine.stop(signal.SIGKILL)
    engine.start()


def is_nothing_or_whole(registry: Registry, repository: str, tag: str) -> bool:
    """Whether the registry has no such tag, or all that it leads to."""
    connection = http.client.HTTPConnection(registry.address, timeout=10)
    with contextlib.closing(connection):
        accept = {"Accept": f"{OCI}manifest.v1+json"}
        connection.request("GET", f"/v2/{repository}/manifests/{tag}", headers=accept)
        with connection.getresponse() as response:
            data = response.read()
            if response.status == 404:
                return True
        manifest = json.loads(data)
        for blob in (manifest["config"], *manifest["layers"]):
            connection.request("HEAD", f"/v2/{repository}/blobs/{blob['digest']}")
            with connection.getresponse() as response:
                response.read()
                if response.status != 200:
                    return False
    return True


@pytest.mark.slow
async def test_kills_in_commits_pushes_and_prunes(
    start_engine: Start, registry: Registry, tmp_path: Path
) -> None:
    """kill -9 at random moments: the store has no damage, no tag of the registry lacks a blob, and the container that
    was being committed runs on, not frozen."""
    luck = random.Random(4)
    with start_engine() as engine:
        await asyncio.to_thread(load_busybox, engine, tmp_path)
        async with proxied(registry, engine) as proxy:
            write = "head -c 8000000 /dev/urandom >/noise; exec sleep 1000"
            run = await asyncio.to_thread(
                cais, engine, "run", "-d", "--name", "box", "busybox", "sh", "-c", write
            )
            assert run.returncode == 0, run.stderr
            assert cais(engine, "commit", "box", "kept").returncode == 0
            for number in range(KILLS):
                name = f"{proxy.address}/kills/x:{number}"
                assert cais(engine, "tag", "kept", name).returncode == 0
                acts = (("commit", "box", f"made:{number}"), ("push", name), ("image", "prune", "-af"))
                seconds = luck.uniform(0.05, 0.6)
                await asyncio.to_thread(kill_within, engine, seconds, *acts[number % len(acts)])
                await until(lambda: damage(engine) == [], 20.0)
                state = call(engine.socket, "GET", "/containers/box/json")["State"]
                assert (state["Running"], state["Paused"]) == (True, False)
                assert await asyncio.to_thread(is_nothing_or_whole, registry, "kills/x", str(number))
                if "kept:latest" not in names(engine):  # pruned, as it was to be
                    assert cais(engine, "commit", "box", "kept").returncode == 0
            run = await asyncio.to_thread(cais, engine, "run", "--rm", "kept", "sh", "-c", "wc -c </noise")
            assert run.stdout.strip() == b"8000000", run.stderr


async def test_layers_that_are_too_much_are_refused(start_engine: Start, registry: Registry) -> None:
    """By the limits that the administrator sets, with the limit in the message; nothing of them stays."""
    push(registry, "bomb/bytes", make_tar(("zeros", bytes(3 << 20))))
    push(registry, "bomb/files", make_tar(*((f"f{number}", b"") for number in range(600))))
    with start_engine("--layer-max-size", "2m", "--layer-max-files", "500") as engine:
        async with proxied(registry, engine) as proxy:
            for name, words in (("bytes", "larger than 2097152 bytes"), ("files", "more than 500 entries")):
                run = await asyncio.to_thread(cais, engine, "pull", f"{proxy.address}/bomb/{name}:1")
                assert run.returncode == 1 and words in run.stderr.decode(), run.stderr
        assert names(engine) == [] and await wait_for_health(engine)


def test_a_second_engine_is_refused(own_engine: LiveEngine) -> None:
    """On the same root folder it says why and ends; the first one does not notice."""
    command = [
        *own_engine.command(),
        "--run",
        f"{own_engine.folder}/run2",
        "-H",
        f"unix://{own_engine.folder}/second",
    ]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30)
    assert run.returncode != 0 and f"{own_engine.folder}/root" in run.stderr, run.stderr
    assert names(own_engine) == ["busybox:latest"]


async def test_check_and_repair(start_engine: Start, registry: Registry, tmp_path: Path) -> None:
    """A flipped bit, a missing blob, an altered layer, a forgotten folder: each is named and mended, but for the layer
    that a container runs on; the exit code says whether all is well."""
    with start_engine() as engine:
        load_busybox(engine, tmp_path)
        layers = [make_tar(("etc/name", b"low")), make_tar(("etc/other", b"high"))]
        blobs = push(registry, "check/x", *layers)
        root = engine.folder / "root"
        async with proxied(registry, engine) as proxy:
            name = f"{proxy.address}/check/x:1"
            assert (await asyncio.to_thread(cais, engine, "pull", name)).returncode == 0
            assert cais(engine, "system", "check").stdout == b"nothing is left behind, nothing is damaged\n"
            store = root / "content/blobs/sha256"
            flipped = store / sha256(layers[0])[7:]
            flipped.write_bytes(flipped.read_bytes()[:-1] + b"x")
            missing = store / sha256(layers[1])[7:]
            missing.unlink()
            altered = root / "layers" / sha256(layers[1]).replace(":", "-") / "fs/etc/other"
            altered.write_bytes(b"hijk")
            forgotten = root / "containers" / ("0" * 64)
            forgotten.mkdir()
            cais(engine, "run", "-d", "--name", "box", "busybox", "sleep", "1000")
            (lower,) = (Path(path) for path in root.glob("layers/*/fs/bin/busybox"))
            lower.chmod(0o700)
            run = cais(engine, "system", "check")
            text = run.stdout.decode()
            assert run.returncode == 1
            for line in (
                f"snapshots: {forgotten.name}",
                f"blob {sha256(layers[0])} (of {name}) is damaged",
                f"blob {sha256(layers[1])} (of {name}) is missing",
                f"layer {sha256(layers[1])} (of {name}) /etc/other was changed or removed since it was unpacked",
                "/bin/busybox has mode 700, want 755",
            ):
                assert line in text, text
            run = await asyncio.to_thread(cais, engine, "system", "check", "--repair")
            text = run.stdout.decode()
            assert run.returncode == 1 and text.count(f": fetched again from {proxy.address}\n") == 2, text
            assert (
                ": unpacked again from its blob\n" in text
                and f"{forgotten} is no container's: removed\n" in text
            )
            assert "not repaired: box runs on it, stop it first\n" in text and "5 damaged, 4 repaired" in text
            cais(engine, "rm", "-f", "box")
            run = await asyncio.to_thread(cais, engine, "system", "check", "--repair", "--deep")
            assert run.returncode == 0 and lower.stat().st_mode & 0o7777 == 0o755, run.stdout
            assert {path.name for path in store.iterdir()} >= {digest[7:] for digest in blobs}
            assert altered.read_bytes() == b"high" and not forgotten.exists() and damage(engine) == []


async def test_all_platforms(start_engine: Start, registry: Registry) -> None:
    """``cais pull --all-platforms`` brings what ``docker pull`` leaves behind, and saves as it came."""
    children = []
    for number, machine in enumerate(("amd64", "s390x")):
        push(registry, "all/x", make_tar((f"bin/{machine}", noise(1000, number))))
        data = push(registry, "all/x", make_tar((f"bin/{machine}", noise(1000, number))))
        (manifest,) = [blob for blob in data.values() if b'"schemaVersion"' in blob]
        platform = {"os": "linux", "architecture": machine}
        kind = OCI + "manifest.v1+json"
        children.append(
            {"mediaType": kind, "digest": sha256(manifest), "size": len(manifest), "platform": platform}
        )
    index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": children}
    registry.put_manifest("all/x", "many", json.dumps(index).encode())
    with start_engine() as engine:
        async with proxied(registry, engine) as proxy:
            run = await asyncio.to_thread(
                cais, engine, "pull", "--all-platforms", f"{proxy.address}/all/x:many"
            )
            assert run.returncode == 0, run.stderr
        blobs = {path.name for path in (engine.folder / "root/content/blobs/sha256").iterdir()}
        assert len(blobs) == 7 and damage(engine) == []
        with tarfile.open(
            fileobj=io.BytesIO(cais(engine, "save", f"{proxy.address}/all/x:many").stdout)
        ) as tar:
            saved = {Path(name).name for name in tar.getnames()}
        assert blobs <= saved


def test_refusals_are_told(own_engine: LiveEngine) -> None:
    """A limit that makes no sense ends the engine before it has begun."""
    command = [*own_engine.command(), "--layer-max-files", "0"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30)
    assert run.returncode != 0 and "must be above zero" in run.stderr
    with pytest.raises(Refused):
        call(own_engine.socket, "POST", "/cais/system/repairs")
