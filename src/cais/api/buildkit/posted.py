"""BuildKit's builds by ``POST /build?version=2``, as docker 18.09 to 22 ask for them without a plugin.

Only the order and what is told go another way: the files, secrets and credentials are in the client's session, and a
context from its standard input comes as the body of a second request, which names the build that it is for.
Sources: moby/moby builder/builder-next/builder.go, docker/cli cli/command/image/build_buildkit.go (20.10).
"""

import asyncio
import base64
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import msgspec

from cais.api.buildkit.control import Control
from cais.api.buildkit.jobs import Jobs
from cais.api.buildkit.messages import SolveRequest
from cais.api.buildkit.sessions import Sessions
from cais.errors import Conflict, NotFound, Unavailable
from cais.grpc.protobuf import encode

TRACE, IMAGE = "moby.buildkit.trace", "moby.image.id"
DIGEST = "containerimage.digest"
WAIT_SECONDS = 5.0
"""How long a build waits for its context: both requests are sent at once."""
_HELD = 4096
"""Messages that a quiet build keeps."""

Line = dict[str, Any]
Body = AsyncIterator[bytes]


class PostedBuild(msgspec.Struct, frozen=True):
    """``id``: the client's name for it, if it gave one; ``body``: the context, None if it is elsewhere."""

    request: SolveRequest
    id: str = ""
    body: Body | None = None
    is_uploaded: bool = False
    is_quiet: bool = False


class PostedBuilds:
    """Those that run in one engine."""

    def __init__(self, control: Control, jobs: Jobs, sessions: Sessions) -> None:
        self._control = control
        self._jobs = jobs
        self._sessions = sessions
        self._running: dict[str, asyncio.Task[Mapping[str, str]]] = {}
        self._uploads: dict[str, _Upload] = {}

    async def lines(self, build: PostedBuild) -> AsyncIterator[Line]:
        """Build, and give the lines of the answer. Raises what the build raises; Unavailable if it was cancelled."""
        held: deque[Line] = deque(maxlen=_HELD)
        try:
            async with aclosing(self._all_lines(build)) as lines:
                async for line in lines:
                    if build.is_quiet:
                        held.append(line)
                    else:
                        yield line
        except Exception:
            # Who was to hear nothing hears all of it when it fails, as under dockerd.
            for line in held:
                yield line
            raise
        if held and held[-1].get("id") == IMAGE:
            yield {"stream": f"{held[-1]['aux']['ID']}\n"}

    async def _all_lines(self, build: PostedBuild) -> AsyncGenerator[Line]:
        async with AsyncExitStack() as stack:
            request, body = build.request, build.body
            if not request.session:
                # Some libraries post a context and have no session.
                silent = stack.enter_context(self._sessions.silent())
                request = msgspec.structs.replace(request, session=silent.id)
            else:
                (await self._sessions.get(request.session)).is_old = True
            if build.is_uploaded:
                body = await stack.enter_async_context(self._taken(build.id))
            solving = asyncio.create_task(self._control.run(request, body))
            self._running[build.id] = solving
            stack.push_async_callback(self._end, build.id, solving)
            job = await self._jobs.get(request.ref)
            async for message in job.follow():
                yield {"id": TRACE, "aux": base64.b64encode(encode(message)).decode()}
            await asyncio.wait([solving])
            if solving.cancelled():
                raise Unavailable("the build was canceled")
            if digest := solving.result().get(DIGEST):
                yield {"id": IMAGE, "aux": {"ID": digest}}

    async def _end(self, id: str, solving: "asyncio.Task[Mapping[str, str]]") -> None:
        if self._running.get(id) is solving:
            del self._running[id]
        solving.cancel()
        await asyncio.gather(solving, return_exceptions=True)

    def cancel(self, id: str) -> None:
        """End a build. Idempotent."""
        if id in self._running:
            self._running[id].cancel()

    # Contexts

    @asynccontextmanager
    async def _taken(self, id: str) -> AsyncIterator[Body]:
        """The context that comes for this build. Raises NotFound."""
        upload = self._uploads.setdefault(id, _Upload())
        try:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    body = await upload.body
            except TimeoutError:
                raise NotFound("the client did not send the context of its build") from None
            yield body
        finally:
            upload.is_over.set()
            self._uploads.pop(id, None)

    async def upload(self, id: str, body: Body) -> None:
        """Give a build its context; until the build needs it no more. Raises Conflict."""
        upload = self._uploads.setdefault(id, _Upload())
        if upload.body.done():
            raise Conflict("the context of this build was sent already")
        upload.body.set_result(body)
        try:
            await upload.is_over.wait()
        finally:
            if self._uploads.get(id) is upload:
                del self._uploads[id]


class _Upload:
    def __init__(self) -> None:
        self.body: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
        self.is_over = asyncio.Event()
