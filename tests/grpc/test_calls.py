"""gRPC over a real socket, both sides ours; tests with Docker's own clients show what others make of it."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated

import pytest

from cais.grpc import frames
from cais.grpc.calls import Call, Channel, Server
from cais.grpc.frames import frame
from cais.grpc.protobuf import Message
from cais.grpc.status import Code, RpcError


class Text(Message, frozen=True, kw_only=True):
    """A message."""

    text: Annotated[str, 1] = ""
    data: Annotated[bytes, 2] = b""


async def echo(call: Call) -> None:
    """Every message back."""
    async for message in call.messages(Text):
        await call.send(message)


async def refuse(call: Call) -> None:
    """An error with strange characters."""
    await call.receive_as(Text)
    raise RpcError(Code.NOT_FOUND, "nicht da: 100% weg\nüber")


@asynccontextmanager
async def joined(
    handlers: dict[str, Callable[[Call], Awaitable[None]]],
) -> AsyncIterator[tuple[Channel, Server]]:
    """A channel and a server with a socket between."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    server, channel = Server(handlers), Channel()
    first, _ = await loop.create_connection(lambda: server.connection, sock=theirs)
    second, _ = await loop.create_connection(lambda: channel.connection, sock=ours)
    try:
        yield channel, server
    finally:
        first.abort()
        second.abort()
        await asyncio.sleep(0)


async def test_one_message_and_its_answer() -> None:
    """What is sent comes back."""
    async with joined({"/t.T/Echo": echo}) as (channel, _):
        answer = await channel.unary("/t.T/Echo", Text(text="hallo", data=b"\0\xff"), Text)
    assert answer == Text(text="hallo", data=b"\0\xff")


async def test_errors_come_with_code_and_message() -> None:
    """Also those with characters that headers cannot hold."""
    async with joined({"/t.T/Refuse": refuse}) as (channel, _):
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t.T/Refuse", Text(), Text)
        assert (caught.value.code, caught.value.message) == (5, "nicht da: 100% weg\nüber")
        with pytest.raises(RpcError, match="unknown method") as caught:
            await channel.unary("/t.T/Nothing", Text(), Text)
        assert caught.value.code == Code.UNIMPLEMENTED


async def test_more_than_all_windows_goes_through() -> None:
    """Messages larger than a stream's window, and more of them than the connection's, while nobody else is stopped."""
    big = b"x" * (3 << 20)
    async with joined({"/t.T/Echo": echo}) as (channel, _):
        call = channel.call("/t.T/Echo")

        async def send() -> None:
            for number in range(8):
                await call.send(Text(text=str(number), data=big))
            await call.end()

        sending = asyncio.create_task(send())
        got = [message async for message in call.messages(Text)]
        await sending
    assert [message.text for message in got] == [str(number) for number in range(8)]
    assert all(message.data == big for message in got)


async def test_a_reader_that_waits_slows_the_sender_down() -> None:
    """Nothing is read, so no more than the window is sent."""
    held = asyncio.Event()

    async def wait(call: Call) -> None:
        await held.wait()
        async for _ in call.messages(Text):
            pass

    async with joined({"/t.T/Wait": wait}) as (channel, _):
        call = channel.call("/t.T/Wait")
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(100):
                await call.send(Text(data=b"x" * 65536))
                sent += 1
            await call.end()

        sending = asyncio.create_task(send())
        other = channel.call("/t.T/Wait")
        await other.send(Text())
        for _ in range(200):
            await asyncio.sleep(0)
        assert sent < 20
        held.set()
        await sending
        assert sent == 100


async def test_a_call_that_is_given_up_ends_its_handler() -> None:
    """At once, and others go on."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def hang(call: Call) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with joined({"/t.T/Hang": hang, "/t.T/Echo": echo}) as (channel, _):
        call = channel.call("/t.T/Hang")
        await call.send(Text())
        await began.wait()
        call.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        assert (await channel.unary("/t.T/Echo", Text(text="still"), Text)).text == "still"


async def test_a_lost_connection_ends_both_sides() -> None:
    """The handler is cancelled, the caller hears of it, new calls are refused."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def hang(call: Call) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with joined({"/t.T/Hang": hang}) as (channel, server):
        call = channel.call("/t.T/Hang")
        await call.send(Text())
        await began.wait()
        server.connection.close()
        with pytest.raises(RpcError) as caught:
            await call.receive()
        assert caught.value.code == Code.UNAVAILABLE
        await asyncio.wait_for(ended.wait(), 5)
        with pytest.raises(RpcError, match="gone"):
            channel.call("/t.T/Hang")


async def attack(data: bytes) -> bytes:
    """What a server says to these bytes, to the end."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    server = Server({"/t.T/Echo": echo})
    transport, _ = await loop.create_connection(lambda: server.connection, sock=theirs)
    got = bytearray()

    async def read() -> None:
        while part := await loop.sock_recv(ours, 1 << 16):
            got.extend(part)

    reading = asyncio.create_task(read())
    try:
        with suppress(ConnectionError):
            await loop.sock_sendall(ours, data)
        with suppress(ConnectionError):
            await asyncio.wait_for(reading, 10)
    finally:
        transport.close()
        ours.close()
    return bytes(got)


def ended_with(answer: bytes) -> int:
    """The error code of the GOAWAY."""
    at = 0
    while at < len(answer):
        high, low, kind, _, _ = frames.HEADER.unpack_from(answer, at)
        size = high << 8 | low
        if kind == frames.GOAWAY:
            return int(struct.unpack_from(">I", answer, at + 13)[0])
        at += 9 + size
    raise AssertionError("no GOAWAY")


GREETING = frames.PREFACE + frames.settings_frame({})
# :method POST, :scheme http, :path /t.T/Echo without any compression
HEADERS = bytes.fromhex("8386") + b"\x04\x09/t.T/Echo"


@pytest.mark.parametrize(
    ("attack_bytes", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2, frames.ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(frames.DATA, 0, 1, b"x"), frames.ErrorCode.PROTOCOL_ERROR),
        (GREETING + frames.HEADER.pack(0xFFFF, 0xFF, 0, 0, 1), frames.ErrorCode.FRAME_SIZE_ERROR),
        (GREETING + frame(frames.HEADERS, 4, 1, b"\xff" * 40), frames.ErrorCode.COMPRESSION_ERROR),
        (
            GREETING + frame(frames.HEADERS, 0, 1, HEADERS) + frame(frames.DATA, 0, 1, b""),
            frames.ErrorCode.PROTOCOL_ERROR,
        ),
        (
            # CVE-2024-27316: continuations without end
            GREETING
            + frame(frames.HEADERS, 0, 1, HEADERS)
            + frame(frames.CONTINUATION, 0, 1, b"\0" * 16000) * 10,
            frames.ErrorCode.ENHANCE_YOUR_CALM,
        ),
        (
            # CVE-2023-44487: streams that are opened and reset
            GREETING
            + b"".join(
                frame(frames.HEADERS, 4, id, HEADERS) + frame(frames.RST_STREAM, 0, id, bytes(4))
                for id in range(1, 9000, 2)
            ),
            frames.ErrorCode.ENHANCE_YOUR_CALM,
        ),
        # CVE-2019-9512 and CVE-2019-9515: pings and settings that want answers
        (GREETING + frame(frames.PING, 0, 0, bytes(8)) * 4000, frames.ErrorCode.ENHANCE_YOUR_CALM),
        (GREETING + frames.settings_frame({}) * 4000, frames.ErrorCode.ENHANCE_YOUR_CALM),
        (
            GREETING + frames.window_frame(0, 0x7FFFFFFF) * 2,
            frames.ErrorCode.FLOW_CONTROL_ERROR,
        ),
        (GREETING + frames.settings_frame({4: 0x80000000}), frames.ErrorCode.FLOW_CONTROL_ERROR),
        (GREETING + frames.settings_frame({5: 1}), frames.ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(frames.PING, 0, 0, b"short"), frames.ErrorCode.FRAME_SIZE_ERROR),
    ],
)
async def test_a_hostile_peer_is_sent_away(attack_bytes: bytes, code: int) -> None:
    """With the error that fits, and the connection is closed."""
    assert ended_with(await attack(attack_bytes)) == code


@pytest.mark.parametrize("head", [b"\x01\0\0\0\x01x", b"\0\x7f\xff\xff\xff"])
async def test_messages_that_are_compressed_or_too_large_are_refused(head: bytes) -> None:
    """The stream is reset; the memory is never taken."""
    async with joined({"/t.T/Echo": echo}) as (channel, _):
        call = channel.call("/t.T/Echo")
        assert call.stream is not None
        await call.stream.send(head)
        with pytest.raises(RpcError):
            await call.receive()
