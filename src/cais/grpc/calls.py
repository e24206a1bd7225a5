"""gRPC's calls on an HTTP/2 connection: a server's table of methods, a client's channel. Source: grpc.io, "gRPC over
HTTP/2". Messages are plain bytes here; ``protobuf`` gives them meaning."""

import asyncio
import base64
import binascii
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeVar
from urllib.parse import quote, unquote

from cais.errors import CaisError, Invalid
from cais.grpc.http2 import Connection, Headers, Stream, find
from cais.grpc.protobuf import Message, decode, encode
from cais.grpc.status import Code, RpcError, Status

M = TypeVar("M", bound=Message)

MESSAGE_LIMIT = 16 << 20
"""Bytes of one message; BuildKit's own limit."""
_PREFIX = struct.Struct(">BI")
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_CONTENT = "application/grpc"

Metadata = Mapping[str, tuple[str, ...]]


class Call:
    """One call, seen from either side: messages in, messages out, and how it ended."""

    def __init__(self, stream: Stream | None = None, *, is_server: bool = False) -> None:
        self.stream = stream
        self.metadata: dict[str, tuple[str, ...]] = {}
        self.path = ""
        self._is_server = is_server
        self._messages: deque[tuple[bytes, int]] = deque()
        self._partial = bytearray()
        self._needed = 0
        self._credited = 0
        self._arrived: asyncio.Future[None] | None = None
        self._is_ended = False
        self._error: Exception | None = None
        self._trailers: Headers = []
        self._has_answered = False
        self.on_headers: Callable[[Call], None] | None = None
        self.on_lost: Callable[[], object] | None = None

    # The stream's side

    def headers_received(self, headers: Headers, ended: bool) -> None:
        """StreamHandler.headers_received."""
        if self._is_server:
            if not self.metadata and not self.path:
                self.path = find(headers, ":path")
                self.metadata = parse_metadata(headers)
                if self.on_headers is not None:
                    self.on_headers(self)
        else:
            status = find(headers, ":status")
            if status not in ("", "200"):
                self._error = RpcError(Code.UNAVAILABLE, f"the peer answered with HTTP status {status}")
            self._trailers += headers
        if ended:
            self._end()

    def data_received(self, data: bytes, ended: bool) -> None:
        """StreamHandler.data_received: whole messages are taken out."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed and not ended:
                self._hold()
                return
            data = bytes(self._partial)
            self._partial.clear()
        at, end = 0, len(data)
        while end - at >= 5:
            compressed, size = _PREFIX.unpack_from(data, at)
            if compressed or size > MESSAGE_LIMIT:
                self._refuse("a compressed message" if compressed else f"a message of {size} bytes")
                return
            if end - at - 5 < size:
                self._needed = size + 5
                break
            self._messages.append((data[at + 5 : at + 5 + size], size + 5 - self._credited))
            self._credited = 0
            at += size + 5
        if at < end:
            self._partial += data[at:]
            self._hold()
        if ended:
            self._end()
        self._wake()

    def _hold(self) -> None:
        """Of a message that is not whole the peer may send more at once: it could be larger than the window."""
        if self.stream is not None:
            self.stream.credit(len(self._partial) - self._credited)
            self._credited = len(self._partial)

    def stream_lost(self, reason: str, code: int) -> None:
        """StreamHandler.stream_lost."""
        if self._error is None and not self._is_ended:
            self._error = RpcError(Code.CANCELLED if code == 8 else Code.UNAVAILABLE, reason)
        self._is_ended = True
        self._wake()
        if self.on_lost is not None:
            self.on_lost()

    def _refuse(self, what: str) -> None:
        self._error = RpcError(Code.RESOURCE_EXHAUSTED, f"{what} is not taken")
        self._is_ended = True
        if self.stream is not None:
            self.stream.reset()
        self._wake()

    def _end(self) -> None:
        self._is_ended = True
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    # The program's side

    async def receive(self) -> bytes | None:
        """The next message; None at the end. Raises RpcError."""
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self._is_ended:
                if not self._is_server:
                    raise_status(self._trailers)
                return None
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        message, size = self._messages.popleft()
        if self.stream is not None:
            self.stream.credit(size)
        return message

    def receive_now(self) -> bytes | None:
        """A message that is there already, else None."""
        if not self._messages:
            return None
        message, size = self._messages.popleft()
        if self.stream is not None:
            self.stream.credit(size)
        return message

    async def receive_as(self, kind: type[M]) -> M:
        """The one message of a call. Raises RpcError."""
        message = await self.receive()
        if message is None:
            raise RpcError(Code.INTERNAL, "the call ended without a message")
        try:
            return decode(message, kind)
        except Invalid as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from error

    async def messages(self, kind: type[M]) -> AsyncIterator[M]:
        """All that come, to the end. Raises RpcError."""
        while (message := await self.receive()) is not None:
            yield decode(message, kind)

    async def send(self, message: Message | bytes, *, end: bool = False) -> None:
        """Raises ConnectionResetError when the peer has gone."""
        data = message if isinstance(message, bytes) else encode(message)
        assert self.stream is not None
        if self._is_server and not self._has_answered:
            self._has_answered = True
            self.stream.send_headers([(":status", "200"), ("content-type", _CONTENT)])
        await self.stream.send(_PREFIX.pack(0, len(data)) + data, end=end)

    async def end(self) -> None:
        """A client has no more messages."""
        assert self.stream is not None
        await self.stream.send(b"", end=True)

    def finish(self, status: Status) -> None:
        """A server's last word."""
        assert self.stream is not None
        headers: Headers = []
        if not self._has_answered:
            headers += [(":status", "200"), ("content-type", _CONTENT)]
        headers.append(("grpc-status", str(status.code)))
        if status.message:
            headers.append(("grpc-message", quote(status.message, safe=_PRINTABLE)))
        if status.details:
            headers.append(("grpc-status-details-bin", _to_base64(encode(status))))
        self.stream.send_headers(headers, end=True)
        if not self._is_ended:
            # The client has more to say, and nobody listens.
            self.stream.reset()

    def cancel(self) -> None:
        """Give it up. Idempotent."""
        if self.stream is not None:
            self.stream.reset()


Handler = Callable[[Call], Awaitable[None]]


class Server:
    """Answers the calls of one connection; ``handlers`` by path (``/package.Service/Method``)."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        explain: "Callable[[Exception], Status] | None" = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """``explain`` makes statuses of errors; ``on_lost`` is called once, when the connection has gone."""
        self._handlers = handlers
        self._explain = explain or explain_error
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_lost = on_lost
        self.connection = Connection(self._accept, self._lost)

    def _accept(self, stream: Stream) -> Call:
        call = Call(stream, is_server=True)
        call.on_headers = self._start
        return call

    def _start(self, call: Call) -> None:
        task = asyncio.create_task(self._answer(call), name=f"grpc {call.path[:80]}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        call.on_lost = task.cancel

    async def _answer(self, call: Call) -> None:
        handler = self._handlers.get(call.path)
        try:
            if handler is None:
                raise RpcError(Code.UNIMPLEMENTED, f"unknown method {call.path[:200]}")
            await handler(call)
            status = Status()
        except asyncio.CancelledError:
            status = Status(code=Code.CANCELLED, message="canceled")
        except ConnectionResetError:
            return
        except Exception as error:
            status = self._explain(error)
        call.on_lost = None
        with suppress(ConnectionResetError):
            call.finish(status)

    def _lost(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._on_lost is not None:
            self._on_lost()


class Channel:
    """Calls to the peer of a connection."""

    def __init__(self, *, on_lost: Callable[[], None] | None = None) -> None:
        self.connection = Connection(None, on_lost)

    def call(self, path: str, metadata: Metadata | None = None) -> Call:
        """Begin a call. Raises RpcError when the connection has gone."""
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", _CONTENT),
            ("te", "trailers"),
        ]
        for name, values in (metadata or {}).items():
            headers += [(name, value) for value in values]
        call = Call()
        try:
            call.stream = self.connection.open(headers, call)
        except ConnectionResetError:
            raise RpcError(Code.UNAVAILABLE, "the client has gone") from None
        return call

    async def unary(self, path: str, request: Message, kind: type[M], metadata: Metadata | None = None) -> M:
        """One message out, one in. Raises RpcError."""
        call = self.call(path, metadata)
        try:
            await call.send(request, end=True)
            answer = await call.receive_as(kind)
            while await call.receive() is not None:
                pass
            return answer
        except ConnectionResetError:
            raise RpcError(Code.UNAVAILABLE, "the client has gone") from None
        except BaseException:
            call.cancel()
            raise


def explain_error(error: Exception) -> Status:
    """The status that an error of a handler means."""
    if isinstance(error, RpcError):
        return error.status
    if isinstance(error, CaisError):
        return Status(code=Code.UNKNOWN, message=str(error))
    return Status(code=Code.INTERNAL, message=f"{type(error).__name__}: {error}")


def parse_metadata(headers: Headers) -> dict[str, tuple[str, ...]]:
    """What the caller added, by name in lower case."""
    found: dict[str, tuple[str, ...]] = {}
    for name, value in headers:
        if not name.startswith(":"):
            found[name] = (*found.get(name, ()), value)
    return found


def raise_status(trailers: Headers) -> None:
    """Raises RpcError unless the status is OK."""
    text = find(trailers, "grpc-status")
    if not text.isascii() or not text.isdecimal():
        raise RpcError(Code.UNKNOWN, "the call ended without a status")
    if int(text) == Code.OK:
        return
    details = find(trailers, "grpc-status-details-bin")
    message = unquote(find(trailers, "grpc-message"), errors="replace")
    try:
        status = decode(_from_base64(details), Status) if details else Status()
    except (Invalid, binascii.Error):
        status = Status()
    raise RpcError(int(text), message, status.details)


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode()


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
