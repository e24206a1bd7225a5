"""Certificates and tokens with a real registry that checks them."""

import base64
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from cais.errors import CaisError, Denied, Invalid, NotFound, Unauthenticated, Unavailable
from cais.remotes.auth import Credentials
from cais.remotes.client import Patience, Remotes, Repository
from cais.remotes.hosts import Host, Hosts
from cais.remotes.login import log_in, parse_server
from cais.remotes.transport import Transport
from cais.remotes.upload import Blob, Uploads, open_uploads
from cais.spec.digest import digest_bytes
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

    def sign(self, scopes: Iterable[str], service: str) -> str:
        """A token for what ``repository:name:actions`` say."""
        access = [dict(zip(("type", "name", "actions"), scope.split(":"), strict=True)) for scope in scopes]
        der = subprocess.run(
            ["openssl", "x509", "-in", f"{self.folder}/issuer.crt", "-outform", "DER"],
            check=True,
            capture_output=True,
        ).stdout
        now = int(time.time())
        claims = {"iss": "issuer", "sub": USER, "aud": service, "exp": now + 60, "nbf": now - 9, "iat": now}
        claims |= {"jti": "1", "access": [{**one, "actions": one["actions"].split(",")} for one in access]}
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
        scopes = " ".join(form.get("scope", [])).split()
        answer = {"token": self.sign(scopes, form["service"][0])}
        if form.get("offline_token"):
            answer["refresh_token"] = "refresh"
        return web.json_response(answer)


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


@pytest.mark.slow
async def test_one_token_is_enough_to_push(tmp_path: Path) -> None:
    """It allows the push and what may be mounted from, and is asked for once; a refresh token does as well."""
    data = b"x" * 100_000
    file = tmp_path / "blob"
    file.write_bytes(data)
    blob = Blob(digest_bytes(data), len(data), file)
    async with locked_registry(tmp_path) as (address, server):
        remotes = Remotes(Hosts(), QUICK)
        async with open_uploads(
            remotes, parse_reference(f"{address}/a/b:1"), Credentials(USER, PASSWORD)
        ) as one:
            await one.push_blob(blob, lambda _: None)
            assert await one.has_blob(blob.digest)
        given = Credentials(identity_token="refresh")
        reference = parse_reference(f"{address}/c:1")
        async with open_uploads(remotes, reference, given, mounts=["a/b"]) as two:
            assert not await two.has_blob(blob.digest)
            assert await two.mount(blob.digest, ["a/b"]) == "a/b"
        assert [sorted(form["scope"][0].split()) for _, form in server.asked] == [
            ["repository:a/b:pull,push"],
            ["repository:a/b:pull", "repository:c:pull,push"],
        ]
        async with open_uploads(remotes, reference) as three:
            with pytest.raises(Unauthenticated, match=r"push access denied for .*/c, .*incorrect username"):
                await three.push_blob(blob, lambda _: None)


@pytest.mark.slow
async def test_a_login_gives_what_to_keep(tmp_path: Path) -> None:
    """A refresh token in the password's place, where the registry has one; it can be logged in with too."""
    async with locked_registry(tmp_path) as (address, _):
        remotes = Remotes(Hosts(), QUICK)
        assert await log_in(remotes, address, Credentials(USER, PASSWORD)) == "refresh"
        await log_in(remotes, f"http://{address}/v2/", Credentials(identity_token="refresh"))
        with pytest.raises(Unauthenticated, match="incorrect username or password"):
            await log_in(remotes, address, Credentials(USER, "wr0ng-word"))
    with running_registry(tmp_path / "p", password=True) as registry:
        assert await log_in(remotes, registry.address, Credentials(USER, PASSWORD)) == ""
        with pytest.raises(Unauthenticated, match=r"failed with status: 401 Unauthorized") as refused:
            await log_in(remotes, registry.address, Credentials(USER, "wr0ng-word"))
        assert "wr0ng" not in str(refused.value)
        with pytest.raises(Invalid, match="no basic auth credentials"):
            await log_in(remotes, registry.address, Credentials())


@pytest.mark.parametrize(
    ("server", "domain"),
    [
        ("", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("localhost:5000", "localhost:5000"),
        ("https://reg.example/v2/", "reg.example"),
        ("http://u:p@reg.example", ""),
        ("http://[x", ""),
    ],
)
def test_what_clients_call_a_server(server: str, domain: str) -> None:
    """Names and URLs, Docker Hub under all of its names; a password in a URL is refused."""
    if domain:
        assert parse_server(server) == domain
    else:
        with pytest.raises(Invalid, match="invalid registry server"):
            parse_server(server)


async def test_a_push_by_tls_with_a_private_authority(tmp_path: Path) -> None:
    """Checked as for a pull; where the registry says that uploads go on without TLS, it is refused."""
    server, key = make_certificate(tmp_path, "server")
    tls = {"certificate": str(server), "key": str(key)}
    data = b"y" * 100_000
    file = tmp_path / "blob"
    file.write_bytes(data)
    blob = Blob(digest_bytes(data), len(data), file)
    more = {"tls": tls, "host": "", "relativeurls": True}
    with running_registry(tmp_path / "r", http=more) as registry:
        folder = tmp_path / "certs" / registry.address
        folder.mkdir(parents=True)
        async with checked_upload(registry.address, tmp_path / "certs") as uploads:
            with pytest.raises(Unavailable, match="tls: failed to verify certificate"):
                await uploads.push_blob(blob, lambda _: None)
        (folder / "ca.crt").write_bytes(server.read_bytes())
        async with checked_upload(registry.address, tmp_path / "certs") as uploads:
            await uploads.push_blob(blob, lambda _: None)
            assert await uploads.has_blob(blob.digest)
    with running_registry(tmp_path / "s", http={"tls": tls}) as registry:  # it says http:// of itself
        folder.rename(tmp_path / "certs" / registry.address)
        async with checked_upload(registry.address, tmp_path / "certs") as uploads:
            with pytest.raises(Denied, match="without TLS"):
                await uploads.push_blob(blob, lambda _: None)


def checked_upload(address: str, certs: Path) -> Uploads:
    """A repository to push to whose server is checked although it is on loopback."""
    host = Host(address, (f"https://{address}",))
    transport = Transport(Hosts(certs=(certs,)), Credentials())
    return Uploads(parse_reference(f"{address}/a/b:1"), host, transport, QUICK, Credentials())
