"""Contexts that do not come as a folder: fetched ones, and those that stand for stages and images."""

import io
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from cais.build.context import Context, Index, index_context
from cais.build.dockerfile.evaluate import CopyAct
from cais.build.dockerfile.fault import DockerfileError
from cais.build.dockerfile.graph import ContextLink, Graph, make_graph
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.scope import Scope, make_scope, platform_args
from cais.build.fetch.fetcher import Fetcher, Fetching
from cais.build.fetch.files import Files
from cais.build.fetch.named import NamedContexts, Reference
from cais.build.fetch.remote import RemoteInputs, fetch_files
from cais.build.inputs import DockerfileText
from cais.build.layering import CopyJob, Other, list_members
from cais.build.plan import Op, Plan, Planner
from cais.build.request import BuildRequest
from cais.errors import Invalid, NotFound, Unavailable, Unsupported
from cais.images.image import Image
from cais.spec.ignore import Ignore
from cais.spec.platform import Platform, parse_platform
from cais.store.workers import Workers
from harness.fetching import read_tree
from harness.fileserver import FileServer, serving
from harness.gitserver import GitServer, git_serving

HOST = parse_platform("linux/amd64")


def make_tar(files: dict[str, str], mode: str = "w") -> bytes:
    """An archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


@dataclass
class Folders:
    """A client with folders, by name; notes what it was asked for."""

    folders: dict[str, dict[str, str]]
    asked: list[str] = field(default_factory=list)

    async def dockerfile(self, name: str) -> DockerfileText:
        """Inputs.dockerfile."""
        return DockerfileText(name, b"FROM client\n")

    async def context(
        self, name: str, ignore: Ignore, folder: Path, paths: frozenset[str] | None = None
    ) -> Index:
        """Inputs.context."""
        self.asked.append(name)
        if name not in self.folders:
            raise NotFound(f"no context {name!r}")
        wanted = {
            path: text
            for path, text in self.folders[name].items()
            if not ignore.excludes(path) and (paths is None or path in paths)
        }
        tar = folder / "tar"
        tar.write_bytes(make_tar(wanted))
        return index_context(str(tar), "")


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    """Empty."""
    async with serving() as server:
        yield server


@pytest.fixture
async def repositories(tmp_path: Path) -> AsyncIterator[GitServer]:
    """None yet."""
    async with git_serving(tmp_path / "served") as server:
        yield server


@pytest.fixture
async def fetching(tmp_path: Path) -> AsyncIterator[Fetching]:
    """One build's."""
    workers = Workers(1)
    fetcher = Fetcher(tmp_path, workers)
    (tmp_path / "build-1").mkdir()
    yield Fetching(fetcher, BuildRequest(), tmp_path / "build-1")
    await fetcher.close()
    await workers.close()


# Fetched ones


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
async def test_a_tar_is_a_context(server: FileServer, fetching: Fetching, tmp_path: Path, mode: str) -> None:
    """However it is compressed; its Dockerfile and ignore file are those of the build."""
    files = {"Dockerfile": "FROM x", "sub/Other": "FROM y", ".dockerignore": "a", "a": "1"}
    server.files["/c.bin"] = make_tar(files, mode)
    inputs = RemoteInputs(server.url("/c.bin"), fetching)
    assert await inputs.dockerfile("Dockerfile") == DockerfileText("Dockerfile", b"FROM x", b"a")
    assert (await inputs.dockerfile("sub/Other")).data == b"FROM y"
    found = read_tree(await inputs.context("context", Ignore(), tmp_path))
    assert found["a"] == "644 1" and found["sub"] == "folder" and len(server.requests) == 1
    with pytest.raises(NotFound):
        await inputs.dockerfile("nope")


async def test_any_other_file_is_a_dockerfile(server: FileServer, fetching: Fetching, tmp_path: Path) -> None:
    """Of a build without files."""
    server.files["/Dockerfile"] = b"FROM scratch\n"
    inputs = RemoteInputs(server.url("/Dockerfile"), fetching)
    assert (await inputs.dockerfile("Dockerfile")).data == b"FROM scratch\n"
    assert (await inputs.context("context", Ignore(), tmp_path)).items == {}


async def test_a_repository_is_a_context(repositories: GitServer, fetching: Fetching, tmp_path: Path) -> None:
    """With a folder in it as the root, and with its .git if an argument asks for it."""
    repositories.make("r").commit({"app/Dockerfile": "FROM x", "app/run*": "#!", "other": "y"})
    url = repositories.url("r")
    inputs = RemoteInputs(f"{url}#main:app", fetching)
    assert (await inputs.dockerfile("Dockerfile")).data == b"FROM x"
    assert read_tree(await inputs.context("context", Ignore(), tmp_path)) == {
        "Dockerfile": "644 FROM x",
        "run": "755 #!",
    }
    request = BuildRequest(args={"BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1"})
    whole = RemoteInputs(url, replace(fetching, request=request))
    assert ".git/HEAD" in read_tree(await whole.context("context", Ignore(), tmp_path))


async def test_the_client_has_the_rest(server: FileServer, fetching: Fetching, tmp_path: Path) -> None:
    """Other contexts, and the Dockerfile if it was given with -f."""
    server.files["/c"] = make_tar({"Dockerfile": "FROM x"})
    client = Folders({"lib": {"f": "x"}})
    inputs = RemoteInputs(server.url("/c"), fetching, client)
    assert read_tree(await inputs.context("lib", Ignore(), tmp_path)) == {"f": "644 x"}
    assert (await inputs.dockerfile("Dockerfile")).data == b"FROM x"
    own = RemoteInputs(server.url("/c"), fetching, client, has_dockerfile=True)
    assert (await own.dockerfile("Dockerfile")).data == b"FROM client\n"
    with pytest.raises(NotFound):
        await RemoteInputs(server.url("/c"), fetching).context("lib", Ignore(), tmp_path)


async def test_what_is_no_context(server: FileServer, fetching: Fetching) -> None:
    """Paths, and what is not there."""
    with pytest.raises(Invalid, match="invalid context"):
        await fetch_files("/etc", fetching)
    with pytest.raises(NotFound, match="404"):
        await fetch_files(server.url("/none"), fetching)


# Names


def graph_of(text: str, contexts: tuple[str, ...], platform: Platform = HOST) -> tuple[Graph, Scope]:
    """The graph of a Dockerfile with named contexts."""
    file = parse_dockerfile(text.encode())
    scope = make_scope(file, {}, platform_args(HOST, platform))
    return make_graph(file, scope, "", contexts), scope


@pytest.mark.parametrize("written", ["alpine", "alpine:latest", "docker.io/library/alpine"])
def test_a_context_goes_before_an_image_of_its_name(written: str) -> None:
    """However it is written; another tag is another name."""
    text = f"FROM {written}\nCOPY --from={written} / /\nFROM alpine:3\nCOPY --from=0 x /\n"
    graph, _ = graph_of(text, ("alpine",))
    assert graph.nodes[0].base == ContextLink("alpine") and graph.nodes[1].base == "alpine:3"
    assert graph.nodes[0].sources == {written: ContextLink("alpine")}
    assert graph.images() == [("alpine:3", None)]


def test_a_context_is_the_whole_stage_of_its_name() -> None:
    """What the file says of that stage is not looked at, whoever stands on it."""
    text = "FROM nothing AS build\nRUN false\nCOPY --from=other / /\nFROM build\nCOPY --from=build x /\n"
    graph, _ = graph_of(text, ("build",))
    assert graph.nodes[0].base == ContextLink("build") and graph.nodes[0].stage.steps == ()
    assert graph.nodes[1].base == 0 and graph.nodes[1].sources == {"build": 0} and not graph.images()


def test_a_context_for_one_platform() -> None:
    """It goes before the one for all."""
    names = ("base", "base::linux/arm64")
    assert graph_of("FROM base\n", names)[0].nodes[0].base == ContextLink("base")
    arm = parse_platform("linux/arm64")
    assert graph_of("FROM base\n", names, arm)[0].nodes[0].base == ContextLink("base::linux/arm64")
    other = "FROM --platform=linux/arm64 base\n"
    assert graph_of(other, names)[0].nodes[0].base == ContextLink("base::linux/arm64")


def test_a_stage_before_it_goes_first() -> None:
    """A FROM of a stage's name is that stage."""
    graph, _ = graph_of("FROM x AS one\nFROM one\n", ("x",))
    assert graph.nodes[1].base == 0 and graph.nodes[0].base == ContextLink("x")


# What they are


def named(fetching: Fetching, contexts: dict[str, str], client: Folders | None = None) -> NamedContexts:
    """Of a request."""
    request = BuildRequest(contexts=contexts)
    return NamedContexts(replace(fetching, request=request), client)


async def test_kinds(server: FileServer, repositories: GitServer, fetching: Fetching) -> None:
    """Images, folders, repositories, archives, single files."""
    repositories.make("r").commit({"g": "git"})
    server.files |= {"/t.tgz": make_tar({"t": "tar"}, "w:gz"), "/one": b"file"}
    contexts = {
        "image": "docker-image://alpine:3",
        "nothing": "docker-image://scratch",
        "folder": "local:lib",
        "git": repositories.url("r"),
        "tar": server.url("/t.tgz"),
        "file": server.url("/one"),
    }
    client = Folders({"lib": {"f": "x", "skip": "y", ".dockerignore": "skip\n"}})
    found = named(fetching, contexts, client)
    assert await found.find("image", None) == Reference("alpine:3")
    assert await found.find("nothing", None) == Reference("scratch")
    for name, tree in [
        ("folder", {"f": "644 x", ".dockerignore": "644 skip\n"}),
        ("git", {"g": "644 git"}),
        ("tar", {"t": "644 tar"}),
        ("file", {"context": "600 file"}),
    ]:
        files = await found.find(name, None)
        assert isinstance(files, Files) and read_tree(await files.load()) == tree
        assert await found.find(name, HOST) is files
    assert client.asked == ["lib", "lib"]


async def test_kinds_that_a_door_knows(fetching: Fetching) -> None:
    """It is asked with what was said; without one they are refused by name."""
    asked = []

    async def special(kind: str, rest: str, platform: Platform | None) -> Image | Files:
        asked.append((kind, rest, platform))
        raise Unavailable("asked")

    contexts = {"a": "oci-layout://store@sha256:x", "b": "target:stage", "c": "nonsense", "d": "what:x"}
    found = named(fetching, contexts)
    found.special = special
    for name in ("a", "b"):
        with pytest.raises(Unavailable):
            await found.find(name, HOST)
    assert asked == [("oci-layout", "store@sha256:x", HOST), ("target", "stage", HOST)]
    found.special = None
    with pytest.raises(Invalid, match="invalid context specifier 'nonsense' for c"):
        await found.find("c", None)
    with pytest.raises(Unsupported, match="unsupported context source 'what' for d"):
        await found.find("d", None)


# In plans


async def plan_of(text: str, found: NamedContexts) -> Plan:
    """Of a Dockerfile that needs no image."""

    async def resolve(name: str, platform: Platform | None) -> Image:
        raise NotFound(f"no image {name}")

    request = found.fetching.request
    graph, scope = graph_of(text, tuple(request.contexts))
    context = Context(Index("", {}))
    return await Planner(graph, scope, context, resolve, HOST, request, found.fetching, found).plan()


async def made_by(op: Op) -> dict[str, str]:
    """The files of a step's layer."""
    act = op.act
    assert isinstance(act, CopyAct)
    index = await op.files[act.from_].load() if act.from_ in op.files else None
    others = {
        text: Other(await each.load(), each.path, each.unpack)
        for text, each in op.files.items()
        if text in act.sources
    }
    data = b"".join(list_members(CopyJob(act, (), index, others=others))) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        return {name: file.read().decode() for name, file in files.items() if file}


async def test_a_stage_on_a_folder(fetching: Fetching) -> None:
    """One layer with its files, and an entry in the history."""
    client = Folders({"lib": {"d/f": "x"}})
    plan = await plan_of("FROM lib\nENV A=1\n", named(fetching, {"lib": "local:lib"}, client))
    end = plan.target.end
    assert isinstance(end, Op) and await made_by(end) == {"d/f": "x"}
    assert [entry.text for entry in plan.target.history] == ["FROM lib", "ENV A=1"]


async def test_a_context_that_cannot_be_loaded(fetching: Fetching) -> None:
    """Named with its line."""
    found = named(fetching, {"lib": "local:lib", "bad": "what:x"}, Folders({}))
    for text, line in [
        ("FROM scratch AS a\nFROM lib\n", 2),
        ("FROM bad\n", 1),
        ("FROM scratch\nCOPY --from=bad / /\n", 2),
    ]:
        with pytest.raises(DockerfileError, match=r"lib|bad") as caught:
            await plan_of(text, found)
        assert caught.value.lines.start == line


async def test_keys_know_what_is_taken_of_a_folder(fetching: Fetching) -> None:
    """A file that nobody takes changes nothing."""

    async def key(files: dict[str, str]) -> str:
        found = named(fetching, {"lib": "local:lib"}, Folders({"lib": files}))
        end = (await plan_of("FROM scratch\nCOPY --from=lib f /\n", found)).target.end
        assert isinstance(end, Op) and await made_by(end) == {"f": files["f"]}
        return end.key

    assert await key({"f": "x", "g": "1"}) == await key({"f": "x", "g": "2"})
    assert await key({"f": "x"}) != await key({"f": "y"})


async def test_keys_of_a_repository_need_none_of_its_files(
    repositories: GitServer, fetching: Fetching
) -> None:
    """The commit says it all; mounts of a RUN, too."""
    repositories.make("r").commit({"f": "x"})
    found = named(fetching, {"lib": f"{repositories.url('r')}#main"})
    text = "FROM scratch\nCOPY --from=lib f /\nRUN --mount=from=lib,target=/m true\n"
    end = (await plan_of(text, found)).target.end
    assert isinstance(end, Op) and list(end.files) == ["lib"] and not end.sources
    assert not [path for path in repositories.requests if path.endswith("/git-upload-pack")][1:]
    assert isinstance(end.parent, Op) and await made_by(end.parent) == {"f": "x"}
    before = end.key
    assert (await plan_of(text, found)).target.end.key == before
