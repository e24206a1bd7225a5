"""TLS in front of the API, with half-closes.

asyncio and uvloop close the whole connection when a TLS peer says that it will send no more (close_notify). For
``docker run -i`` that is the end of standard input, and the output is still to come. So TLS ends here, and the API
gets a plain socket, on which a half-close is one.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import cast

HANDSHAKE_SECONDS = 10.0
CHUNK = 256 << 10
BUFFER = 1 << 20


class _Plain(asyncio.Protocol):
    """The side of the API."""

    def __init__(self, tls: "TlsConnection") -> None:
        self._tls = tls
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=BUFFER)

    def data_received(self, data: bytes) -> None:
        """An answer's bytes."""
        self._tls.send(data)

    def eof_received(self) -> bool:
        """The answer is over: so is the connection, for nobody would read what the client sends."""
        self._tls.end()
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """The API has closed."""
        self._tls.end()

    def pause_writing(self) -> None:
        """The API reads slowly: read less from the client."""
        self._tls.pause(True)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._tls.pause(False)


class TlsConnection(asyncio.Protocol):
    """One client. ``serve`` makes the API's protocol for its plain socket."""

    def __init__(self, context: ssl.SSLContext, serve: Callable[[], asyncio.Protocol]) -> None:
        self._serve = serve
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._transport: asyncio.Transport | None = None
        self._plain: _Plain | None = None
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client: it has some seconds to show its certificate."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=BUFFER)
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Records from the client."""
        self._incoming.write(data)
        self._advance()

    def eof_received(self) -> bool:
        """Without close_notify first the end may be an attacker's: the connection is over."""
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._ended = True
        if self._plain is not None and self._plain.transport is not None:
            self._plain.transport.close()

    def pause_writing(self) -> None:
        """The client reads slowly: read less of the answer."""
        if self._plain is not None and self._plain.transport is not None:
            self._plain.transport.pause_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._plain is not None and self._plain.transport is not None:
            self._plain.transport.resume_reading()

    def pause(self, wanted: bool) -> None:
        """Stop or go on reading from the client."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if wanted:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def send(self, data: bytes) -> None:
        """Encrypt and send."""
        if not self._ended:
            self._tls.write(data)
            self._flush()

    def end(self) -> None:
        """Say that no more comes (close_notify), and close when all was sent."""
        if self._ended:
            return
        self._ended = True
        # SSLWantRead: our close_notify is on its way, the client's need not be waited for.
        with suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _advance(self) -> None:
        try:
            if self._plain is None:
                self._tls.do_handshake()
                self._open()
            self._read()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError:
            # The alert that says why goes out with the flush.
            self._flush()
            if self._transport is not None:
                self._transport.close()

    def _open(self) -> None:
        """The client has proved who it is: give the API a socket. Not read until the other end is connected."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush()
        self.pause(True)
        self._plain = _Plain(self)
        self._opening = asyncio.ensure_future(self._connect(self._plain))

    async def _connect(self, plain: _Plain) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        await loop.connect_accepted_socket(self._serve, theirs)
        await loop.create_unix_connection(lambda: plain, sock=ours)
        if self._ended and plain.transport is not None:
            plain.transport.close()
        self.pause(False)
        self._advance()

    def _read(self) -> None:
        plain = self._plain
        if plain is None or plain.transport is None or plain.transport.is_closing():
            return
        while True:
            try:
                data = self._tls.read(CHUNK)
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                plain.transport.write_eof()
                return
            plain.transport.write(data)

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
