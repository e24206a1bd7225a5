"""The mounts of a RUN, before any container: secrets, caches, targets."""

import asyncio
import contextlib
import io
import os
import socket
import stat
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from cais.build import relay
from cais.build.cache import BuildCache
from cais.build.context import index_context
from cais.build.dockerfile.evaluate import InlineFile, RunAct
from cais.build.dockerfile.flags import parse_mount
from cais.build.layering import Part, extract_part
from cais.build.mounts import Given, MountMaker
from cais.build.refusals import check_act
from cais.build.request import Agents, BuildRequest, HeldSecrets, NoAgents
from cais.build.vault import Vault
from cais.errors import Invalid


def act_of(*mounts: str, cwd: str = "/", script: InlineFile | None = None) -> RunAct:
    """A RUN with these mounts."""
    return RunAct(("x",), (), (), cwd, "", tuple(map(parse_mount, mounts)), "", "", script)


async def extract(part: Part, folder: Path) -> str:
    """Write a part of a tree."""
    return extract_part(part, folder)


def given(
    secrets: dict[str, bytes] | None = None,
    agents: Agents | None = None,
    parts: dict[int, Part] | None = None,
) -> Given:
    """What mounts are made of."""
    return Given(parts or {}, extract, HeldSecrets(secrets or {}), agents or NoAgents())


@pytest.fixture
def maker(tmp_path: Path) -> MountMaker:
    """Mounts of an engine whose root is the test's folder."""
    return MountMaker(BuildCache(tmp_path))


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_secrets_are_files_for_root_alone_or_variables(maker: MountMaker, tmp_path: Path) -> None:
    """In a folder that goes with the step; modes and owners as asked."""
    act = act_of(
        "type=secret,id=a",
        "type=secret,id=b,target=/run/b,mode=0440,uid=5,gid=6",
        "type=secret,id=c,env=C",
        "type=secret,id=none",
    )
    secrets = {"a": b"A\0", "b": b"B", "c": b"C"}
    async with maker.mount(act, (), tmp_path, given(secrets)) as mounted:
        first, second = mounted.points
        assert (first.destination, second.destination) == ("/run/secrets/a", "/run/b") and not first.rw
        assert Path(first.source).read_bytes() == b"A\0" and mounted.env == ("C=C",)
        found = Path(second.source).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o440, 5, 6)
        assert stat.S_IMODE(Path(first.source).stat().st_mode) == 0o400
        assert {"run/secrets/a", "run/b"} <= mounted.stub_files and {
            "run",
            "run/secrets",
        } <= mounted.stub_folders


async def test_targets_are_absolute_and_stay_inside(maker: MountMaker, tmp_path: Path) -> None:
    """Relative ones begin at the working folder; the root itself cannot be one."""
    act = act_of("type=cache,target=../c/../../d", cwd="/a/b")
    async with maker.mount(act, (), tmp_path, given()) as mounted:
        assert mounted.points[0].destination == "/d"
    with pytest.raises(Invalid, match="cannot be at /"):
        async with maker.mount(act_of("type=cache,target=a/..", cwd="/"), (), tmp_path, given()):
            pass


async def test_a_locked_cache_is_one_steps_at_a_time(maker: MountMaker, tmp_path: Path) -> None:
    """The second waits for the first; a private one gets a folder of its own; shared ones share."""
    order: list[str] = []

    async def use(name: str, sharing: str, gate: asyncio.Event) -> str:
        act = act_of(f"type=cache,target=/c,id=x,sharing={sharing}")
        async with maker.mount(act, (), tmp_path, given()) as mounted:
            order.append(f"{name} in")
            began.set()
            await gate.wait()
            order.append(f"{name} out")
            return mounted.points[0].source

    gate, began = asyncio.Event(), asyncio.Event()
    for sharing in ("locked", "private", "shared"):
        order.clear()
        gate.clear()
        began.clear()
        tasks = [asyncio.create_task(use(name, sharing, gate)) for name in "ab"]
        await began.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert order == (["a in"] if sharing == "locked" else ["a in", "b in"])
        gate.set()
        sources = await asyncio.gather(*tasks)
        assert (len(set(sources)) == 2) is (sharing == "private")


async def test_a_required_secret_that_nobody_has_is_named(maker: MountMaker, tmp_path: Path) -> None:
    """With what to do about it."""
    with pytest.raises(Invalid, match="secret a: not found: give it"):
        async with maker.mount(act_of("type=secret,id=a,required"), (), tmp_path, given()):
            pass


async def test_a_script_is_shown_as_a_program(maker: MountMaker, tmp_path: Path) -> None:
    """Below /dev, of which nothing is in a layer."""
    async with maker.mount(act_of(script=InlineFile("E", b"#!x")), (), tmp_path, given()) as mounted:
        (point,) = mounted.points
        assert point.destination == "/dev/pipes/E" and Path(point.source).stat().st_mode & 0o777 == 0o755


def test_rights_are_refused_unless_they_are_given() -> None:
    """With the word that gives them; nothing has run then."""
    for kind, value in (("security", "insecure"), ("network", "host")):
        act = replace(act_of(), **{kind: value})
        with pytest.raises(Invalid, match=f"--allow {kind}.{value}"):
            check_act(act, BuildRequest())
        check_act(act, BuildRequest(entitlements=frozenset((f"{kind}.{value}",))))


# Secrets


async def test_secrets_lie_in_memory_and_are_wiped(maker: MountMaker, tmp_path: Path) -> None:
    """Not in the step's folder, which is on a disk; after the step there is nothing."""
    act = act_of("type=secret,id=a", "type=secret,id=b,target=/b", "type=cache,target=/c")
    async with maker.mount(act, (), tmp_path, given({"a": b"AAA", "b": b"B"})) as mounted:
        folder = Path(mounted.points[0].source).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert not folder.is_relative_to(tmp_path) and not any(tmp_path.glob("**/0"))
        held = (folder / "0").open("rb")
    assert not folder.exists()
    with held:
        assert held.read() == b"\0\0\0"


def test_what_a_killed_engine_left_is_swept(tmp_path: Path) -> None:
    """That of its own root only."""
    vault, other = Vault(tmp_path), Vault(tmp_path / "other")
    with contextlib.ExitStack() as stack:
        mine = stack.enter_context(vault.folder(tmp_path))
        theirs = stack.enter_context(other.folder(tmp_path))
        (mine / "secret").write_bytes(b"x")
        Vault(tmp_path)
        assert not mine.exists() and theirs.exists()


def test_without_a_place_in_memory_the_steps_folder_will_do(tmp_path: Path) -> None:
    """Wiped and removed all the same."""
    with Vault(tmp_path, tmp_path).folder(tmp_path) as folder:
        assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


async def test_a_secret_with_a_null_byte_is_no_variable(maker: MountMaker, tmp_path: Path) -> None:
    """Nothing would be behind it."""
    with pytest.raises(Invalid, match="secret a holds a null byte"):
        async with maker.mount(act_of("type=secret,id=a,env=A"), (), tmp_path, given({"a": b"x\0y"})):
            pass


async def test_source_names_a_secret_and_its_last_part_the_file(maker: MountMaker, tmp_path: Path) -> None:
    """As BuildKit has it."""
    act = act_of("type=secret,id=x,source=dir/a")
    async with maker.mount(act, (), tmp_path, given({"dir/a": b"1"})) as mounted:
        assert mounted.points[0].destination == "/run/secrets/a"


# Caches that begin with files


def make_part(folder: Path, **files: str) -> Part:
    """A part of a layer."""
    (folder / "in").mkdir(parents=True)
    for name, text in files.items():
        (folder / "in" / name).write_text(text)
    return Part("in", None, (str(folder),))


async def test_a_cache_begins_with_the_files_it_is_from(maker: MountMaker, tmp_path: Path) -> None:
    """Copied once; then it is a cache like others. From other files it is another one."""
    act = act_of("type=cache,target=/c,from=x,source=in")
    part = make_part(tmp_path / "layer", a="1")
    for text in ("1", "2"):
        async with maker.mount(act, (), tmp_path, given(parts={0: part})) as mounted:
            file = Path(mounted.points[0].source) / "a"
            assert file.read_text() == text
            file.write_text("2")
    assert (tmp_path / "layer/in/a").read_text() == "1"
    other = make_part(tmp_path / "other", a="3")
    async with maker.mount(act, (), tmp_path, given(parts={0: other})) as mounted:
        assert (Path(mounted.points[0].source) / "a").read_text() == "3"
    assert not [path for path in (tmp_path / "build/mounts").iterdir() if path.name.startswith(".")]


async def test_a_cache_is_not_half_filled_for_anybody(maker: MountMaker, tmp_path: Path) -> None:
    """The second waits until the first one has filled it; a failure leaves nothing."""
    act = act_of("type=cache,target=/c,from=x,source=in")
    part = make_part(tmp_path / "layer", a="1")
    gate, calls = asyncio.Event(), list[Path]()

    async def slow(part: Part, folder: Path) -> str:
        calls.append(folder)
        if len(calls) == 1:
            raise Invalid("the first one fails")
        await gate.wait()
        return extract_part(part, folder)

    async def use() -> str:
        made = replace(given(parts={0: part}), extract=slow)
        async with maker.mount(act, (), tmp_path, made) as mounted:
            return (Path(mounted.points[0].source) / "a").read_text()

    with pytest.raises(Invalid, match="the first one fails"):
        await use()
    assert not list((tmp_path / "build/mounts").iterdir())
    tasks = [asyncio.create_task(use()) for _ in "ab"]
    for _ in range(50):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    gate.set()
    assert await asyncio.gather(*tasks) == ["1", "1"] and len(calls) == 2


async def test_no_path_in_a_cache_is_walked(maker: MountMaker, tmp_path: Path) -> None:
    """An earlier step may have made a link there (CVE-2024-23651): source means a cache of its own."""
    async with maker.mount(act_of("type=cache,target=/c,id=x"), (), tmp_path, given()) as mounted:
        whole = Path(mounted.points[0].source)
        (whole / "sub").symlink_to("/etc")
    async with maker.mount(act_of("type=cache,target=/c,id=x,source=sub"), (), tmp_path, given()) as mounted:
        found = Path(mounted.points[0].source)
        assert found.parent == whole.parent and found != whole and not list(found.iterdir())


async def test_a_cache_from_a_named_context_goes_by_content(maker: MountMaker, tmp_path: Path) -> None:
    """The same files are the same cache, wherever they came from."""
    act = act_of("type=cache,target=/c,from=ctx")
    names = []
    for number, text in enumerate(("1", "1", "2")):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo("a")
            info.size = 1
            tar.addfile(info, io.BytesIO(text.encode()))
        part = Part("/", index_context(str(path), f"{path}.plain"))
        async with maker.mount(act, (), tmp_path, given(parts={0: part})) as mounted:
            names.append(Path(mounted.points[0].source).name)
            assert (Path(mounted.points[0].source) / "a").read_text() == text
    assert names[0] == names[1] != names[2]


# Agents


@dataclass
class Sockets:
    """Agents that are sockets in a folder."""

    folder: Path
    calls: list[str] = field(default_factory=list)

    async def has(self, id: str) -> bool:
        """Agents.has."""
        return (self.folder / id).exists()

    async def connect(self, id: str) -> socket.socket:
        """Agents.connect."""
        self.calls.append(id)
        made = socket.socket(socket.AF_UNIX)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, str(self.folder / id))
        return made


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo in capitals, until the end."""
    while data := await reader.read(1 << 16):
        writer.write(data.upper())
        await writer.drain()
    writer.close()


async def test_an_agents_socket_leads_to_the_client(maker: MountMaker, tmp_path: Path) -> None:
    """Each connection to a new one of the client's; gone with the step."""
    server = await asyncio.start_unix_server(answer, tmp_path / "default")
    agents = Sockets(tmp_path)
    act = act_of("type=ssh,required", "type=ssh,id=other", "type=ssh,target=/s,mode=0660,uid=3,gid=4")
    async with server, maker.mount(act, (), tmp_path, given(agents=agents)) as mounted:
        first, second = mounted.points
        assert (first.destination, second.destination) == ("/run/buildkit/ssh_agent.0", "/s")
        assert mounted.env == ("SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0",)
        assert "run/buildkit/ssh_agent.0" in mounted.stub_files
        found = Path(second.source).stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(Path(first.source).stat().st_mode) == 0o600
        if os.geteuid() == 0:
            assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o660, 3, 4)
        streams = [await asyncio.open_unix_connection(first.source) for _ in range(3)]
        for number, (reader, writer) in enumerate(streams):
            writer.write(b"key %d" % number * 5000)
            writer.write_eof()
            assert await reader.read() == b"KEY %d" % number * 5000
        left = await asyncio.open_unix_connection(first.source)
        left[1].write(b"x")
        assert await left[0].read(1) == b"X"
    assert agents.calls == ["default"] * 4 and not Path(first.source).exists()
    assert await left[0].read() == b""
    for _, writer in (*streams, left):
        writer.close()


async def test_connections_beyond_the_most_wait(maker: MountMaker, tmp_path: Path) -> None:
    """A program that opens ever more does not make the engine open ever more."""
    server = await asyncio.start_unix_server(answer, tmp_path / "default")
    agents = Sockets(tmp_path)
    async with server, maker.mount(act_of("type=ssh"), (), tmp_path, given(agents=agents)) as mounted:
        streams = [
            await asyncio.open_unix_connection(mounted.points[0].source) for _ in range(relay.MOST + 5)
        ]
        for reader, writer in streams[: relay.MOST]:
            writer.write(b"x")
            assert await reader.read(1) == b"X"
        assert len(agents.calls) == relay.MOST
        streams[0][1].close()
        reader, writer = streams[relay.MOST]
        writer.write(b"y")
        assert await reader.read(1) == b"Y"
        for _, writer in streams:
            writer.close()


async def test_an_agent_that_is_not_there_is_named(maker: MountMaker, tmp_path: Path) -> None:
    """If the step cannot do without; else there is no socket and no variable."""
    with pytest.raises(Invalid, match="SSH agent a is not forwarded: build with --ssh a"):
        async with maker.mount(act_of("type=ssh,id=a,required"), (), tmp_path, given()):
            pass
    async with maker.mount(act_of("type=ssh"), (), tmp_path, given()) as mounted:
        assert not mounted.points and not mounted.env


async def test_a_variable_of_the_files_own_stays(maker: MountMaker, tmp_path: Path) -> None:
    """ENV SSH_AUTH_SOCK says where the socket is to be."""
    async with await asyncio.start_unix_server(answer, tmp_path / "default"):
        act = replace(act_of("type=ssh,target=/s"), env=("SSH_AUTH_SOCK=/s",))
        async with maker.mount(act, (), tmp_path, given(agents=Sockets(tmp_path))) as mounted:
            assert mounted.env == () and mounted.points[0].destination == "/s"
