"""A registry of this process with an upstream, whose clock is the test's."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cais.registry.collect import Collector
from cais.registry.origins import parse_origin
from cais.registry.upstreams import Upstreams
from harness.origin import Origin, running_origin
from harness.serving import Served, serving
from harness.wire import Reply, Wire

EXPIRY = 300.0


@dataclass
class Cache:
    """Repositories below ``up/`` are the origin's."""

    served: Served
    origin: Origin
    now: float = 1000.0
    """Seconds; nothing but the test moves them."""
    upstreams: Upstreams | None = None

    def connect(self, path: str = "", login: str = "", *, allow_private: bool = True) -> None:
        """Have the upstream, anew: ``path`` is where in the origin, ``login`` who we are there."""
        self.close()
        url = self.origin.url.replace("//", f"//{login}@") if login else self.origin.url
        self.upstreams = self.served.registry.upstreams = Upstreams(
            self.served.registry,
            [parse_origin(f"up={url}{path}")],
            expiry=EXPIRY,
            allow_private=allow_private,
            clock=lambda: self.now,
        )

    def close(self) -> None:
        """Give up what is on its way. Idempotent."""
        if self.upstreams is not None:
            self.served.run(self.upstreams.close())
            self.upstreams = None

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        """One request on a connection of its own, below ``/v2/up/``."""
        with closing(Wire(self.served.port)) as wire:
            return wire.ask(method, f"/v2/up/{path}", body, headers or {})

    def digest(self, path: str) -> str:
        """What the registry says that a manifest's digest is."""
        return self.ask("GET", path).headers["docker-content-digest"]

    def collect(self) -> None:
        """Have everything collected that no grace period keeps."""
        collector = Collector(self.served.registry, grace=0.0, upload_age=0.0)
        for _ in range(3):
            self.served.run(collector.collect())


@contextmanager
def caching(root: Path) -> Iterator[Cache]:
    """A cache and its origin."""
    with running_origin() as origin, serving(root) as served:
        cache = Cache(served, origin)
        cache.connect()
        try:
            yield cache
        finally:
            cache.close()
