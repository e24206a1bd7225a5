"""What is measured: each function takes the sides and returns rows of a report."""

import json
import statistics
import subprocess
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.http import Api
from bench.sides import CAIS, Cais, Dockerd, Side, wait_until

PLAIN = {"Image": "busybox", "Cmd": ["true"]}
PAUSE = 0.1
"""Seconds between two runs that are not in a row."""
SLEEPER = {"Image": "busybox", "Cmd": ["sleep", "100000"]}


@dataclass(frozen=True)
class Row:
    """One line: our figure, the rival's, their ratio, and the goals for it (``more``: higher is better)."""

    name: str
    ours: float
    rival: float
    unit: str
    must: float | None = None
    aim: float | None = None
    more: bool = False

    @property
    def ratio(self) -> float:
        """Ours over the rival's; our own figure where there is no rival."""
        return self.ours / self.rival if self.rival else self.ours


def interleave(runs: int, *acts: Callable[[], float]) -> list[list[float]]:
    """Each act in turn, ``runs`` times; a first round is thrown away."""
    results: list[list[float]] = [[] for _ in acts]
    for number in range(runs + 1):
        for act, found in zip(acts, results, strict=True):
            value = act()
            if number:
                found.append(value)
    return results


def median_ms(values: list[float]) -> float:
    """The median in milliseconds."""
    return statistics.median(values) * 1e3


def run_cli(cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """`docker run --rm busybox true`, and the same through `cais`."""

    def own() -> float:
        start = time.perf_counter()
        cais.command([str(CAIS), "run", "--rm", "busybox", "true"])
        return time.perf_counter() - start

    command = ("run", "--rm", "busybox", "true")
    ours, theirs, native = interleave(runs, lambda: cais.timed(*command), lambda: rival.timed(*command), own)
    alone = ("run", "--rm", "--network", "none", "busybox", "true")
    ours_alone, theirs_alone = interleave(runs, lambda: cais.timed(*alone), lambda: rival.timed(*alone))
    return [
        Row("docker run --rm busybox true, bridge", median_ms(ours), median_ms(theirs), "ms", 0.20, 0.12),
        Row("same, --network none", median_ms(ours_alone), median_ms(theirs_alone), "ms"),
        Row("cais run / docker run on dockerd", median_ms(native), median_ms(theirs), "ms", 0.40, 0.25),
    ]


def run_cold(cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """The first run after the engine's start, whose pools are still empty."""
    found = []
    for _ in range(min(runs, 5)):
        cais.restart()
        found.append(cais.timed("run", "--rm", "busybox", "true"))
    return [Row("cold: first docker run after the engine's start", median_ms(found), 0, "ms")]


def whole_life(side: Side) -> Callable[[], float]:
    """Seconds of create, start, wait, remove over one API connection."""
    api = Api(side.socket)

    def act() -> float:
        start = time.perf_counter()
        id = api.call("POST", "/containers/create", PLAIN)["Id"]
        api.call("POST", f"/containers/{id}/start")
        api.call("POST", f"/containers/{id}/wait")
        api.call("DELETE", f"/containers/{id}")
        return time.perf_counter() - start

    return act


def api_life(cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """Create, start, wait, remove, beside a bare `crun run` of dockerd's own bundle, in three rhythms: in turns, in
    turns with a pause before each (a processor that has slept is slower for everybody, and so are some acts of a
    kernel that was quiet), and ten of one in a row. dockerd's clearing away is waited for."""
    act, other = whole_life(cais), whole_life(rival)
    act()
    turns: list[list[float]] = [[], []]
    paused: list[list[float]] = [[], []]
    rows: list[list[float]] = [[], []]
    with Crun(rival) as crun:
        sides = (act, crun.run)
        for _ in range(max(runs // 10, 3)):
            for found, side in [pair for _ in range(10) for pair in zip(turns, sides, strict=True)]:
                found.append(side())
            for found, side in [pair for _ in range(10) for pair in zip(paused, sides, strict=True)]:
                time.sleep(PAUSE)
                found.append(side())
            for found, side in zip(rows, sides, strict=True):
                found += [side() for _ in range(10)]
                time.sleep(1)
    theirs = [other() for _ in range(max(runs // 2, 10))]
    ours = median_ms(turns[0])
    return [
        Row("API create+start+wait+remove / crun run, in turns", ours, median_ms(turns[1]), "ms", 1.5, 1.0),
        Row("same, 0.1 s before each", median_ms(paused[0]), median_ms(paused[1]), "ms", 1.5, 1.0),
        Row("same, ten in a row", median_ms(rows[0]), median_ms(rows[1]), "ms"),
        Row("same / dockerd", ours, median_ms(theirs), "ms"),
    ]


def make_bundle(rival: Dockerd) -> str:
    """dockerd's own runtime specification for busybox, made to stand alone, with a plain root folder."""
    id = rival.docker("run", "-d", "busybox", "sleep", "1000").strip()
    find = f"cat /proc/{rival.pid}/root/run/docker-rival/containerd/daemon/*/moby/{id}/config.json"
    spec = json.loads(subprocess.check_output(["sh", "-c", find]))
    rival.docker("rm", "-f", id)
    spec.pop("hooks", None)
    spec["process"]["args"] = ["true"]
    spec["root"]["path"] = "rootfs"
    spec["linux"]["cgroupsPath"] = "/crun-bench"
    spec["mounts"] = [m for m in spec["mounts"] if not m["destination"].startswith("/etc/")]
    for namespace in spec["linux"]["namespaces"]:
        namespace.pop("path", None)
    folder = rival.rivals / "share" / "bundle"
    (folder / "rootfs").mkdir(parents=True, exist_ok=True)
    with tarfile.open(rival.rivals / "share" / "busybox.tar") as archive:
        archive.extractall(folder / "rootfs", filter="fully_trusted")
    (folder / "config.json").write_text(json.dumps(spec))
    return "/share/bundle"


CRUN = """
import subprocess, sys, time
for n, _ in enumerate(sys.stdin):
    start = time.perf_counter()
    subprocess.run(["crun", "--cgroup-manager=cgroupfs", "run", "-b", sys.argv[1], "bench%d" % n], check=True)
    print(time.perf_counter() - start, flush=True)
"""


class Crun:
    """Runs a bundle with crun, in the rivals' root, whenever it is told to."""

    def __init__(self, rival: Dockerd) -> None:
        (rival.rivals / "share" / "crun.py").write_text(CRUN)
        self._command = [rival.tool, "sh", str(rival.rivals), "python3", "/share/crun.py", make_bundle(rival)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.run()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self) -> float:
        """Seconds of one bare `crun run`."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def exec_cli(cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """`docker exec c true`."""
    for side in (cais, rival):
        side.docker("run", "-d", "--name", "bench", "busybox", "sleep", "100000")
    command = ("exec", "bench", "true")
    ours, theirs = interleave(runs, lambda: cais.timed(*command), lambda: rival.timed(*command))
    for side in (cais, rival):
        side.docker("rm", "-f", "bench")
    return [Row("docker exec c true", median_ms(ours), median_ms(theirs), "ms", 0.45, 0.30)]


def start_many(side: Side, count: int, at_once: int, body: object) -> float:
    """Seconds to create and start ``count`` containers over the API, ``at_once`` at the same time."""
    apis = [Api(side.socket) for _ in range(at_once)]
    free = list(apis)

    def one(_: int) -> None:
        api = free.pop()
        try:
            id = api.call("POST", "/containers/create", body)["Id"]
            api.call("POST", f"/containers/{id}/start")
        finally:
            free.append(api)

    start = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(count)))
    seconds = time.perf_counter() - start
    for api in apis:
        api.close()
    return seconds


def remove_all(side: Side) -> float:
    """Seconds to remove every container."""
    api = Api(side.socket)
    start = time.perf_counter()
    for container in api.call("GET", "/containers/json?all=1"):
        api.call("DELETE", f"/containers/{container['Id']}?force=1")
    api.close()
    return time.perf_counter() - start


def parallel(cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """100 containers, 16 at once."""
    rates: dict[str, list[float]] = {cais.name: [], rival.name: []}
    for _ in range(2):
        for side in (cais, rival):
            rates[side.name].append(100 / start_many(side, 100, 16, SLEEPER))
            remove_all(side)
    ours, theirs = max(rates[cais.name]), max(rates[rival.name])
    return [Row("run -d, 100 at 16 at once", ours, theirs, "/s", 6, 15, more=True)]


def memory(cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """Memory with nothing and with 200 containers."""
    rows, count = [], 200
    cais.restart()
    cais.docker("run", "--rm", "busybox", "true")
    wait_until(lambda: len(cais.pids()) <= 2, "the workers' end", 120)
    idle, rival_idle = cais.pss(), rival.pss()
    rows.append(Row("engine and keeper, no containers, PSS", idle / 1e6, 0, "MB", 70, 45))
    rows.append(Row("same / dockerd and containerd", idle / 1e6, rival_idle / 1e6, "MB"))
    per = []
    for side, before in ((cais, idle), (rival, rival_idle)):
        start_many(side, count, 8, SLEEPER)
        per.append((side.pss() - before) / count / 1e3)
        remove_all(side)
    rows.append(Row("PSS per container, at 200", per[0], 0, "kB", 400, 100))
    rows.append(Row("same / dockerd and its shims", per[0], per[1], "kB"))
    return rows


def make_archive(side: Side, archive: Path) -> None:
    """What `docker save` writes for an image of a Debian root: the libraries and shared files of the rivals'
    own root."""
    root = side.base.parent / "root.tar"
    folder = Path(str(archive)).parent.parent / "root"
    parts = ["etc", "usr/lib", "usr/share", "var/lib/dpkg"]
    present = [part for part in parts if (folder / part).exists() or (folder / part).is_symlink()]
    subprocess.run(["tar", "-C", str(folder), "-cf", str(root), *present], check=True)
    side.docker("import", str(root), "bench-root:latest")
    with archive.open("wb") as target:
        subprocess.run(
            [str(side.docker_binary), "save", "bench-root:latest"],
            stdout=target,
            env=side.environment,
            check=True,
        )
    side.docker("rmi", "bench-root:latest")
    root.unlink()


def load(cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """`docker load` of a Debian root as dockerd saves it, each time into an empty engine on a tmpfs. On a
    disk the figure is the file system's mood: ext4 searches long for inodes that were not deleted lately."""
    archive = rival.rivals / "share" / "debian-root.tar"
    if not archive.exists():
        make_archive(rival, archive)
    found: dict[str, list[float]] = {cais.name: [], rival.name: []}
    for _ in range(3):
        for side in (cais, rival):
            side.renew()
            found[side.name].append(side.timed("load", stdin=archive))
    ours, theirs = (statistics.median(found[side.name]) for side in (cais, rival))
    return [
        Row(
            f"docker load of a Debian root ({archive.stat().st_size >> 20} MiB)", ours, theirs, "s", 0.35, 0.2
        )
    ]


def logs(cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """2,000,000 lines written by a container, and read back by `docker logs`."""
    written: dict[str, list[float]] = {cais.name: [], rival.name: []}
    read: dict[str, list[float]] = {cais.name: [], rival.name: []}
    for _ in range(2):
        for side in (cais, rival):
            api = Api(side.socket)
            id = api.call("POST", "/containers/create", {"Image": "busybox", "Cmd": ["seq", "1", "2000000"]})[
                "Id"
            ]
            start = time.perf_counter()
            api.call("POST", f"/containers/{id}/start")
            api.call("POST", f"/containers/{id}/wait")
            written[side.name].append(time.perf_counter() - start)
            start = time.perf_counter()
            text = side.docker("logs", id)
            read[side.name].append(time.perf_counter() - start)
            if text.count("\n") != 2_000_000:
                raise RuntimeError(f"{side.name}: log lines lost")
            side.docker("rm", id)
            api.close()
    return [
        Row(
            "container writes 2,000,000 lines", min(written["cais"]), min(written["dockerd"]), "s", 0.5, 0.25
        ),
        Row("docker logs reads them", min(read["cais"]), min(read["dockerd"]), "s", 0.3, 0.1),
    ]


def cpu_model() -> str:
    """What it runs on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if "model name" in line), "an unknown processor"
    )
