"""Reading the answer to a build: typed events out of bytes, outputs into their files. What both faces share."""

import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from cais.client.buildmodels import (
    BuildError,
    BuildEvent,
    BuildResult,
    DataEndLine,
    DataLine,
    ErrorLine,
    Line,
    ResultLine,
    Step,
    StepDone,
    StepExplained,
    StepOutput,
    StepStarted,
)
from cais.errors import CaisError, Corrupt, Unavailable

MISDIRECTED = 421
_TAIL = 8192
_SECOND = 1e9


class Misdirected(CaisError):
    """The engine cannot take descriptors over this connection: it wants tars."""


class BuildReader:
    """Feed it the answer; it gives events, and in the end ``result`` or BuildError. ``dests``: files by output."""

    def __init__(self, dests: Sequence[str]) -> None:
        self.result: BuildResult | None = None
        self.explained: list[StepExplained] = []
        self._decoder = msgspec.json.Decoder(Line)
        self._files = _Files(dests)
        self._buffer = b""
        self._data = DataLine(0, 0)
        self._left = 0
        self._steps: dict[str, StepStarted] = {}
        self._done: dict[str, StepDone] = {}
        self._tails: dict[str, bytes] = {}
        self._last: ResultLine | ErrorLine | None = None

    def feed(self, piece: bytes) -> Iterator[BuildEvent]:
        """Events that are complete now. Raises Corrupt, OSError (an output cannot be written)."""
        self._buffer += piece
        while self._buffer:
            if self._left:
                part, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
                self._left -= len(part)
                self._files.write(self._data.output, part)
                continue
            line, end, rest = self._buffer.partition(b"\n")
            if not end:
                return
            self._buffer = rest
            event = self._take(line)
            if event is not None:
                yield event

    def _take(self, line: bytes) -> BuildEvent | None:
        try:
            value = self._decoder.decode(line)
        except msgspec.DecodeError as error:
            raise Corrupt(f"the engine's answer makes no sense: {error}") from error
        match value:
            case DataLine():
                self._data, self._left = value, value.size
            case DataEndLine():
                self._files.finish(value.output)
            case ResultLine() | ErrorLine():
                self._last = value
            case _:
                event: BuildEvent = value
                self._note(event)
                return event
        return None

    def _note(self, event: BuildEvent) -> None:
        match event:
            case StepExplained():
                self.explained.append(event)
            case StepStarted():
                self._steps.setdefault(event.id, event)
            case StepOutput():
                self._tails[event.id] = (self._tails.get(event.id, b"") + event.data)[-_TAIL:]
            case StepDone():
                self._done.setdefault(event.id, event)
                if not event.error:
                    self._tails.pop(event.id, None)

    def end(self) -> BuildResult:
        """The answer is over. Raises BuildError, Unavailable."""
        self.close()
        last = self._last
        if last is None:
            raise Unavailable("the engine ended before the build did")
        if isinstance(last, ErrorLine):
            step = self._steps.get(last.id)
            raise BuildError(
                last.message,
                step=step.name if step else "",
                place=(last.file, last.lines, last.excerpt),
                exit_code=last.exit_code,
                output=self._tails.get(last.id, b""),
                kind=last.kind,
            )
        self.result = BuildResult(
            last.digest,
            last.names,
            tuple(self._made_steps()),
            self._seconds(),
            last.response,
            tuple(self.explained),
        )
        return self.result

    def _made_steps(self) -> Iterator[Step]:
        for id, started in self._steps.items():
            done = self._done.get(id)
            if done is not None and not done.error:
                yield Step(started.name, max(done.at_ns - started.at_ns, 0) / _SECOND, done.is_cached)

    def _seconds(self) -> float:
        begun = min((each.at_ns for each in self._steps.values()), default=0)
        ended = max((each.at_ns for each in self._done.values()), default=0)
        return max(ended - begun, 0) / _SECOND

    def close(self) -> None:
        """Give up outputs that are not whole. Idempotent."""
        self._files.close()


class _Files:
    """Files that get outputs; each has its name once it is whole."""

    def __init__(self, dests: Sequence[str]) -> None:
        self._dests = dests
        self._open: dict[int, tuple[BinaryIO, Path]] = {}

    def write(self, index: int, data: bytes) -> None:
        """More of output ``index``. Raises Corrupt, OSError."""
        file, _ = self._open.get(index) or self._start(index)
        file.write(data)

    def _start(self, index: int) -> tuple[BinaryIO, Path]:
        if not 0 <= index < len(self._dests) or not self._dests[index]:
            raise Corrupt("the engine sends an output that was not asked for")
        dest = Path(self._dests[index])
        half = dest.with_name(f".{dest.name}.{uuid.uuid4().hex}")
        self._open[index] = half.open("xb"), half
        return self._open[index]

    def finish(self, index: int) -> None:
        """Output ``index`` is whole. Raises Corrupt, OSError."""
        file, half = self._open.get(index) or self._start(index)
        del self._open[index]
        file.close()
        os.replace(half, self._dests[index])  # noqa: PTH105

    def close(self) -> None:
        """Remove what is not whole. Idempotent."""
        for file, half in self._open.values():
            file.close()
            half.unlink(missing_ok=True)
        self._open.clear()
