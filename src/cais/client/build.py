"""`Build`: a build that goes on, synchronous."""

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, Self

from cais.client import calls
from cais.client.buildmodels import BuildEvent, BuildResult, StepExplained
from cais.client.buildreader import BuildReader, Misdirected
from cais.client.buildrequest import Prepared
from cais.client.channel import Channel
from cais.errors import Unavailable


class Build:
    """A build that goes on; ``engine.build`` gives it. Iterate over its events, or ask for ``result`` at once.

    Leaving the ``with`` block, or ``close``, ends a build that has not ended; so does dropping it unread.
    """

    def __init__(self, channel: Channel, prepared: Prepared) -> None:
        self._reader = BuildReader(prepared.dests)
        self._prepared = prepared
        self._error: BaseException | None = None
        self._events = self._run(channel)
        # It begins now, whoever reads: up to the first event.
        self._first = next(self._events, None)

    def __iter__(self) -> Iterator[BuildEvent]:
        """The events from here on. Raises BuildError where it fails."""
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        try:
            yield from self._events
        except Exception as error:
            self._error = error
            raise

    @property
    def result(self) -> BuildResult:
        """What came out, once it has ended: events that nobody has read are dropped. Raises BuildError, Unavailable."""
        for _ in self:
            pass
        if self._error is not None:
            raise self._error
        if self._reader.result is None:
            raise Unavailable("the build was closed before it ended")
        return self._reader.result

    @property
    def explain(self) -> tuple[StepExplained, ...]:
        """Why steps are made or not, as far as it has been told: also of a build that failed."""
        return tuple(self._reader.explained)

    def close(self) -> None:
        """End it if it goes on. Idempotent."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self, channel: Channel) -> Generator[BuildEvent, None, None]:
        with closing(self._prepared), closing(self._reader):
            try:
                if channel.target.path:
                    call = calls.build(self._prepared.headers, self._prepared.with_descriptors())
                    yield from self._read(channel.stream(call))
                    return
            except Misdirected:
                self._prepared.close()
            call = calls.build(self._prepared.headers)
            yield from self._read(channel.stream(call, pieces=self._prepared.with_tars()))

    def _read(self, pieces: Generator[bytes, None, Any]) -> Generator[BuildEvent, None, None]:
        with closing(pieces):
            for piece in pieces:
                yield from self._reader.feed(piece)
        self._reader.end()
