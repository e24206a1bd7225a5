"""From a request to the room that answers it: who asks, by which name, where to; the access log and the measures.

What proxies say of their clients is believed of those that are listed, and of nobody else. A Host that is no host is
refused, as it goes into challenges and links. A hub without accounts on a loopback address is refused to web pages too
that have their own name point to it (DNS rebinding): there only names of this machine are answered.
"""

import contextlib
import functools
import ipaddress
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TextIO
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web
from multidict import CIMultiDictProxy
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from cais.errors import Invalid

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
UNLISTED = "unlisted-proxy"
"""The address of who comes through a proxy on this machine that nobody listed: not this machine's, whose it is not."""
_HOST = re.compile(r"(?P<name>[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)


_encode = msgspec.json.Encoder().encode


class Measures:
    """Prometheus' numbers of one hub."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cais_hub_requests_total", "Requests.", ("area", "method", "code"), registry=self.registry
        )
        self.seconds = Histogram(
            "cais_hub_request_seconds", "Time to answer.", ("area",), buckets=BUCKETS, registry=self.registry
        )
        self.sent = Counter(
            "cais_hub_sent_bytes_total", "Bytes of answers.", ("area",), registry=self.registry
        )
        self._children: dict[tuple[str, str, int], Counter] = {}
        self._seconds: dict[str, Histogram] = {}

    def note(self, area: str, method: str, code: int, seconds: float, sent: int) -> None:
        """One answered request. ``labels()`` is slow: its children are kept."""
        method = method if method in hdrs.METH_ALL else "OTHER"  # clients must not make children at will
        key = (area, method, code)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self.requests.labels(area, method, str(code))
            self._seconds.setdefault(area, self.seconds.labels(area))
        child.inc()
        self._seconds[area].observe(seconds)
        if sent:
            self.sent.labels(area).inc(sent)

    def format(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class Server:
    """``rooms``: path prefix → who answers, the longest that fits; ``/`` catches the rest. ``proxies``: who may say
    whom it speaks for; ``hosts``: by which names we are called; None: by any."""

    def __init__(
        self,
        rooms: Sequence[tuple[str, str, Answer]],
        measures: Measures,
        log: TextIO | None = None,
        *,
        proxies: Networks = (),
        hosts: frozenset[str] | None = None,
    ) -> None:
        longest = sorted(rooms, key=lambda room: -len(room[0]))
        self._rooms = [
            (prefix.rstrip("/"), prefix.rstrip("/") + "/", area, act) for prefix, area, act in longest
        ]
        self._measures = measures
        self._log = log
        self._proxies = proxies
        self._hosts = hosts

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer; aiohttp's handler."""
        began = time.perf_counter()
        area, answer = self._find(request)
        request = self._behind_proxies(request)
        code, sent = 499, 0  # 499: the client went away first (nginx's number)
        try:
            reply = await answer(request)
            code, sent = reply.status, reply.content_length or 0
            return reply
        finally:
            seconds = time.perf_counter() - began
            self._measures.note(area, request.method, code, seconds, sent)
            if self._log is not None:
                # A full disk is no reason to answer nobody.
                with contextlib.suppress(OSError):
                    self._log.write(_log_line(request, code, sent, seconds))

    def _find(self, request: web.BaseRequest) -> tuple[str, Answer]:
        if not is_host(request.host, self._hosts):
            return "refused", _refuse_host
        path = request.raw_path.partition("?")[0]
        for whole, start, area, answer in self._rooms:
            if path.startswith(start) or path == whole:
                return area, answer
        return "refused", _refuse_target

    def _behind_proxies(self, request: web.BaseRequest) -> web.BaseRequest:
        """The request as it would have come without the proxies between."""
        peer = request.remote or "unix"
        address = client_address(peer, request.headers, self._proxies)
        if not self._proxies and address == peer:
            return request
        scheme = request.scheme
        if _is_listed(peer, self._proxies):
            said = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
            scheme = said if said in ("http", "https") else scheme
        if (address, scheme) == (request.remote, request.scheme):
            return request
        return request.clone(remote=address, scheme=scheme)


def client_address(peer: str, headers: CIMultiDictProxy[str], proxies: Networks) -> str:
    """Who asks. Each proxy adds to X-Forwarded-For whom it was asked by: they are read from the last one backwards, as
    far as those that said it are listed; what stands before, anybody may have written."""
    address = _plain(peer)
    if not proxies and "X-Forwarded-For" not in headers and "Forwarded" not in headers:
        return address  # nearly always
    ip = _parse_ip(peer)
    said = ",".join(headers.getall("X-Forwarded-For", ()))
    if not _is_listed(address, proxies):
        forwarded = bool(said) or "Forwarded" in headers
        return UNLISTED if forwarded and ip is not None and ip.is_loopback else address
    for text in reversed(said.split(",")):
        ip = _parse_ip(text)
        if ip is None:
            break
        address = str(ip)
        if not _is_listed(address, proxies):
            break
    return address


def parse_proxies(texts: Iterable[str]) -> Networks:
    """Addresses or networks of proxies. Raises Invalid."""
    try:
        return tuple(map(ipaddress.ip_network, texts))
    except ValueError as error:
        raise Invalid(f"--proxies: {error}") from None


def parse_own_origin(text: str) -> str:
    """Where clients find the hub: scheme and host, no path; empty: not said. Raises Invalid."""
    parts = urlsplit(text)
    if text and (
        parts.scheme not in ("http", "https") or not is_host(parts.netloc) or parts.path not in ("", "/")
    ):
        raise Invalid(f"--origin {text!r}: want https://name or https://name:port")
    return text.rstrip("/")


def local_hosts(listen: Iterable[str], origin: str) -> frozenset[str] | None:
    """By which names a hub is called that only this machine reaches; None: others reach it."""
    for text in listen:
        host = text.rpartition(":")[0].strip("[]") or "127.0.0.1"
        ip = _parse_ip(host)
        if host != "localhost" and not (ip and ip.is_loopback):
            return None
    named = urlsplit(origin).hostname
    return frozenset({"localhost", socket.gethostname().lower(), *([named] if named else [])})


@functools.lru_cache(4096)
def is_host(text: str, names: frozenset[str] | None = None) -> bool:
    """Whether it is a host as it stands in a URL, and one of ``names``; an address is always one of them."""
    match = _HOST.fullmatch(text)
    if match is None or names is None:
        return match is not None
    name = match["name"].lower().rstrip(".")
    return name in names or name.endswith(".localhost") or _parse_ip(name.strip("[]")) is not None


@functools.lru_cache(4096)
def _plain(text: str) -> str:
    """An address as it is usually written; anything else as it is."""
    ip = _parse_ip(text)
    return str(ip) if ip else text


@functools.lru_cache(4096)
def _parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Also with a port, as some proxies write it. An IPv4 address inside of an IPv6 one is that."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def _is_listed(address: str, proxies: Networks) -> bool:
    ip = _parse_ip(address) if proxies else None
    return ip is not None and any(ip in network for network in proxies)


async def _refuse_host(request: web.BaseRequest) -> web.StreamResponse:
    if is_host(request.host):
        text = f"this hub is not called {request.host}: if it should be, say so with --origin\n"
        return web.Response(status=421, text=text)
    return web.Response(status=400, text="the Host header is not a host\n")


async def _refuse_target(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=400, text="want a path\n")


def _log_line(request: web.BaseRequest, code: int, sent: int, seconds: float) -> str:
    """One line of JSON; never a header, which may hold a secret, nor a query, which may too."""
    line = {
        "at": round(time.time(), 3),
        "from": request.remote or "",
        "method": request.method,
        "path": _clean(request.raw_path.partition("?")[0][:500]),
        "status": code,
        "bytes": sent,
        "ms": round(seconds * 1000, 2),
        "agent": _clean(request.headers.get("User-Agent", ""))[:200],
    }
    return _encode(line).decode() + "\n"


def _clean(text: str) -> str:
    """Bytes that are no text, and came through as halves of pairs, cannot be written as they are."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
