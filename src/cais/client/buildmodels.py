"""What an engine tells of a build, as typed values: events while it goes on, its result, its failure."""

from typing import Any

import msgspec

from cais.errors import CaisError


class BuildEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened in a build."""


class StepStarted(BuildEvent, frozen=True, tag="started"):
    """A step began, or was found in the cache. ``id`` is its identity in all events, ``inputs`` are those of what it
    stands on; ``at_ns`` nanoseconds since the epoch."""

    id: str
    name: str
    at_ns: int = msgspec.field(name="at")
    inputs: tuple[str, ...] = ()


class StepOutput(BuildEvent, frozen=True, tag="output"):
    """What its program wrote; ``stream`` 1 or 2."""

    id: str
    stream: int
    data: bytes
    at_ns: int = msgspec.field(name="at")


class StepProgress(BuildEvent, frozen=True, tag="progress"):
    """One of several things it does, a layer that is pulled; ``current`` of ``total`` bytes (0: not known)."""

    id: str
    item: str
    current: int
    total: int
    at_ns: int = msgspec.field(name="at")
    is_done: bool = msgspec.field(name="done", default=False)


class StepDone(BuildEvent, frozen=True, tag="done"):
    """It has ended; ``error`` is empty if it went well."""

    id: str
    at_ns: int = msgspec.field(name="at")
    is_cached: bool = msgspec.field(name="cached", default=False)
    error: str = ""


class BuildWarning(BuildEvent, frozen=True, tag="warning"):
    """Something about the Dockerfile; ``lines`` are the first and the last, from 1."""

    text: str
    url: str = ""
    file: str = ""
    lines: tuple[int, int] = (0, 0)


class BuildReason(msgspec.Struct, frozen=True):
    """Why a step is made, or is not: ``kind`` for programs, ``text`` for people; ``files``: the first of ``count``."""

    kind: str
    text: str
    files: tuple[str, ...] = ()
    count: int = 0


class StepExplained(BuildEvent, frozen=True, tag="explained"):
    """One step, before any is made: whether it was there (``is_hit``), and why; compared with the build of
    ``since_ns`` (nanoseconds since the epoch; 0: there was none). Told if the build has ``explain=True``."""

    id: str
    name: str
    is_hit: bool = msgspec.field(name="hit")
    reasons: tuple[BuildReason, ...] = ()
    since_ns: int = msgspec.field(name="since", default=0)


class Step(msgspec.Struct, frozen=True):
    """One step of a build that has ended. ``seconds`` it took; 0 if it was cached."""

    name: str
    seconds: float
    is_cached: bool


class BuildResult(msgspec.Struct, frozen=True):
    """What came out. ``digest`` of the image (empty: none was asked for), its ``names``, the ``steps`` in the order in
    which they began, ``seconds`` in all; ``response``: what the outputs say, by BuildKit's keys; ``explain``: with
    ``explain=True`` why each step was made or not."""

    digest: str
    names: tuple[str, ...]
    steps: tuple[Step, ...]
    seconds: float
    response: dict[str, str]
    explain: tuple[StepExplained, ...] = ()


class BuildError(CaisError):
    """A build failed.

    ``step``: the name of the step (empty: it failed before any); ``file``, ``lines``: where that stands in the
    Dockerfile (0, 0: nowhere); ``excerpt``: the lines around it as (number, text, is meant); ``exit_code`` of its
    program (0: it is no program's); ``output``: the last that it wrote; ``kind``: the name of the error's class in
    ``cais.errors`` on the engine's side.
    """

    def __init__(
        self,
        message: str,
        *,
        step: str = "",
        place: tuple[str, tuple[int, int], tuple[tuple[int, str, bool], ...]] = ("", (0, 0), ()),
        exit_code: int = 0,
        output: bytes = b"",
        kind: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        self.file, self.lines, self.excerpt = place
        self.exit_code = exit_code
        self.output = output
        self.kind = kind

    def __str__(self) -> str:
        if not self.excerpt:
            return self.message
        rows = [f"{number:>4} {'>>>' if meant else '   '} {text}" for number, text, meant in self.excerpt]
        return "\n".join([self.message, f"{self.file or 'Dockerfile'}:{self.lines[0]}", *rows])


class ErrorLine(msgspec.Struct, frozen=True, tag="error"):
    """The answer's last line if it went badly."""

    message: str
    kind: str = ""
    id: str = ""
    file: str = ""
    lines: tuple[int, int] = (0, 0)
    excerpt: tuple[tuple[int, str, bool], ...] = ()
    exit_code: int = 0


class ResultLine(msgspec.Struct, frozen=True, tag="result"):
    """The answer's last line if it went well."""

    digest: str = ""
    names: tuple[str, ...] = ()
    response: dict[str, str] = {}
    findings: list[dict[str, Any]] = []


class DataLine(msgspec.Struct, frozen=True, tag="data"):
    """So many bytes of an output stand behind it."""

    output: int
    size: int


class DataEndLine(msgspec.Struct, frozen=True, tag="data_end"):
    """An output is whole."""

    output: int


Line = (
    StepStarted
    | StepOutput
    | StepProgress
    | StepDone
    | StepExplained
    | BuildWarning
    | ErrorLine
    | ResultLine
    | DataLine
    | DataEndLine
)
