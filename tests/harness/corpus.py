"""The corpus of builds: how a case becomes a context, and what is compared of the image that comes of it.

A case is a folder with a ``Dockerfile``, ``expected.json`` and perhaps ``case.json``, which may say:

- ``files`` of the context by path: a text, or ``{"text", "mode"}``, ``{"link"}``, ``{"folder": mode}``,
  ``{"tar": [[name, kind, uid, mode, text or link], …], "compression"}``, ``{"gzip": text}``
- ``many``: ``folders`` × ``files`` of ``size`` bytes
- ``repeat``: ``lines`` that stand ``times`` times where the Dockerfile says ``# {repeat}``; ``{n}``, ``{before}`` and
  ``{odd}`` in them are numbers
- ``args``, ``labels``, ``target`` of the build; ``dockerfile``: its path in the context; ``before``: images to build
  first, name and file
- ``base``: what the image stands on, ``busybox`` unless said
- ``look``: only files at and below these paths are compared; ``times``: their times, too; ``summary``: one digest over
  all of them; ``check``: commands and what they say in the image
- ``by-hand``: why the record is not BuildKit's; ``not-yet``: in what Cais differs; ``needs``: the environment variable
  that a slow one waits for
"""

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import docker
import pytest
import zstandard

FOLDER = Path(__file__).parents[1] / "build" / "corpus"
WHEN = 1_600_000_000
"""The time of every file of a context."""
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
_COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: zstandard.compress(data),
}


@dataclass(frozen=True)
class Case:
    """One folder of the corpus."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's."""
        return self.path.name

    @cached_property
    def asked(self) -> dict[str, Any]:
        """``case.json``."""
        path = self.path / "case.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    @property
    def base(self) -> str:
        """The image that it stands on."""
        return str(self.asked.get("base", "busybox"))

    @property
    def expected(self) -> Path:
        """The record."""
        return self.path / "expected.json"

    def write_context(self, folder: Path) -> None:
        """The context, with the same times whenever it is written."""
        name = self.asked.get("dockerfile", "Dockerfile")
        files: dict[str, Any] = {**self.asked.get("files", {}), **self._many()}
        for path, content in files.items():
            _write(folder / path, content)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(self._dockerfile())
        for parent in self.asked.get("before", {}).values():
            (folder / parent).write_bytes((self.path / parent).read_bytes())
        for top, folders, names in os.walk(folder):
            for each in (*folders, *names):
                os.utime(os.path.join(top, each), (WHEN, WHEN), follow_symlinks=False)

    def _dockerfile(self) -> bytes:
        data = (self.path / "Dockerfile").read_bytes()
        repeat = self.asked.get("repeat")
        if not repeat:
            return data
        lines = [
            line.format(n=n, before=n - 1, odd=n % 2)
            for n in range(1, repeat["times"] + 1)
            for line in repeat["lines"]
        ]
        return data.replace(b"# {repeat}", "\n".join(lines).encode())

    def _many(self) -> dict[str, str]:
        many = self.asked.get("many")
        if not many:
            return {}
        size = many["size"]
        return {
            f"f{folder:03}/{file:04}": f"{folder} {file}".ljust(size, ".")
            for folder in range(many["folders"])
            for file in range(many["files"])
        }

    def flags(self, folder: Path) -> list[str]:
        """Of every command line that builds, in the order that they know."""
        asked, flags = self.asked, []
        for name, value in asked.get("args", {}).items():
            flags += ["--build-arg", f"{name}={value}"]
        for name, value in asked.get("labels", {}).items():
            flags += ["--label", f"{name}={value}"]
        if "target" in asked:
            flags += ["--target", asked["target"]]
        if "dockerfile" in asked:
            flags += ["-f", str(folder / asked["dockerfile"])]
        return flags

    def builds(self, folder: Path, image: str) -> Iterator[list[str]]:
        """The flags of each build that it takes, what it stands on first."""
        for name, file in self.asked.get("before", {}).items():
            yield ["-t", name, "-f", str(folder / file)]
        yield ["-t", image, *self.flags(folder)]


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    what = content if isinstance(content, dict) else {"text": content}
    if "link" in what:
        path.symlink_to(what["link"])
    elif "folder" in what:
        path.mkdir(exist_ok=True)
        path.chmod(int(what["folder"], 8))
    elif "tar" in what:
        path.write_bytes(_COMPRESSIONS[what.get("compression", "gzip")](pack(what["tar"])))
    elif "gzip" in what:
        path.write_bytes(gzip.compress(what["gzip"].encode(), mtime=0))
    else:
        path.write_bytes(what["text"].encode("utf-8", "surrogateescape"))
        path.chmod(int(what.get("mode", "644"), 8))


def pack(entries: list[list[Any]]) -> bytes:
    """A tar of [name, kind, uid, mode, text or link]."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, uid, mode, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.uid, info.mode, info.mtime = kind.encode(), uid, int(mode, 8), WHEN + 1
            data = content.encode() if kind == "0" else b""
            info.size, info.linkname = len(data), content if kind in "12" else ""
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def find_cases() -> list[Case]:
    """All of the corpus."""
    return [Case(path.parent) for path in sorted(FOLDER.glob("*/Dockerfile"))]


def wait_for(case: Case) -> None:
    """Skip what is asked for by hand alone."""
    if (needs := case.asked.get("needs")) and not os.environ.get(needs):
        pytest.skip(f"takes minutes: set {needs}")


class Viewer:
    """Looks at what builds have made in one engine."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client
        self._trees: dict[str, dict[str, str]] = {}

    def describe(self, case: Case, image: str) -> dict[str, Any]:
        """What is compared: configuration, history without times, and every file that the base image has not."""
        config = self.client.api.inspect_image(image)["Config"]
        found = {
            "config": {key: config.get(key) for key in (*_CONFIG, *_MORE) if config.get(key)},
            "history": [
                entry["CreatedBy"]
                for entry in self.client.api.history(image)[::-1]
                if entry["Comment"] == "buildkit.dockerfile.v0"
            ],
            **self._files(case, image),
        }
        if "check" in case.asked:
            found["check"] = {command: self.run(image, command) for command in case.asked["check"]}
        return found

    def run(self, image: str, command: str) -> str:
        """What a shell in the image says, or its own program if ``command`` is empty."""
        more: dict[str, Any] = {"entrypoint": [], "command": ["sh", "-c", command]} if command else {}
        return bytes(self.client.containers.run(image, remove=True, **more)).decode().strip()

    def _files(self, case: Case, image: str) -> dict[str, Any]:
        times, look = bool(case.asked.get("times")), case.asked.get("look")
        files = self.tree(image, times=times)
        if look:
            below = tuple(f"{path}/" for path in look)
            return {
                "files": {
                    path: what for path, what in files.items() if path in look or path.startswith(below)
                }
            }
        based = self._is_based_on(case.base, image)
        base = self.tree(case.base, times=times) if based else {}
        changed = {path: what for path, what in files.items() if base.get(path) != what}
        gone = sorted(path for path in base if path not in files)
        if not based and not any(path.startswith("etc/") for path in files):
            changed.pop("etc", None)  # dockerd makes it in every container
        if case.asked.get("summary"):
            whole = json.dumps([sorted(changed.items()), gone]).encode()
            return {"count": len(changed), "digest": hashlib.sha256(whole).hexdigest()}
        return {"files": changed, "gone": gone}

    def _is_based_on(self, base: str, image: str) -> bool:
        layers = [self.client.api.inspect_image(name)["RootFS"].get("Layers", []) for name in (base, image)]
        return bool(layers[1][:1] == layers[0][:1])

    def tree(self, image: str, *, times: bool = False) -> dict[str, str]:
        """Every file of an image's root, by path. What has the same layers and is made into the same container is not
        looked at again."""
        found = self.client.api.inspect_image(image)
        config = {name: value for name, value in found["Config"].items() if name != "Labels"}
        key = json.dumps([found["RootFS"].get("Layers"), config, times], sort_keys=True)
        if key not in self._trees:
            self._trees[key] = self._export(image, times=times)
        return self._trees[key]

    def _export(self, image: str, *, times: bool) -> dict[str, str]:
        container = self.client.containers.create(image, ["x"], entrypoint=["x"])
        try:
            data = b"".join(container.export())
        finally:
            container.remove()
        found = {}
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for entry in tar:
                name = _readable(entry.name.strip("/").removeprefix("./"))
                if name and name != "." and name.split("/")[0] not in _ENGINES and name not in _ENGINES:
                    found[name] = _show(tar, entry, times=times)
        return found


def _readable(name: str) -> str:
    """Bytes that are no UTF-8 as escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _show(tar: tarfile.TarFile, entry: tarfile.TarInfo, *, times: bool) -> str:
    content = ""
    if entry.isreg():
        member = tar.extractfile(entry)
        assert member is not None
        content = hashlib.sha256(member.read()).hexdigest()[:12]
    elif entry.islnk():
        content = f"= {_readable(entry.linkname.strip('/'))}"
    elif entry.issym():
        content = f"-> {_readable(entry.linkname)}"
    elif entry.isdev() and not entry.isfifo():
        content = f"{entry.devmajor},{entry.devminor}"
    kind = {tarfile.DIRTYPE: "d", tarfile.CHRTYPE: "c", tarfile.BLKTYPE: "b", tarfile.FIFOTYPE: "p"}.get(
        entry.type
    )
    kind = kind or ("f" if entry.isreg() else "l")
    mode = "" if entry.issym() else f" {entry.mode:o}"
    # What is made while it builds has no time that could be written down.
    when = f" @{int(entry.mtime)}" if times and entry.mtime <= WHEN + 1 else ""
    return f"{kind}{mode} {entry.uid}:{entry.gid} {content}".strip() + when


def differences(found: Any, expected: Any, at: str = "") -> list[str]:
    """Each value that is not the same, with where it is."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted({*found, *expected})
        return [
            line for key in keys for line in differences(found.get(key), expected.get(key), f"{at} {key}")
        ]
    return [] if found == expected else [f"{at.strip()}: {found!r}, expected {expected!r}"]


@contextlib.contextmanager
def viewing(client: docker.DockerClient) -> Iterator[Viewer]:
    """A viewer that closes its client."""
    with contextlib.closing(client):
        yield Viewer(client)
