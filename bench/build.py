"""What is measured of builds: the same contexts through the same client, on engines in memory, in turns."""

import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench.measures import Row, interleave, median_ms
from bench.sides import CAIS, Cais, Dockerd, Side

FOLDERS, FILES = 20, 100
"""Of the context of 2,000 files."""
LARGE_FILES, LARGE_SIZE = 10_000, 20_000
STEPS = [
    step
    for number in range(9)
    for step in (f"COPY d{number:02} /srv/d{number:02}", f"RUN echo {number} > /etc/step{number}")
]
TWENTY = "\n".join(["FROM busybox", *STEPS, "RUN true", "COPY d19 /srv/last", ""])
"""Twenty steps behind FROM; what the last one takes is nothing to the others."""
THIRTY = "\n".join(["FROM busybox", *(f"RUN echo {number} >> /log" for number in range(30)), ""])
STAGES = [f"FROM busybox AS s{number}\nRUN sleep 2; echo {number} > /out{number}\n" for number in range(4)]
FOUR = "".join(
    [*STAGES, "FROM busybox\n", *(f"COPY --from=s{number} /out{number} /\n" for number in range(4))]
)


class Builds:
    """Contexts of this run. ``classic``: Cais is asked for docker's classic builder, since the same client speaks
    BuildKit's protocol otherwise."""

    def __init__(self, base: Path, tool: str, rivals: Path, *, classic: bool) -> None:
        self.base, self.tool, self.rivals = base / "contexts", tool, rivals
        self.classic = classic
        self.name = "classic docker build" if classic else "docker build"
        self._ready = False

    def prepare(self, cais: Cais, rival: Dockerd) -> None:
        """Empty engines in memory, with the image that builds stand on; and the client's plugins for both."""
        if self._ready:
            return
        self._ready = True
        clients = Path(subprocess.check_output([self.tool, "clients", str(self.rivals)], text=True).strip())
        for side in (cais, rival):
            side.renew()
            plugins = side.base / "cli-plugins"
            shutil.copytree(clients / "config" / "cli-plugins", plugins, dirs_exist_ok=True)
        if self.classic:
            cais.environment["DOCKER_BUILDKIT"] = "0"
        self.import_base(cais, rival)

    def import_base(self, *sides: Side) -> None:
        """``busybox``."""
        tar = self.rivals / "share" / "busybox.tar"
        if not tar.exists():
            subprocess.run([self.tool, "busybox", str(tar)], check=True)
        for side in sides:
            side.docker("import", str(tar), "busybox:latest")

    def write(self, name: str, dockerfile: str) -> Path:
        """A context with nothing but a Dockerfile."""
        folder = self.base / name
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text(dockerfile)
        return folder

    def write_many(self, name: str, dockerfile: str) -> Path:
        """One with 2,000 files."""
        folder = self.write(name, dockerfile)
        for number in range(FOLDERS):
            below = folder / f"d{number:02}"
            below.mkdir()
            for each in range(FILES):
                (below / f"f{each:02}.txt").write_text(f"{number} {each}\n" * 100)
        return folder

    def write_large(self, name: str) -> Path:
        """One with 10,000 files, 200 MB, half of which is chance."""
        folder = self.write(name, "FROM scratch\nCOPY . /context\n")
        chance = random.Random(1)
        for number in range(LARGE_FILES):
            below = folder / f"d{number // 100:03}"
            below.mkdir(exist_ok=True)
            (below / f"f{number:05}").write_text(chance.randbytes(LARGE_SIZE // 2).hex())
        return folder


def build(side: Side, folder: Path, *flags: str) -> float:
    """Seconds of `docker build`."""
    return side.timed("build", "-t", "bench", *flags, str(folder))


def own_build(cais: Cais, folder: Path, *flags: str) -> float:
    """Seconds of `cais build`."""
    start = time.perf_counter()
    cais.command([str(CAIS), "build", "-t", "bench", *flags, str(folder)])
    return time.perf_counter() - start


def few(runs: int) -> int:
    """Rounds of what takes seconds."""
    return max(3, runs // 10)


def unchanged(builds: Builds, cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """Nothing changed since the last time."""
    builds.prepare(cais, rival)
    folder = builds.write_many("unchanged", TWENTY)
    ours, theirs, own = interleave(
        runs, lambda: build(cais, folder), lambda: build(rival, folder), lambda: own_build(cais, folder)
    )
    what = "nothing changed, 20 steps, 2,000 files"
    # The same processes start as for a build, and none of them asks the engine for anything.
    idle, idle_too = interleave(
        runs, lambda: cais.timed("build", "--help"), lambda: rival.timed("build", "--help")
    )
    return [
        Row("the client alone, of both: docker build --help", median_ms(idle), median_ms(idle_too), "ms"),
        Row(f"{what}: {builds.name}", median_ms(ours), median_ms(theirs), "ms", 0.6, 0.35),
        Row(
            "same: cais build / docker build on dockerd", median_ms(own), median_ms(theirs), "ms", 0.35, 0.15
        ),
    ]


def tiny(builds: Builds, cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """Thirty steps that do next to nothing, all of them made."""
    builds.prepare(cais, rival)
    folder = builds.write("tiny", THIRTY)
    ours, theirs, own = interleave(
        few(runs),
        lambda: build(cais, folder, "--no-cache"),
        lambda: build(rival, folder, "--no-cache"),
        lambda: own_build(cais, folder, "--no-cache"),
    )
    return [
        Row(
            f"30 tiny RUN steps, uncached: {builds.name}", median_ms(ours), median_ms(theirs), "ms", 0.5, 0.2
        ),
        Row("same: cais build / docker build on dockerd", median_ms(own), median_ms(theirs), "ms"),
    ]


def changed(builds: Builds, cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """One file is another one each time, of those that the last step takes."""
    builds.prepare(cais, rival)
    folder = builds.write_many("changed", TWENTY)
    counter = iter(range(1 << 30))

    def after_change(act: Callable[[], float]) -> Callable[[], float]:
        def changed_act() -> float:
            (folder / "d19" / "f50.txt").write_text(f"change {next(counter)}\n")
            return act()

        return changed_act

    for act in (lambda: build(cais, folder), lambda: build(rival, folder)):
        act()
    ours, theirs, own = interleave(
        max(runs // 2, 3),
        after_change(lambda: build(cais, folder)),
        after_change(lambda: build(rival, folder)),
        after_change(lambda: own_build(cais, folder)),
    )
    return [
        Row(
            f"one file changed before the last COPY: {builds.name}",
            median_ms(ours),
            median_ms(theirs),
            "ms",
            0.5,
            0.25,
        ),
        Row("same: cais build / docker build on dockerd", median_ms(own), median_ms(theirs), "ms"),
    ]


def stages(builds: Builds, cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """Four stages that wait two seconds each, side by side."""
    builds.prepare(cais, rival)
    folder = builds.write("stages", FOUR)
    ours, theirs, own = interleave(
        3,
        lambda: build(cais, folder, "--no-cache"),
        lambda: build(rival, folder, "--no-cache"),
        lambda: own_build(cais, folder, "--no-cache"),
    )
    seconds, others = statistics.median(ours), statistics.median(theirs)
    return [
        Row(f"four stages of sleep 2, wall: {builds.name}", seconds, 0, "s", 2.6, 2.2),
        Row("same: dockerd beside it", seconds, others, "s"),
        Row("same: cais build, wall", statistics.median(own), 0, "s", 2.6, 2.2),
    ]


def transfer(builds: Builds, cais: Cais, rival: Dockerd, runs: int) -> list[Row]:
    """A large context that an engine has never seen: each time new engines, in turns."""
    builds.prepare(cais, rival)
    folder = builds.write_large("large")
    size = sum(path.stat().st_size for path in folder.rglob("f*")) / 1e6

    used: dict[str, list[float]] = {}

    def fresh(side: Side, act: Callable[[], float]) -> Callable[[], float]:
        def act_on_new() -> float:
            side.renew()
            seconds = act()
            # A container of it, for which all layers must be unpacked: what was put off is paid here.
            used.setdefault(side.name, []).append(seconds + side.timed("create", "bench", "x"))
            return seconds

        return act_on_new

    ours, theirs, own = interleave(
        few(runs),
        fresh(cais, lambda: build(cais, folder)),
        fresh(rival, lambda: build(rival, folder)),
        fresh(cais, lambda: own_build(cais, folder)),
    )
    what = f"first build of a context of 10,000 files, {size:.0f} MB"
    # Each round has one build of the rival, and two of Cais: the first by docker's client.
    with_container = statistics.median(used[cais.name][2::2]), statistics.median(used[rival.name][1:])
    builds.import_base(cais, rival)
    return [
        Row(f"{what}: {builds.name}", statistics.median(ours), statistics.median(theirs), "s", 0.8, 0.4),
        Row("same, and docker create of the image", *with_container, "s"),
        Row(
            "same: cais build / docker build on dockerd",
            statistics.median(own),
            statistics.median(theirs),
            "s",
        ),
    ]


Measure = Callable[[Builds, Cais, Dockerd, int], list[Row]]
MEASURES: dict[str, Measure] = {
    "unchanged": unchanged,
    "tiny": tiny,
    "changed": changed,
    "stages": stages,
    "transfer": transfer,
}
