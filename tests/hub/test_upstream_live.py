"""A hub in front of another hub, both real processes: one fetch for many, expiry, and service without the other."""

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from harness.hub import LiveHub, running_hub, wait_until
from harness.registry import PASSWORD, USER, Registry, running_registry
from harness.wire import Repository, Wire, format_image, sha256

pytestmark = pytest.mark.slow
CLIENTS = 24
LAYER = os.urandom(12 << 20)


class Pair:
    """Two hubs: ``up/…`` of the ``near`` one are the ``far`` one's repositories."""

    def __init__(self, far: LiveHub, near: LiveHub) -> None:
        self.far = far
        self.near = near

    def push(self, name: str, tag: str, *layers: bytes) -> str:
        """An image to the far hub; its digest."""
        with closing(Wire(self.far.port)) as wire:
            return Repository(wire, name).push_image(tag, layers)

    def pull(self, name: str, tag: str) -> tuple[str, list[bytes]]:
        """From the near one, as a client does it: the digest, and all blobs."""
        with closing(Wire(self.near.port)) as wire:
            found = wire.ask("GET", f"/v2/up/{name}/manifests/{tag}")
            assert found.status == 200, found
            parts = [found.json["config"], *found.json["layers"]]
            blobs = [wire.ask("GET", f"/v2/up/{name}/blobs/{part['digest']}") for part in parts]
        assert [sha256(blob.body) for blob in blobs] == [part["digest"] for part in parts]
        return sha256(found.body), [blob.body for blob in blobs]

    def asked(self, pattern: str) -> list[str]:
        """Requests that the far hub has answered, by its access log."""
        text = (self.far.root.parent / "far.access").read_text()
        lines = [f"{line['method']} {line['path']}" for line in map(json.loads, text.splitlines())]
        return [line for line in lines if re.search(pattern, line)]


@pytest.fixture
def expiry() -> str:
    """Seconds until a tag is asked for again."""
    return "3600"


@pytest.fixture
def pair(tmp_path: Path, expiry: str) -> Iterator[Pair]:
    """Both running."""
    with running_hub(tmp_path / "far", "--open") as far:
        words = ("--open", "--upstream", f"up={far.url}", "--allow-private", "--upstream-expiry", expiry)
        with running_hub(tmp_path / "near", *words) as near:
            yield Pair(far, near)


def test_many_clients_cause_one_fetch(pair: Pair) -> None:
    """All pull the same image at once: the other hub is asked once for each of its parts."""
    digest = pair.push("team/app", "1", LAYER, b"small")
    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(lambda _: pair.pull("team/app", "1"), range(CLIENTS)))
    assert all(each == (digest, [b"{}", LAYER, b"small"]) for each in found)
    wait_until(lambda: len(pair.asked("GET .*/blobs/")) >= 3, "the last request in the log")
    assert sorted(pair.asked("^(GET|HEAD) ")) == sorted(
        [
            "GET /v2/team/app/manifests/1",
            *(f"GET /v2/team/app/blobs/{sha256(data)}" for data in (b"{}", LAYER, b"small")),
        ]
    )


@pytest.mark.parametrize("expiry", ["0"])
def test_what_was_pulled_stays_when_the_other_is_gone(pair: Pair) -> None:
    """The tag, though it has expired, and the blobs; also after a kill -9 of our own hub. What was never pulled is
    not to be had, and says so. When the other is back, its news are."""
    old = pair.push("team/app", "1", LAYER)
    pair.pull("team/app", "1")
    pair.push("team/never", "1", b"never pulled")
    pair.far.kill()
    for _ in range(2):
        assert pair.pull("team/app", "1")[0] == old
        status, _, body = pair.near.ask("GET", "/v2/up/team/never/manifests/1")
        assert (status, json.loads(body)["errors"][0]["code"]) == (503, "UNAVAILABLE")
        assert pair.near.ask("GET", f"/v2/up/team/never/blobs/{sha256(b'never pulled')}")[0] == 503
        pair.near.kill()
        pair.near.start()
    pair.far.start()
    new = pair.push("team/app", "1", b"other")
    assert pair.pull("team/app", "1")[0] == new
    assert "serving up/team/app 1 as it is here" in (pair.near.root.parent / "near.log").read_text()


@pytest.mark.parametrize("expiry", ["0"])
def test_the_other_dies_in_the_middle(pair: Pair) -> None:
    """The client's connection is cut, or it is told; never a whole answer with half of the bytes. Nothing half stays,
    and the next pull gets it all."""
    pair.push("team/app", "1", LAYER)
    pair.near.ask("GET", "/v2/up/team/app/manifests/1")
    with closing(http.client.HTTPConnection("127.0.0.1", pair.near.port, timeout=30)) as connection:
        connection.request("GET", f"/v2/up/team/app/blobs/{sha256(LAYER)}")
        pair.far.kill()
        reply = connection.getresponse()
        try:
            data = reply.read()
        except (http.client.IncompleteRead, ConnectionError):
            data = b""
        assert (reply.status == 200 and data == LAYER) or data == b"" or reply.status == 503
    pair.far.start()
    assert pair.pull("team/app", "1")[1] == [b"{}", LAYER]


def test_a_stop_gives_up_what_is_on_its_way(pair: Pair, tmp_path: Path) -> None:
    """SIGTERM in the middle of a fetch: the hub ends well and soon, and what it has of it is no blob."""
    pair.push("team/app", "1", LAYER)
    os.kill(pair.far.pid, signal.SIGSTOP)  # it takes the request and never answers
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: pair.near.ask("GET", f"/v2/up/team/app/blobs/{sha256(LAYER)}"))
        wait_until(lambda: _connections(pair.near.pid) > 1, "the request on its way")
        assert pair.near.stop() == 0
        os.kill(pair.far.pid, signal.SIGCONT)
        with pytest.raises((OSError, http.client.HTTPException)):
            asking.result()
    assert not list((pair.near.root / "content" / "blobs" / "sha256").iterdir())


def test_settings_of_upstreams_are_checked(tmp_path: Path) -> None:
    """A wrong one is said at the start, and its password is not."""
    words = ["--root", str(tmp_path), "--listen", "127.0.0.1:0", "--upstream", "x=ftp://me:pw1@h"]
    done = subprocess.run([sys.executable, "-m", "cais.hub.main", *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert "invalid upstream 'x'" in done.stderr and "pw1" not in done.stderr


def test_dockers_registry_behind_a_password(tmp_path: Path) -> None:
    """Docker's own registry as the other side, which wants a login; the settings come from a file."""
    layer = os.urandom(100_000)
    with running_registry(tmp_path / "docker", password=True) as registry:
        manifest = _fill(registry, layer)
        settings = tmp_path / "hub.toml"
        url = f"http://{USER}:{PASSWORD}@{registry.address}"
        settings.write_text(
            f'upstream = ["up={url}", "no=http://{registry.address}"]\nallow-private = true\n'
        )
        with running_hub(tmp_path / "near", "--open", "--config", str(settings)) as near:
            assert near.ask("GET", "/v2/up/team/app/manifests/1")[2] == manifest
            assert near.ask("GET", f"/v2/up/team/app/blobs/{sha256(layer)}")[2] == layer
            assert near.ask("GET", "/v2/no/team/app/manifests/1")[0] == 403
            near.stop()
    assert PASSWORD not in (tmp_path / "near.log").read_text()


def _fill(registry: Registry, layer: bytes) -> bytes:
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    registry.headers["Authorization"] = f"Basic {login}"
    for data in (b"{}", layer):
        registry.put_blob("team/app", data)
    manifest = format_image(b"{}", [layer])
    registry.put_manifest("team/app", "1", manifest)
    return manifest


def _connections(pid: int) -> int:
    """Established TCP connections of the process."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(fd))
        except OSError:
            continue
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[3] == "01" and f"socket:[{line.split()[9]}]" in inodes for line in lines)
