"""Resolving and fetching from a real registry, and through a proxy that cuts, lies and refuses."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from cais.config import Registry as Rules
from cais.errors import Corrupt, Invalid, NotFound, Unauthenticated, Unavailable
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.remotes.client import Patience, Remotes, Repository
from cais.remotes.hosts import Hosts
from cais.remotes.refusals import Interrupted
from cais.spec.descriptor import OCI_LAYER, OCI_MANIFEST, Descriptor
from cais.spec.digest import digest_bytes, parse_digest
from cais.spec.reference import parse_reference
from harness.registry import PASSWORD, USER, Fault, free_port, running_registry, sha256, start_proxy

BLOB = random.Random(1).randbytes(3 << 20)
LAYER = Descriptor(media_type=OCI_LAYER, digest=digest_bytes(BLOB), size=len(BLOB))
BLOBS, MANIFESTS = "GET .*/blobs/", "(GET|HEAD) .*/manifests/"
QUICK = Patience(attempts=4, first=0.001)


def open_repository(name: str, credentials: Credentials = ANONYMOUS, **hosts: Any) -> Repository:
    """The repository of a reference, with little patience."""
    return Remotes(Hosts(**hosts), QUICK).open(parse_reference(name), credentials)


@pytest.fixture
async def repository(proxy: Any) -> AsyncIterator[Repository]:
    """a/b:1 behind the proxy."""
    async with open_repository(f"{proxy.address}/a/b:1") as repository:
        yield repository


async def read(repository: Repository, descriptor: Descriptor = LAYER) -> bytes:
    """A whole blob."""
    return b"".join([part async for part in repository.fetch_blob(descriptor)])


async def test_a_name_is_resolved_and_its_bytes_fetched(repository: Repository) -> None:
    """The digest by HEAD, the manifest by digest, the blob byte for byte."""
    digest = await repository.find_digest()
    document = await repository.fetch_manifest(digest)
    assert document.digest == digest == digest_bytes(document.data)
    assert document.media_type == OCI_MANIFEST
    assert await read(repository) == BLOB


async def test_a_name_by_digest_is_that_digest(proxy: Any) -> None:
    """What the server says of it changes nothing."""
    other = parse_digest(sha256(b"other"))
    async with open_repository(f"{proxy.address}/a/b@{other}") as repository:
        with pytest.raises(NotFound, match=f"manifest for .*a/b@{other} not found: manifest unknown"):
            await repository.fetch_manifest()


async def test_a_registry_without_head_is_asked_with_get(proxy: Any, repository: Repository) -> None:
    """And one that does not say the digest has it computed."""
    proxy.faults = [Fault("HEAD", status=405)]
    assert await repository.find_digest() is None
    assert (await repository.fetch_manifest()).media_type == OCI_MANIFEST


@pytest.mark.parametrize("cuts", [(0,), (1000,), (2 << 20,), (1, 2, 3), (1_500_000, 1_200_000, 100_000, 9)])
async def test_a_cut_blob_goes_on_where_it_was_cut(
    proxy: Any, repository: Repository, cuts: tuple[int, ...]
) -> None:
    """By a range: no byte that is here is sent again; progress renews the patience."""
    proxy.faults = [Fault(BLOBS, cut=size) for size in cuts]
    assert await read(repository) == BLOB
    ranges = [headers.get("Range") for line, headers in proxy.seen if "/blobs/" in line]
    done = [sum(cuts[: i + 1]) for i in range(len(cuts))]
    assert ranges == [None, *(f"bytes={size}-" if size else None for size in done)]


async def test_a_server_without_ranges_sends_all_again(proxy: Any, repository: Repository) -> None:
    """The bytes that are here already are passed over."""
    proxy.faults = [Fault(BLOBS, cut=1 << 20), Fault(BLOBS, status=200, body=BLOB)]
    assert await read(repository) == BLOB


async def test_a_blob_that_is_cut_again_and_again_is_given_up(proxy: Any, repository: Repository) -> None:
    """After the attempts that patience allows, with what happened."""
    proxy.faults = [Fault(BLOBS, cut=0, times=99)]
    with pytest.raises(Unavailable, match="unexpected EOF"):
        await read(repository)
    assert proxy.count(BLOBS) == QUICK.attempts


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(proxy: Any, repository: Repository, status: int) -> None:
    """Manifests and blobs alike."""
    proxy.faults = [Fault(MANIFESTS, times=2, status=status), Fault(BLOBS, status=status)]
    document = await repository.fetch_manifest(await repository.find_digest())
    assert document.digest == digest_bytes(document.data)
    assert await read(repository) == BLOB


async def test_retry_after_is_obeyed_or_given_up_at_once(proxy: Any) -> None:
    """Seconds that are too many end it with the registry's words; fewer are waited for."""
    body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}'
    proxy.faults = [Fault(BLOBS, times=9, status=429, headers={"Retry-After": "3600"}, body=body)]
    async with open_repository(f"{proxy.address}/a/b:1") as repository:
        with pytest.raises(Unavailable, match=r"^toomanyrequests: You have reached"):
            await read(repository)
    assert proxy.count(BLOBS) == 1
    assert (QUICK.pause(1, Interrupted("x", after=7.0)) or 0) == 7.0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(BLOBS, shorten=1000), "has 1000 bytes, its manifest says"),
        (Fault(BLOBS, status=200, body=BLOB + b"x"), "has 3145729 bytes"),
    ],
)
async def test_another_size_than_announced_is_corrupt(
    proxy: Any, repository: Repository, fault: Fault, words: str
) -> None:
    """At once, before the bytes are read."""
    proxy.faults = [fault]
    with pytest.raises(Corrupt, match=words):
        await read(repository)


async def test_a_changed_manifest_is_corrupt(proxy: Any, repository: Repository) -> None:
    """By tag too, where the server's own header gives it away."""
    for digest in (None, await repository.find_digest()):
        proxy.faults = [Fault("GET .*/manifests/", flip=5)]
        with pytest.raises(Corrupt, match="manifest verification failed"):
            await repository.fetch_manifest(digest)


async def test_a_document_that_is_too_large_is_refused(proxy: Any, repository: Repository) -> None:
    """Whatever the server sends, four megabytes are read."""
    proxy.faults = [Fault("GET .*/manifests/", status=200, body=b" " * (5 << 20))]
    with pytest.raises(Invalid, match="larger than"):
        await repository.fetch_manifest()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "MANIFEST_UNKNOWN", "manifest for {}:1 not found: manifest unknown: said so"),
        (404, "NAME_UNKNOWN", "repository {} not found: name unknown: said so"),
        (
            403,
            "DENIED",
            "pull access denied for {}, repository does not exist or may require 'docker login': denied",
        ),
        (404, "DENIED", "pull access denied for {}, "),
    ],
)
async def test_refusals_are_in_dockers_words(
    proxy: Any, repository: Repository, status: int, code: str, words: str
) -> None:
    """Scripts look for them."""
    body = f'{{"errors":[{{"code":"{code}","message":"said so"}}]}}'.encode()
    proxy.faults = [Fault("GET .*/manifests/", status=status, body=body)]
    with pytest.raises(NotFound) as refused:
        await repository.fetch_manifest()
    assert str(refused.value).startswith(words.format(f"{proxy.address}/a/b"))


async def test_nobody_there_is_told_at_once() -> None:
    """The words of Go's dialer, and no second try."""
    port = free_port()
    async with open_repository(f"127.0.0.1:{port}/a") as repository:
        with pytest.raises(Unavailable, match=f"dial tcp 127.0.0.1:{port}: connect: connection refused"):
            await repository.find_digest()


async def test_a_registry_with_a_password(tmp_path: Path) -> None:
    """It opens with the right one; the wrong one and none are refused, and the password is in no message."""
    with running_registry(tmp_path / "r", password=True) as registry:
        name = f"{registry.address}/a/b:1"
        async with open_repository(name, Credentials(USER, PASSWORD)) as repository:
            with pytest.raises(NotFound, match="manifest unknown"):
                await repository.fetch_manifest()
        async with open_repository(name, Credentials(USER, "wr0ng-word")) as repository:
            with pytest.raises(NotFound, match="pull access denied") as refused:
                await repository.fetch_manifest()
        assert "wr0ng" not in str(refused.value)
        async with open_repository(name) as repository:
            with pytest.raises(Unauthenticated, match="no basic auth credentials"):
                await repository.fetch_manifest()


async def test_a_bearer_token_is_fetched_once_and_again_when_it_ends(
    proxy: Any, repository: Repository
) -> None:
    """401 leads to the token server; a token that is refused later is replaced by another."""
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{proxy.address}/token",service="s"'}
    proxy.faults = [
        Fault("HEAD", status=401, headers=challenge),
        Fault("/token", status=200, body=b'{"token":"first"}'),
        Fault(BLOBS, status=401, headers=challenge),
        Fault("/token", status=200, body=b'{"token":"second"}'),
    ]
    await repository.find_digest()
    assert await read(repository) == BLOB
    sent = [headers.get("Authorization") for line, headers in proxy.seen if "/token" not in line]
    assert sent[-3:] == ["Bearer first", "Bearer first", "Bearer second"]


async def test_a_redirect_to_another_server_gets_no_token(registry: Any, proxy: Any) -> None:
    """The storage behind a registry must not learn it; the same server does get it."""
    async with AsyncExitStack() as stack:
        storage = await start_proxy(registry.address, stack.push_async_callback)
        path = f"/v2/a/b/blobs/{LAYER.digest}?signature=s3cret"
        moves = [{"Location": path}, {"Location": f"http://{storage.address}{path}"}]
        proxy.faults = [Fault("HEAD", status=401, headers={"WWW-Authenticate": "Basic"})]
        proxy.faults += [Fault(BLOBS, status=307, headers=move) for move in moves]
        name = f"{proxy.address}/a/b:1"
        repository = await stack.enter_async_context(open_repository(name, Credentials("me", "pw")))
        await repository.find_digest()
        assert await read(repository) == BLOB
    assert proxy.seen[-1][1]["Authorization"].startswith("Basic ")
    assert [headers.get("Authorization") for _, headers in storage.seen if headers] == [None] * len(
        storage.seen
    )


async def test_redirects_without_end_are_ended(proxy: Any, repository: Repository) -> None:
    """And what cannot be asked is not asked."""
    proxy.faults = [Fault(BLOBS, times=99, status=302, headers={"Location": f"/v2/a/b/blobs/{LAYER.digest}"})]
    with pytest.raises(Unavailable, match="redirects"):
        await read(repository)
    proxy.faults = [Fault(BLOBS, status=302, headers={"Location": "file:///etc/passwd"})]
    with pytest.raises(Unavailable, match="redirects to where nobody"):
        await read(repository)


async def test_mirrors_are_tried_in_order(registry: Any, proxy: Any) -> None:
    """A dead one and one that refuses are passed over; credentials are for the registry alone."""
    async with AsyncExitStack() as stack:
        good = await start_proxy(registry.address, stack.push_async_callback)
        proxy.faults = [Fault("", times=99, status=401, headers={"WWW-Authenticate": "Basic"})]
        mirrors = tuple(f"http://{one}" for one in (f"127.0.0.1:{free_port()}", proxy.address, good.address))
        remote = open_repository("a/b:1", Credentials("me", "pw"), mirrors=mirrors)
        repository = await stack.enter_async_context(remote)
        document = await repository.fetch_manifest()
        assert document.digest == digest_bytes(document.data)
        assert await read(repository) == BLOB
    assert proxy.count(MANIFESTS) == 1 and proxy.count(BLOBS) == 0
    assert not any("Authorization" in headers for _, headers in (*proxy.seen, *good.seen))


async def test_a_mirror_of_any_registry_holds_names_with_a_prefix(registry: Any, proxy: Any) -> None:
    """The repository is asked for below the mirror's path; what the mirror has not comes from the registry."""
    async with AsyncExitStack() as stack:
        origin = await start_proxy(registry.address, stack.push_async_callback)
        rules = {origin.address: Rules((f"http://127.0.0.1:{free_port()}", f"http://{proxy.address}/a"))}
        repository = await stack.enter_async_context(
            open_repository(f"{origin.address}/b:1", registries=rules)
        )
        document = await repository.fetch_manifest()
        assert document.digest == digest_bytes(document.data)
        assert origin.count("") == 0 and proxy.count("/v2/a/b/manifests/1") == 1
        other = await stack.enter_async_context(open_repository(f"{origin.address}/a/b:1", registries=rules))
        assert (await other.fetch_manifest()).digest == document.digest
        assert proxy.count("/v2/a/a/b/manifests/1") > 0 and origin.count("/v2/a/b/manifests/1") > 0


async def test_a_registry_without_tls_is_asked_at_once_the_next_time(proxy: Any) -> None:
    """The failing handshake comes once; should the registry have TLS by then, it is found again."""
    hosts = Hosts()
    reference = parse_reference(f"{proxy.address}/a/b:1")
    async with Remotes(hosts, QUICK).open(reference) as repository:
        await repository.find_digest()
    assert hosts.order_bases(hosts.host(proxy.address))[0] == f"http://{proxy.address}"
    hosts.answered[proxy.address] = f"https://{proxy.address}"
    async with Remotes(hosts, QUICK).open(reference) as repository:
        assert await repository.find_digest()
    assert hosts.answered == {proxy.address: f"http://{proxy.address}"}
