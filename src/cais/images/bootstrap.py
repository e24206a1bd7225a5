"""Base images from the machine's own package mirror, for people whose registry is out of reach."""

import asyncio
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from cais.errors import Invalid, Unavailable, Unsupported
from cais.images.aptsources import Source, choose_sources, parse_sources
from cais.images.busybox import make_busybox_tar
from cais.images.tool import find_tool, follow, run_tool
from cais.spec.reference import is_tag

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SUITE = re.compile(r"[a-z][a-z0-9.-]*")
# Settings of the machine's apt that say how to reach the mirror; mmdebstrap does not read them by itself.
_APT_SETTING = re.compile(
    r'Acquire::(?:https?::(?:[\w:.-]+)|Check-Valid-Until|Check-Date|Retries|ForceIPv[46]) ".+";'
)
_KEPT = ("PATH", "HOME", "LANG", "http_proxy", "https_proxy", "no_proxy", "SOURCE_DATE_EPOCH")
_STATIC = ("/bin/busybox", "/usr/bin/busybox")


class BaseImage(msgspec.Struct, frozen=True):
    """What to make: ``names`` short references, ``command`` what a container starts by default."""

    kind: str
    suite: str
    names: tuple[str, ...]
    command: tuple[str, ...]


def parse_base(text: str, host_suite: str) -> BaseImage:
    """``busybox``, ``debian`` or ``debian:SUITE``; ``host_suite`` is this machine's. Raises Invalid."""
    kind, _, suite = text.partition(":")
    if kind == "busybox" and suite in ("", "latest"):
        return BaseImage("busybox", "", ("busybox:latest",), ("sh",))
    if kind == "debian":
        suite = host_suite if suite in ("", "latest") else suite
        if not suite:
            raise Invalid("this machine is no Debian: say which suite, as in debian:stable")
        if not _SUITE.fullmatch(suite) or not is_tag(suite):
            raise Invalid(f"invalid Debian suite: {suite!r}")
        return BaseImage("debian", suite, (f"debian:{suite}", "debian:latest"), ("bash",))
    raise Invalid(f"cannot bootstrap {text!r}: choose busybox, debian or debian:SUITE")


class Root:
    """A root file system in the making: ``tar`` its bytes, ``lines`` what is going on, read side by side."""

    def __init__(self, tar: AsyncIterator[bytes], lines: AsyncIterator[str], created_ns: int) -> None:
        self.tar = tar
        self.lines = lines
        self.created_ns = created_ns


@asynccontextmanager
async def open_root(base: BaseImage, host_suite: str, scratch: Path | None) -> AsyncIterator[Root]:
    """Start making ``base``. ``scratch`` is a folder for temporary files, the system's if None.

    Raises Unsupported naming the package to install when a tool is missing; Unavailable when the mirror is.
    """
    with tempfile.TemporaryDirectory(prefix="bootstrap-", dir=scratch, ignore_cleanup_errors=True) as folder:
        # apt downloads as a user of its own, who must get through.
        await asyncio.to_thread(Path(folder).chmod, 0o711)
        make = _busybox_root(folder) if base.kind == "busybox" else _debian_root(base, host_suite, folder)
        async with make as root:
            yield root


@asynccontextmanager
async def _busybox_root(folder: str) -> AsyncIterator[Root]:
    path = _installed_busybox() or await _download_busybox(folder)
    output = await _output([path, "--list-full"])
    binary, built = await asyncio.to_thread(_read_program, Path(path))
    # The package's own build time, so that the same package gives the same image.
    mtime = int(os.environ.get("SOURCE_DATE_EPOCH") or built)
    data = await asyncio.to_thread(make_busybox_tar, binary, output.split(), mtime)

    async def tar() -> AsyncIterator[bytes]:
        yield data

    async def lines() -> AsyncIterator[str]:
        yield f"packing {path} with {len(output.split())} applets"

    yield Root(tar(), lines(), mtime * 10**9)


def _read_program(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), int(path.stat().st_mtime)


def _installed_busybox() -> str | None:
    return next((path for path in _STATIC if Path(path).is_file() and is_static(Path(path))), None)


def is_static(path: Path) -> bool:
    """Whether an ELF program runs without an interpreter of its own (no PT_INTERP segment; elf(5))."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:4] != b"\x7fELF" or head[4] != 2:
        return False
    order: str = "little" if head[5] == 1 else "big"

    def number(offset: int, size: int) -> int:
        return int.from_bytes(head[offset : offset + size], "little" if order == "little" else "big")

    table, entry, count = number(32, 8), number(54, 2), number(56, 2)
    return all(number(table + index * entry, 4) != 3 for index in range(count))


async def _download_busybox(folder: str) -> str:
    apt = find_tool("apt-get", "apt")
    unpack = find_tool("dpkg-deb", "dpkg")
    # apt drops to its own user for downloads, who must be able to write here.
    await _output([apt, "-o", "APT::Sandbox::User=root", "download", "busybox-static"], cwd=folder)
    package = await asyncio.to_thread(_find, folder, "busybox-static_*.deb")
    await _output([unpack, "-x", package, folder])
    return await asyncio.to_thread(_find, folder, "**/bin/busybox")


def _find(folder: str, pattern: str) -> str:
    found = next(Path(folder).glob(pattern), None)
    if found is None:
        raise Unavailable(f"the downloaded package holds no {pattern}")
    return str(found)


async def _output(command: list[str], cwd: str | None = None) -> str:
    async with run_tool(command, env=_environment(), cwd=cwd) as tool:

        async def read() -> str:
            return b"".join([chunk async for chunk in tool.read()]).decode()

        reading = asyncio.create_task(read())
        async for _ in follow(tool.lines(), reading):
            pass
        return reading.result()


@asynccontextmanager
async def _debian_root(base: BaseImage, host_suite: str, folder: str) -> AsyncIterator[Root]:
    mmdebstrap = find_tool("mmdebstrap", "mmdebstrap")
    sources = choose_sources(await asyncio.to_thread(_host_sources), base.suite, host_suite)
    if not sources:
        raise Unsupported("this machine's apt sources name no Debian mirror")
    dump = await _output([find_tool("apt-config", "apt"), "dump"])
    settings = Path(folder, "apt.conf")
    await asyncio.to_thread(settings.write_text, choose_settings(dump))
    command = [mmdebstrap, "--mode=root", "--variant=minbase", "--format=tar", f"--aptopt={settings}"]
    command += [f"--keyring={path}" for path in dict.fromkeys(source.signed_by for source in sources) if path]
    command += [base.suite, "-", *(source.line(source.suite) for source in sources)]
    async with run_tool(command, env={**_environment(), "TMPDIR": folder}) as tool:
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        yield Root(tool.read(), tool.lines(), int(epoch) * 10**9 if epoch else time.time_ns())


def choose_settings(dump: str) -> str:
    """Of what ``apt-config dump`` says, the settings that are needed to reach the mirror."""
    return "".join(f"{line}\n" for line in dump.splitlines() if _APT_SETTING.fullmatch(line))


def _host_sources() -> list[Source]:
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    texts: Iterable[str] = (
        path.read_text(errors="replace")
        for path in files
        if path.suffix in (".list", ".sources") and path.is_file()
    )
    return [source for text in texts for source in parse_sources(text)]


def read_host_suite(path: Path = Path("/etc/os-release")) -> str:
    """The code name of this machine's Debian, or empty (os-release(5))."""
    try:
        found = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', path.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def _environment() -> Mapping[str, str]:
    """Nothing of the engine's own environment that could change what the tools make."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **kept}
