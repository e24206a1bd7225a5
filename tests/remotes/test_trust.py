"""Certificates and tokens with a real registry that checks them."""

import base64
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from cais.errors import CaisError, NotFound, Unauthenticated, Unavailable
from cais.remotes.auth import Credentials
from cais.remotes.client import Patience, Remotes, Repository
from cais.remotes.hosts import Host, Hosts
from cais.remotes.transport import Transport
from cais.spec.reference import parse_reference
from harness.registry import PASSWORD, USER, make_certificate, running_registry

QUICK = Patience(1, 0.001)


def checked(address: str, certs: Path) -> Repository:
    """A repository whose server is checked although it is on loopback."""
    host = Host(address, (f"https://{address}",))
    transport = Transport(Hosts(certs=(certs,)), Credentials(), "repository:a/b:pull")
    return Repository(parse_reference(f"{address}/a/b:1"), (host,), transport, QUICK, Credentials())


async def ask(repository: Repository) -> CaisError:
    """What comes of asking for a manifest that is not there."""
    async with repository:
        with pytest.raises(CaisError) as error:
            await repository.fetch_manifest()
    return error.value


async def test_a_private_authority_and_a_client_certificate(tmp_path: Path) -> None:
    """Without its authority in certs.d the server is not trusted, without our certificate we are not."""
    server, key = make_certificate(tmp_path, "server")
    mine, my_key = make_certificate(tmp_path, "mine")
    tls = {"certificate": str(server), "key": str(key), "clientcas": [str(mine)]}
    with running_registry(tmp_path / "r", http={"tls": tls}) as registry:
        folder = tmp_path / "certs" / registry.address
        folder.mkdir(parents=True)
        assert "tls: failed to verify certificate" in str(
            await ask(checked(registry.address, tmp_path / "certs"))
        )
        (folder / "ca.crt").write_bytes(server.read_bytes())
        assert isinstance(await ask(checked(registry.address, tmp_path / "certs")), Unavailable)
        (folder / "me.cert").write_bytes(mine.read_bytes())
        (folder / "me.key").write_bytes(my_key.read_bytes())
        assert isinstance(await ask(checked(registry.address, tmp_path / "certs")), NotFound)


async def test_an_insecure_registry_may_have_any_certificate(tmp_path: Path) -> None:
    """Loopback is insecure by itself: TLS is used, its certificate not looked at."""
    server, key = make_certificate(tmp_path)
    tls = {"certificate": str(server), "key": str(key)}
    with running_registry(tmp_path / "r", http={"tls": tls}) as registry:
        repository = Remotes(Hosts(), QUICK).open(parse_reference(f"{registry.address}/a/b:1"))
        assert isinstance(await ask(repository), NotFound)


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer:
    """Gives signed tokens (distribution's "Token Authentication Implementation") to USER, for what he asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=issuer"
        command += f" -keyout {folder}/issuer.key -out {folder}/issuer.crt"
        subprocess.run(command.split(), check=True, capture_output=True)
        self.asked: list[tuple[str, dict[str, list[str]]]] = []

    def sign(self, scope: str, service: str) -> str:
        """A token for ``repository:name:actions``."""
        kind, name, actions = scope.split(":")
        der = subprocess.run(
            ["openssl", "x509", "-in", f"{self.folder}/issuer.crt", "-outform", "DER"],
            check=True,
            capture_output=True,
        ).stdout
        now = int(time.time())
        claims = {"iss": "issuer", "sub": USER, "aud": service, "exp": now + 60, "nbf": now - 9, "iat": now}
        claims |= {"jti": "1", "access": [{"type": kind, "name": name, "actions": actions.split(",")}]}
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        text = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", f"{self.folder}/issuer.key"]
        signature = subprocess.run(command, input=text.encode(), check=True, capture_output=True).stdout
        return f"{text}.{encode(signature)}"

    async def handle(self, request: web.Request) -> web.Response:
        """Basic authorization, or a refresh token in a form."""
        form = parse_qs((await request.read()).decode()) or parse_qs(request.query_string)
        self.asked.append((request.method, form))
        basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        known = request.headers.get("Authorization") == f"Basic {basic}" or form.get("refresh_token") == [
            "refresh"
        ]
        if not known:
            return web.json_response({"details": "incorrect username or password"}, status=401)
        return web.json_response({"token": self.sign(form["scope"][0], form["service"][0])})


@asynccontextmanager
async def locked_registry(folder: Path) -> AsyncIterator[tuple[str, TokenServer]]:
    """A registry that wants tokens, its address, and who gives them."""
    server = TokenServer(folder)
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    realm = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    token: dict[str, Any] = {"realm": realm, "service": "tests", "issuer": "issuer"}
    token["rootcertbundle"] = f"{folder}/issuer.crt"
    try:
        with running_registry(folder / "r", auth={"token": token}) as registry:
            yield registry.address, server
    finally:
        await runner.cleanup()


@pytest.mark.slow
async def test_tokens_of_a_token_server_open_a_registry(tmp_path: Path) -> None:
    """With a password and with a refresh token; a wrong one is told in the server's words, without itself."""
    async with locked_registry(tmp_path) as (address, server):
        for given in (Credentials(USER, PASSWORD), Credentials(identity_token="refresh")):
            repository = Remotes(Hosts(), QUICK).open(parse_reference(f"{address}/a/b:1"), given)
            assert isinstance(await ask(repository), NotFound)
        assert [method for method, _ in server.asked] == ["GET", "POST"]
        assert server.asked[0][1]["scope"] == ["repository:a/b:pull"]
        wrong = Credentials(USER, "wr0ng-word")
        error = await ask(Remotes(Hosts(), QUICK).open(parse_reference(f"{address}/a/b:1"), wrong))
        assert isinstance(error, Unauthenticated)
        assert str(error) == "unauthorized: incorrect username or password"
