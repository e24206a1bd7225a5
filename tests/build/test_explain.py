"""Why steps are made or not: comparing two notes, and keeping them."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.build.context import Context, Index, Item
from cais.build.copying import Manner
from cais.build.explain.compare import (
    Explained,
    Fate,
    base_reason,
    compare_files,
    explain_build,
    fact_reasons,
    pair_steps,
)
from cais.build.explain.facts import Hider, is_secret_name, list_files
from cais.build.explain.notes import FAILED, MADE, OPEN, BuildNote, FileNote, StageNote, StepNote
from cais.build.explain.store import KEPT, NoteStore
from cais.build.keys import KeyedContext, fingerprint
from cais.build.tree import Node
from cais.spec.ignore import make_ignore
from cais.store.layers import tar

BASE = StageNote("main", "busybox", "sha256:one", "base1")


def note(*steps: StepNote, base: str = "sha256:one", base_key: str = "base1", at: int = 7) -> BuildNote:
    return BuildNote(at, (StageNote("main", "busybox", base, base_key, steps),))


def step(key: str, title: str, parent: str, **more: dict[str, str]) -> StepNote:
    return StepNote(key, title, parent, **more)


def explain(now: BuildNote, *before: BuildNote, missing: str = "", **fates: Fate) -> dict[str, list[str]]:
    """The texts of all reasons by key; ``missing``: keys that are not there, the others are hits."""
    all_fates = {each.key: Fate.MISSING if each.key in missing.split() else Fate.HIT for each in now.steps()}
    files: dict[str, list[FileNote]] = {
        "old": [(b"a", b"1", "file 644"), (b"b", b"1", "file 644"), (b"gone", b"1", "file 644")],
        "new": [(b"a", b"2", "file 644"), (b"b", b"1", "file 755"), (b"new\xff", b"1", "file 644")],
        "same": [(b"a", b"1", "file 644"), (b"b", b"1", "file 644"), (b"gone", b"1", "file 644")],
    }
    found = explain_build(now, before, {**all_fates, **fates}, files.get)
    assert all(each.since_ns == (before[0].at_ns if before else 0) for each in found)
    return {each.key: [reason.text for reason in each.reasons] for each in found}


COPY = step("c1", "COPY . /", "base1", takes={".": "old"})
RUN = step("r1", "RUN make", "c1", facts={"command": "make", "ARG V": "1"})


def test_of_hits_nothing_need_be_said() -> None:
    """But where they come from, if that is not here."""
    now = note(COPY, RUN)
    assert explain(now, now) == {"base1": [], "c1": [], "r1": []}
    assert explain(now, now, c1=Fate.UNNEEDED, r1=Fate.IMPORTED) == {
        "base1": [],
        "c1": ["what stands on it is there already"],
        "r1": ["from an imported cache"],
    }


def test_files_that_changed_are_named() -> None:
    """And what stands on the step says that this is why."""
    now = note(
        step("c2", "COPY . /", "base1", takes={".": "new"}), step("r2", RUN.title, "c2", facts=RUN.facts)
    )
    found = explain_build(
        now,
        (note(COPY, RUN),),
        {"c2": Fate.MISSING, "r2": Fate.MISSING},
        {"old": [(b"a", b"1", "file 644")], "new": [(b"a", b"2", "file 644"), (b"z", b"", "folder 755")]}.get,
    )
    assert found[1].reasons[0].files == ("a", "z") and found[1].reasons[0].count == 2
    texts = explain(now, note(COPY, RUN), missing="c2 r2")
    assert texts["c2"] == ["a changed"] and texts["r2"] == ["its parent was made again"]


@pytest.mark.parametrize(("old", "new"), [("lost", "new"), ("old", "lost"), ("old", "same")])
def test_lists_that_are_gone_cost_no_reason(old: str, new: str) -> None:
    """Then it is said that files changed, and no more."""
    now = note(step("c2", "COPY . /", "base1", takes={".": new}))
    (text,) = explain(now, note(step("c1", "COPY . /", "base1", takes={".": old})), missing="c2")["c2"]
    assert text.startswith("files of `.` changed")


def test_words_for_files() -> None:
    """Content before attributes; kinds, links and modes have their own."""
    old: list[FileNote] = [
        (b"a", b"1", "file 644"),
        (b"b", b"1", "file 644"),
        (b"gone", b"1", "file 644"),
        (b"k", b"", "folder 755"),
        (b"l", b"", "link 777 aa"),
        (b"x", b"1", "file 644"),
    ]
    new: list[FileNote] = [
        (b"a", b"2", "file 755"),
        (b"b", b"1", "file 755"),
        (b"k", b"1", "file 644"),
        (b"l", b"", "link 777 bb"),
        (b"n\xff", b"1", "file 644"),
        (b"x", b"1", "file 644 cc"),
    ]
    assert compare_files(old, new) == [
        ("a", "changed"),
        ("b", "had mode 644, has 755"),
        ("gone", "is gone"),
        ("k", "was a folder, is a file"),
        ("l", "leads elsewhere"),
        ("n\\xff", "is new"),
        ("x", "has other attributes"),
    ]


def test_the_base_is_the_reason_of_what_stands_on_it() -> None:
    """Its digests are told."""
    now = note(step("c2", "COPY . /", "base2", takes={".": "old"}), base="sha256:two", base_key="base2")
    text = "base image busybox is another: sha256:one → sha256:two"
    assert explain(now, note(COPY), missing="c2") == {"base2": [text], "c2": [text]}
    other = StageNote("main", "alpine", "sha256:two", "base2")
    reason = base_reason(other, BASE)
    assert reason is not None and reason.text == "the base image was `busybox`, is `alpine`"


def test_a_parent_that_is_there_but_another() -> None:
    """It was a hit, from some other build: that is no making."""
    now = note(
        step("c2", "COPY . /", "base1", takes={".": "new"}), step("r2", RUN.title, "c2", facts=RUN.facts)
    )
    assert explain(now, note(COPY, RUN), missing="r2")["r2"] == ["its parent is another: COPY . /"]


def test_stages_that_are_taken_from() -> None:
    """Made again, or another one."""
    one = step("x1", "COPY --from=build /o /", "base1", sources={"build": "b1"})
    two = step("x2", "COPY --from=build /o /", "base1", sources={"build": "b2"})
    assert explain(note(two), note(one), missing="x2")["x2"] == ["`build`, from which it takes, is another"]
    found = explain(note(two), note(one), missing="x2", b2=Fate.MISSING)
    assert found["x2"] == ["`build`, from which it takes, was made again"]


@pytest.mark.parametrize(
    ("name", "was", "now", "text"),
    [
        ("ARG VERSION", "1", "2", "ARG VERSION was 1, is 2"),
        ("ARG VERSION", "", "2", "ARG VERSION was empty, is 2"),
        ("ARG VERSION", None, "2", "ARG VERSION is new: 2"),
        ("ENV A", "1", None, "ENV A is gone, was 1"),
        ("ENV A", "#12", "#34", "ENV A is another"),
        ("ENV A", None, "#34", "ENV A is new"),
        ("ENV A", "#34", None, "ENV A is gone"),
        ("SOURCE_DATE_EPOCH", "1", "2", "SOURCE_DATE_EPOCH was 1, is 2"),
        ("command", "a", "b", "with its variables put in it was `a`, is `b`"),
        ("content https://h/x", "#1", "#2", "what https://h/x gives is another"),
        ("--chown", "1", "2", "--chown was 1, is 2"),
        ("the here-document", "#1", "#2", "the here-document is another"),
        ("the mount at /c", "type=cache", "type=tmpfs", "the mount at /c was type=cache, is type=tmpfs"),
    ],
)
def test_facts(name: str, was: str | None, now: str | None, text: str) -> None:
    """Each thing that decides a step in its own words."""
    old = step("1", "RUN x", "p", facts={} if was is None else {name: was})
    new = step("2", "RUN x", "p", facts={} if now is None else {name: now})
    assert [reason.text for reason in fact_reasons(new, old)] == [text]


def test_a_changed_instruction_says_it_all() -> None:
    """What follows from its text is not told again; what comes from elsewhere is."""
    old = step("1", "RUN a", "p", facts={"command": "a", "--network": "none", "ARG V": "1"})
    new = step("2", "RUN b", "p", facts={"command": "b", "--network": "host", "ARG V": "2"})
    found = [reason.text for reason in fact_reasons(new, old)]
    assert found == ["the instruction was `RUN a`", "ARG V was 1, is 2"]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (MADE, "the record was pruned"),
        (FAILED, "it failed the last time"),
        (OPEN, "the build before did not come to it"),
    ],
)
def test_what_was_known_and_is_not_there(state: str, text: str) -> None:
    """By what became of it, also in a build that was not the last."""
    last, earlier = note(COPY), note(COPY, StepNote(RUN.key, RUN.title, RUN.parent, state=state))
    assert explain(note(COPY, RUN), last, earlier, missing="r1")["r1"] == [text]


def test_flags_and_lost_layers() -> None:
    """These come before everything else."""
    now = note(step("c2", "COPY . /x", "base1"), step("r2", "RUN x", "c2"))
    found = explain(now, note(COPY, RUN), c2=Fate.NO_CACHE, r2=Fate.LOST)
    assert found["c2"] == ["--no-cache"] and found["r2"] == ["it was made before, but its layer is gone"]
    found = explain(now, note(COPY, RUN), c2=Fate.FILTERED)
    assert found["c2"] == ["--no-cache-filter: its stage, or what it stands on, is made anew"]


def test_what_is_not_noted_is_said_to_be_so() -> None:
    """There is always a reason."""
    now = note(step("c2", "COPY . /", "base1", takes={".": "old"}))
    assert explain(now, note(COPY), missing="c2")["c2"] == [
        "what decides it changed, in a part that is not noted"
    ]


def test_steps_are_paired_by_text_then_by_kind() -> None:
    """A step that came in between does not shift the others."""
    old = [step("a", "RUN a", ""), step("b", "COPY b .", ""), step("c", "RUN c", "")]
    new = [
        step("A", "RUN a", ""),
        step("n", "RUN new", ""),
        step("B", "COPY other .", ""),
        step("C", "RUN c", ""),
    ]
    assert {two: one.key for two, one in pair_steps(old, new).items()} == {"A": "a", "B": "b", "C": "c"}


def test_a_context_remembers_each_question_by_itself() -> None:
    """What was excluded, and from where, is part of the question; a shared memory is filled, and believed."""
    node = Node(tar.REGULAR, 0o644, size=1)
    items = {b"d": Item(Node(tar.FOLDER, 0o755)), b"d/a": Item(node, b"1"), b"d/b": Item(node, b"2")}
    memo: dict[str, str] = {}
    context = KeyedContext(Index("", items, memo))
    all_of_it, some = Manner(), Manner(exclude=make_ignore(("b",)))
    prints = [fingerprint(context, "d", all_of_it), fingerprint(context, "d", some)]
    assert len({*prints, fingerprint(context, "d/b", all_of_it)}) == 3 == len(memo)
    assert prints == [fingerprint(Context(Index("", items)), "d", manner) for manner in (all_of_it, some)]
    assert [name for name, _, _ in list_files(context, "d", some) or ()] == [b"d/a"]
    other = KeyedContext(Index("", {}, memo))
    assert fingerprint(other, "d", some) == prints[1]


_steps = st.lists(
    st.builds(
        StepNote,
        st.text(max_size=3),
        st.sampled_from(["RUN a", "RUN b", "COPY . /"]),
        st.sampled_from(["base1", "x", "y"]),
        facts=st.dictionaries(st.sampled_from(["command", "ARG V", "the user"]), st.text(max_size=3)),
        takes=st.dictionaries(st.just("."), st.sampled_from(["old", "new", "lost"])),
    ),
    max_size=4,
)


@given(_steps, _steps, st.sampled_from(Fate))
def test_every_miss_has_a_reason(old: list[StepNote], new: list[StepNote], fate: Fate) -> None:
    """Whatever the notes are, and no hit is called a miss."""
    found: list[Explained] = explain_build(
        note(*new), (note(*old),) if old else (), {each.key: fate for each in new}, {"old": []}.get
    )
    for each in found[1:]:
        assert each.is_hit == (fate in (Fate.HIT, Fate.IMPORTED, Fate.UNNEEDED))
        assert each.is_hit or each.reasons


def test_what_is_hidden() -> None:
    """Values of variables whose names say so; they stand in no other text either, and long texts are cut."""
    assert is_secret_name("NPM_TOKEN") and is_secret_name("apiKey") and is_secret_name("PGPASSWORD")
    assert not is_secret_name("VERSION") and not is_secret_name("KEYBOARD")
    hider = Hider(b"salt" * 8, ("hunter2",))
    assert hider.variable("TOKEN", "x") == hider.variable("TOKEN", "x") != hider.variable("TOKEN", "y")
    assert hider.variable("TOKEN", "x") != Hider(b"other" * 6).variable("TOKEN", "x")
    assert hider.text("a hunter2 b") == "a *** b" and hider.text("\udcff") == "\\udcff"
    one, two = hider.text("x" * 1000), hider.text("x" * 1001)
    assert one != two and len(one) < 400


def test_notes_survive(tmp_path: Path) -> None:
    """By any of their names; the last few, the newest first; the time is that of the last build."""
    store = NoteStore(tmp_path / "explain")
    for number in range(KEPT + 2):
        store.put(["a", "b"], note(COPY, at=number), store.find(["a"]))
    found = NoteStore(tmp_path / "explain").find(["nothing", "b"])
    times = [each.at_ns for each in found]
    assert len(found) == KEPT and times == sorted(times, reverse=True)
    assert found[0].stages == note(COPY).stages
    store.touch(["b"])
    assert store.find(["b"])[0].at_ns >= found[0].at_ns
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "explain").iterdir()] == [0o600] * 2


def test_notes_that_make_no_sense_are_none(tmp_path: Path) -> None:
    """A crash may leave anything."""
    store = NoteStore(tmp_path)
    store.put(["a"], note(COPY), ())
    store.put_files("p", [(b"x\xff", b"1", "file 644")])
    assert store.find_files("p") == [(b"x\xff", b"1", "file 644")] and store.find_files("q") is None
    for path in (*tmp_path.glob("[0-9a-f]*"), tmp_path / "files/p"):
        if path.is_file():
            path.write_bytes(b"\xff{")
    assert store.find(["a"]) == [] and store.find_files("p") is None


def test_a_budget_is_kept(tmp_path: Path) -> None:
    """What was used longest ago goes, and nothing else."""
    store = NoteStore(tmp_path, limit=40_000)
    for number in range(12):
        store.put_files(f"{number:02}", [(b"x" * 4000, b"", "")])
        os.utime(tmp_path / f"files/{number:02}", (number, number))
    store.put(["a"], note(COPY), ())
    left = sorted(path.name for path in (tmp_path / "files").iterdir())
    assert left == [f"{number:02}" for number in range(12)][-len(left) :] and 5 <= len(left) <= 7
    assert store.find(["a"])


def test_pruning_forgets(tmp_path: Path) -> None:
    """What is old, or all lists; the salt stays, or nothing could be compared any more."""
    store = NoteStore(tmp_path)
    salt = store.salt
    store.put(["old"], note(COPY), ())
    store.put_files("p", [])
    for path in tmp_path.rglob("*"):
        os.utime(path, (5, 5))
    store.put(["new"], note(COPY), ())
    store.forget(10_000_000_000)
    assert not store.find(["old"]) and store.find(["new"]) and not store.has_files("p")
    store.put_files("p", [])
    store.forget()
    assert not store.has_files("p") and store.find(["new"])
    assert NoteStore(tmp_path).salt == salt and len(salt) == 32
