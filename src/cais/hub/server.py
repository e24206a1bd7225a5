"""From a request to the room that answers it; with the access log and the measures."""

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TextIO

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)


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
    """``rooms``: path prefix → who answers, the longest that fits; ``/`` catches the rest."""

    def __init__(
        self, rooms: Sequence[tuple[str, str, Answer]], measures: Measures, log: TextIO | None = None
    ) -> None:
        self._rooms = sorted(rooms, key=lambda room: -len(room[0]))
        self._measures = measures
        self._log = log

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer; aiohttp's handler."""
        began = time.perf_counter()
        path = request.raw_path
        area, answer = next((area, act) for prefix, area, act in self._rooms if path.startswith(prefix))
        code, sent = 499, 0  # 499: the client went away first (nginx's number)
        try:
            reply = await answer(request)
            code, sent = reply.status, reply.content_length or 0
            return reply
        finally:
            seconds = time.perf_counter() - began
            self._measures.note(area, request.method, code, seconds, sent)
            if self._log is not None:
                self._log.write(_log_line(request, code, sent, seconds))


def _log_line(request: web.BaseRequest, code: int, sent: int, seconds: float) -> str:
    """One line of JSON; never a header, which may hold a secret, nor a query, which may too."""
    line = {
        "at": round(time.time(), 3),
        "from": request.remote or "",
        "method": request.method,
        "path": request.raw_path.partition("?")[0][:500],
        "status": code,
        "bytes": sent,
        "ms": round(seconds * 1000, 2),
        "agent": request.headers.get("User-Agent", "")[:200],
    }
    return json.dumps(line, separators=(",", ":")) + "\n"
