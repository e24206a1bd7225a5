"""Where an engine listens: the one value both faces connect by."""

import os
import ssl
from dataclasses import dataclass

from cais.config import DEFAULT_HOST
from cais.errors import Invalid


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files; ``ca`` signs the engine's certificate, ``cert`` and ``key`` are the client's."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """Settings for a connection. OSError for unreadable files, ssl.SSLError for ones that make no sense."""
        context = ssl.create_default_context(cafile=self.ca or None)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        return context


@dataclass(frozen=True, slots=True)
class Target:
    """``path`` of a unix socket, or ``name`` and ``port`` of a TCP one."""

    text: str
    path: str = ""
    name: str = ""
    port: int = 0
    tls: Tls | None = None


def parse_target(host: str, tls: Tls | None = None) -> Target:
    """``unix:///path`` or ``tcp://name:port``; empty: CAIS_HOST, else the default socket. Raises Invalid."""
    text = host or os.environ.get("CAIS_HOST", "") or DEFAULT_HOST
    kind, _, address = text.partition("://")
    if kind == "unix" and address:
        return Target(text, path=address)
    name, _, port = address.rstrip("/").rpartition(":")
    if kind not in ("tcp", "http", "https") or not name or not port.isdigit():
        raise Invalid(f"not a host: {text} (unix:///path or tcp://name:port)")
    return Target(
        text, name=name.strip("[]"), port=int(port), tls=tls or (Tls() if kind == "https" else None)
    )
