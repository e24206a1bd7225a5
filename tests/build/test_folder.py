"""Contexts that are open folders: what is seen, what is believed, and that nothing leads out."""

import os
import pickle
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cais.build.context import Context, FileChanged, Index, index_context
from cais.build.copying import Manner
from cais.build.folder import Folder, FolderInputs, Folders, is_wanted, open_folder, plain_tops
from cais.build.inputs import MAIN, DockerfileText
from cais.build.keys import fingerprint
from cais.client.foldertar import pack_folder
from cais.errors import Invalid, NotFound
from cais.spec.ignore import Ignore, parse_ignore

EVERYTHING = Ignore()
OLD = 1_600_000_000
"""Long ago: such files are not racy. ctime cannot be set, so the clock of the test is moved instead."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A context with a bit of everything."""
    context = tmp_path / "context"
    (context / "src" / "deep").mkdir(parents=True)
    (context / "docs").mkdir()
    (context / "Dockerfile").write_text("FROM scratch\n")
    (context / "src" / "a.txt").write_text("a")
    (context / "src" / "deep" / "b.txt").write_text("b" * 100_000)
    (context / "src" / "tool").write_text("#!/bin/sh\n")
    (context / "src" / "tool").chmod(0o755)
    (context / "src" / "again").hardlink_to(context / "src" / "a.txt")
    (context / "docs" / "empty").touch()
    (context / "link").symlink_to("src/a.txt")
    (context / "out").symlink_to("/etc/passwd")
    os.mkfifo(context / "pipe")
    return context


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Folders]:
    """Those of an engine."""
    found = Folders(tmp_path / "root")
    yield found
    found.close()


def open_it(folders: Folders, path: Path) -> Folder:
    """The folder, as for a build."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    return Folder(fd, folders, folders.digests(fd))


def tar_index(path: Path, tmp_path: Path, dockerfile: str = "") -> Index:
    """What the same folder is when it comes as a tar."""
    file = tmp_path / f"{os.urandom(4).hex()}.tar"
    file.write_bytes(b"".join(pack_folder(str(path), dockerfile, None)))
    return index_context(str(file), str(tmp_path / "plain"))


def make_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock be so late that no file was written just now."""
    monkeypatch.setattr("cais.build.folder.RACY_NS", -(10**18))


@pytest.mark.parametrize(
    "ignore",
    ["", "docs\n", "src\n!src/deep\n", "**/*.txt\n", "*\n!src/tool\n", "Dockerfile\n.dockerignore\n"],
)
def test_a_folder_is_what_its_tar_is(ignore: str, place: Path, folders: Folders, tmp_path: Path) -> None:
    """The same nodes, and the same fingerprint, so that both ways find the same steps."""
    (place / ".dockerignore").write_text(ignore)
    folder = open_it(folders, place)
    index = folder.index(parse_ignore(ignore.encode()), None)
    other = tar_index(place, tmp_path)
    for own in (b"Dockerfile", b".dockerignore"):
        index.items.pop(own, None)
        other.items.pop(own, None)
    found = {path: (item.node.kind, item.node.size, item.node.link) for path, item in index.items.items()}
    assert found == {path: (i.node.kind, i.node.size, i.node.link) for path, i in other.items.items()}
    if "!" not in ignore:
        # Of a folder that is excluded but for something in it a tar does not tell the mode.
        assert fingerprint(Context(index), ".", Manner()) == fingerprint(Context(other), ".", Manner())
    folder.close(None)


def test_what_copy_reads_is_what_was_hashed(place: Path, folders: Folders) -> None:
    """A worker reads the bytes through the engine's descriptor; bytes that changed since are an error."""
    folder = open_it(folders, place)
    index = folder.index(EVERYTHING, None)
    context = Context(index)
    context.digest(b"src/a.txt")
    for path in (b"src/tool", b"src/deep/b.txt"):
        context.digest(path)
    at_worker = Context(pickle.loads(pickle.dumps(index)))
    assert b"".join(at_worker.read(b"src/deep/b.txt")) == b"b" * 100_000
    with pytest.raises(Invalid, match="in no key"):
        list(at_worker.read(b"docs/empty"))
    (place / "src" / "a.txt").write_text("A")  # as long as before
    (place / "src" / "tool").write_text("longer than it was")
    (place / "src" / "deep" / "b.txt").write_text("short")
    for path in (b"src/a.txt", b"src/tool", b"src/deep/b.txt"):
        with pytest.raises(FileChanged, match="changed during the build"):
            list(at_worker.read(path))
    at_worker.close()
    folder.close(None)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "gone", "parent"])
def test_a_file_that_became_something_else_is_not_followed(kind: str, place: Path, folders: Folders) -> None:
    """Whatever stands there instead, and wherever it leads, it is not read."""
    folder = open_it(folders, place)
    index = folder.index(EVERYTHING, None)
    context = Context(index)
    context.digest(b"src/a.txt")
    victim = place / "src" / "a.txt"
    secret = place.parent / "secret"
    secret.mkdir()
    (secret / "a.txt").write_text("a")
    if kind == "parent":
        (place / "src").rename(place / "old")
        (place / "src").symlink_to(secret)
    else:
        victim.unlink()
        {
            "link": lambda: victim.symlink_to(secret / "a.txt"),
            "pipe": lambda: os.mkfifo(victim),
            "folder": victim.mkdir,
            "gone": lambda: None,
        }[kind]()
    with pytest.raises(FileChanged):
        list(context.read(b"src/a.txt"))
    context.close()
    folder.close(None)


def test_a_digest_is_remembered_across_engines(
    place: Path, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second build hashes nothing; a changed file is hashed again; and so is everything after a lie."""
    make_old(monkeypatch)
    folder = open_it(folders, place)
    first = fingerprint(Context(folder.index(EVERYTHING, None)), "src", Manner())
    folder.close(None)
    later = Folders(tmp_path / "root")
    folder = open_it(later, place)
    assert len(folder.digests.known) == 3  # two names are one file
    for stamp in folder.digests.known:
        folder.digests.known[stamp] = b"\1" * 32
    assert fingerprint(Context(folder.index(EVERYTHING, None)), "src", Manner()) != first
    folder.close(FileChanged("x"))
    folder = open_it(later, place)
    assert not folder.digests.known
    assert fingerprint(Context(folder.index(EVERYTHING, None)), "src", Manner()) == first
    (place / "src" / "a.txt").write_text("A")
    assert fingerprint(Context(folder.index(EVERYTHING, None)), "src", Manner()) != first
    folder.close(None)
    later.close()


def test_a_file_that_was_written_just_now_is_not_believed(place: Path, folders: Folders) -> None:
    """Within one tick of the clock it can be written again and look the same."""
    folder = open_it(folders, place)
    fingerprint(Context(folder.index(EVERYTHING, None)), "src", Manner())
    assert not folder.digests.known
    folder.close(None)


def test_only_what_is_named_is_looked_at_and_hashed(place: Path, folders: Folders) -> None:
    """A step that takes one folder costs that folder."""
    (place / "link").unlink()
    (place / "out").unlink()
    folder = open_it(folders, place)
    index = folder.index(EVERYTHING, frozenset(("src/deep", "docs/*")))
    assert set(index.items) == {b"src", b"src/deep", b"src/deep/b.txt", b"docs", b"docs/empty"}
    fingerprint(Context(index), "docs", Manner())
    assert index.items[b"docs/empty"].digest and not index.items[b"src/deep/b.txt"].digest
    folder.close(None)


def test_a_link_on_the_way_makes_all_of_it_be_looked_at(place: Path, folders: Folders) -> None:
    """COPY follows links inside the context, wherever they lead."""
    (place / "way").symlink_to("src")
    folder = open_it(folders, place)
    for wanted in ("way/deep", "link", "w*/deep"):
        index = folder.index(EVERYTHING, frozenset((wanted,)))
        assert b"src/deep/b.txt" in index.items, wanted
        assert fingerprint(Context(index), wanted, Manner())
    folder.close(None)


def test_plain_tops_and_what_they_want() -> None:
    """What stands before a wildcard; all if nothing does."""
    assert plain_tops(frozenset(("a/b", "./c/*.x", "/d/"))) == {b"a/b": False, b"c": True, b"d": False}
    assert plain_tops(frozenset(("a", "*.x"))) is None
    assert plain_tops(frozenset((".",))) is None
    tops = {b"a/b": False}
    assert [is_wanted(path, tops) for path in (b"a", b"a/b", b"a/b/c", b"a/bc", b"ab")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_an_unreadable_file_is_named_when_it_is_needed(place: Path, folders: Folders) -> None:
    """And disturbs nobody who does not copy it."""
    (place / "src" / "a.txt").unlink()
    folder = open_it(folders, place)
    index = folder.index(EVERYTHING, None)
    (place / "src" / "tool").unlink()
    assert fingerprint(Context(index), "docs", Manner())
    with pytest.raises(FileChanged, match="src/tool"):
        fingerprint(Context(index), "src", Manner())
    folder.close(None)


async def test_the_dockerfile_is_read_inside_the_folder_alone(place: Path, folders: Folders) -> None:
    """Through links that stay inside, never through one that leads out; the ignore file is the Dockerfile's own."""
    (place / "ci").mkdir()
    (place / "ci" / "prod").symlink_to("../Dockerfile")
    (place / "ci" / "evil").symlink_to("../../outside")
    (place.parent / "outside").write_text("FROM outside\n")
    (place / "ci" / "prod.dockerignore").write_text("docs\n")
    (place / ".dockerignore").write_text("src\n")
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    inputs = FolderInputs(folders, {MAIN: fd})
    assert await inputs.dockerfile("ci/prod") == DockerfileText("ci/prod", b"FROM scratch\n", b"docs\n")
    assert (await inputs.dockerfile("Dockerfile")).ignore == b"src\n"
    for name in ("ci/evil", "../outside", "out", "pipe", "src", "none"):
        with pytest.raises(NotFound):
            await inputs.dockerfile(name)
    with pytest.raises(NotFound):
        await inputs.context("other", EVERYTHING, place)
    await inputs.close()
    await inputs.close()


def test_a_descriptor_that_is_another_folder_is_refused(place: Path, tmp_path: Path) -> None:
    """What the client says of the folder must be so: the number may be another program's."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    status = os.fstat(fd)
    again = open_folder(fd, status.st_dev, status.st_ino)
    assert os.path.sameopenfile(fd, again)
    os.close(again)
    with pytest.raises(OSError, match="not the folder"):
        open_folder(fd, status.st_dev, status.st_ino + 1)
    file = os.open(place / "Dockerfile", os.O_RDONLY)
    status = os.fstat(file)
    with pytest.raises(OSError, match="not the folder"):
        open_folder(file, status.st_dev, status.st_ino)
    os.close(file)
    os.close(fd)


def test_renames_during_a_walk_never_lead_out(place: Path, folders: Folders) -> None:
    """Somebody swaps a folder for a link to another one, again and again: no name from there is ever seen."""
    outside = place.parent / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "secret").write_text("secret")
    (place / "swap").symlink_to(outside)
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            os.rename(place / "src", place / "aside")
            os.rename(place / "swap", place / "src")
            os.rename(place / "src", place / "swap")
            os.rename(place / "aside", place / "src")

    thread = threading.Thread(target=swap)
    thread.start()
    folder = open_it(folders, place)
    seen: set[bytes] = set()
    try:
        for _ in range(300):
            try:
                seen |= set(folder.index(EVERYTHING, None).items)
            except FileChanged:
                continue
    finally:
        ended.set()
        thread.join()
        folder.close(None)
    assert b"src/a.txt" in seen or b"aside/a.txt" in seen
    assert not [path for path in seen if path.endswith(b"secret")]


def test_sockets_pipes_and_devices_are_no_part_of_it(place: Path, folders: Folders) -> None:
    """They are no use to a build, and opening one may wait for ever."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place / "sock"))
    if os.geteuid() == 0:
        os.mknod(place / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    folder = open_it(folders, place)
    items = folder.index(EVERYTHING, None).items
    assert not {b"sock", b"null", b"pipe"} & set(items)
    folder.close(None)


def test_too_deep_a_folder_is_refused(place: Path, folders: Folders) -> None:
    """Whoever made it: the walk ends with a message."""
    fd = os.open(place / "docs", os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("n" * 10, dir_fd=fd)
        below = os.open("n" * 10, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    folder = open_it(folders, place)
    with pytest.raises(Invalid):
        folder.index(EVERYTHING, None)
    folder.close(None)
    while (place / "docs" / ("n" * 10)).exists():
        os.rename(place / "docs" / ("n" * 10), place.parent / "cut")
        inner = place.parent / "cut" / ("n" * 10)
        if inner.exists():
            os.rename(inner, place / "docs" / ("n" * 10))
        os.rmdir(place.parent / "cut")
