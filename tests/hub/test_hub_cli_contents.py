"""``cais hub files``, ``compare`` and ``attachments``: what is inside of images, and what is said about them."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.apihub import ApiHub, populate, serving_hub
from harness.cargo import Layered, Pusher
from harness.hubcli import Program

pytestmark = pytest.mark.slow
EVIL = "etc/\x1b[31mred"
BASE = Layered("COPY base /", {"bin/sh": b"shell", "etc/": "", "etc/name": b"one", "etc/link": "-> name"})
TOP = Layered(
    "RUN x",
    {
        "etc/name": b"two",
        "bin/.wh.sh": b"",
        "etc/link": "-> \x1b[2J",
        "etc/more": b"more",
        "opt/a": b"a" * 2000,
        EVIL: b"",
    },
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiHub]:
    """A hub with images of ``root/app``: one, another for two platforms, and one whose layer is no tar."""
    with serving_hub(tmp_path_factory.mktemp("contents") / "hub") as served:
        populate(served)
        pusher = Pusher(served.port, ("root", served.tokens["root"]))
        pusher.image("root/app", "1", [BASE], config={"Env": ["A=1"], "User": "app"})
        members = [
            pusher.image("root/app", "", [BASE, TOP], config={"Env": ["A=2"]}, architecture=machine)
            for machine in ("amd64", "arm64")
        ]
        pusher.index("root/app", "2", members)
        served.push("root/app", "broken")
        yield served


@pytest.fixture
def cais(served: ApiHub, tmp_path: Path) -> Program:
    """The program."""
    return Program(served.port, tmp_path)


def test_files_are_listed_as_ls_does(cais: Program) -> None:
    """Folders first, with the sizes of what is in them; links with what they lead to."""
    heading, *rows = cais.lines("files", "root/app:1")
    assert heading.split() == ["MODE", "OWNER", "SIZE", "MODIFIED", "NAME"]
    assert [row.split() for row in rows] == [
        ["drwxr-xr-x", "0:0", "5B", "-", "bin"],
        ["drwxr-xr-x", "0:0", "3B", "-", "etc"],
    ]
    inside = [row.split() for row in cais.lines("files", "root/app:1", "/etc")[1:]]
    assert inside == [
        ["lrw-r--r--", "0:0", "0B", "-", "link", "->", "name"],
        ["-rw-r--r--", "0:0", "3B", "-", "name"],
    ]
    assert [row.split()[-1] for row in cais.lines("files", "root/app:1", "bin/sh")[1:]] == ["sh"]


def test_files_of_one_layer_and_platform(cais: Program, served: ApiHub) -> None:
    """A layer shows what it removes; an image by its digest is one, too."""
    layer = cais.lines("files", "--layer", "2", "--format", "{{.Path}} {{.Layer}}", "root/app:2", "bin")
    assert layer == ["bin/.wh.sh 2"]
    assert cais.lines("files", "--platform", "linux/arm64", "--format", "{{.Name}}", "root/app:2") == [
        "bin",
        "etc",
        "opt",
    ]
    digest = json.loads(cais("inspect", "root/app:1").stdout)[0]["digest"]
    rows = [json.loads(line) for line in cais.lines("files", "--format", "json", f"root/app@{digest}", "bin")]
    assert [(row["path"], row["mode"], row["size"]) for row in rows] == [("bin/sh", 0o755, 5)]


def test_files_tell_when_they_were_changed(cais: Program, served: ApiHub) -> None:
    """In UTC, as the image has it; `-`: it does not say."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("dated")
        entry.mtime = 1_700_000_000
        tar.addfile(entry)
    served.push("root/app", "dated", layers=[out.getvalue()])
    row = cais.lines("files", "root/app:dated")[1]
    assert row.split() == ["-rw-r--r--", "0:0", "0B", "2023-11-14", "22:13", "dated"]


def test_files_have_harmless_names(cais: Program) -> None:
    """Whoever made the image chose them."""
    names = cais.lines("files", "--format", "{{.Name}}", "root/app:2", "etc")
    assert "\ufffd[31mred" in names and "\x1b" not in "".join(names)


def test_a_layer_that_cannot_be_read_is_told(cais: Program) -> None:
    """On the side: what there is, is still listed and compared."""
    listed = cais("files", "root/app:broken")
    assert listed.returncode == 0 and listed.stderr.startswith("WARNING: not all is shown: layer 1: ")
    compared = cais("compare", "root/app:1", "broken")
    assert compared.returncode == 0 and "WARNING: not all is shown: layer 1: " in compared.stderr
    assert "D /bin/" in compared.stdout


def test_files_that_are_not_there(cais: Program) -> None:
    """The hub's words; and what is no image is said before it is asked."""
    for words, message in (
        (("root/app:1", "/nowhere"), "no such file in the image: /nowhere"),
        (("root/app:3",), "3"),
        (("--layer", "9", "root/app:1"), "the image has 1 layers"),
        (("--platform", "linux/s390x", "root/app:2"), "no such platform of root/app: linux/s390x"),
        (("root/app",), "root/app has no tag: want REPOSITORY:TAG"),
    ):
        done = cais("files", *words)
        assert done.returncode == 1 and message in done.stderr and not done.stdout, words


def test_images_are_compared_as_docker_diff_does(cais: Program) -> None:
    """Sums and settings, then the changes, with sizes where they are about bytes, and what else is new."""
    lines = cais.lines("compare", "root/app:1", "2")
    assert lines[:2] == [
        "4 added, 1 removed, 2 changed: 2kB more",
        "Layers at the bottom that are the same: 1",
    ]
    blank = lines.index("")
    assert sorted(lines[2:blank]) == ["user: app -> (none)", "variable A: 1 -> 2"]
    assert lines[blank + 1 :] == [
        "D /bin/sh  5B",
        "A /etc/\ufffd[31mred  0B",
        "C /etc/link  target name became \ufffd[2J",
        "A /etc/more  4B",
        "C /etc/name",
        "A /opt/  2kB in 2 files and folders",
    ]


def test_images_are_compared_for_programs(cais: Program) -> None:
    """One change a line; the other way round everything is the other way round."""
    rows = [json.loads(line) for line in cais.lines("compare", "--format", "json", "root/app:2", "1")]
    assert [(row["path"], row["how"]) for row in rows] == [
        ("bin/sh", "added"),
        (EVIL, "removed"),
        ("etc/link", "changed"),
        ("etc/more", "removed"),
        ("etc/name", "changed"),
        ("opt", "removed"),
    ]
    assert cais.lines("compare", "root/app:2", "1")[0] == "1 added, 4 removed, 2 changed: 2kB less"
    same = cais.lines("compare", "root/app:1", "1")
    assert same[0] == "0 added, 0 removed, 0 changed: as large as before" and len(same) == 2
    assert cais.lines("compare", "--format", "{{.How}} {{.Path}}", "root/app:2", "1")[0] == "added bin/sh"


def test_what_cannot_be_compared(cais: Program) -> None:
    """The hub's words."""
    for words, message in (
        (("root/app:1", "3"), "no such"),
        (("--platform", "linux/s390x", "root/app:1", "2"), "no such platform of root/app: linux/s390x"),
    ):
        done = cais("compare", *words)
        assert done.returncode == 1 and message in done.stderr and not done.stdout, words
