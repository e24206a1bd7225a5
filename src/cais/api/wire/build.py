"""Builds in Docker's JSON: the stream of the classic builder, and the build cache's records."""

import codecs
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from cais.api.buildkit.failure import explain
from cais.api.wire.base import format_time
from cais.api.wire.images import pull_line
from cais.build.cache import Usage
from cais.build.dockerfile.fault import make_excerpt
from cais.build.dockerfile.lint import Finding
from cais.build.dockerfile.values import Dockerfile
from cais.build.request import (
    BuildEvent,
    Built,
    CommandFailed,
    Named,
    StepBegan,
    StepCached,
    StepDone,
    StepOutput,
    StepRemoved,
    StepRuns,
    StepStarted,
    Warned,
)
from cais.store.full import explain_full, is_full

_RED, _PLAIN = "\x1b[91m", "\x1b[0m"
"""What dockerd's classic builder puts around what programs write to their standard error."""

_HELD = 2000
"""Lines that a quiet build keeps."""

Line = dict[str, Any]


class Teller:
    """From what a build tells to the lines that clients of the classic builder read. ``quiet``: the id alone."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._decoders = _decoders()
        self._held: deque[Line] = deque(maxlen=_HELD)

    def lines(self, event: BuildEvent) -> Iterator[Line]:
        """The lines for one event."""
        if not self._quiet:
            yield from self._lines(event)
        elif isinstance(event, Built):
            yield {"stream": f"{event.id}\n"}
        else:
            self._held.extend(self._lines(event))

    def held(self) -> Iterable[Line]:
        """What was not told, for when it fails: the last of it."""
        return self._held

    def _lines(self, event: BuildEvent) -> Iterator[Line]:
        match event:
            case StepOutput():
                yield from self._output(event)
            case Built():
                yield {"aux": {"ID": event.id}}
                yield {"stream": f"Successfully built {event.id.hex[:12]}\n"}
            case StepStarted():
                self._decoders = _decoders()
                yield {"stream": f"Step {event.number}/{event.total} : {event.title}\n"}
                if event.triggers:
                    plural = "s" if event.triggers > 1 else ""
                    yield {"stream": f"# Executing {event.triggers} build trigger{plural}\n"}
            case _:
                yield _plain_line(event)

    def _output(self, event: StepOutput) -> Iterator[Line]:
        text = self._decoders[event.stream].decode(event.data)
        if text:
            yield {"stream": f"{_RED}{text}{_PLAIN}" if event.stream == 2 else text}


def _decoders() -> dict[int, codecs.IncrementalDecoder]:
    """A character may be cut between two pieces."""
    make = codecs.getincrementaldecoder("utf-8")
    return {1: make("replace"), 2: make("replace")}


def _plain_line(event: BuildEvent) -> Line:
    match event:
        case StepCached():
            return {"stream": " ---> Using cache\n"}
        case StepRuns():
            return {"stream": f" ---> Running in {event.container[:12]}\n"}
        case StepRemoved():
            return {"stream": f" ---> Removed intermediate container {event.container[:12]}\n"}
        case StepDone():
            return {"stream": f" ---> {event.id[:12]}\n"}
        case Named():
            return {"stream": f"Successfully tagged {event.name}\n"}
        case Warned():
            return {"stream": f"{event.text}\n"}
        case StepStarted() | StepBegan() | StepOutput() | Built():
            raise AssertionError("told by Teller")
        case _:
            return pull_line(event)


def build_error_line(error: Exception) -> Line:
    """The last line of a build that failed; clients make the program's exit code of ``code``."""
    text = explain_full(error) if is_full(error) else str(error) or type(error).__name__
    detail: Line = {"message": text}
    if isinstance(error, CommandFailed):
        detail = {"code": error.code, "message": text}
    return {"errorDetail": detail, "error": text}


def posted_error_line(error: Exception) -> Line:
    """The same for a build by BuildKit, in the words that its own clients are told."""
    return {"errorDetail": {"message": explain(error).message}, "error": explain(error).message}


def finding_reply(file: Dockerfile, finding: Finding) -> Line:
    """One warning of the checks."""
    return {
        "Rule": finding.rule,
        "Message": finding.message,
        "Url": finding.about.url,
        "File": file.name,
        "Lines": [finding.lines.start, finding.lines.end],
        "Excerpt": make_excerpt(file.raw, finding.lines),
    }


def build_cache_reply(usage: Usage) -> Line:
    """One record of the build cache."""
    return {
        "ID": usage.id,
        "Parents": [usage.parent] if usage.parent else None,
        "Type": usage.kind,
        "Description": usage.title,
        "InUse": usage.in_use,
        "Shared": False,
        "Size": usage.size,
        "CreatedAt": format_time(usage.created_ns),
        "LastUsedAt": format_time(usage.used_ns),
        "UsageCount": usage.uses,
    }
