"""TCP and TLS sockets to an engine; imported only for such hosts."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from cais.cli.failure import Unreachable

if TYPE_CHECKING:
    from cais.cli.host import Host, Tls

CONNECT_SECONDS = 30.0
RECORD = 1 << 14


def open_tcp(host: Host) -> TlsStream | socket.socket:
    """A connected socket, encrypted if the host says so. Raises Unreachable."""
    name, _, port = host.address.rpartition(":")
    name = name.strip("[]")
    try:
        sock = socket.create_connection((name, int(port)), CONNECT_SECONDS)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = TlsStream(sock, host.tls, name) if host.tls else sock
            sock.settimeout(None)
        except BaseException:
            sock.close()
            raise
    except (OSError, ValueError) as error:
        raise Unreachable(f"Cannot connect to the Cais engine at {host.text}: {error}") from error
    return stream


def make_context(tls: Tls) -> ssl.SSLContext:
    """A client's settings: the engine's certificate is checked unless ``verify`` is off."""
    context = ssl.create_default_context(cafile=tls.ca or None)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key or None)
    return context


class TlsStream:
    """The few socket methods the CLI uses, over TLS, with a half close that `ssl.SSLSocket` lacks.

    Sending close_notify and reading on is what a half-closed stdin needs; `SSLSocket.unwrap` would wait for
    the peer's close_notify and lose what it still sends.
    """

    def __init__(self, sock: socket.socket, tls: Tls, name: str) -> None:
        self._sock = sock
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._late = b""
        self._late_size = 0
        self._tls = make_context(tls).wrap_bio(self._in, self._out, server_hostname=name)
        while not self._step(self._tls.do_handshake):
            self._receive()

    def _step(self, act: object) -> bool:
        """Run ``act``; False when it wants bytes of the peer first. Whatever it wrote goes out."""
        try:
            act()  # type: ignore[operator]
        except ssl.SSLWantReadError:
            return False
        finally:
            if data := self._out.read():
                self._sock.sendall(data)
        return True

    def _receive(self) -> None:
        if data := self._sock.recv(1 << 16):
            self._in.write(data)
        else:
            self._in.write_eof()

    def fileno(self) -> int:
        """The socket's descriptor. Poll it only after ``recv`` has been drained (``pending``)."""
        return self._sock.fileno()

    def pending(self) -> bool:
        """Whether bytes are there already that no poll would show."""
        return bool(self._in.pending or self._tls.pending())

    def sendall(self, data: bytes) -> None:
        """Send all of ``data``."""
        self._tls.write(data)
        self._sock.sendall(self._out.read())

    def send(self, data: bytes, flags: int = 0) -> int:
        """Send some of ``data`` and return how much; 0 asks to call again with the same data.

        ``flags`` as in send(2). A record that was encrypted must leave whole before the next one.
        """
        if not self._late:
            self._late_size = self._tls.write(data[:RECORD])
            self._late = self._out.read()
        self._late = self._late[self._sock.send(self._late, flags) :]
        return 0 if self._late else self._late_size

    def recv(self, size: int) -> bytes:
        """At most ``size`` bytes; empty at the end of the stream."""
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._receive()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def shutdown(self, how: int) -> None:
        """Say that nothing more will be sent; reading goes on."""
        self._step(self._tls.unwrap)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
