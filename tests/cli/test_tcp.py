"""TCP and TLS hosts: the same commands over a real encrypted connection."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cais.cli.failure import Unreachable
from cais.cli.host import Tls, parse_host
from cais.cli.http import Connection
from cais.cli.main import run
from cais.cli.tcp import TlsStream, open_tcp

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    command += " -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    shutil.copy(folder / "cert.pem", folder / "ca.pem")
    return folder


class Echo(threading.Thread):
    """Upgrades one connection, sends back what it gets, and says more after the client's half close."""

    def __init__(self, files: Path) -> None:
        super().__init__(daemon=True)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(files / "cert.pem", files / "key.pem")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        with self.listener, self.listener.accept()[0] as plain:
            try:
                stream = self.context.wrap_socket(plain, server_side=True)
            except ssl.SSLError:
                return
            with stream:
                if not stream.recv(1 << 16):
                    return
                stream.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n")
                while data := stream.recv(1 << 16):
                    stream.sendall(data)
                stream.sendall(b"|end")


@pytest.fixture
def echo(files: Path) -> Iterator[Echo]:
    """A server for one connection."""
    server = Echo(files)
    yield server
    server.join(10)


def test_half_close(echo: Echo, files: Path) -> None:
    """After the end of stdin what the engine still says is read, over TLS too."""
    tls = Tls(str(files / "ca.pem"), "", "", verify=True)
    connection = Connection(open_tcp(parse_host(echo.host, tls)))
    assert connection.send("POST", "/attach").status == 101
    data = bytes(range(256)) * 300
    sent, got = 0, b""
    while sent < len(data):
        sent += connection.sock.send(data[sent:])
    while len(got) < len(data):
        got += connection.receive()
    connection.sock.shutdown(socket.SHUT_WR)
    while piece := connection.receive():
        got += piece
    connection.close()
    assert got == data + b"|end"


def test_wrong_authority(echo: Echo, files: Path) -> None:
    """An engine whose certificate nobody vouches for is not talked to."""
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        open_tcp(parse_host(echo.host, Tls("", "", "", verify=True)))


def test_unverified(echo: Echo) -> None:
    """--tls without --tlsverify encrypts and asks no questions, as Docker's does."""
    stream = open_tcp(parse_host(echo.host, Tls("", "", "", verify=False)))
    assert isinstance(stream, TlsStream)
    stream.close()


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A port where nobody listens is an error that names the host."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert run(["-H", f"tcp://127.0.0.1:{port}", "ps"]) == 1
    assert f"tcp://127.0.0.1:{port}" in capsys.readouterr().err
