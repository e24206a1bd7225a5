"""TLS: a certificate made at the first start, or given ones."""

import http.client
import os
import ssl
import stat
from pathlib import Path

import pytest

from cais.errors import Invalid
from cais.hub.tls import ensure_certificate, load_context, make_certificate
from cais.spec.digest import digest_bytes
from harness.hub import LiveHub, running_hub

pytestmark = pytest.mark.slow


def ask(hub: LiveHub, authority: Path, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """One request over TLS that believes ``authority`` alone."""
    context = ssl.create_default_context(cafile=str(authority))
    connection = http.client.HTTPSConnection("127.0.0.1", hub.port, context=context, timeout=30)
    try:
        connection.request(method, path, body)
        reply = connection.getresponse()
        location = reply.getheader("Location", "").encode()
        return reply.status, reply.read() or location
    finally:
        connection.close()


def test_a_certificate_of_its_own(tmp_path: Path) -> None:
    """It is made at the first start, good for this machine's names, and the same after a restart; blobs come whole
    where the kernel cannot send them."""
    with running_hub(tmp_path / "hub", "--open", "--tls-self-signed") as hub:
        authority = hub.root / "tls" / "hub.crt"
        first = authority.read_bytes()
        assert "https://" in hub.lines[0]
        data = os.urandom(3 << 20)
        status, location = ask(hub, authority, "POST", "/v2/a/b/blobs/uploads/")
        assert status == 202
        digest = digest_bytes(data)
        assert ask(hub, authority, "PUT", f"{location.decode()}?digest={digest}", data)[0] == 201
        assert ask(hub, authority, "GET", f"/v2/a/b/blobs/{digest}") == (200, data)
        assert stat.S_IMODE((hub.root / "tls" / "hub.key").stat().st_mode) == 0o600
        hub.stop()
        hub.start()
        assert authority.read_bytes() == first
        with pytest.raises(ssl.SSLCertVerificationError):
            other = tmp_path / "other.crt"
            other.write_bytes(make_certificate({"127.0.0.1"})[0])
            ask(hub, other, "GET", "/v2/")


def test_given_certificates(tmp_path: Path) -> None:
    """They are shown; ones that do not fit one another are refused before anything starts."""
    certificate, key = ensure_certificate(tmp_path / "mine", ())
    _, other = ensure_certificate(tmp_path / "other", ())
    words = ("--open", "--tls-cert", str(certificate), "--tls-key", str(key))
    with running_hub(tmp_path / "hub", *words) as hub:
        assert ask(hub, certificate, "GET", "/v2/") == (200, b"{}")
    with pytest.raises(Invalid, match="cannot use certificate"):
        load_context(certificate, other)


def test_old_versions_are_refused(tmp_path: Path) -> None:
    """TLS 1.1 and below are not spoken."""
    context = load_context(*ensure_certificate(tmp_path, ()))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
