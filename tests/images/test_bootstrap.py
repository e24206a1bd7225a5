"""Base images from the machine's packages."""

import asyncio
import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cais.errors import Invalid, Unavailable, Unsupported
from cais.images.aptsources import Source, choose_sources, parse_sources
from cais.images.bootstrap import choose_settings, is_static, parse_base, read_host_suite
from cais.images.busybox import make_busybox_tar
from cais.images.tool import find_tool, follow, run_tool

STANZAS = """\
# the mirror
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
Enabled: no
URIs: http://old.example/debian
Suites: bookworm
Components: main
"""
LINES = """\
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main # here
deb-src http://mirror.example/debian bookworm main
deb http://security.example/debian-security bookworm-security main
deb http://other.example/apt bookworm stable
"""


def output(*command: str) -> str:
    """What a command says."""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def test_both_forms_of_apt_sources_are_read() -> None:
    """Old lines and new stanzas; sources of sources, disabled ones and comments are left out."""
    mirror, keyring = "http://mirror.example/debian", "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert parse_sources(STANZAS) == [
        Source(mirror, "bookworm", ("main", "contrib"), keyring),
        Source(mirror, "bookworm-updates", ("main", "contrib"), keyring),
    ]
    assert parse_sources(LINES)[0] == Source(mirror, "bookworm", ("main",), "/k.gpg")
    assert [source.suite for source in parse_sources(LINES)] == ["bookworm", "bookworm-security", "bookworm"]


def test_the_host_suite_comes_with_its_fixes() -> None:
    """The machine's own release takes updates and security; other vendors' repositories are left out."""
    chosen = choose_sources(parse_sources(LINES), "bookworm", "bookworm")
    assert [source.suite for source in chosen] == ["bookworm", "bookworm-security"]


def test_another_suite_comes_from_the_host_mirror() -> None:
    """A release that the machine has no source for is taken from where it has its own."""
    (source,) = choose_sources(parse_sources(LINES), "trixie", "bookworm")
    assert source.line(source.suite) == "deb http://mirror.example/debian trixie main"
    assert choose_sources([], "trixie", "bookworm") == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("busybox", ("busybox:latest",)),
        ("debian", ("debian:bookworm", "debian:latest")),
        ("debian:trixie", ("debian:trixie", "debian:latest")),
    ],
)
def test_what_can_be_made(text: str, names: tuple[str, ...]) -> None:
    """The names are those that people know."""
    assert parse_base(text, "bookworm").names == names


@pytest.mark.parametrize("text", ["alpine", "busybox:1", "debian:../x", "debian:-x", "debian:A", ""])
def test_what_cannot_be_made_is_refused(text: str) -> None:
    """Nothing is started for a text that could become an option or a path of the tool."""
    with pytest.raises(Invalid):
        parse_base(text, "bookworm")


def test_a_machine_that_is_no_debian_needs_a_suite() -> None:
    """Without a host suite the user has to choose."""
    with pytest.raises(Invalid, match="say which suite"):
        parse_base("debian", "")


def test_only_settings_for_the_mirror_are_carried_over() -> None:
    """Proxies and clock rules, not what the machine does after installing packages."""
    dump = 'Acquire::http::Proxy "http://p:1";\nAcquire::Check-Valid-Until "false";\nDPkg::Post-Invoke "x";\nAPT "";\n'
    assert choose_settings(dump).splitlines() == dump.splitlines()[:2]


def test_the_host_suite_is_read(tmp_path: Path) -> None:
    """os-release says it, with or without quotes; absent is empty."""
    release = tmp_path / "os-release"
    assert read_host_suite(release) == ""
    release.write_text('NAME="Debian"\nVERSION_CODENAME=bookworm\n')
    assert read_host_suite(release) == "bookworm"


def test_the_busybox_root_is_complete_and_the_same_every_time() -> None:
    """A shell where people look, a sticky /tmp, a closed /root, links that lead to the program."""
    data = make_busybox_tar(b"program", ["bin/sh", "usr/bin/env", "../evil", "linuxrc"], 12)
    assert data == make_busybox_tar(b"program", ["usr/bin/env", "bin/sh", "../evil", "linuxrc"], 12)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {member.name: member for member in archive}
    assert (members["bin/sh"].linkname, members["usr/bin/env"].linkname) == ("busybox", "../../bin/busybox")
    assert members["bin/env"].linkname == "busybox" and "linuxrc" not in members and "../evil" not in members
    assert (members["tmp"].mode, members["root"].mode, members["bin/busybox"].mode) == (0o1777, 0o700, 0o755)
    assert all(member.mtime == 12 and member.uid == 0 for member in members.values())


def test_static_programs_are_told_from_others(tmp_path: Path) -> None:
    """This Python needs an interpreter, a script is no program at all."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert not is_static(script)
    assert not is_static(Path("/bin/ls"))


def test_a_missing_tool_says_what_to_install() -> None:
    """The message names the package."""
    with pytest.raises(Unsupported, match="apt-get install some-package"):
        find_tool("no-such-tool-anywhere", "some-package")


async def test_a_failing_tool_says_why() -> None:
    """Its last words and its exit code are in the error."""
    async with run_tool(["/bin/sh", "-c", "echo out; echo why >&2; exit 3"], env={}) as tool:
        assert [line async for line in tool.lines()] == ["why"]
        with pytest.raises(Unavailable, match="sh failed with exit code 3: why"):
            assert [chunk async for chunk in tool.read()] == [b"out\n"]


async def test_a_tool_that_is_no_longer_wanted_ends_with_its_children() -> None:
    """Leaving the block kills the whole group."""
    async with run_tool(["/bin/sh", "-c", "sleep 1000 & echo $!; wait"], env={}) as tool:
        child = int(await anext(tool.read()))
    assert await asyncio.to_thread(output, "ps", "-o", "stat=", "-p", str(child)) in ("", "Z")


async def test_lines_are_followed_until_the_work_fails() -> None:
    """The work's error comes out, even while the lines go on."""

    async def endless() -> Any:
        yield "one"
        await asyncio.Event().wait()

    async def fail() -> None:
        raise Unavailable("no mirror")

    seen = []
    with pytest.raises(Unavailable, match="no mirror"):
        async for line in follow(endless(), asyncio.create_task(fail())):
            seen.append(line)


@pytest.mark.kernel
@pytest.mark.skipif(
    not any(Path(path).is_file() and is_static(Path(path)) for path in ("/bin/busybox", "/usr/bin/busybox")),
    reason="needs package busybox-static",
)
async def test_busybox_is_made_and_its_root_works(store: Any) -> None:
    """The image is there under its name, twice the same, and its program runs in its root."""
    texts = [event.text async for event in store.images.bootstrap("busybox")]
    assert texts[-1] == "Loaded image: busybox:latest"
    image = await store.images.resolve("busybox")
    async for _ in store.images.bootstrap("busybox"):
        pass
    assert (await store.images.resolve("busybox")).id == image.id
    assert image.config.config.cmd == ("sh",)
    (lower,) = await store.images.root_lowers(image)
    assert stat.S_IMODE(os.stat(f"{lower}/tmp").st_mode) == 0o1777
    assert await asyncio.to_thread(output, "chroot", lower, "/bin/echo", "hello") == "hello"
    assert list((store.root / "tmp").iterdir()) == []
