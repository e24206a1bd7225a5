"""Which servers stand for a registry's name, how to speak to them, and whom they are trusted by."""

import ipaddress
import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cais.config import Registry
from cais.errors import Invalid
from cais.spec.reference import DEFAULT_DOMAIN, Reference, is_path, parse_reference

DOCKER_HUB = "registry-1.docker.io"
CERTS_D = (Path("/etc/cais/certs.d"), Path("/etc/docker/certs.d"))
"""Where ``<host[:port]>/{*.crt,*.cert,*.key}`` are looked for; the first folder that is there counts."""


@dataclass(frozen=True, slots=True)
class Host:
    """One server. ``name`` is its host[:port]; ``bases`` are URLs to try in order; ``is_verified``: its
    certificate must be good; ``is_mirror``: it holds copies, so it is never shown the registry's credentials;
    ``prefix``: what its repositories' names start with, slash included (proxies that stand for several registries)."""

    name: str
    bases: tuple[str, ...]
    is_verified: bool = True
    is_mirror: bool = False
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Hosts:
    """The rules of one engine: ``mirrors`` are URLs of mirrors of Docker Hub, ``insecure`` are host[:port] or CIDR,
    ``registries`` say more of a registry by its name in references."""

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    certs: tuple[Path, ...] = CERTS_D
    registries: Mapping[str, Registry] = field(default_factory=dict)
    answered: dict[str, str] = field(default_factory=dict, compare=False)
    """By host[:port], the base by which it answered last: an insecure one without TLS would otherwise cost a failing
    handshake with every pull. The other base is still tried when that one fails."""

    def find(self, reference: Reference) -> tuple[Host, ...]:
        """The servers to ask for ``reference``, in this order; the last one is the registry itself."""
        mirrors = self.registries.get(reference.domain, Registry()).mirrors
        if reference.domain == DEFAULT_DOMAIN:
            mirrors += self.mirrors
        return (*map(self._mirror, mirrors), self.origin(reference.domain))

    def origin(self, domain: str) -> Host:
        """The registry itself that ``domain`` in a reference means: the only one to push to."""
        return self.host(DOCKER_HUB if domain == DEFAULT_DOMAIN else domain)

    def host(self, name: str) -> Host:
        """The server ``name``. An insecure one is tried with TLS, its certificate unchecked, then without, as
        dockerd does."""
        if self._is_insecure(name):
            return Host(name, (f"https://{name}", f"http://{name}"), is_verified=False)
        return Host(name, (f"https://{name}",))

    def _mirror(self, url: str) -> Host:
        parts = urlsplit(url)
        prefix = parts.path.strip("/")
        return Host(
            parts.netloc,
            (f"{parts.scheme}://{parts.netloc}",),
            is_verified=not self._is_insecure(parts.netloc),
            is_mirror=True,
            prefix=f"{prefix}/" if prefix else "",
        )

    def _is_insecure(self, name: str) -> bool:
        return self.registries.get(name, Registry()).insecure or is_insecure(name, self.insecure)

    def order_bases(self, host: Host) -> tuple[str, ...]:
        """The bases of ``host``, first the one that answered last."""
        last = self.answered.get(host.name)
        return tuple(sorted(host.bases, key=lambda base: base != last))

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


def check_mirror(url: str, *, may_have_path: bool = False) -> str:
    """``url`` if it can be a mirror. Raises Invalid in dockerd's words. A path is a prefix of the names there."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname)
    except ValueError:
        raise Invalid(f'invalid mirror: "{url}" is not a valid URI') from None
    if parts.scheme not in ("http", "https") or not named:
        raise Invalid(f'invalid mirror: unsupported scheme "{parts.scheme}" in "{url}"')
    if parts.username is not None:
        raise Invalid("invalid mirror: username/password not allowed in URI")
    path = "" if may_have_path and is_path(parts.path.strip("/")) else parts.path
    if path not in ("", "/") or parts.query or parts.fragment:
        raise Invalid(f'invalid mirror: path, query, or fragment at end of the URI "{url}"')
    return url


def check_domain(name: str) -> str:
    """``name`` if references can start with it. Raises Invalid."""
    with suppress(Invalid):
        if parse_reference(f"{name}/x").domain == name:
            return name
    raise Invalid(
        f"invalid registry name {name!r}: want host[:port] as it stands in references, such as ghcr.io"
    )


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
    if not proxy or is_loopback(host):
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


def is_loopback(host: str) -> bool:
    """Whether ``host``, without a port, is this machine by its name or address."""
    if host == "localhost":
        return True
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
