"""A corpus of builds: configuration, history and files of each are what docker build with BuildKit makes.

``expected.json`` was written by dockerd's BuildKit: ``CAIS_RIVAL_HOST`` names a dockerd with the image ``busybox`` of
the tests, and ``CAIS_GOLDEN=write`` writes anew from there.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from harness.live import SOURCES, LiveEngine

FOLDER = Path(__file__).parent / "corpus"
CASES = sorted(path.parent for path in FOLDER.glob("*/Dockerfile"))
RIVAL = os.environ.get("CAIS_RIVAL_HOST", "")
DOCKER = os.environ.get("CAIS_RIVAL_DOCKER", "docker")
"""A docker client with buildx; its DOCKER_CONFIG is the environment's."""
_ENGINES = ("dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", ".dockerenv")
_CONFIG = (
    "User",
    "Env",
    "Cmd",
    "Entrypoint",
    "WorkingDir",
    "Labels",
    "ExposedPorts",
    "Volumes",
    "StopSignal",
)
_MORE = ("Shell", "OnBuild", "Healthcheck", "ArgsEscaped")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="a real engine needs root"),
]


def read_case(case: Path) -> dict[str, Any]:
    """``files`` by path: a text, or ``link``, ``text`` with ``mode``, ``folder`` as a mode; ``args`` and ``target``;
    ``by-hand``: the record is not BuildKit's."""
    path = case / "case.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def make_context(case: Path, folder: Path) -> None:
    """Write the context of a case."""
    (folder / "Dockerfile").write_bytes((case / "Dockerfile").read_bytes())
    for name, content in read_case(case).get("files", {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        what = content if isinstance(content, dict) else {"text": content}
        if "link" in what:
            path.symlink_to(what["link"])
        elif "folder" in what:
            path.mkdir(exist_ok=True)
            path.chmod(int(what["folder"], 8))
        elif "tar" in what:
            path.write_bytes(pack(what["tar"]))
        else:
            path.write_text(what["text"])
            path.chmod(int(what.get("mode", "644"), 8))


def pack(entries: list[list[Any]]) -> bytes:
    """An archive of [name, kind, uid, mode, text or link]."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, uid, mode, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.uid, info.mode = kind.encode(), uid, int(mode, 8)
            data = content.encode() if kind == "0" else b""
            info.size, info.linkname = len(data), content if kind in "12" else ""
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue(), mtime=0)


def describe(client: docker.DockerClient, image: str) -> dict[str, Any]:
    """What is compared: configuration, history without times, and every file that the base image has not."""
    config = client.api.inspect_image(image)["Config"]
    base = tree(client, "busybox")
    files = tree(client, image)
    changed = {path: what for path, what in files.items() if base.get(path) != what}
    gone = sorted(path for path in base if path not in files) if is_on_base(client, image) else []
    if not is_on_base(client, image):
        changed = files
        if not any(path.startswith("etc/") for path in files):
            changed.pop("etc", None)  # dockerd makes it in every container
    history = [
        [entry["CreatedBy"], entry["Comment"]]
        for entry in client.api.history(image)[::-1]
        if entry["Comment"] == "buildkit.dockerfile.v0"
    ]
    return {
        "config": {key: config.get(key) for key in (*_CONFIG, *_MORE) if config.get(key)},
        "history": [text for text, _ in history],
        "files": changed,
        "gone": gone,
    }


def is_on_base(client: docker.DockerClient, image: str) -> bool:
    """Whether busybox's layer is in the image."""
    layers = [client.api.inspect_image(name)["RootFS"]["Layers"] for name in ("busybox", image)]
    return bool(layers[1][:1] == layers[0][:1])


def tree(client: docker.DockerClient, image: str) -> dict[str, str]:
    """Every file of an image's root, by path."""
    container = client.containers.create(image, ["x"], entrypoint=["x"])
    try:
        data = b"".join(container.export())
    finally:
        container.remove()
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for entry in tar:
            name = entry.name.strip("/").removeprefix("./")
            if not name or name == "." or name.split("/")[0] in _ENGINES or name in _ENGINES:
                continue
            content = ""
            if entry.isreg():
                member = tar.extractfile(entry)
                assert member is not None
                content = hashlib.sha256(member.read()).hexdigest()[:12]
            elif entry.islnk():
                content = f"= {entry.linkname.strip('/')}"
            elif entry.issym():
                content = f"-> {entry.linkname}"
            kind = "d" if entry.isdir() else "f" if entry.isreg() else "l"
            mode = "" if entry.issym() else f" {entry.mode:o}"
            found[name] = f"{kind}{mode} {entry.uid}:{entry.gid} {content}".strip()
    return found


def build_flags(case: Path) -> list[str]:
    """Flags of ``docker build``."""
    asked = read_case(case)
    flags = [
        word for name, value in asked.get("args", {}).items() for word in ("--build-arg", f"{name}={value}")
    ]
    return flags + (["--target", asked["target"]] if "target" in asked else [])


@pytest.fixture
def client(shared_engine: LiveEngine) -> Iterator[docker.DockerClient]:
    """docker-py, connected to the shared engine."""
    with contextlib.closing(shared_engine.client()) as client:
        yield client


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_a_build_makes_what_buildkit_makes(
    case: Path, client: docker.DockerClient, shared_engine: LiveEngine, tmp_path: Path
) -> None:
    """Configuration, history, files with owners and modes, and what is gone."""
    make_context(case, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "CAIS_HOST": f"unix://{shared_engine.socket}"}
    command = [sys.executable, "-m", "cais", "build", "-t", "corpus", *build_flags(case), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = describe(client, "corpus")
    assert found == json.loads((case / "expected.json").read_text())


@pytest.mark.rival
@pytest.mark.slow
@pytest.mark.skipif(not RIVAL, reason="needs CAIS_RIVAL_HOST: a dockerd with the image busybox")
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_the_record_is_what_buildkit_makes(case: Path, tmp_path: Path) -> None:
    """dockerd says so itself."""
    if read_case(case).get("by-hand"):
        pytest.skip("this dockerd does not know it yet: the record was made by hand")
    make_context(case, tmp_path)
    environment = {**os.environ, "DOCKER_HOST": RIVAL, "DOCKER_BUILDKIT": "1"}
    command = [DOCKER, "build", "--provenance=false", "-t", "corpus", *build_flags(case), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    with contextlib.closing(docker.DockerClient(base_url=RIVAL, timeout=60)) as rival:
        found = describe(rival, "corpus")
    expected = case / "expected.json"
    if os.environ.get("CAIS_GOLDEN") == "write":
        expected.write_text(json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    assert found == json.loads(expected.read_text())


def test_the_corpus_is_there() -> None:
    """No case without a record."""
    assert len(CASES) >= 25 and all((case / "expected.json").exists() for case in CASES)
