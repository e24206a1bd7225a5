"""One HTTP/2 connection on an asyncio transport, as client or server. Source: RFC 9113.

What gRPC uses and no more: no push, no priorities, no upgrade inside (the engine's HTTP/1.1 server does that). Frames
are taken apart here and not by a library, because a build's context is tens of thousands of them; headers are hpack's.
A peer is bounded in everything: streams, header sizes, what it may send ahead, resets and control frames per time
(CVE-2019-9512, CVE-2019-9514, CVE-2019-9515, CVE-2023-44487, CVE-2024-27316).
"""

import asyncio
import struct
import time
from collections.abc import Callable, Iterable
from typing import Protocol, cast

import hpack

from cais.grpc import frames
from cais.grpc.frames import Broken, ErrorCode, frame

Headers = list[tuple[str, str]]

WINDOW = 1 << 20
"""Bytes that a peer may send ahead on one stream."""
CONNECTION_WINDOW = 16 << 20
FRAME = 1 << 20
"""Largest frame that is taken: Go's server makes larger ones than the default if it may."""
STREAMS = 256
HEADER_LIMIT = 64 << 10
CALM = 2000
"""Resets or control frames within ``CALM_SECONDS`` after which a peer is too much."""
CALM_SECONDS = 5.0
_GATHER = 64 << 10
BUFFER = 1 << 20
"""Bytes written ahead before senders wait."""


class StreamHandler(Protocol):
    """What is done with one stream. The methods must not block."""

    def headers_received(self, headers: Headers, ended: bool) -> None:
        """Headers or, later, trailers."""
        ...

    def data_received(self, data: bytes, ended: bool) -> None:
        """Bytes; ``Stream.credit`` them when they are used up."""
        ...

    def stream_lost(self, reason: str, code: int) -> None:
        """It was reset, or the connection is gone; not called for a stream that ended as it should."""
        ...


class Stream:
    """One exchange."""

    def __init__(self, connection: "Connection", id: int, handler: StreamHandler | None = None) -> None:
        self.connection = connection
        self.id = id
        self.handler = handler
        self.window = connection.peer_window
        self.is_sent = False
        self.is_received = False
        self._credit = 0

    def send_headers(self, headers: Headers, *, end: bool = False) -> None:
        """Headers or trailers. Raises ConnectionResetError."""
        self.connection.send_headers(self, headers, end)

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Bytes, as the peer takes them. Raises ConnectionResetError when the stream or the connection has gone."""
        at, size = 0, len(data)
        while True:
            room = self.connection.room(self)
            if room <= 0 and at < size:
                await self.connection.wait_room()
                continue
            part = data[at : at + room] if at or room < size else data
            at += len(part)
            self.connection.send_data(self, part, end and at >= size)
            if at >= size:
                break
        await self.connection.drain()

    def credit(self, count: int) -> None:
        """``count`` bytes that were received are used up: the peer may send as many more."""
        self._credit += count
        if self._credit >= WINDOW // 4 and not self.is_received:
            self.connection.send_window(self.id, self._credit)
            self._credit = 0

    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Give it up. Idempotent."""
        self.connection.reset(self, code)


class Connection(asyncio.Protocol):
    """``accept`` makes the handler of a stream that the peer opens; None: this side is the client."""

    def __init__(
        self,
        accept: Callable[[Stream], StreamHandler] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._accept = accept
        self._watchers = [on_lost] if on_lost is not None else []
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._last = 0
        self._preface = accept is not None
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder(max_header_list_size=HEADER_LIMIT)
        self._block: tuple[int, int, bytearray] | None = None
        self.peer_window = frames.DEFAULT_WINDOW
        self._peer_frame = frames.DEFAULT_FRAME
        self._window = frames.DEFAULT_WINDOW
        self._credit = 0
        self._room: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._calm = (0.0, 0)
        self._out: list[bytes] = []
        self._waiting = 0
        self.is_lost = False

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=BUFFER)
        settings = {
            frames.ENABLE_PUSH: 0,
            frames.MAX_STREAMS: STREAMS,
            frames.INITIAL_WINDOW: WINDOW,
            frames.MAX_FRAME: FRAME,
            frames.MAX_HEADER_LIST: HEADER_LIMIT,
        }
        if self._accept is not None:
            del settings[frames.ENABLE_PUSH]
        greeting = b"" if self._accept else frames.PREFACE
        more = frames.window_frame(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        self._transport.write(greeting + frames.settings_frame(settings) + more)

    def data_received(self, data: bytes) -> None:
        """Frames, in whatever pieces."""
        if self._buffer:
            data = self._buffer + data
        try:
            self._buffer = data[self._read(data) :]
        except Broken as error:
            self._give_up(error.code, str(error))
        except hpack.HPACKError as error:
            self._give_up(ErrorCode.COMPRESSION_ERROR, str(error))

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Call ``on_lost`` once, when the connection has gone."""
        self._watchers.append(on_lost)

    def pause_writing(self) -> None:
        """Too much is waiting."""
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Enough has gone."""
        if self._drained is not None:
            drained, self._drained = self._drained, None
            if not drained.done():
                drained.set_result(None)

    def eof_received(self) -> bool:
        """The peer has gone."""
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """All streams are lost with it."""
        self.is_lost = True
        self.resume_writing()
        self._wake()
        for stream in list(self._streams.values()):
            self._lose(stream, "the connection was lost", ErrorCode.NO_ERROR)
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher()

    def close(self) -> None:
        """Say good-bye and close; what was written is still sent."""
        if self._transport is not None and not self.is_lost and not self._transport.is_closing():
            payload = struct.pack(">II", self._last, ErrorCode.NO_ERROR)
            self._flush()
            self._transport.write(frame(frames.GOAWAY, 0, 0, payload))
            self._transport.close()

    # Out

    def open(self, headers: Headers, handler: StreamHandler, *, end: bool = False) -> Stream:
        """A new stream. Raises ConnectionResetError."""
        stream = Stream(self, self._next, handler)
        self._next += 2
        self._streams[stream.id] = stream
        self.send_headers(stream, headers, end)
        return stream

    def send_headers(self, stream: Stream, headers: Headers, end: bool) -> None:
        """See Stream.send_headers."""
        self._check(stream)
        block = self._encoder.encode(headers)
        kind, flags = frames.HEADERS, frames.END_STREAM if end else 0
        out = b""
        while len(block) > self._peer_frame:
            out += frame(kind, flags, stream.id, block[: self._peer_frame])
            block, kind, flags = block[self._peer_frame :], frames.CONTINUATION, 0
        self._write(out + frame(kind, flags | frames.END_HEADERS, stream.id, block))
        self._note_sent(stream, end)

    def send_data(self, stream: Stream, data: bytes, end: bool) -> None:
        """See Stream.send; ``data`` fits."""
        self._check(stream)
        self._window -= len(data)
        stream.window -= len(data)
        self._write(frame(frames.DATA, frames.END_STREAM if end else 0, stream.id, data))
        self._note_sent(stream, end)

    def send_window(self, stream: int, amount: int) -> None:
        """Let the peer send more."""
        self._write(frames.window_frame(stream, amount))

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """See Stream.reset."""
        if self._streams.pop(stream.id, None) is not None and not self.is_lost:
            self._write(frame(frames.RST_STREAM, 0, stream.id, struct.pack(">I", code)))

    def room(self, stream: Stream) -> int:
        """Bytes that may be sent now in one frame."""
        return min(self._window, stream.window, self._peer_frame)

    async def wait_room(self) -> None:
        """Until the peer lets more through, or something has gone."""
        if self._room is None:
            self._room = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._room)

    async def drain(self) -> None:
        """Until what was written is not too much."""
        if self._drained is not None:
            await asyncio.shield(self._drained)

    def _check(self, stream: Stream) -> None:
        if self.is_lost or stream.id not in self._streams:
            raise ConnectionResetError("the stream has gone")

    def _write(self, data: bytes) -> None:
        """Frames of one turn of the loop go out together: each write is a system call."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(data)
        self._waiting += len(data)
        if self._waiting >= _GATHER:
            self._flush()

    def _flush(self) -> None:
        out, self._out, self._waiting = self._out, [], 0
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _note_sent(self, stream: Stream, end: bool) -> None:
        if end:
            stream.is_sent = True
            if stream.is_received:
                self._streams.pop(stream.id, None)

    # In

    def _read(self, data: bytes) -> int:
        """Take all whole frames; how many bytes they were."""
        at, end = 0, len(data)
        if self._preface:
            if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
                raise Broken(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
            if end < len(frames.PREFACE):
                return 0
            at, self._preface = len(frames.PREFACE), False
        while end - at >= frames.HEADER_SIZE:
            high, low, kind, flags, id = frames.HEADER.unpack_from(data, at)
            size = high << 8 | low
            if size > FRAME:
                raise Broken(ErrorCode.FRAME_SIZE_ERROR, "a frame is too large")
            if end - at - frames.HEADER_SIZE < size:
                break
            at += frames.HEADER_SIZE
            self._frame(kind, flags, id & 0x7FFFFFFF, data[at : at + size])
            at += size
        return at

    def _frame(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or id != self._block[0]):
            raise Broken(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        match kind:
            case frames.DATA:
                self._data(flags, id, payload)
            case frames.HEADERS:
                self._block = (id, flags, bytearray(frames.strip_padding(flags, payload)))
                self._header_block(flags)
            case frames.CONTINUATION:
                if self._block is None:
                    raise Broken(ErrorCode.PROTOCOL_ERROR, "a continuation of nothing")
                self._block[2].extend(payload)
                self._header_block(flags)
            case frames.WINDOW_UPDATE:
                self._more_window(id, payload)
            case _:
                self._control(kind, flags, id, payload)

    def _data(self, flags: int, id: int, payload: bytes) -> None:
        # Padding counts, and so does what comes for streams that are gone.
        self._credit += len(payload)
        if self._credit >= CONNECTION_WINDOW // 4:
            self.send_window(0, self._credit)
            self._credit = 0
        stream = self._streams.get(id)
        if stream is None or stream.is_received:
            if id % 2 == 0 or id > (self._last if self._accept else self._next - 2):
                raise Broken(ErrorCode.PROTOCOL_ERROR, "data for no stream")
            return
        data = payload
        if flags & frames.PADDED:
            data = frames.strip_padding(frames.PADDED, payload)
            stream.credit(len(payload) - len(data))
        ended = bool(flags & frames.END_STREAM)
        if ended:
            self._received(stream, ended)
        if stream.handler is not None:
            stream.handler.data_received(data, ended)

    def _header_block(self, flags: int) -> None:
        assert self._block is not None
        id, first, block = self._block
        if len(block) > HEADER_LIMIT:
            raise Broken(ErrorCode.ENHANCE_YOUR_CALM, "headers are too long")
        if not flags & frames.END_HEADERS:
            return
        self._block = None
        # Also for a stream that is refused: the compression's state goes on.
        headers = [(str(name), str(value)) for name, value in self._decoder.decode(bytes(block))]
        stream = self._streams.get(id)
        if stream is None:
            stream = self._opened(id)
            if stream is None:
                return
        ended = bool(first & frames.END_STREAM)
        self._received(stream, ended)
        if stream.handler is not None:
            stream.handler.headers_received(headers, ended)

    def _opened(self, id: int) -> Stream | None:
        """A stream of the peer's; None if it is one that has gone, or one too many."""
        if self._accept is None or id % 2 == 0:
            if id == 0 or id >= self._next:
                raise Broken(ErrorCode.PROTOCOL_ERROR, "headers for no stream")
            return None
        if id <= self._last:
            return None
        self._last = id
        if len(self._streams) >= STREAMS:
            self._stay_calm()
            self._write(frame(frames.RST_STREAM, 0, id, struct.pack(">I", ErrorCode.REFUSED_STREAM)))
            return None
        stream = Stream(self, id)
        self._streams[id] = stream
        stream.handler = self._accept(stream)
        return stream

    def _received(self, stream: Stream, ended: bool) -> None:
        if ended:
            stream.is_received = True
            if stream.is_sent:
                self._streams.pop(stream.id, None)

    def _more_window(self, id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(ErrorCode.FRAME_SIZE_ERROR, "a window update of a wrong size")
        amount = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if id == 0:
            self._window += amount
            if self._window > frames.MAX_WINDOW:
                raise Broken(ErrorCode.FLOW_CONTROL_ERROR, "the window is too large")
        elif stream := self._streams.get(id):
            stream.window += amount
            if stream.window > frames.MAX_WINDOW:
                stream.reset(ErrorCode.FLOW_CONTROL_ERROR)
                self._lose(stream, "the window is too large", ErrorCode.FLOW_CONTROL_ERROR)
        if amount == 0:
            self._stay_calm()
        self._wake()

    def _control(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        match kind:
            case frames.SETTINGS:
                if not flags & frames.ACK:
                    self._stay_calm()
                    self._settings(frames.parse_settings(payload))
                    self._write(frame(frames.SETTINGS, frames.ACK, 0))
            case frames.PING:
                if len(payload) != 8:
                    raise Broken(ErrorCode.FRAME_SIZE_ERROR, "a ping of a wrong size")
                if not flags & frames.ACK:
                    self._stay_calm()
                    self._write(frame(frames.PING, frames.ACK, 0, payload))
            case frames.RST_STREAM:
                if len(payload) != 4:
                    raise Broken(ErrorCode.FRAME_SIZE_ERROR, "a reset of a wrong size")
                self._stay_calm()
                if stream := self._streams.pop(id, None):
                    code = int.from_bytes(payload, "big")
                    self._lose(stream, f"the peer gave the stream up (code {code})", code)
            case frames.GOAWAY:
                if self._accept is None and self._transport is not None:
                    self._transport.close()
            case frames.PUSH_PROMISE:
                raise Broken(ErrorCode.PROTOCOL_ERROR, "a push that nobody wants")

    def _settings(self, values: dict[int, int]) -> None:
        if frames.INITIAL_WINDOW in values:
            change = values[frames.INITIAL_WINDOW] - self.peer_window
            self.peer_window += change
            for stream in self._streams.values():
                stream.window += change
        self._peer_frame = min(values.get(frames.MAX_FRAME, self._peer_frame), FRAME)
        if frames.HEADER_TABLE_SIZE in values:
            self._encoder.header_table_size = min(values[frames.HEADER_TABLE_SIZE], 4096)
        self._wake()

    def _stay_calm(self) -> None:
        """Count what costs us something and the peer nothing. Raises Broken."""
        began, count = self._calm
        now = time.monotonic()
        if now - began > CALM_SECONDS:
            began, count = now, 0
        if count >= CALM:
            raise Broken(ErrorCode.ENHANCE_YOUR_CALM, "too many resets or control frames")
        self._calm = (began, count + 1)

    def _wake(self) -> None:
        if self._room is not None:
            room, self._room = self._room, None
            if not room.done():
                room.set_result(None)

    def _lose(self, stream: Stream, reason: str, code: int) -> None:
        self._streams.pop(stream.id, None)
        self._wake()
        if stream.handler is not None:
            stream.handler.stream_lost(reason, code)

    def _give_up(self, code: ErrorCode, reason: str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            payload = struct.pack(">II", self._last, code) + reason.encode()[:200]
            self._flush()
            self._transport.write(frame(frames.GOAWAY, 0, 0, payload))
            self._transport.close()
        for stream in list(self._streams.values()):
            self._lose(stream, reason, code)


def find(headers: Iterable[tuple[str, str]], name: str) -> str:
    """The first value of a header; empty if there is none."""
    return next((value for key, value in headers if key == name), "")
