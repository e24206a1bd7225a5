"""Starts both sides, measures, prints the table."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import build, hub, images, measures
from bench.measures import Row
from bench.sides import Cais, Dockerd

Measure = Callable[[Cais, Dockerd, int], list[Row]]
ENGINE: dict[str, Measure] = {
    "run": measures.run_cli,
    "life": measures.api_life,
    "exec": measures.exec_cli,
    "parallel": measures.parallel,
    "logs": measures.logs,
    "cold": measures.run_cold,
    "memory": measures.memory,
    "load": measures.load,
}


def main() -> int:
    """Exit code 1 when a *must* is missed."""
    options = parse_options()
    if options.area == "hub":
        rows, client = hub.measure(options), "raw sockets"
    else:
        with tempfile.TemporaryDirectory(prefix="cais-bench-") as folder:
            rows = measure(options, Path(folder))
        client = docker_version(options.docker)
    text = report(rows, client)
    print(text)
    if options.out:
        options.out.write_text(text)
    return int(any(verdict(row) == "missed" for row in rows))


def parse_options() -> argparse.Namespace:
    """Flags and environment."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("area", nargs="?", default="engine", choices=["engine", "images", "build", "hub"])
    parser.add_argument("--runs", type=int, default=30, help="rounds of each interleaved measure")
    parser.add_argument(
        "--only",
        default="",
        help=f"comma-separated: {', '.join((*ENGINE, *images.MEASURES, *build.MEASURES, *hub.MEASURES))}",
    )
    parser.add_argument(
        "--classic",
        action="store_true",
        help="builds: ask Cais for docker's classic builder (DOCKER_BUILDKIT=0)",
    )
    found = shutil.which("docker")
    parser.add_argument(
        "--docker", type=Path, default=Path(found) if found else None, help="docker client for both sides"
    )
    parser.add_argument("--out", type=Path, help="write the report there too")
    options = parser.parse_args()
    for name in ("CAIS_RIVALS", "CAIS_RIVALS_TOOL"):
        if not os.environ.get(name):
            parser.error(f"set {name}: scripts/bench --help, and the head of scripts/bench")
    return options


def measure(options: argparse.Namespace, base: Path) -> list[Row]:
    """Start both sides, run the chosen measures, stop both."""
    tool, rivals = os.environ["CAIS_RIVALS_TOOL"], Path(os.environ["CAIS_RIVALS"])
    docker = (
        options.docker
        or Path(subprocess.check_output([tool, "clients", str(rivals)], text=True).strip()) / "docker"
    )
    cais, rival = Cais(base / "cais", docker), Dockerd(base / "dockerd", docker, tool, rivals)
    rows: list[Row] = []
    cais.start()
    try:
        rival.start()
        try:
            for name, act in choose(options, base, rival).items():
                if not options.only or name in options.only.split(","):
                    if options.area == "engine" and not rows:
                        import_busybox(tool, rivals, cais, rival)
                    print(f"measuring {name}", file=sys.stderr)
                    rows += act(cais, rival, options.runs)
        finally:
            rival.stop()
    finally:
        cais.stop()
    return rows


def choose(options: argparse.Namespace, base: Path, rival: Dockerd) -> dict[str, Measure]:
    """The measures of an area."""
    if options.area == "engine":
        return ENGINE
    if options.area == "build":
        builds = build.Builds(base, rival.tool, rival.rivals, classic=options.classic)
        return {name: partial(act, builds) for name, act in build.MEASURES.items()}
    moved = images.Images(base, rival)
    return {name: partial(act, moved) for name, act in images.MEASURES.items()}


def import_busybox(tool: str, rivals: Path, *sides: Cais | Dockerd) -> None:
    """The image that containers are made of."""
    tar = rivals / "share" / "busybox.tar"
    subprocess.run([tool, "busybox", str(tar)], check=True)
    for side in sides:
        side.docker("import", str(tar), "busybox:latest")


def verdict(row: Row) -> str:
    """What the goals say of a row."""
    if row.must is None or row.aim is None:
        return ""
    if (row.ratio >= row.aim) if row.more else (row.ratio <= row.aim):
        return "aim"
    return "must" if ((row.ratio >= row.must) if row.more else (row.ratio <= row.must)) else "missed"


def docker_version(docker: Path | None) -> str:
    """The client that both sides were driven with."""
    if docker is None:
        return "the rivals' docker client"
    return subprocess.check_output([str(docker), "--version"], text=True).strip()


def report(rows: list[Row], client: str) -> str:
    """The table, as Markdown."""
    lines = [
        f"{os.cpu_count()} cores of {measures.cpu_model()}, Linux {platform.release()}, "
        f"Python {platform.python_version()}.",
        f"Medians of interleaved runs; both sides driven by {client}.",
        "",
        "| measure | Cais | rival | ratio | must | aim | reached |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sign = "≥" if row.more else "≤"
        rival = f"{row.rival:.1f} {row.unit}" if row.rival else "–"
        goals = f"{sign} {row.must} | {sign} {row.aim}" if row.must is not None else " | "
        ratio = f"{row.ratio:.2f}" if row.rival else "–"
        lines.append(
            f"| {row.name} | {row.ours:.1f} {row.unit} | {rival} | {ratio} | {goals} | {verdict(row)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
