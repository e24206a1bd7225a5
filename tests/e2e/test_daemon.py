"""The engine as a process: starting, stopping, locks, doors, its own death."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest

Engine = Any
Start = Callable[..., AbstractContextManager[Engine]]
PING = b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def test_answers_within_a_second(own_engine: Engine) -> None:
    """From the start of the process to the first answer."""
    own_engine.stop()
    begin = time.monotonic()
    assert own_engine.start() == f"cais: ready on unix://{own_engine.socket}\n"
    assert own_engine.request(PING).endswith(b"\r\n\r\nOK")
    # A second is the promise on a quiet machine; tests share theirs.
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_containers_outlive_a_stop(own_engine: Engine, number: int) -> None:
    """The engine ends with 0 and takes its socket away; containers go on and the next engine has them."""
    with closing(own_engine.client()) as client:
        container = client.containers.run("busybox", ["sleep", "1000"], detach=True)
        pid = client.api.inspect_container(container.id)["State"]["Pid"]
    assert own_engine.stop(number) == 0 and not Path(own_engine.socket).exists()
    own_engine.start()
    with closing(own_engine.client()) as client:
        state = client.api.inspect_container(container.id)["State"]
        assert (state["Running"], state["Pid"]) == (True, pid)
        assert client.containers.get(container.id).exec_run(["echo", "alive"]).output == b"alive\n"


def test_killed_engine(own_engine: Engine, wait: Callable[..., None]) -> None:
    """kill -9: the container runs on, no line of its log is lost, its exit code arrives."""
    script = "for i in $(seq 300); do echo $i; sleep 0.005; done; exit 5"
    with closing(own_engine.client()) as client:
        container = client.containers.run("busybox", ["sh", "-c", script], detach=True)
        wait(lambda: container.logs(tail=1))
    own_engine.stop(signal.SIGKILL)
    own_engine.start()
    with closing(own_engine.client()) as client:
        container = client.containers.get(container.id)
        assert container.wait()["StatusCode"] == 5
        assert container.logs().split() == [str(number).encode() for number in range(1, 301)]


def test_without_live_restore(start_engine: Start, tmp_path: Path) -> None:
    """``--live-restore=false``: the containers are stopped with the engine."""
    with start_engine("--live-restore=false", "--shutdown-timeout", "1") as engine:
        _import(engine)
        with closing(engine.client()) as client:
            container = client.containers.run("true-image", ["/bin/busybox", "sleep", "1000"], detach=True)
        assert engine.stop() == 0
        engine.start()
        with closing(engine.client()) as client:
            assert client.api.inspect_container(container.id)["State"]["Running"] is False


def _import(engine: Engine) -> None:
    """The machine's busybox as an image of one file."""
    archive = subprocess.run(["tar", "-C", "/", "-c", "bin/busybox"], capture_output=True, check=True).stdout
    with closing(engine.client()) as client:
        client.api.import_image_from_data(archive, "true-image", "latest")


def test_second_engine_is_refused(engine: Engine) -> None:
    """One engine per root folder: the second names the first."""
    run = subprocess.run(
        [*engine.command(), "-H", "unix:///nope"], capture_output=True, text=True, env=_environment()
    )
    assert run.returncode == 1
    assert f"root folder {engine.folder}/root is in use by the engine with process id" in run.stderr


def test_validate_and_wrong_flags(tmp_path: Path) -> None:
    """--validate checks and exits; a wrong flag is named."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "cais.daemon.main",
            "--config-file",
            str(tmp_path / "d.json"),
            *words,
        ]
        return subprocess.run(command, capture_output=True, text=True, env=_environment())

    (tmp_path / "d.json").write_text("{}")
    good, bad = run("--validate"), run("--nope")
    assert (good.returncode, good.stderr) == (0, "configuration OK\n")
    assert (bad.returncode, bad.stderr) == (1, "cais daemon: unknown flag: --nope\n")
    assert "--data-root VALUE (also --root) (also --graph)" in run("--help").stdout


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}


def test_pid_file_and_notification(own_engine: Engine, tmp_path: Path) -> None:
    """The pid file names the process; the service manager is told when it is ready and when it stops."""
    own_engine.stop()
    address = str(tmp_path / "notify")
    own_engine.flags = ("--pidfile", str(tmp_path / "pid"))
    own_engine.extra_environment["NOTIFY_SOCKET"] = address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(20)
        manager.bind(address)
        own_engine.start()
        assert manager.recv(100) == b"READY=1"
        # nsenter replaces itself, so the process is the engine.
        assert (tmp_path / "pid").read_text() == f"{own_engine.pid}\n"
        own_engine.stop()
        assert manager.recv(100) == b"STOPPING=1"
    assert not (tmp_path / "pid").exists()
    own_engine.extra_environment.clear()


def in_netns(engine: Engine, code: str, *words: str) -> str:
    """Run Python inside the engine's network namespace; what it printed."""
    command = ["nsenter", f"--net=/proc/{engine.netns.pid}/ns/net", sys.executable, "-c", code, *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


TCP = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", 2375))
head = f"GET /_ping HTTP/1.1\\r\\nHost: {sys.argv[1]}\\r\\n{sys.argv[2]}"
connection.sendall(f"{head}Connection: close\\r\\n\\r\\n".encode())
print(b"".join(iter(lambda: connection.recv(65536), b"")).decode())
"""


def test_insecure_tcp(start_engine: Start) -> None:
    """On loopback and asked for: programs get in, web pages do not."""
    with start_engine("-H", "tcp://127.0.0.1:2375", "--insecure-tcp") as engine:
        assert in_netns(engine, TCP, "127.0.0.1:2375", "").endswith("OK\n")
        rebound = in_netns(engine, TCP, "evil.example:2375", "")
        forged = in_netns(engine, TCP, "localhost:2375", "Origin: http://evil.example\r\n")
        assert rebound.startswith("HTTP/1.1 403 ") and forged.startswith("HTTP/1.1 403 ")


def make_certificates(folder: Path) -> None:
    """A certificate authority, and certificates of a server (127.0.0.1) and a client signed by it."""
    script = """
    key="-newkey rsa:2048 -nodes"
    openssl req -x509 $key -keyout ca-key.pem -out ca.pem -days 2 -subj /CN=ca
    for name in server client; do
      openssl req $key -keyout $name-key.pem -out $name.csr -subj /CN=$name -addext subjectAltName=IP:127.0.0.1
      sign="-CA ca.pem -CAkey ca-key.pem -CAcreateserial -copy_extensions copy"
      openssl x509 -req -in $name.csr $sign -out $name.pem -days 2
    done
    """
    subprocess.run(["sh", "-ec", script], cwd=folder, capture_output=True, check=True)


TLS = """
import json, socket, ssl, sys
folder, with_certificate = sys.argv[1], sys.argv[2] == "yes"
context = ssl.create_default_context(cafile=f"{folder}/ca.pem")
if with_certificate:
    context.load_cert_chain(f"{folder}/client.pem", f"{folder}/client-key.pem")

def request(method, path, body=b"", upgrade=""):
    connection = context.wrap_socket(socket.create_connection(("127.0.0.1", 2376)), server_hostname="127.0.0.1")
    head = f"{method} /v1.51{path} HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: application/json\\r\\n{upgrade}"
    connection.sendall(f"{head}Content-Length: {len(body)}\\r\\n\\r\\n".encode() + body)
    return connection
"""


HALF_CLOSE = """
class Client:
    # ssl.SSLSocket cannot read any more once it has said that it will write no more: so by hand.
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", 2376))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")
        self.act(self.tls.do_handshake)

    def act(self, function, *words):
        while True:
            try:
                return function(*words)
            except ssl.SSLWantReadError:
                self.flush()
                self.incoming.write(self.socket.recv(65536))
            finally:
                self.flush()

    def flush(self):
        self.socket.sendall(self.outgoing.read())

    def request(self, method, path, body=b"", upgrade=""):
        head = f"{method} /v1.51{path} HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: application/json\\r\\n{upgrade}"
        self.act(self.tls.write, f"{head}Content-Length: {len(body)}\\r\\n\\r\\n".encode() + body)
        data = b""
        while b"\\r\\n\\r\\n" not in data:
            data += self.act(self.tls.read, 65536)
        return data.partition(b"\\r\\n\\r\\n")[2]

config = {"Image": "true-image", "Cmd": ["/bin/busybox", "cat"], "OpenStdin": True, "StdinOnce": True}
id = json.loads(Client().request("POST", "/containers/create", json.dumps(config).encode()))["Id"]
attached = Client()
flags = "stream=1&stdin=1&stdout=1"
attached.request("POST", f"/containers/{id}/attach?{flags}", b"", "Connection: Upgrade\\r\\nUpgrade: tcp\\r\\n")
Client().request("POST", f"/containers/{id}/start")
attached.act(attached.tls.write, b"got it")
try:
    attached.tls.unwrap()
except ssl.SSLWantReadError:
    attached.flush()
data = b""
try:
    while piece := attached.act(attached.tls.read, 65536):
        data += piece
except ssl.SSLZeroReturnError:
    pass
print(data[8:].decode())
"""


@pytest.mark.skipif(
    not ssl.OPENSSL_VERSION or subprocess.run(["which", "openssl"], capture_output=True).returncode,
    reason="needs openssl",
)
def test_tls(start_engine: Start, tmp_path: Path) -> None:
    """Only clients with a certificate get in."""
    make_certificates(tmp_path)
    flags = ("--tlsverify", "--tlscacert", f"{tmp_path}/ca.pem", "--tlscert", f"{tmp_path}/server.pem")
    with start_engine(
        "-H", "tcp://127.0.0.1:2376", *flags, "--tlskey", f"{tmp_path}/server-key.pem"
    ) as engine:
        ping = TLS + "print(request('GET', '/_ping').recv(65536).decode())"
        assert in_netns(engine, ping, str(tmp_path), "yes").startswith("HTTP/1.1 200 OK")
        refused = (
            TLS
            + """
try:
    data = request('GET', '/_ping').recv(65536)
except (ssl.SSLError, ConnectionError) as error:
    data = b""
print(json.dumps(data.decode()))
"""
        )
        assert json.loads(in_netns(engine, refused, str(tmp_path), "no")) == ""


def test_socket_activation(own_engine: Engine, tmp_path: Path) -> None:
    """fd://: the engine answers on a socket that the service manager opened."""
    own_engine.stop()
    path = str(tmp_path / "activated.sock")
    code = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
if listener.fileno() != 3:
    os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""
    plain = own_engine.command
    own_engine.command = lambda: [
        sys.executable,
        "-c",
        code,
        path,
        "/usr/bin/nsenter",
        *plain()[1:],
        "-H",
        "fd://",
    ]
    assert "fd://" in own_engine.start()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(PING)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    own_engine.stop()
    own_engine.command = plain
