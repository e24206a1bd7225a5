"""`AsyncBuild`: a build that goes on, asynchronous."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing, closing
from typing import Any, Self

from cais.client import calls
from cais.client.aiochannel import AsyncChannel
from cais.client.buildmodels import BuildEvent, BuildResult, StepExplained
from cais.client.buildreader import BuildReader, Misdirected
from cais.client.buildrequest import Prepared
from cais.errors import Unavailable


class AsyncBuild:
    """A build; ``engine.build`` gives it, and it begins when it is awaited or iterated over. ``await build`` is its
    result. Leaving the ``async with`` block ends a build that has not ended."""

    def __init__(self, channel: AsyncChannel, prepared: Prepared) -> None:
        self._reader = BuildReader(prepared.dests)
        self._prepared = prepared
        self._error: BaseException | None = None
        self._events = self._run(channel)

    async def __aiter__(self) -> AsyncIterator[BuildEvent]:
        """The events. Raises BuildError where it fails."""
        try:
            async for event in self._events:
                yield event
        except Exception as error:
            self._error = error
            raise

    def __await__(self) -> Generator[Any, None, BuildResult]:
        return self.result().__await__()

    async def result(self) -> BuildResult:
        """What came out, once it has ended: events that nobody has read are dropped. Raises BuildError, Unavailable."""
        async for _ in self:
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

    async def close(self) -> None:
        """End it if it goes on. Idempotent."""
        await self._events.aclose()
        self._prepared.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _run(self, channel: AsyncChannel) -> AsyncGenerator[BuildEvent, None]:
        with closing(self._prepared), closing(self._reader):
            try:
                if channel.target.path:
                    call = calls.build(self._prepared.headers, self._prepared.with_descriptors())
                    async with aclosing(self._read(channel.stream(call))) as events:
                        async for event in events:
                            yield event
                    return
            except Misdirected:
                self._prepared.close()
            call = calls.build(self._prepared.headers)
            async with aclosing(
                self._read(channel.stream(call, pieces=self._prepared.with_tars()))
            ) as events:
                async for event in events:
                    yield event

    async def _read(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[BuildEvent, None]:
        async with aclosing(pieces):
            async for piece in pieces:
                for event in self._reader.feed(piece):
                    yield event
        self._reader.end()
