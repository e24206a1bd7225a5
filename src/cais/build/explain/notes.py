"""What is noted of a build, so that the next one can say what changed since: for each step what decided its key."""

from collections.abc import Iterator

import msgspec

FileNote = tuple[bytes, bytes, str]
"""One file that a COPY takes: its path in the context, a digest of its bytes (shortened), and all else that counts."""

MADE, FAILED, OPEN = "made", "failed", "open"


class StepNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step that makes files. ``parent`` and ``sources`` are keys, the latter by the text of each from; ``facts``:
    what else decides, for people, by name; ``takes``: fingerprints of parts of the context, by what names them;
    ``state``: what became of it."""

    key: str
    title: str
    parent: str
    sources: dict[str, str] = {}
    facts: dict[str, str] = {}
    takes: dict[str, str] = {}
    state: str = MADE


class StageNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stage. ``base``: how its image is called, ``base_id`` the digest of that and ``base_key`` its key; empty for
    stages on other stages."""

    label: str
    base: str = ""
    base_id: str = ""
    base_key: str = ""
    steps: tuple[StepNote, ...] = ()


class BuildNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """One build; ``at_ns`` nanoseconds since the epoch."""

    at_ns: int
    stages: tuple[StageNote, ...] = ()

    def steps(self) -> Iterator[StepNote]:
        """Of all stages."""
        for stage in self.stages:
            yield from stage.steps

    def with_states(self, states: dict[str, str]) -> "BuildNote":
        """The same, with what became of the steps by key; others were not come to."""
        stages = tuple(
            msgspec.structs.replace(
                stage,
                steps=tuple(
                    msgspec.structs.replace(step, state=states.get(step.key, OPEN)) for step in stage.steps
                ),
            )
            for stage in self.stages
        )
        return msgspec.structs.replace(self, stages=stages)
