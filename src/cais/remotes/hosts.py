"""Which servers stand for a registry's name, how to speak to them, and whom they are trusted by."""

import ipaddress
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cais.errors import Invalid
from cais.spec.reference import DEFAULT_DOMAIN, Reference

DOCKER_HUB = "registry-1.docker.io"
CERTS_D = (Path("/etc/cais/certs.d"), Path("/etc/docker/certs.d"))
"""Where ``<host[:port]>/{*.crt,*.cert,*.key}`` are looked for; the first folder that is there counts."""


@dataclass(frozen=True, slots=True)
class Host:
    """One server. ``name`` is its host[:port]; ``bases`` are URLs to try in order; ``is_verified``: its
    certificate must be good; ``is_mirror``: it holds copies, so it is never shown the registry's credentials."""

    name: str
    bases: tuple[str, ...]
    is_verified: bool = True
    is_mirror: bool = False


@dataclass(frozen=True, slots=True)
class Hosts:
    """The rules of one engine: ``mirrors`` are URLs of mirrors of Docker Hub, ``insecure`` are host[:port] or CIDR."""

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    certs: tuple[Path, ...] = CERTS_D

    def find(self, reference: Reference) -> tuple[Host, ...]:
        """The servers to ask for ``reference``, in this order; the last one is the registry itself."""
        if reference.domain != DEFAULT_DOMAIN:
            return (self.host(reference.domain),)
        return (*map(self._mirror, self.mirrors), self.host(DOCKER_HUB))

    def host(self, name: str) -> Host:
        """The server ``name``. An insecure one is tried with TLS, its certificate unchecked, then without, as
        dockerd does."""
        if is_insecure(name, self.insecure):
            return Host(name, (f"https://{name}", f"http://{name}"), is_verified=False)
        return Host(name, (f"https://{name}",))

    def _mirror(self, url: str) -> Host:
        parts = urlsplit(url)
        insecure = is_insecure(parts.netloc, self.insecure)
        return Host(parts.netloc, (url.rstrip("/"),), is_verified=not insecure, is_mirror=True)

    def make_tls(self, host: Host) -> ssl.SSLContext:
        """Whom to trust at ``host`` and what to show there, by its folder in ``certs.d`` (Docker's layout: ``*.crt``
        authorities, ``*.cert`` with ``*.key`` for us). Raises Invalid; blocks for some milliseconds."""
        if host.is_verified:
            context = ssl.create_default_context()
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        for base in self.certs:
            folder = base / host.name
            if folder.is_dir():
                _add_certificates(context, folder)
                break
        return context


def check_mirror(url: str) -> str:
    """``url`` if it can be a mirror. Raises Invalid in dockerd's words."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname)
    except ValueError:
        raise Invalid(f'invalid mirror: "{url}" is not a valid URI') from None
    if parts.scheme not in ("http", "https") or not named:
        raise Invalid(f'invalid mirror: unsupported scheme "{parts.scheme}" in "{url}"')
    if parts.username is not None:
        raise Invalid("invalid mirror: username/password not allowed in URI")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Invalid(f'invalid mirror: path, query, or fragment at end of the URI "{url}"')
    return url


def is_insecure(name: str, insecure: Sequence[str]) -> bool:
    """Whether the server ``name`` (host[:port]) may be spoken to without a good certificate: listed, in a listed
    network by its address, or loopback."""
    if name in insecure:
        return True
    host = urlsplit(f"//{name}").hostname or ""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in _networks(insecure))


def find_proxy(url: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The proxy for ``url`` by HTTP_PROXY, HTTPS_PROXY and NO_PROXY; none for loopback, as in Go's programs."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = _variable(environ, f"{parts.scheme}_proxy")
    if not proxy or host == "localhost" or _is_loopback(host):
        return None
    if any(
        _is_excluded(parts.netloc, host, word.strip()) for word in _variable(environ, "no_proxy").split(",")
    ):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper()) or ""


def _is_excluded(netloc: str, host: str, word: str) -> bool:
    """Whether one word of NO_PROXY means ``host``: itself, a domain it is in, an address, a network, or all."""
    if not word:
        return False
    name = word.removeprefix("*").removeprefix(".").lower()
    if word == "*" or netloc == word or host == name or host.endswith(f".{name}"):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(word, strict=False)
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _networks(insecure: Sequence[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    found = []
    for text in insecure:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            continue  # a host's name
    return found


def _add_certificates(context: ssl.SSLContext, folder: Path) -> None:
    names = set(os.listdir(folder))
    try:
        for name in sorted(names):
            path = folder / name
            match path.suffix:
                case ".crt":
                    context.load_verify_locations(path)
                case ".cert" if f"{path.stem}.key" not in names:
                    raise Invalid(
                        f"missing key {path.stem}.key for client certificate {name}. CA certificates must use "
                        "the extension .crt"
                    )
                case ".cert":
                    context.load_cert_chain(path, path.with_suffix(".key"))
                case ".key" if f"{path.stem}.cert" not in names:
                    raise Invalid(f"missing client certificate {path.stem}.cert for key {name}")
    except OSError as error:  # ssl.SSLError is one
        raise Invalid(f"cannot use the certificates in {folder}: {error}") from error
