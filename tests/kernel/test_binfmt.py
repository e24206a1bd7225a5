"""Building for and running on another processor than this one, where the kernel hands its programs to an emulator.

``tests/kernel/v2/test_v2_vm.py`` runs these in a virtual machine; elsewhere nobody registers emulators in a kernel."""

import contextlib
import io
import os
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.errors import APIError

from cais.api.buildkit.control import CONTROL
from cais.api.buildkit.messages import Empty, ListWorkersResponse
from harness.buildkit import connected
from harness.builds import Answer, make_context, post_build
from harness.live import LiveEngine, living_engine

EMULATOR = os.environ.get("CAIS_TEST_EMULATOR", "")
"""An emulator of arm64, linked statically."""
FOLDER = Path("/proc/sys/fs/binfmt_misc")
MAGIC = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00"
MASK = b"\xff" * 7 + bytes(9) + b"\xfe\xff\xff\xff"
DOCKERFILE = """
FROM scratch
COPY --chmod=755 program /program
RUN ["/program"]
ENTRYPOINT ["/program"]
"""

pytestmark = [pytest.mark.kernel, pytest.mark.e2e]
in_the_machine = pytest.mark.skipif(not EMULATOR, reason="runs in the virtual machine only")


def make_program(path: bytes = b"/made", text: bytes = b"made on arm64\n") -> bytes:
    """An arm64 program that writes ``text`` to standard output and to a new file at ``path``."""

    def mov(register: int, value: int) -> int:  # movz
        return 0xD2800000 | value << 5 | register

    def adr(register: int, at: int, target: int) -> int:
        offset = target - 4 * at
        return 0x10000000 | (offset & 3) << 29 | offset >> 2 << 5 | register

    svc, movn = 0xD4000001, 0x92800000
    length = 18
    strings = 4 * length
    words = [
        *(mov(0, 1), adr(1, 1, strings + len(path) + 1), mov(2, len(text)), mov(8, 64), svc),  # write
        # openat(AT_FDCWD, path, O_WRONLY | O_CREAT, 0o644)
        *(movn | 99 << 5, adr(1, 6, strings), mov(2, 0o101), mov(3, 0o644), mov(8, 56), svc),
        *(adr(1, 11, strings + len(path) + 1), mov(2, len(text)), mov(8, 64), svc),  # write
        *(mov(0, 0), mov(8, 93), svc),  # exit
    ]
    assert len(words) == length
    code = struct.pack(f"<{length}I", *words) + path + b"\0" + text
    base, headers = 0x400000, 64 + 56
    elf = MAGIC + struct.pack("<IQQQIHHHHHH", 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = headers + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x10000)
    return elf + segment + code


@contextlib.contextmanager
def emulating() -> Iterator[None]:
    """The kernel runs arm64's programs by the emulator, which it has opened (F): it is in no container's root."""
    subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", FOLDER], check=True)
    line = b":emulated:M::" + _escape(MAGIC) + b":" + _escape(MASK) + b":" + EMULATOR.encode() + b":FC"
    (FOLDER / "register").write_bytes(line)
    try:
        yield
    finally:
        (FOLDER / "emulated").write_text("-1")
        subprocess.run(["umount", FOLDER], check=True)


def _escape(data: bytes) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in data)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveEngine]:
    """One for all of them."""
    with living_engine(tmp_path_factory.mktemp("binfmt")) as engine:
        yield engine


def build(engine: LiveEngine, name: str, dockerfile: str = DOCKERFILE) -> Answer:
    """What was said to it."""
    context = make_context(dockerfile, ("program", "file", make_program()))
    return post_build(engine, context, t=name, nocache="1", platform="linux/arm64")


def test_without_an_emulator_the_error_says_so(engine: LiveEngine) -> None:
    """In a build and in a container: which machine the program is for, and what is missing."""
    words = "exec format error: it is for aarch64, this machine is"
    error = build(engine, "foreign").error
    assert words in error and "binfmt_misc" in error
    answer = build(engine, "foreign", DOCKERFILE.replace("RUN", "#"))
    assert not answer.error
    with contextlib.closing(engine.client()) as client, pytest.raises(APIError, match=words):
        client.containers.run("foreign", remove=True)


@in_the_machine
def test_with_an_emulator_it_runs(engine: LiveEngine) -> None:
    """What RUN made is in the image, which says what it is for; and a container of it runs."""
    with emulating(), contextlib.closing(engine.client()) as client:
        answer = build(engine, "emulated", DOCKERFILE)
        assert not answer.error
        assert "made on arm64" in answer.text
        assert client.images.get("emulated").attrs["Architecture"] == "arm64"
        assert client.containers.run("emulated", remove=True) == b"made on arm64\n"
        container = client.containers.create("emulated")
        with tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))) as tar:
            made = tar.extractfile("made")
            assert made is not None and made.read() == b"made on arm64\n"
        container.remove()


async def list_platforms(engine: LiveEngine) -> list[str]:
    """Of the engine's worker, as BuildKit's clients get them."""
    async with connected(engine.socket) as client:
        answer = await client.channel.unary(f"{CONTROL}ListWorkers", Empty(), ListWorkersResponse)
    return [f"{one.os}/{one.architecture}" for one in answer.record[0].platforms]


@in_the_machine
async def test_clients_are_told_what_is_emulated(engine: LiveEngine) -> None:
    """While it is so: `docker buildx ls` shows it."""
    assert "linux/arm64" not in await list_platforms(engine)
    with emulating():
        assert "linux/arm64" in await list_platforms(engine)


async def test_clients_are_told_what_runs_here(engine: LiveEngine) -> None:
    """What the engine says first is the machine itself."""
    own, *rest = await list_platforms(engine)
    assert own == {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}[os.uname().machine]
    assert own not in rest
