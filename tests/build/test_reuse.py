"""What makes a step another step: linked layers, stages to be made anew, dated builds. Nothing is run here."""

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from cais.build.clamp import clamp_times
from cais.build.context import Context, Index, index_context
from cais.build.dockerfile.evaluate import CopyAct
from cais.build.dockerfile.graph import make_graph
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.scope import make_scope
from cais.build.layering import CopyJob, list_members
from cais.build.plan import Op, Planner
from cais.build.request import BuildRequest
from cais.errors import NotFound
from cais.images.image import Image
from cais.spec.platform import Platform
from cais.spec.runtimespec import RootMount
from cais.store.layers.diff import DiffSource, diff_snapshot
from cais.store.layers.pack import END

HOST = Platform(os="linux", architecture="amd64")
FILES = {"a": "a", "d/f": "f", "d/g": "g"}


def make_context(folder: Path, files: dict[str, str]) -> Context:
    """The files as a context."""
    return Context(make_index(folder, files))


def make_index(folder: Path, files: dict[str, str], mtime: int = 1_600_000_000) -> Index:
    """The files, and an empty folder."""
    path = folder / f"context-{len(list(folder.iterdir()))}"
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(text), mtime
            tar.addfile(info, io.BytesIO(text.encode()))
        tar.addfile(_folder("empty", mtime))
    return index_context(str(path), f"{path}.plain")


def _folder(name: str, mtime: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, mtime
    return info


async def no_image(name: str, platform: Platform | None) -> Image:
    """All stages here stand on scratch."""
    raise NotFound(name)


async def plan(text: str, context: Context, request: BuildRequest | None = None) -> dict[str, Op]:
    """The steps that change files, by their titles."""
    asked = request or BuildRequest()
    file = parse_dockerfile(text.encode())
    scope = make_scope(file, asked.args, {})
    planner = Planner(make_graph(file, scope), scope, context, no_image, HOST, asked)
    made = await planner.plan()
    steps = [step.op for stage in made.stages.values() for step in stage.steps]
    return {op.title: op for op in steps if op}


def link_of(op: Op) -> str:
    """The key of a linked layer."""
    assert isinstance(op.act, CopyAct)
    return op.act.link_key


# Linked layers

ONE = "FROM scratch\nWORKDIR /{0}\nCOPY --link{1} a /x/a\nWORKDIR /then\n"


async def test_a_linked_layer_has_one_key_on_every_parent(tmp_path: Path) -> None:
    """The step and those behind it have others: they stand on something else."""
    context = make_context(tmp_path, FILES)
    first, second = [await plan(ONE.format(name, ""), context) for name in ("p", "q")]
    title = "COPY --link a /x/a"
    assert link_of(first[title]) == link_of(second[title]) != ""
    for each in (title, "WORKDIR /then"):
        assert first[each].key != second[each].key
    other = await plan(ONE.format("p", ""), make_context(tmp_path, {**FILES, "a": "other"}))
    assert link_of(other[title]) != link_of(first[title])
    dated = await plan(ONE.format("p", ""), context, BuildRequest(args={"SOURCE_DATE_EPOCH": "5"}))
    assert link_of(dated[title]) not in ("", link_of(first[title]))


@pytest.mark.parametrize(
    ("flags", "linked"),
    [
        (" --chown=1:2", True),
        (" --chown=7", True),
        (" --chown=who", False),
        (" --chmod=755", False),
        ("=false", False),
    ],
)
async def test_a_step_that_must_look_at_its_parent_is_not_linked(
    flags: str, linked: bool, tmp_path: Path
) -> None:
    """For the number of an owner, or a folder's mode."""
    found = await plan(ONE.format("p", flags), make_context(tmp_path, FILES))
    assert bool(link_of(found[f"COPY --link{flags} a /x/a"])) is linked


def members(act: CopyAct, index: Index, newest: int | None = None) -> list[tuple[str, int, int, int]]:
    """Names, modes, owners and times of a layer's members."""
    data = b"".join((*list_members(CopyJob(act, (), index, now=50, newest=newest)), END))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(entry.name, entry.mode, entry.uid, int(entry.mtime)) for entry in tar]


@pytest.mark.parametrize(
    ("sources", "destination", "chown", "names"),
    [
        (("a",), "/x/y/a", "", ["x/y/a"]),
        (("a",), "/x/y/a", "3:3", ["x/y/a"]),
        (("d",), "/x/y/", "", ["x/y/f", "x/y/g"]),
        (("d",), "/x/y/", "3:3", ["x/y", "x/y/f", "x/y/g"]),
        (("empty",), "/x/y", "", ["x/y"]),
        (("d", "a"), "/x/", "", ["x/f", "x/g", "x/a"]),
    ],
)
def test_a_linked_layer_lists_what_it_brings_and_nothing_of_others(
    sources: Sequence[str], destination: str, chown: str, names: list[str], tmp_path: Path
) -> None:
    """Folders on the way are whoever's they were; one that is filled belongs to the owner that was asked for."""
    act = CopyAct(tuple(sources), (), destination, chown=chown, link=True)
    index = make_index(tmp_path, FILES)
    found = members(act, index)
    assert [name for name, *_ in found] == names
    assert all(uid == (3 if chown else 0) for _, _, uid, _ in found)
    above = [name for name, *_ in members(replace(act, link=False), index)]
    assert set(names) < set(above) and "x" in above


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("d/ff", "did you mean f?"),
        ("emtpy", "did you mean empty?"),
        ("d/nothing", ""),
        ("x/y", ""),
        ("a/b", ""),
    ],
)
def test_a_missing_file_is_named_with_its_likes(source: str, hint: str, tmp_path: Path) -> None:
    """What lies in the same folder and is called nearly so."""
    for parents in (False, True):
        with pytest.raises(NotFound) as caught:
            members(CopyAct((source,), (), "/x/", parents=parents), make_index(tmp_path, FILES))
        assert str(caught.value).endswith(
            f"stat {source}: file does not exist" + (f" ({hint})" if hint else "")
        )


# Stages made anew

STAGES = """FROM scratch AS One
WORKDIR /one
FROM scratch AS two
WORKDIR /two
FROM one AS three
WORKDIR /three
FROM scratch
COPY --from=two /two /
COPY --link a /
COPY --from=three /three /
COPY a /
"""


@pytest.mark.parametrize(
    ("names", "fresh"),
    [
        ((), []),
        (("one",), ["WORKDIR /one", "WORKDIR /three", "COPY --from=three /three /", "COPY a /"]),
        (("ONE",), ["WORKDIR /one", "WORKDIR /three", "COPY --from=three /three /", "COPY a /"]),
        (("three",), ["WORKDIR /three", "COPY --from=three /three /", "COPY a /"]),
        (
            ("3", "nope"),
            ["COPY --from=two /two /", "COPY --link a /", "COPY --from=three /three /", "COPY a /"],
        ),
    ],
)
async def test_stages_are_made_anew_with_all_that_stands_on_them(
    names: Sequence[str], fresh: list[str], tmp_path: Path
) -> None:
    """By name or number; a linked layer of such a stage is not taken from elsewhere either."""
    request = BuildRequest(no_cache_filter=frozenset(names))
    found = await plan(STAGES, make_context(tmp_path, FILES), request)
    assert [title for title, op in found.items() if op.no_cache] == fresh
    assert bool(link_of(found["COPY --link a /"])) is ("COPY --link a /" not in fresh)
    assert {title: op.key for title, op in found.items()} == {
        title: op.key for title, op in (await plan(STAGES, make_context(tmp_path, FILES))).items()
    }


# Dated builds


async def test_a_date_makes_other_steps(tmp_path: Path) -> None:
    """What was made without one has other times."""
    context = make_context(tmp_path, FILES)
    keys = []
    for args in ({}, {"SOURCE_DATE_EPOCH": "5"}, {"SOURCE_DATE_EPOCH": "6"}):
        keys += [
            op.key for op in (await plan(ONE.format("p", ""), context, BuildRequest(args=args))).values()
        ]
    assert len(set(keys)) == len(keys) == 9


def test_no_time_in_a_dated_layer_is_later(tmp_path: Path) -> None:
    """Those of the context that are earlier stay."""
    for mtime, want in ((10, 10), (100, 60)):
        act = CopyAct(("d",), (), "/x/", parents=False)
        found = members(act, make_index(tmp_path, FILES, mtime), newest=60)
        assert {name: time for name, _, _, time in found} == {"x": 50, "x/f": want, "x/g": want}


DEEP = 60
"""Folders, so that their paths are longer than a path can be."""


def make_upper(folder: Path) -> Path:
    """What a RUN has left."""
    upper = folder / "upper"
    (upper / "d/deep").mkdir(parents=True)
    (upper / "d/f").write_text("x")
    (upper / "l").symlink_to("/nowhere")
    here = os.open(upper / "d/deep", os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("n" * 200, dir_fd=here)
        below = os.open("n" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    return upper


def test_times_of_a_run_are_held_down(tmp_path: Path) -> None:
    """Files, links and folders, however deep; the link's target and what is earlier is left alone."""
    upper = make_upper(tmp_path)
    outside = tmp_path / "outside"
    outside.write_text("x")
    (upper / "out").symlink_to(outside)
    before = outside.stat().st_mtime_ns
    old = upper / "old"
    old.write_text("x")
    os.utime(old, (1_000_000_000, 1_000_000_000))
    source = DiffSource(RootMount(type="overlay", lower=(), upper=str(upper), work=""), ())
    clamp_times(source, 1_500_000_000)
    with tarfile.open(fileobj=io.BytesIO(b"".join((*diff_snapshot(source), END)))) as tar:
        times = {entry.name: int(entry.mtime) for entry in tar}
    assert len(times) == DEEP + 7 and times.pop("old") == 1_000_000_000
    assert set(times.values()) == {1_500_000_000} and outside.stat().st_mtime_ns == before


def test_of_a_copied_root_only_what_changed_is_held_down(tmp_path: Path) -> None:
    """What is as it is in the layers is no change, and must not become one."""
    lower, copy = tmp_path / "lower", tmp_path / "copy"
    for folder in (lower, copy):
        folder.mkdir()
        (folder / "same").write_text("x")
    found = (lower / "same").stat()
    os.utime(copy / "same", ns=(found.st_atime_ns, found.st_mtime_ns))
    (copy / "new").write_text("x")
    source = DiffSource(RootMount(type="copy", lower=(str(copy),), upper="", work=""), (str(lower),))
    clamp_times(source, 1_500_000_000)
    with tarfile.open(fileobj=io.BytesIO(b"".join((*diff_snapshot(source), END)))) as tar:
        assert [(entry.name, int(entry.mtime)) for entry in tar] == [("new", 1_500_000_000)]
