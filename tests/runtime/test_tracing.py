"""What a container that may trace processes learns from those that the keeper starts in its sight."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cais.runtime.base import ExecStart
from cais.spec.runtimespec import Capabilities, Mount, Process
from harness.boxes import CAPABILITIES, DEADLINE, Box, frames

pytestmark = pytest.mark.kernel

HALVES = ("a-secret-of-", "another-container")
TRACING = (*CAPABILITIES, "CAP_SYS_PTRACE")
MANY = 5


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the program that searches others' memory; skips without a C compiler."""
    folder = tmp_path_factory.mktemp("reader")
    if not shutil.which("gcc"):
        pytest.skip("the reader needs a C compiler: install gcc and libc6-dev")
    source = Path(__file__).with_name("reader.c")
    subprocess.run(["gcc", "-O1", "-static", "-o", folder / "reader", source], check=True)
    return folder


def holding(names: tuple[str, ...]) -> Capabilities:
    """All three sets that a container's root has."""
    return Capabilities(bounding=names, effective=names, permitted=names)


class Lines:
    """The lines a task prints."""

    def __init__(self, sock) -> None:
        self.sock, self.data = sock, b""

    async def next(self) -> str:
        """One more line, without its end."""
        while b"\n" not in (text := b"".join(data for _, data in frames(self.data))):
            more = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 65536), DEADLINE)
            assert more, "the task has ended"
            self.data += more
        line, _, rest = text.partition(b"\n")
        self.data = b"\x01\0\0\0" + len(rest).to_bytes(4, "big") + rest if rest else b""
        return line.decode()


@asynccontextmanager
async def watching(box: Box, reader: Path, names: tuple[str, ...] = TRACING) -> AsyncIterator[Lines]:
    """A container "run" that searches the memory of whatever appears in it, beside one with a secret."""
    # Many copies: what is freed is overwritten by and by, and one that is left is enough.
    secrets = tuple(f"PASSWORD{number}={''.join(HALVES)}" for number in range(1000))
    await box.start("other", "sleep", "100", env=("PATH=/bin", *secrets))
    mounts = (Mount("/reader", str(reader), "bind", ("rbind", "ro")),)
    spec = box.spec(
        "run", "/reader/reader", *HALVES, "1000", capabilities=holding(names), mounts=mounts
    )
    with await box.driver.attach("run", "", stdin=False, stdout=True, stderr=True) as sock:
        await box.driver.start(box.request("run", spec, open_stdin=True))
        lines = Lines(sock)
        assert await lines.next() == "ready"
        yield lines


async def test_an_exec_shows_a_tracing_container_only_itself(box: Box, reader: Path) -> None:
    """From the first moment on: no memory of others, no capability that the container has not (CVE-2016-9962)."""
    async with watching(box, reader) as lines:
        seen = []
        for number in range(MANY):
            process = Process(args=("true",), env=("PATH=/bin",), capabilities=holding(TRACING))
            await box.driver.exec(ExecStart("run", f"e{number}", process))
            assert (await box.ended()).code == 0
            seen.append((await lines.next()).split())
        own = Path(f"/proc/{(await box.driver.list())[0].pid}/status").read_text()
    print(*seen, sep="\n")
    assert any("busybox" not in line[3] for line in seen), "never caught one before its execve"
    assert {line[2] for line in seen} == {"clean"}
    assert {f"CapPrm:\t{line[1]}" for line in seen} <= set(own.splitlines())
