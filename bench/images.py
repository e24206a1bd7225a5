"""What is measured of images on the move: pull, push, save and load, through a registry on loopback.

But for one of them, engines keep their data on a tmpfs and start empty each time: on a disk the figure is the file
system's mood (ext4 searches long for inodes that were not deleted lately)."""

import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.measures import Row
from bench.registry import (
    ADDRESS,
    Layer,
    Store,
    make_blocks,
    make_layer,
    make_small_files,
    put_image,
    serving,
)
from bench.sides import Cais, Dockerd, Side

ROOT, BLOCKS, SMALL, GROWN, HUGE = "root", "blocks", "small", "grown", "huge"
SMALL_FILES = 50_000
GROWN_FILES = 500
PARTS = ("etc", "usr/lib", "usr/share", "var/lib/dpkg")


class Images:
    """The images that are moved, in a registry's folder of this run."""

    def __init__(self, base: Path, rival: Dockerd) -> None:
        self.program = rival.rivals / "root" / "usr" / "bin" / "docker-registry"
        self.data = base / "registry"
        self.layers: dict[str, list[Layer]] = {}
        self._base, self._rivals = base, rival.rivals

    def have(self, name: str) -> None:
        """Make the image once."""
        if name in self.layers:
            return
        if name.startswith(GROWN):
            self.have(ROOT)
        self.layers[name] = self._make(name)
        with serving(self.program, self.data, 0):
            put_image(Store(ADDRESS), name, self.layers[name])

    def _make(self, name: str) -> list[Layer]:
        tar = self._base / f"{name}.tar"
        if name == ROOT:
            parts = [part for part in PARTS if (self._rivals / "root" / part).exists()]
            subprocess.run(["tar", "-C", str(self._rivals / "root"), "-cf", str(tar), *parts], check=True)
            return [make_layer(tar)]
        if name == SMALL:
            return [make_small_files(tar, SMALL_FILES)]
        if name.startswith(GROWN):
            seed = 100 + int(name.removeprefix(GROWN))
            return [*self.layers[ROOT], make_small_files(tar, GROWN_FILES, seed)]
        count, size = (8, 30 << 20) if name == BLOCKS else (8, 256 << 20)
        return [make_blocks(self._base / f"{name}{n}.tar", size, n) for n in range(count)]

    def at(self, side: Side) -> AbstractContextManager[None]:
        """The registry, for ``side``."""
        return serving(self.program, self.data, side.pid)


def reference(name: str) -> str:
    """What an image is called."""
    return f"{ADDRESS}/{name}:1"


def pull(images: Images, side: Side, name: str) -> float:
    """Seconds of `docker pull` into an empty engine."""
    side.renew()
    with images.at(side):
        return side.timed("pull", reference(name))


def pull_by_hand(images: Images, side: Side, name: str) -> float:
    """Seconds of curl, gzip and tar in a pipe, to a tmpfs."""
    layer = images.layers[name][0]
    url = f"http://{ADDRESS}/v2/{name}/blobs/{layer.digest}"
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="cais-bench-") as target, images.at(side):
        script = f"curl -sf {url} | gzip -d | tar -xf - -C {target} --numeric-owner --same-owner"
        start = time.perf_counter()
        subprocess.run(
            ["nsenter", f"--net=/proc/{side.pid}/ns/net", "bash", "-o", "pipefail", "-c", script],
            check=True,
        )
        return time.perf_counter() - start


def rounds(runs: int, *acts: Callable[[], float]) -> list[float]:
    """The medians of acts in turn; these take seconds each, so a tenth of the rounds will do."""
    found: list[list[float]] = [[] for _ in acts]
    for _ in range(max(3, runs // 10)):
        for act, times in zip(acts, found, strict=True):
            times.append(act())
    return [statistics.median(times) for times in found]


def pull_root(images: Images, cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """A Debian root in one layer."""
    images.have(ROOT)
    ours, theirs, pipe = rounds(
        runs,
        lambda: pull(images, cais, ROOT),
        lambda: pull(images, rival, ROOT),
        lambda: pull_by_hand(images, cais, ROOT),
    )
    size = images.layers[ROOT][0].size >> 20
    return [
        Row(f"pull of a Debian root (one layer, {size} MiB gzip)", ours, theirs, "s", 0.35, 0.2),
        Row("same / curl, gzip -d and tar xf in a pipe", ours, pipe, "s", 1.5, 1.0),
    ]


def pull_blocks(images: Images, cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """Eight layers."""
    images.have(BLOCKS)
    ours, theirs = rounds(runs, lambda: pull(images, cais, BLOCKS), lambda: pull(images, rival, BLOCKS))
    return [Row("pull of 8 layers of 30 MB", ours, theirs, "s", 0.35, 0.2)]


def pull_small(images: Images, cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """Many files."""
    images.have(SMALL)
    ours, theirs = rounds(runs, lambda: pull(images, cais, SMALL), lambda: pull(images, rival, SMALL))
    files = SMALL_FILES
    return [Row("layer of 50,000 small files", files / ours, files / theirs, "files/s", 1, 2, more=True)]


def pull_grown(images: Images, cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """One small layer is new, as the last step of a build leaves it, each time another. On the disk that the engines
    started on: nothing is removed meanwhile, and what one does to have a layer safe there must not be spared."""
    names = [f"{GROWN}{number}" for number in range(max(10, runs // 3))]
    for name in names:
        images.have(name)
    found: dict[str, list[float]] = {cais.name: [], rival.name: []}
    with images.at(cais), images.at(rival):
        for side in (cais, rival):
            side.docker("pull", reference(ROOT))
        for name in names:
            for side in (cais, rival):
                found[side.name].append(side.timed("pull", reference(name)) * 1e3)
    ours, theirs = (statistics.median(found[side.name]) for side in (cais, rival))
    return [Row(f"pull with one small new layer ({GROWN_FILES} files)", ours, theirs, "ms", 0.4, 0.2)]


@contextmanager
def empty_registry(images: Images, side: Side) -> Iterator[None]:
    """One without any blob."""
    memory = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="cais-bench-")
    with memory as folder, serving(images.program, Path(folder), side.pid):
        yield


def push(images: Images, cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """A Debian root into an empty registry, from an engine that has loaded it from a registry before."""
    images.have(ROOT)

    def once(side: Side) -> float:
        pull(images, side, ROOT)
        with empty_registry(images, side):
            return side.timed("push", reference(ROOT))

    def podman() -> float:
        storage = rival.rivals / "root" / "var" / "lib" / "podman-bench"
        words = [rival.tool, "sh", str(rival.rivals), "podman", "--root", "/var/lib/podman-bench"]
        enter = ["nsenter", f"--net=/proc/{rival.pid}/ns/net", *words]
        plain = ("--tls-verify=false", reference(ROOT))
        try:
            with images.at(rival):
                subprocess.run([*enter, "pull", "-q", *plain], check=True, capture_output=True)
            with empty_registry(images, rival):
                start = time.perf_counter()
                subprocess.run([*enter, "push", "-q", *plain], check=True, capture_output=True)
                return time.perf_counter() - start
        finally:
            shutil.rmtree(storage, ignore_errors=True)

    ours, theirs, pods = rounds(runs, lambda: once(cais), lambda: once(rival), podman)
    return [
        Row("push of the Debian root, blobs cold", ours, theirs, "s", 0.6, 0.4),
        Row("same / podman", ours, pods, "s", 0.6, 0.4),
    ]


def save_and_load(images: Images, cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """`docker save` into a file on a tmpfs, and what dockerd saved into empty engines."""
    images.have(ROOT)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="cais-bench-") as folder:

        def save(side: Side) -> float:
            pull(images, side, ROOT)
            return side.timed("save", "-o", f"{folder}/{side.name}.tar", reference(ROOT))

        saved, rival_saved = rounds(runs, lambda: save(cais), lambda: save(rival))

        def load(side: Side) -> float:
            side.renew()
            return side.timed("load", "-i", f"{folder}/{rival.name}.tar")

        loaded, rival_loaded = rounds(runs, lambda: load(cais), lambda: load(rival))
    return [
        Row("docker save of the Debian root", saved, rival_saved, "s", 0.7, 0.4),
        Row("docker load of what dockerd saved", loaded, rival_loaded, "s", 0.3, 0.15),
    ]


def memory(images: Images, cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """The most memory that the engine's processes have while 2 GB arrive."""
    images.have(HUGE)
    cais.renew()
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.1):
            most = max(most, cais.pss())

    watcher = threading.Thread(target=watch)
    with images.at(cais):
        watcher.start()
        try:
            cais.docker("pull", reference(HUGE), timeout=600)
        finally:
            done.set()
            watcher.join()
    size = sum(layer.size for layer in images.layers[HUGE])
    return [Row(f"engine memory while pulling {size / 1e9:.1f} GB, most PSS", most / 1e6, 0, "MB", 150, 100)]


Measure = Callable[[Images, Cais, Dockerd, int], list[Row]]
MEASURES: dict[str, Measure] = {
    "grown": pull_grown,  # first: later ones move the engines to a tmpfs
    "pull": pull_root,
    "blocks": pull_blocks,
    "small": pull_small,
    "push": push,
    "save": save_and_load,
    "pulling": memory,
}
