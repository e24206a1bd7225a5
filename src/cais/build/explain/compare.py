"""Why steps were made again, or were not: this build's note against that of the build before (pure)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

from cais.build.explain.notes import FAILED, MADE, BuildNote, FileNote, StageNote, StepNote

MOST_NAMED = 20
"""Files that a reason names."""
_MOST_MATCHED = 1000
"""Steps of a stage that are matched by their texts, which takes time by the square; others by their places."""
_SHOWN = 120
"""Characters of an instruction, or of a value."""

Files = Callable[[str], Sequence[FileNote] | None]
"""The files under a fingerprint, sorted; None: nobody knows any more."""


class Fate(StrEnum):
    """What a build found of a step before it made anything."""

    HIT = "hit"
    IMPORTED = "imported"
    UNNEEDED = "unneeded"
    MISSING = "missing"
    LOST = "lost"
    NO_CACHE = "no-cache"
    FILTERED = "no-cache-filter"


_HITS = frozenset((Fate.HIT, Fate.IMPORTED, Fate.UNNEEDED))


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason. ``kind`` is for programs: no-cache, first, new, instruction, argument, option, files, content,
    source, parent, base, pruned, lost, failed, unreached, unknown; imported, unneeded for hits. ``files``: the first
    of ``count``."""

    kind: str
    text: str
    files: tuple[str, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class Explained:
    """One step, or the image that a stage stands on, under its ``key``. ``since_ns``: when the build was that this is
    compared with; 0: there was none."""

    key: str
    title: str
    is_hit: bool
    reasons: tuple[Reason, ...] = ()
    since_ns: int = 0


def explain_build(
    now: BuildNote, before: Sequence[BuildNote], fates: Mapping[str, Fate], files: Files
) -> list[Explained]:
    """Every step, in the file's order. ``before``: earlier builds, the latest first; ``fates`` by key."""
    return list(_Comparison(now, before, fates, files).explain())


class _Comparison:
    """Two builds beside each other."""

    def __init__(
        self, now: BuildNote, before: Sequence[BuildNote], fates: Mapping[str, Fate], files: Files
    ) -> None:
        self._now = now
        self._last = before[0] if before else None
        self._fates = fates
        self._files = files
        self._titles = {step.key: step.title for step in now.steps()}
        # Of each key what the latest build says that had it.
        self._known = {step.key: step for note in reversed(before) for step in note.steps()}

    def explain(self) -> Iterator[Explained]:
        """All of it."""
        since = self._last.at_ns if self._last else 0
        for stage, old in pair_stages(self._now, self._last):
            changed = base_reason(stage, old) if old else None
            if stage.base:
                why = (changed,) if changed else ()
                yield Explained(stage.base_key, f"FROM {stage.base}", not changed, why, since)
            pairs = pair_steps(old.steps if old else (), stage.steps)
            for step in stage.steps:
                fate = self._fates.get(step.key, Fate.UNNEEDED)
                is_hit = fate in _HITS
                found = (
                    _hit_reasons(fate)
                    if is_hit
                    else self._miss_reasons(step, pairs.get(step.key), fate, changed)
                )
                yield Explained(step.key, step.title, is_hit, tuple(found), since)

    def _miss_reasons(
        self, step: StepNote, old: StepNote | None, fate: Fate, base: Reason | None
    ) -> Iterator[Reason]:
        if fate is Fate.NO_CACHE:
            yield Reason("no-cache", "--no-cache")
        elif fate is Fate.FILTERED:
            yield Reason("no-cache", "--no-cache-filter: its stage, or what it stands on, is made anew")
        elif fate is Fate.LOST:
            yield Reason("lost", "it was made before, but its layer is gone")
        elif step.key in self._known:
            yield _gone_reason(self._known[step.key])
        elif self._last is None:
            yield Reason("first", "first build here")
        elif old is None:
            yield Reason("new", "the step is new")
        else:
            found = list(self._changes(step, old, base))
            yield from found or [Reason("unknown", "what decides it changed, in a part that is not noted")]

    def _changes(self, step: StepNote, old: StepNote, base: Reason | None) -> Iterator[Reason]:
        yield from fact_reasons(step, old)
        for name in step.takes:
            if step.takes[name] != old.takes.get(name, ""):
                yield self._file_reason(name, old.takes.get(name, ""), step.takes[name])
        for text, key in step.sources.items():
            if text in old.sources and old.sources[text] != key:
                word = "was made again" if self._is_missing(key) else "is another"
                yield Reason("source", f"{_quoted(text)}, from which it takes, {word}")
        if step.parent != old.parent:
            yield self._parent_reason(step.parent, base)

    def _parent_reason(self, parent: str, base: Reason | None) -> Reason:
        if parent not in self._fates:
            return base or Reason("parent", "what its stage stands on is another")
        if self._is_missing(parent):
            return Reason("parent", "its parent was made again")
        title = self._titles.get(parent, "")
        return Reason("parent", f"its parent is another: {_cut(title)}" if title else "its parent is another")

    def _is_missing(self, key: str) -> bool:
        return self._fates.get(key, Fate.HIT) not in _HITS

    def _file_reason(self, name: str, old: str, new: str) -> Reason:
        before, now = (self._files(old) if old else None), self._files(new)
        if before is None or now is None:
            return Reason("files", f"files of {_quoted(name)} changed (it is not known any more which)")
        words = compare_files(before, now)
        if not words:
            return Reason("files", f"files of {_quoted(name)} changed")
        first, word = words[0]
        return Reason("files", f"{first} {word}", tuple(path for path, _ in words[:MOST_NAMED]), len(words))


def _hit_reasons(fate: Fate) -> Iterator[Reason]:
    if fate is Fate.IMPORTED:
        yield Reason("imported", "from an imported cache")
    elif fate is Fate.UNNEEDED:
        yield Reason("unneeded", "what stands on it is there already")


def _gone_reason(known: StepNote) -> Reason:
    """Of a step that an earlier build had just so."""
    if known.state == MADE:
        return Reason("pruned", "the record was pruned")
    if known.state == FAILED:
        return Reason("failed", "it failed the last time")
    return Reason("unreached", "the build before did not come to it")


def pair_stages(now: BuildNote, before: BuildNote | None) -> Iterator[tuple[StageNote, StageNote | None]]:
    """Stages that belong together, by their names."""
    known = {stage.label: stage for stage in before.stages} if before else {}
    for stage in now.stages:
        yield stage, known.get(stage.label)


def pair_steps(old: Sequence[StepNote], new: Sequence[StepNote]) -> dict[str, StepNote]:
    """Which step of before each step (by key) was: what reads the same, and between those what is of the same kind,
    in order."""
    found: dict[str, StepNote] = {}
    if max(len(old), len(new)) > _MOST_MATCHED:
        return {two.key: one for one, two in zip(old, new, strict=False)}
    matcher = SequenceMatcher(
        None, [step.title for step in old], [step.title for step in new], autojunk=False
    )
    for word, start, end, new_start, new_end in matcher.get_opcodes():
        if word == "equal":
            for one, two in zip(old[start:end], new[new_start:new_end], strict=True):
                found[two.key] = one
        elif word == "replace":
            left = list(old[start:end])
            for step in new[new_start:new_end]:
                same = next((each for each in left if _verb(each) == _verb(step)), None)
                if same is not None:
                    del left[: left.index(same) + 1]
                    found[step.key] = same
    return found


def _verb(step: StepNote) -> str:
    return step.title.partition(" ")[0]


def base_reason(now: StageNote, old: StageNote) -> Reason | None:
    """What became of the image that a stage stands on; None: it is the same."""
    if now.base != old.base:
        return Reason("base", f"the base image was {_quoted(old.base)}, is {_quoted(now.base)}")
    if now.base_id != old.base_id:
        return Reason("base", f"base image {_cut(now.base)} is another: {old.base_id} → {now.base_id}")
    return None


def fact_reasons(step: StepNote, old: StepNote) -> Iterator[Reason]:
    """What decides a step beside files and other steps."""
    if step.title != old.title:
        yield Reason("instruction", f"the instruction was {_quoted(old.title)}")
    for name in dict.fromkeys((*step.facts, *old.facts)):
        was, now = old.facts.get(name, ""), step.facts.get(name, "")
        if was == now:
            continue
        if name == "command":
            if step.title == old.title:
                yield Reason(
                    "instruction", f"with its variables put in it was {_quoted(was)}, is {_quoted(now)}"
                )
        elif name.startswith("content "):
            yield Reason("content", f"what {name.partition(' ')[2]} gives is another")
        elif name.startswith(("ARG ", "ENV ")) or name == "SOURCE_DATE_EPOCH":
            yield Reason("argument", _change(name, was, now, name in old.facts, name in step.facts))
        elif step.title == old.title or name.startswith("the "):
            yield Reason("option", _change(name, was, now, name in old.facts, name in step.facts))


def _change(name: str, was: str, now: str, was_given: bool, is_given: bool) -> str:
    hidden = was.startswith("#") or now.startswith("#")
    if not was_given:
        return f"{name} is new" + ("" if hidden else f": {_cut(now)}" if now else "")
    if not is_given:
        return f"{name} is gone" + ("" if hidden else f", was {_value(was)}")
    return f"{name} is another" if hidden else f"{name} was {_value(was)}, is {_value(now)}"


def compare_files(old: Sequence[FileNote], new: Sequence[FileNote]) -> list[tuple[str, str]]:
    """The files that differ, sorted, each with what is to be said of it."""
    before = {name: (content, attributes) for name, content, attributes in old}
    now = {name: (content, attributes) for name, content, attributes in new}
    found = []
    for name in sorted(before.keys() | now.keys()):
        one, two = before.get(name), now.get(name)
        if one == two:
            continue
        if one is None:
            word = "is new"
        elif two is None:
            word = "is gone"
        else:
            word = _change_word(one, two)
        found.append((name.decode("utf-8", "backslashreplace") or ".", word))
    return found


def _change_word(old: tuple[bytes, str], new: tuple[bytes, str]) -> str:
    was, now = old[1].split(" "), new[1].split(" ")
    if was[0] != now[0]:
        return f"was a {was[0]}, is a {now[0]}"
    if old[0] != new[0]:
        return "changed"
    if was[1:2] != now[1:2]:
        return f"had mode {was[1]}, has {now[1]}"
    return "leads elsewhere" if now[0] == "link" else "has other attributes"


def _value(text: str) -> str:
    return _cut(text) if text else "empty"


def _quoted(text: str) -> str:
    return f"`{_cut(text)}`"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
