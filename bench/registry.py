"""A registry on loopback for the image measures, and the images in it."""

import hashlib
import http.client
import io
import json
import random
import re
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.sides import wait_until

ADDRESS = "127.0.0.1:5000"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


@contextmanager
def serving(program: Path, folder: Path, *pids: int) -> Iterator[None]:
    """The registry's program serving ``folder`` at ADDRESS in the network namespace of each of ``pids``; 0: our own."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": ADDRESS, "host": f"http://{ADDRESS}"},
    }
    (folder / "config.yml").write_text(json.dumps(settings))
    running = []
    try:
        for pid in pids:
            place = [f"--net=/proc/{pid or 'self'}/ns/net"]
            command = ["nsenter", *place, str(program), "serve", str(folder / "config.yml")]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for process in running:
            wait_until(lambda process=process: _listens(process.pid), "the registry")
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _listens(pid: int) -> bool:
    return (
        f":{int(ADDRESS.rpartition(':')[2]):04X} 00000000:0000 0A" in Path(f"/proc/{pid}/net/tcp").read_text()
    )


@dataclass(frozen=True)
class Layer:
    """A gzip layer in a file."""

    path: Path
    digest: str
    diff_id: str

    @property
    def size(self) -> int:
        """Bytes, compressed."""
        return self.path.stat().st_size


def make_layer(tar: Path, *, level: int = 6) -> Layer:
    """Compress ``tar`` in place, with the command that most images were made with."""
    diff_id = _digest(tar)
    subprocess.run(["gzip", "-n", f"-{level}", str(tar)], check=True)
    packed = tar.with_name(tar.name + ".gz")
    return Layer(packed, _digest(packed), diff_id)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def make_blocks(tar: Path, size: int, seed: int) -> Layer:
    """Files of a megabyte each that compress to ``size`` bytes together, about two fifths of what they hold."""
    noise, total, number = random.Random(seed), 0, 0
    with tarfile.open(tar, "w") as archive:
        while total < size:
            data = b"".join(noise.randbytes(4096) + bytes(6144) for _ in range(100))
            info = tarfile.TarInfo(f"blocks{seed}/{number}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            total, number = total + 4096 * 100, number + 1
    return make_layer(tar, level=1)


def make_small_files(tar: Path, count: int, seed: int = 1) -> Layer:
    """``count`` files of a few hundred bytes in folders of a hundred."""
    noise = random.Random(seed)
    with tarfile.open(tar, "w") as archive:
        for number in range(count):
            if number % 100 == 0:
                folder = tarfile.TarInfo(f"small{seed}-{number // 100}")
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(folder)
            data = noise.randbytes(100) + b"small file\n" * noise.randrange(50)
            info = tarfile.TarInfo(f"small{seed}-{number // 100}/{number}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return make_layer(tar)


def put_image(store: "Store", name: str, layers: list[Layer]) -> None:
    """Push an image of these layers under ``name``."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["true"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created_by": "bench"} for _ in layers],
    }
    data = json.dumps(config).encode()
    for layer in layers:
        store.put_blob(name, layer.digest, layer.path)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    store.put_blob(name, digest, data)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest, "size": len(data)},
        "layers": [{"mediaType": GZIP, "digest": layer.digest, "size": layer.size} for layer in layers],
    }
    store.send("PUT", f"/v2/{name}/manifests/1", json.dumps(manifest).encode(), {"Content-Type": MANIFEST})


@dataclass(frozen=True)
class Store:
    """Requests to a registry that listens here."""

    address: str

    def put_blob(self, name: str, digest: str, body: Path | bytes) -> None:
        """Upload in one piece."""
        location = self.send("POST", f"/v2/{name}/blobs/uploads/", b"", {})
        path = re.sub(r"https?://[^/]+", "", location)
        query = f"{path}{'&' if '?' in path else '?'}digest={digest}"
        if isinstance(body, Path):
            with body.open("rb") as file:
                self.send("PUT", query, file, {"Content-Length": str(body.stat().st_size)})
        else:
            self.send("PUT", query, body, {})

    def send(self, method: str, path: str, body: object, headers: dict[str, str]) -> str:
        """One request; its ``Location``. RuntimeError for a refusal."""
        connection = http.client.HTTPConnection(self.address, timeout=120)
        try:
            connection.request(method, path, body, headers)  # type: ignore[arg-type]
            with connection.getresponse() as response:
                text = response.read()
                if response.status >= 300:
                    raise RuntimeError(f"{method} {path}: {response.status} {text.decode(errors='replace')}")
                return response.headers.get("Location", "")
        finally:
            connection.close()
