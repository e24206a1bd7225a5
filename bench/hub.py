"""What is measured of the hub: the same requests to it and to Debian's docker-registry (distribution), in turns.

Each registry is a process on a free port of loopback, on a folder in memory where nothing else is said, and writes one
line of access log per request into that folder. Distribution has Debian's settings otherwise: its cache of blob
descriptors is in memory.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import sqlite3
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from bench import hubload
from bench.hubload import Blob, Line
from bench.measures import Row, interleave, median_ms
from bench.registry import CONFIG, GZIP, MANIFEST
from bench.sides import CAIS, pss, wait_until

MEMORY = "/dev/shm"
MB = 1_000_000
REPOSITORIES, TAGS, LAYERS = 16, 8, 6
"""Of the images whose manifests are asked for."""
CLIENTS, BLOB_CLIENTS, MANY = 8, 4, 64
SECONDS = 1.0
"""Of load, each time."""
PUSHES = 40
"""Blobs of a megabyte in a row."""
LARGE = 1 << 30
MANY_REPOSITORIES, MANY_TAGS = 100_000, 10
QUESTIONS = 400
SEARCH = "/api/v1/search?q={}&n=25"
NOUNS = [
    "api",
    "auth",
    "backend",
    "billing",
    "broker",
    "cache",
    "crawler",
    "frontend",
    "gateway",
    "indexer",
    "ledger",
    "mailer",
    "metrics",
    "parser",
    "planner",
    "proxy",
    "queue",
    "router",
    "runner",
    "search",
    "store",
    "sync",
    "web",
    "worker",
]


class Server:
    """A registry's program, started and stopped as often as one likes. ``root``: what it keeps."""

    name = ""

    def __init__(self) -> None:
        self.root = Path()
        self.pid = 0
        self.address: hubload.Address = ("127.0.0.1", 0)

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    def start(self, root: Path) -> None:
        """Serve the folder ``root``; returns when it answers."""
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.address = root, ("127.0.0.1", _free_port())
        with (root / "output").open("ab") as output:
            self._process = subprocess.Popen(self.command(), stdout=output, stderr=output)
        self.pid = self._process.pid
        try:
            wait_until(self._answers, self.name)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it; its folder stays."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name}: {(self.root / 'output').read_text()}")
        try:
            with Line(self.address) as line:
                line.ask(hubload.get("/v2/"))
        except ConnectionRefusedError:
            return False
        return True

    def seconds(self) -> float:
        """Of processors that it has used; what others do on the machine moves it less than it moves a clock."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @contextmanager
    def serving(self, parent: str = MEMORY) -> Iterator[None]:
        """With an empty folder below ``parent``."""
        with tempfile.TemporaryDirectory(dir=parent, prefix="cais-bench-") as folder:
            self.start(Path(folder) / self.name)
            try:
                yield
            finally:
                self.stop()


class Costs:
    """What acts cost the registries, in seconds of processors per piece of work."""

    def __init__(self, *servers: Server) -> None:
        self._servers = servers
        self._spent: dict[tuple[Server, str], float] = {}
        self._work: dict[tuple[Server, str], float] = {}

    @contextmanager
    def of(self, server: Server, what: str) -> Iterator[Callable[[float], None]]:
        """Around an act, which says how much it did."""
        key, before = (server, what), server.seconds()

        def note(work: float) -> None:
            self._work[key] = self._work.get(key, 0.0) + work

        yield note
        self._spent[key] = self._spent.get(key, 0.0) + server.seconds() - before

    def row(self, what: str, unit: str, scale: float) -> Row:
        """The means of all rounds."""
        keys = [(server, what) for server in self._servers]
        ours, theirs = (scale * self._spent[key] / self._work[key] for key in keys)
        return Row("same, processor time of the registry", ours, theirs, unit)


class Hub(Server):
    """Of this checkout."""

    name = "cais"

    def command(self) -> list[str]:
        """With nothing but what this needs."""
        host, port = self.address
        flags = ["--root", str(self.root), "--listen", f"{host}:{port}", "--open"]
        return [str(CAIS), "hub", "serve", *flags, "--access-log", str(self.root / "access")]


class Distribution(Server):
    """Debian's docker-registry."""

    name = "distribution"

    def __init__(self, program: Path) -> None:
        super().__init__()
        self._program = program

    def command(self) -> list[str]:
        """Its access log goes to standard output; at level ``info`` it would say the same things twice."""
        settings = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": False}},
            "storage": {
                "cache": {"blobdescriptor": "inmemory"},
                "filesystem": {"rootdirectory": str(self.root / "data")},
                "delete": {"enabled": True},
            },
            "http": {"addr": "{}:{}".format(*self.address)},
        }
        (self.root / "config.yml").write_text(json.dumps(settings))
        return [str(self._program), "serve", str(self.root / "config.yml")]


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])


def make_blob(data: bytes) -> Blob:
    """With what is sent of it."""
    return Blob("sha256:" + hashlib.sha256(data).hexdigest(), data, hubload.frame(data))


def make_manifest(config: Blob, layers: Sequence[Blob], note: str) -> bytes:
    """Of an image with these; as long as another one with as many and as long a note."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config.digest, "size": len(config.plain)},
        "layers": [{"mediaType": GZIP, "digest": b.digest, "size": len(b.plain)} for b in layers],
        "annotations": {"note": note},
    }
    return json.dumps(document).encode()


def _config(number: int) -> Blob:
    return make_blob(json.dumps({"architecture": "amd64", "os": "linux", "number": f"{number:06}"}).encode())


def fill(server: Server) -> tuple[list[bytes], list[bytes]]:
    """Push images; requests for their manifests by tag and by digest."""
    by_tag, by_digest = [], []
    with Line(server.address) as line:
        for number in range(REPOSITORIES):
            name = f"bench/image{number:02}"
            blobs = [_config(number), *(make_blob(os.urandom(2000)) for _ in range(LAYERS))]
            for blob in blobs:
                hubload.push_chunked(line, name, blob.digest, blob.framed)
            for each in range(TAGS):
                data = make_manifest(blobs[0], blobs[1:], f"{each:02}")
                hubload.put_manifest(line, name, f"v{each}", MANIFEST, data)
                by_tag.append(hubload.get(f"/v2/{name}/manifests/v{each}", MANIFEST))
                digest = "sha256:" + hashlib.sha256(data).hexdigest()
                by_digest.append(hubload.get(f"/v2/{name}/manifests/{digest}", MANIFEST))
    return by_tag, by_digest


def manifests(hub: Server, rival: Server, runs: int) -> list[Row]:
    """Manifests of 128 images, again and again: a registry that everybody pulls from."""
    with hub.serving(), rival.serving():
        asked = {server: fill(server) for server in (hub, rival)}
        costs = Costs(hub, rival)

        def rate(server: Server, which: int) -> float:
            with costs.of(server, f"{which}") as note:
                answers, _, seconds = hubload.pull(server.address, asked[server][which], CLIENTS, SECONDS)
                note(answers)
            return answers / seconds

        acts = [partial(rate, server, which) for which in (0, 1) for server in (hub, rival)]
        tags, other_tags, digests, other_digests = map(statistics.median, interleave(runs, *acts))
    what = f"manifest GET by {{}}, {CLIENTS} clients"
    return [
        Row(what.format("tag"), tags, other_tags, "/s", 2, 5, more=True),
        costs.row("0", "µs", 1e6),
        Row(what.format("digest"), digests, other_digests, "/s", 2, 5, more=True),
        costs.row("1", "µs", 1e6),
    ]


def blobs(hub: Server, rival: Server, runs: int) -> list[Row]:
    """One blob of 100 MB, by clients that throw it away and by clients that take it into their memory."""
    blob = make_blob(os.urandom(100 * MB))
    request = hubload.get(f"/v2/bench/blob/blobs/{blob.digest}")
    costs = Costs(hub, rival)
    with hub.serving(), rival.serving():
        for server in (hub, rival):
            with Line(server.address) as line:
                hubload.push_whole(line, "bench/blob", blob.digest, blob.plain)

        def rate(server: Server, keep: bool) -> float:
            with costs.of(server, f"{keep}") as note:
                _, size, seconds = hubload.pull(server.address, [request], BLOB_CLIENTS, SECONDS, keep=keep)
                note(size / 1e9)
            return size / seconds / MB

        acts = [partial(rate, server, keep) for keep in (False, True) for server in (hub, rival)]
        ours, theirs, kept, other_kept = map(statistics.median, interleave(runs, *acts))
    return [
        Row(f"100 MB blob GET, {BLOB_CLIENTS} clients", ours, theirs, "MB/s", 1.0, 1.3, more=True),
        costs.row("False", "ms/GB", 1e3),
        Row("same, by a client that reads the bytes", kept, other_kept, "MB/s", more=True),
    ]


def push(hub: Server, rival: Server, runs: int) -> list[Row]:
    """Blobs of a megabyte by one client, and small whole images on a disk, where a registry that means what it
    says waits for it."""
    with hub.serving(), rival.serving():
        costs = Costs(hub, rival)
        chunked, other_chunked = _push_in_turns(hub, rival, runs, _push_chunked, costs)
        whole, other_whole = _push_in_turns(hub, rival, runs, _push_whole)
    with tempfile.TemporaryDirectory(prefix="cais-bench-") as disk, hub.serving(disk), rival.serving(disk):
        disk_blob, other_disk_blob = _push_in_turns(hub, rival, runs, _push_chunked)
        image, other_image = _push_in_turns(hub, rival, runs, _push_image)
    return [
        Row("push of 1 MB blobs, p50: POST, PATCH, PUT", chunked, other_chunked, "ms", 0.8, 0.4),
        costs.row("push", "ms", 1e3),
        Row("same: POST, PUT", whole, other_whole, "ms"),
        Row("same as the first, on a disk", disk_blob, other_disk_blob, "ms"),
        Row("image of 1 MB, on a disk: two blobs, manifest", image, other_image, "ms"),
    ]


def _push_chunked(line: Line, blob: Blob) -> None:
    hubload.push_chunked(line, "bench/push", blob.digest, blob.framed)


def _push_whole(line: Line, blob: Blob) -> None:
    hubload.push_whole(line, "bench/push", blob.digest, blob.plain)


def _push_image(line: Line, blob: Blob) -> None:
    config = _config(int.from_bytes(blob.plain[:2]))
    _push_chunked(line, config)
    _push_chunked(line, blob)
    hubload.put_manifest(line, "bench/push", "1", MANIFEST, make_manifest(config, [blob], blob.digest))


def _push_in_turns(
    hub: Server, rival: Server, runs: int, act: Callable[[Line, Blob], None], costs: Costs | None = None
) -> tuple[float, float]:
    """Medians of milliseconds, of all pushes; rows of PUSHES in turns."""
    costs = costs or Costs(hub, rival)
    found: dict[Server, list[float]] = {hub: [], rival: []}
    for number in range(max(runs, 5) + 1):
        fresh = [make_blob(os.urandom(MB)) for _ in range(PUSHES)]
        for server, times in found.items():
            with Line(server.address) as line, costs.of(server, "push") as note:
                for blob in fresh:
                    start = time.perf_counter()
                    act(line, blob)
                    if number:
                        times.append(time.perf_counter() - start)
                note(len(fresh))
    return median_ms(found[hub]), median_ms(found[rival])


def large(hub: Server, rival: Server, runs: int) -> list[Row]:
    """A gigabyte into an empty registry."""
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="cais-bench-") as folder:
        plain, framed = Path(folder) / "plain", Path(folder) / "framed"
        digest = _write_large(plain, framed)
        costs = Costs(hub, rival)

        def rate(server: Server, act: Callable[..., None], body: Path) -> float:
            with server.serving(), Line(server.address) as line, body.open("rb", buffering=0) as file:
                start = time.perf_counter()
                with costs.of(server, body.name) as note:
                    act(line, "bench/large", digest, file)
                    note(1)
                return LARGE / MB / (time.perf_counter() - start)

        ways = ((hubload.push_chunked, framed), (hubload.push_whole, plain))
        acts = [partial(rate, server, act, body) for act, body in ways for server in (hub, rival)]
        chunked, other_chunked, whole, other_whole = map(
            statistics.median, interleave(max(3, runs // 2), *acts)
        )
    return [
        Row("push of 1 GB: POST, PATCH, PUT", chunked, other_chunked, "MB/s", 1.2, 2, more=True),
        costs.row("framed", "ms", 1e3),
        Row("same: POST, PUT", whole, other_whole, "MB/s", more=True),
    ]


def _write_large(plain: Path, framed: Path) -> str:
    piece, whole = os.urandom(16 << 20), hashlib.sha256()
    end = b"0\r\n\r\n"
    with plain.open("wb") as file, framed.open("wb") as other:
        for number in range(LARGE // len(piece)):
            data = number.to_bytes(8) + piece[8:]
            whole.update(data)
            file.write(data)
            other.write(hubload.frame(data).removesuffix(end))
        other.write(end)
    return f"sha256:{whole.hexdigest()}"


def catalog(hub: Server, rival: Server, runs: int) -> list[Row]:
    """Questions to a hub with 100,000 repositories and a million tags. Distribution has nothing beside it: it walks
    all its folders for each page of the catalog, and has no search."""
    chance = random.Random(1)
    names = make_names(chance)
    rows = []
    with hub.serving():
        hub.stop()
        fill_directly(hub.root / "hub.db", names)
        hub.start(hub.root)
        words = [_part(chance, chance.choice(names)) for _ in range(QUESTIONS)]
        questions = {
            "a page of the catalog": [f"/v2/_catalog?n=100&last={chance.choice(names)}" for _ in words],
            "tags of a repository": [f"/v2/{chance.choice(names)}/tags/list" for _ in words],
            "search": [SEARCH.format(quote(word)) for word in words],
        }
        with Line(hub.address) as line:
            for what, paths in questions.items():
                found = ask_all(line, paths)
                if found:
                    goals = (50.0, 20.0) if what != "tags of a repository" else (None, None)
                    rows.append(
                        Row(f"{what}, p95 of {MANY_REPOSITORIES:,} repositories", found, 0, "ms", *goals)
                    )
    return rows


def ask_all(line: Line, paths: Sequence[str]) -> float:
    """Milliseconds that 95 of 100 stay below; 0: there is no such page."""
    times, empty = [], 0
    for path in paths:
        start = time.perf_counter()
        try:
            answer = line.ask(hubload.get(path))
        except RuntimeError as error:
            if " 404 " in str(error).partition("\r\n")[0]:
                print(f"there is no {path}", file=sys.stderr)
                return 0
            raise
        times.append(time.perf_counter() - start)
        empty += len(answer.body) < 50
    if empty:
        print(f"{empty} of {len(paths)} like {paths[0]} found nothing", file=sys.stderr)
    return sorted(times)[len(times) * 95 // 100] * 1e3


def make_names(chance: random.Random) -> list[str]:
    """Names of repositories as people make them up."""
    teams = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(4, 9))) for _ in range(1000)]
    names: set[str] = set()
    while len(names) < MANY_REPOSITORIES:
        words = chance.sample(NOUNS, 2)
        names.add(f"{chance.choice(teams)}/{'-'.join(words)}-{chance.randrange(100)}")
    return sorted(names)


def _part(chance: random.Random, name: str) -> str:
    """2 to 6 letters of a word of it."""
    word = chance.choice(name.replace("/", "-").split("-")[:3])
    size = min(chance.randint(2, 6), len(word))
    start = chance.randrange(len(word) - size + 1)
    return word[start : start + size]


def fill_directly(path: Path, names: Sequence[str]) -> None:
    """Repositories of one manifest and MANY_TAGS tags each, as if pushed: through HTTP it would take an hour. What
    triggers keep (sizes, the index of the search) they keep here too."""
    now = time.time_ns()
    config = "sha256:" + hashlib.sha256(b"{}").hexdigest()
    digests = ["sha256:" + hashlib.sha256(name.encode()).hexdigest() for name in names]
    first = 1
    numbers = range(first, first + len(names))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size=-400000")
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO repositories (id, name, namespace, description, pulls, created_ns, updated_ns) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (number, name, name.partition("/")[0], f"the {name} service", number % 977, now, now)
                for number, name in zip(numbers, names, strict=True)
            ),
        )
        db.executemany(
            "INSERT INTO blobs (digest, size, created_ns) VALUES (?, 500, ?)",
            ((digest, now) for digest in sorted([config, *digests])),
        )
        db.executemany(
            "INSERT INTO links (repository, digest, generation) VALUES (?, ?, 1)",
            ((number, config) for number in numbers),
        )
        db.executemany(
            "INSERT INTO manifests (repository, digest, media_type, size, total, artifact_type, config, subject, "
            "annotations, pushed_ns, generation) VALUES (?, ?, ?, 500, 500, '', ?, '', '{}', ?, 1)",
            (
                (number, digest, MANIFEST, config, now)
                for number, digest in zip(numbers, digests, strict=True)
            ),
        )
        db.executemany(
            "INSERT INTO edges (repository, digest, manifest) VALUES (?, ?, ?)",
            ((number, config, digest) for number, digest in zip(numbers, digests, strict=True)),
        )
        db.executemany(
            "INSERT INTO tags (repository, name, digest, pushed_ns) VALUES (?, ?, ?, ?)",
            (
                (number, f"1.{each}", digest, now)
                for number, digest in zip(numbers, digests, strict=True)
                for each in range(MANY_TAGS)
            ),
        )
        db.execute("COMMIT")


def memory(hub: Server, rival: Server, runs: int) -> list[Row]:
    """Nothing asked yet; and the most while 64 clients pull manifests and blobs of 100 MB and push blobs of 1 MB."""
    found: dict[Server, list[float]] = {}
    blob, small = make_blob(os.urandom(100 * MB)), make_blob(os.urandom(MB))
    for server in (hub, rival):
        with server.serving():
            time.sleep(1)
            idle = [pss(server.pid), rss(server.pid)]
            by_tag, _ = fill(server)
            with Line(server.address) as line:
                hubload.push_whole(line, "bench/blob", blob.digest, blob.plain)
            found[server] = [size / MB for size in (*idle, *_most_under_load(server, by_tag, blob, small))]
    ours, theirs = found[hub], found[rival]
    loaded = f"most under {MANY} clients"
    return [
        Row("memory, idle, PSS", ours[0], 0, "MB", 80, 50),
        Row("same / distribution", ours[0], theirs[0], "MB"),
        Row("same, RSS", ours[1], theirs[1], "MB"),
        Row(f"memory, {loaded}, PSS", ours[2], 0, "MB", 200, 120),
        Row("same / distribution", ours[2], theirs[2], "MB"),
        Row("same, RSS", ours[3], theirs[3], "MB"),
    ]


def rss(pid: int) -> int:
    """Bytes of a process that are in memory, shared pages counted in full."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _most_under_load(server: Server, manifests: list[bytes], blob: Blob, small: Blob) -> tuple[int, int]:
    request = hubload.get(f"/v2/bench/blob/blobs/{blob.digest}")
    address, quarter, each = server.address, MANY // 4, 1.0
    acts: list[Callable[[], object]] = [
        partial(hubload.pull, address, manifests, MANY - 2 * quarter, each),
        partial(hubload.pull, address, [request], quarter, each),
        partial(hubload.push_many, address, "bench/push", small, quarter, each),
    ]
    most, other, end = 0, 0, time.monotonic() + 5
    with ExitStack() as stack:
        for act in acts:
            stack.enter_context(hubload.Beside(act))
        while time.monotonic() < end:
            most, other = max(most, pss(server.pid)), max(other, rss(server.pid))
            time.sleep(0.05)
    return most, other


Measure = Callable[[Server, Server, int], list[Row]]
MEASURES: dict[str, Measure] = {
    "manifests": manifests,
    "blobs": blobs,
    "push": push,
    "large": large,
    "catalog": catalog,
    "serving": memory,
}


def measure(options: argparse.Namespace) -> list[Row]:
    """Run the chosen measures; each starts its registries by itself."""
    hub: Server = Hub()
    rival: Server = Distribution(Path(os.environ["CAIS_RIVALS"]) / "root" / "usr" / "bin" / "docker-registry")
    rows: list[Row] = []
    for name, act in MEASURES.items():
        if not options.only or name in options.only.split(","):
            print(f"measuring {name}", file=sys.stderr)
            rows += act(hub, rival, options.runs)
    return rows
