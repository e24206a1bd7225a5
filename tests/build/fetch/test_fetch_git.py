"""Commits of repositories, from real git servers: known without a clone, and read without a work tree."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cais.build.fetch.fetcher import Fetcher
from cais.build.fetch.repositories import Commit, find_ref
from cais.build.fetch.sources import GitSource
from cais.build.request import BuildRequest, HeldSecrets
from cais.errors import CaisError, Denied, Invalid, NotFound, Unavailable
from cais.store.workers import Workers
from harness.fetching import Builds, read_tree
from harness.gitserver import COMMIT_TIME, GitServer, Repository, basic, git_daemon, git_serving

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="git is caged by root"),
]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[GitServer]:
    """Without repositories."""
    async with git_serving(tmp_path / "served") as server:
        yield server


@pytest.fixture
async def builds(tmp_path: Path) -> AsyncIterator[Builds]:
    """Of an engine in ``tmp_path``, whose folders nobody else can enter."""
    (tmp_path / "engine").mkdir(mode=0o700)
    workers = Workers(1)
    fetcher = Fetcher(tmp_path / "engine", workers)
    yield Builds(fetcher, tmp_path)
    await fetcher.close()
    await workers.close()


async def test_files_modes_links_and_times(server: GitServer, builds: Builds) -> None:
    """As a checkout has them, but dated by the commit; the default branch."""
    repository = server.make("r")
    repository.commit({"a": "x", "d/e/run*": "#!", "d/l": "-> ../a", "näme": b"\0\xff"})
    index = await (await builds.look(server.url("r"))).load()
    assert read_tree(index) == {
        "a": "644 x",
        "d": "folder",
        "d/e": "folder",
        "d/e/run": "755 #!",
        "d/l": "-> ../a",
        "näme": "644 \0\xff",
    }
    assert {item.node.mtime for item in index.items.values()} == {COMMIT_TIME}
    assert index.items[b"a"].digest == hashlib.sha256(b"x").digest()


async def test_refs(server: GitServer, builds: Builds) -> None:
    """Branches, tags of both kinds, commits; a branch goes before a tag."""
    repository = server.make("r")
    commits = [repository.commit({"f": text}) for text in ("one", "two", "three")]
    repository.git("tag", "light", commits[0])
    repository.git("tag", "-a", "-m", "x", "heavy", commits[1])
    repository.git("tag", "both", commits[0])
    repository.git("branch", "both", commits[1])
    repository.git("branch", "a/b", commits[0])
    for ref, text in [
        ("", "three"),
        ("#main", "three"),
        ("#light", "one"),
        ("#heavy", "two"),
        ("#both", "two"),
        ("?tag=both", "one"),
        ("?branch=both", "two"),
        ("#refs/tags/both", "one"),
        ("#a/b", "one"),
        (f"#{commits[0]}", "one"),
        (f"?ref=main&checksum={commits[2][:12]}", "three"),
    ]:
        files = await builds.look(server.url("r") + ref)
        assert read_tree(await files.load()) == {"f": f"644 {text}"}, ref
    assert (await builds.look(server.url("r") + "#heavy")).key == (
        await builds.look(f"{server.url('r')}#{commits[1]}")
    ).key


async def test_what_is_known_is_not_fetched_again(server: GitServer, builds: Builds) -> None:
    """A whole commit asks nobody; a branch is one question; files of a commit that is here are read from here."""
    commit = server.make("r").commit({"f": "x"})
    files = await builds.look(server.url("r") + "#main")
    assert not any("git-upload-pack" in path and "info/refs" not in path for path in server.requests[2:])
    await files.load()
    server.requests.clear()
    pinned = await builds.look(f"{server.url('r')}#{commit}")
    assert read_tree(await pinned.load()) == {"f": "644 x"} and not server.requests
    assert pinned.key == files.key
    await (await builds.look(server.url("r") + "#main")).load()
    assert 0 < len(server.requests) <= 2


async def test_a_moved_branch_is_another_commit(server: GitServer, builds: Builds) -> None:
    """Also when history was rewritten."""
    repository = server.make("r")
    repository.commit({"f": "one"})
    first = await builds.look(server.url("r"))
    assert read_tree(await first.load()) == {"f": "644 one"}
    repository.git("update-ref", "-d", "refs/heads/main")
    repository.commit({"f": "two"})
    second = await builds.look(server.url("r"))
    assert second.key != first.key and read_tree(await second.load()) == {"f": "644 two"}


async def test_subdirs(server: GitServer, builds: Builds) -> None:
    """A folder as the root; a link or a file in the way is refused, whatever it leads to."""
    repository = server.make("r")
    repository.commit({"d/e/f": "x", "top": "y", "up": "-> ..", "abs": "-> /etc", "d/side": "-> e"})
    assert read_tree(await (await builds.look(server.url("r") + "#main:d/e/")).load()) == {"f": "644 x"}
    for subdir, kind, message in [
        ("up", Invalid, "a symbolic link"),
        ("abs/ssh", Invalid, "a symbolic link"),
        ("d/side", Invalid, "a symbolic link"),
        ("top", Invalid, "not a folder"),
        ("nothing", NotFound, "not in the repository"),
    ]:
        with pytest.raises(kind, match=message):
            await (await builds.look(f"{server.url('r')}#main:{subdir}")).load()


async def test_line_ends_and_idents_are_those_of_a_checkout(server: GitServer, builds: Builds) -> None:
    """By the attributes in the tree, not by anybody's filters; nothing is substituted or left out as for an
    archive."""
    repository = server.make("r")
    attributes = "*.bat text eol=crlf\n*.sh text eol=lf\n*.id ident\nb.bat -text\nauto* text=auto eol=crlf\n"
    attributes += "evil filter=evil\nhidden export-ignore\nsubst export-subst\n"
    files = {
        ".gitattributes": attributes,
        "evil": "e",
        "hidden": "h",
        "subst": "$Format:%H$",
        "autob": b"a\0\n",
        "i.id": "$Id$",
    }
    repository.commit({**files, "a.bat": "a\nb\n", "b.bat": "a\n", "c.sh": "a\n", "auto": "a\n"})
    blob = repository.git("rev-parse", "HEAD:i.id")
    found = read_tree(await (await builds.look(server.url("r"))).load())
    del found[".gitattributes"]
    assert found == {
        "a.bat": "644 a\r\nb\r\n",
        "b.bat": "644 a\n",
        "c.sh": "644 a\n",
        "auto": "644 a\r\n",
        "autob": "644 a\0\n",
        "i.id": f"644 $Id: {blob} $",
        "evil": "644 e",
        "hidden": "644 h",
        "subst": "644 $Format:%H$",
    }


async def test_submodules(server: GitServer, builds: Builds) -> None:
    """Relative URLs too, and what is inside others; they can be left out, and a subdir may be in one."""
    inner, middle, outer = (server.make(name) for name in ("inner", "middle", "outer"))
    add_module(middle, "m/in", "../inner.git", inner.commit({"f": "inner"}))
    add_module(outer, "mid", server.url("middle"), middle.commit({"g": "middle"}))
    outer.commit({"h": "outer"})
    whole = read_tree(await (await builds.look(server.url("outer"))).load())
    assert whole["mid/g"] == "644 middle" and whole["mid/m/in/f"] == "644 inner" and whole["h"] == "644 outer"
    without = await builds.look(server.url("outer") + "?submodules=0")
    tree = read_tree(await without.load())
    assert tree["mid"] == "folder" and "mid/g" not in tree
    part = await builds.look(server.url("outer") + "#main:mid/m/in")
    assert read_tree(await part.load()) == {"f": "644 inner"}


def add_module(repository: Repository, path: str, url: str, commit: str, name: str = "") -> None:
    """A submodule, as a hostile repository could have it, too."""
    modules = repository.path / ".gitmodules"
    text = modules.read_text() if modules.exists() else ""
    modules.write_text(f'{text}[submodule "{name or path}"]\n\tpath = {path}\n\turl = {url}\n')
    (repository.path / path).mkdir(parents=True)
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    repository.git("add", ".gitmodules")
    repository.git("commit", "-q", "-m", "module")


@pytest.mark.parametrize(
    "url",
    [
        "/etc",
        "file:///etc",
        "ext::sh -c touch% /tmp/cais-was-here",
        "--upload-pack=touch /tmp/cais-was-here",
        "-u./payload",
        "ssh://-oProxyCommand=touch${IFS}/tmp/cais-was-here/x",
        "../../../../../etc",
    ],
)
async def test_submodules_of_other_kinds_are_refused(server: GitServer, builds: Builds, url: str) -> None:
    """No path of this machine, no program, no option (CVE-2018-17456, CVE-2017-1000117, CVE-2022-39253)."""
    repository = server.make("r")
    commit = repository.commit({"f": "x"})
    add_module(repository, "m", url, commit)
    with pytest.raises(CaisError, match=r"submodule URL|names no server"):
        await (await builds.look(server.url("r") + "#main")).load()
    assert not Path("/tmp/cais-was-here").exists()


async def test_a_name_of_a_submodule_is_not_a_path(server: GitServer, builds: Builds, tmp_path: Path) -> None:
    """Git once made folders of them (CVE-2018-11235); a carriage return in a path ends nothing (CVE-2025-48384)."""
    inner, outer = server.make("inner"), server.make("outer")
    commit = inner.commit({"hooks/post-checkout*": "#!/bin/sh\ntouch /tmp/cais-was-here\n", "f": "x"})
    add_module(outer, "m", "../inner.git", commit, name="../../modules/evil")
    before = {path for path in (tmp_path / "engine").rglob("*") if "build/git" not in str(path)}
    found = read_tree(await (await builds.look(server.url("outer") + "#main")).load())
    assert found["m/f"] == "644 x"
    assert {path for path in (tmp_path / "engine").rglob("*") if "build/git" not in str(path)} == before
    assert not Path("/tmp/cais-was-here").exists()


async def test_a_submodule_in_place_of_a_link(server: GitServer, builds: Builds, tmp_path: Path) -> None:
    """The way of CVE-2024-32002: a link and a submodule whose paths meet. Nothing is written anywhere."""
    inner, outer = server.make("inner"), server.make("outer")
    commit = inner.commit({"y/hooks/post-checkout*": "#!/bin/sh\ntouch /tmp/cais-was-here\n"})
    blob = outer.blob(b".git")
    modules = outer.blob(b'[submodule "x/y"]\n\tpath = A/modules/x\n\turl = ../inner.git\n')
    below = outer.tree([("40000", outer.tree([("160000", commit, b"x")]), b"modules")])
    outer.commit_tree([("100644", modules, b".gitmodules"), ("40000", below, b"A"), ("120000", blob, b"a")])
    found = read_tree(await (await builds.look(server.url("outer") + "#main")).load())
    assert found["a"] == "-> .git" and found["A/modules/x/y/hooks/post-checkout"].startswith("755 ")
    assert not Path("/tmp/cais-was-here").exists()


@pytest.mark.parametrize("name", [b"..", b".", b".git", b".GIT", b"a/b"])
async def test_names_that_no_file_may_have(server: GitServer, builds: Builds, name: bytes) -> None:
    """A tree can hold them; git writes none, and neither do we."""
    repository = server.make("r")
    repository.commit_tree([("40000", repository.tree([("100644", repository.blob(b"x"), name)]), b"d")])
    if name == b"a/b":  # just a path, when all is listed
        assert read_tree(await (await builds.look(server.url("r") + "#main")).load())["d/a/b"] == "644 x"
        return
    with pytest.raises(Invalid, match="a file that cannot be"):
        await (await builds.look(server.url("r") + "#main")).load()


async def test_a_file_below_a_link_is_refused(server: GitServer, builds: Builds) -> None:
    """A tree that has one name twice."""
    repository = server.make("r")
    blob = repository.blob(b"/etc")
    inner = repository.tree([("100644", blob, b"passwd")])
    repository.commit_tree([("120000", blob, b"d"), ("40000", inner, b"d")])
    with pytest.raises(Invalid, match="both as a file and as a folder"):
        await (await builds.look(server.url("r") + "#main")).load()


async def test_the_git_folder_can_be_kept(server: GitServer, builds: Builds, tmp_path: Path) -> None:
    """A repository that git takes for a clean clone; the same bytes each time; no password in it."""
    repository = server.make("r")
    commit = repository.commit({"a": "x", "d/b*": "y", "l": "-> a"})
    url = server.url("r").replace("//", "//me:s3cret@")
    found = []
    for number in range(2):
        files = await builds.look(f"{url}?branch=main&keep-git-dir=1")
        index = await files.load()
        found.append({path: item.digest for path, item in index.items.items()})
        write_out(read_tree(index), tmp_path / f"out-{number}")
    assert found[0] == found[1]
    out = Repository(tmp_path / "out-1")
    assert out.git("rev-parse", "HEAD", "main") == f"{commit}\n{commit}" and not out.git("status", "--short")
    assert out.git("config", "remote.origin.url") == server.url("r")
    assert b"s3cret" not in b"".join(p.read_bytes() for p in out.path.rglob("*") if p.is_file())
    plain = await builds.look(f"{url}?branch=main")
    assert plain.key != files.key


def write_out(tree: dict[str, str], folder: Path) -> None:
    """Make it a folder."""
    folder.mkdir()
    for path, shown in tree.items():
        if shown == "folder":
            (folder / path).mkdir()
        elif shown.startswith("-> "):
            (folder / path).symlink_to(shown[3:])
        else:
            mode, _, text = shown.partition(" ")
            (folder / path).write_bytes(text.encode("latin-1"))
            (folder / path).chmod(int(mode, 8))


async def test_what_is_not_there(server: GitServer, builds: Builds) -> None:
    """Refs, repositories, servers, commits; each is named, passwords are not."""
    repository = server.make("r")
    repository.commit({"f": "x"})
    for url, kind, message in [
        (server.url("r") + "#nope", NotFound, "has no branch or tag nope"),
        (server.url("none"), NotFound, "not found"),
        (server.url("empty"), NotFound, "no default branch"),
        ("http://me:s3cret@127.0.0.1:1/r.git", Unavailable, "cannot fetch http://127.0.0.1:1/r.git"),
        (f"{server.url('r')}?ref=main&checksum=abcdef", Invalid, "expected checksum to match abcdef"),
    ]:
        if "empty" in url:
            server.make("empty")
        with pytest.raises(kind, match=message) as caught:
            await builds.look(url)
        assert "s3cret" not in str(caught.value)
    with pytest.raises(CaisError, match="a" * 40):
        await (await builds.look(f"{server.url('r')}#{'a' * 40}")).load()


@pytest.mark.parametrize(
    ("secrets", "sent"),
    [
        ({"GIT_AUTH_TOKEN": b"s3cret\n"}, basic("x-access-token", "s3cret")),
        ({"GIT_AUTH_HEADER": b"Bearer s3cret"}, "Bearer s3cret"),
        ({"GIT_AUTH_TOKEN": b"no", "GIT_AUTH_TOKEN.HOST": b"s3cret"}, basic("x-access-token", "s3cret")),
    ],
)
async def test_tokens(
    server: GitServer, builds: Builds, tmp_path: Path, secrets: dict[str, bytes], sent: str
) -> None:
    """By host before the general one; not on disk, and in no message."""
    server.make("r").commit({"f": "x"})
    server.authorization = sent
    named = {name.replace("HOST", f"127.0.0.1:{server.port}"): value for name, value in secrets.items()}
    builds.request = BuildRequest(secrets=HeldSecrets(named))
    assert read_tree(await (await builds.look(server.url("r"))).load()) == {"f": "644 x"}
    assert b"s3cret" not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    server.authorization = "Bearer other"
    with pytest.raises(Denied, match="GIT_AUTH_TOKEN") as caught:
        await builds.look(server.url("r"))
    assert "s3cret" not in str(caught.value)


async def test_without_a_token_nobody_is_asked(server: GitServer, builds: Builds) -> None:
    """No prompt, no hang: refused, with what to do."""
    server.make("r").commit({"f": "x"})
    server.authorization = "Bearer x"
    with pytest.raises(Denied, match="--secret id=GIT_AUTH_TOKEN"):
        await asyncio.wait_for(builds.look(server.url("r")), 20)


async def test_a_token_does_not_follow_a_redirect(server: GitServer, builds: Builds, tmp_path: Path) -> None:
    """Git would send it to wherever the server says; without a token it may follow."""
    server.make("r").commit({"f": "x"})
    async with git_serving(tmp_path / "other") as other:
        (tmp_path / "other").mkdir()
        other.make("r").commit({"f": "y"})
        server.moved_to = f"http://127.0.0.1:{other.port}"
        builds.request = BuildRequest(secrets=HeldSecrets({"GIT_AUTH_TOKEN": b"s3cret"}))
        with pytest.raises(Denied, match="name the new URL"):
            await builds.look(server.url("r"))
        assert not any(other.seen)
        builds.request = BuildRequest()
        assert read_tree(await (await builds.look(server.url("r"))).load()) == {"f": "644 y"}


async def test_two_builds_want_the_same(server: GitServer, builds: Builds) -> None:
    """At the same time; one after the other touches what is kept."""
    repository = server.make("r")
    commits = [repository.commit({"f": str(number)}) for number in range(4)]
    urls = [f"{server.url('r')}#{commit}" for commit in commits] + [server.url("r")]

    async def build(url: str) -> str:
        return read_tree(await (await builds.look(url)).load())["f"]

    assert await asyncio.gather(*map(build, urls)) == ["644 0", "644 1", "644 2", "644 3", "644 3"]


async def test_a_bomb_of_trees(server: GitServer, builds: Builds) -> None:
    """Few objects that are ten thousand million paths."""
    repository = server.make("r")
    tree = repository.tree([("100644", repository.blob(b"x"), b"f%d" % i) for i in range(10)])
    for _ in range(9):
        tree = repository.tree([("40000", tree, b"d%d" % i) for i in range(10)])
    commit = repository.git("commit-tree", "-m", "x", tree)
    repository.git("update-ref", "refs/heads/main", commit)
    with pytest.raises(Invalid, match="more than"):
        await (await builds.look(server.url("r") + "#main")).load()


async def test_the_general_token_is_not_for_submodules(server: GitServer, builds: Builds) -> None:
    """What a repository names gets none of it; a token that is meant for the host is for both."""
    inner, outer = server.make("inner"), server.make("outer")
    add_module(outer, "m", "../inner.git", inner.commit({"f": "x"}))
    builds.request = BuildRequest(secrets=HeldSecrets({"GIT_AUTH_TOKEN": b"s3cret"}))
    await (await builds.look(server.url("outer") + "#main")).load()
    for path, authorization in zip(server.requests, server.seen, strict=True):
        assert bool(authorization) == path.startswith("/outer"), path
    own = HeldSecrets({f"GIT_AUTH_TOKEN.127.0.0.1:{server.port}": b"s3cret"})
    builds.request = BuildRequest(secrets=own)
    inner.commit({"f": "y"})
    await (await builds.look(server.url("inner"))).load()
    assert server.seen[-1]


async def test_git_is_caged(server: GitServer, builds: Builds, tmp_path: Path) -> None:
    """It owns its folder, and that lies where nobody else comes; the engine's own folders are shut."""
    server.make("r").commit({"f": "x"})
    await (await builds.look(server.url("r"))).load()
    (folder,) = (tmp_path / "engine" / "build" / "git").iterdir()
    owners = {path.lstat().st_uid for path in (folder / "repo").rglob("*")}
    assert len(owners) == 1 and owners != {0}
    assert folder.parent.stat().st_mode & 0o777 == 0o700 and not list((folder / "repo").glob("hooks*"))


async def test_the_old_protocol(builds: Builds, tmp_path: Path, server: GitServer) -> None:
    """git://."""
    server.make("r").commit({"f": "x"})
    with git_daemon(server.folder) as base:
        assert read_tree(await (await builds.look(f"{base}/r#main")).load()) == {"f": "644 x"}


def test_what_a_server_calls_its_default_branch() -> None:
    """It is taken for a branch if it can be one: git is given it as an argument later."""
    commit = "a" * 40
    for said, ref in [
        ("refs/heads/main", "refs/heads/main"),
        ("--upload-pack=x", ""),
        ("refs/heads/../../x", ""),
        ("refs/tags/x", ""),
    ]:
        text = f"ref: {said}\tHEAD\n{commit}\tHEAD\n"
        assert find_ref(text, GitSource("https://h/r.git"))[0] == Commit(commit, ref)


async def test_a_server_that_never_ends(builds: Builds) -> None:
    """A cancelled build ends git, and its helpers, at once."""
    connected = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        task = asyncio.create_task(builds.look(f"git://127.0.0.1:{port}/r"))
        await connected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        assert not [
            path for path in Path("/proc").glob("[0-9]*/cmdline") if f":{port}/".encode() in read(path)
        ]


def read(path: Path) -> bytes:
    """Empty if it has gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_what_is_kept_is_counted_and_can_go(server: GitServer, builds: Builds, tmp_path: Path) -> None:
    """And comes again when it is wanted; leftovers of a killed engine go."""
    server.make("r").commit({"f": "x"})
    files = await builds.look(server.url("r"))
    await files.load()
    workers = Workers(1)
    (folder,) = (tmp_path / "engine" / "build" / "git").iterdir()
    (folder / "keep-x").mkdir()
    (folder / ".agent-x").touch()
    fetcher = Fetcher(tmp_path / "engine", workers)
    (usage,) = fetcher.usage()
    assert usage.title == f"shared git repo for {server.url('r')}" and usage.size > 0 and not usage.in_use
    assert sorted(path.name for path in folder.iterdir()) == ["repo", "url"]
    assert fetcher.forget([usage.id, ".."]) == usage.size and not folder.exists()
    assert read_tree(await (await builds.look(server.url("r"))).load()) == {"f": "644 x"}
    await fetcher.close()
    await workers.close()
