"""A hub with people and images in it, as the pages' tests want to see it."""

import json
import random
from typing import Any

from harness.apihub import ApiHub, populate
from harness.cargo import Layered, Pusher
from harness.visitor import Visitor

DAY_NS = 86_400 * 10**9
README = """# Timetable

Which ships come, which go, and **when**. The table is made anew every minute.

```
docker run -p 8080:8080 harbour/timetable
```

| Variable | What it does |
|---|---|
| `PORT` | where it listens |
| `ZONE` | whose time it tells |

- answers `GET /today` with JSON
- needs no database, see [how it works](https://example.com/timetable)
"""
SHIPS = (
    ("harbour/crane", "Lifts things from one place to another"),
    ("harbour/buoy", "Says where the shallow water is"),
    ("harbour/tide-tables", "High and low water for a year"),
    ("nautilus/sonar", "Listens"),
    ("nautilus/logbook", "What happened on board"),
    ("nautilus/ballast", "Keeps things upright"),
    ("alder/web-server", "Static files, quickly"),
    ("alder/cache", "Remembers for a while"),
    ("alder/queue", "First in, first out"),
    ("alder/mailer", "Letters to many"),
    ("busybox", "Small tools in one program"),
)
_EMPTY = (
    "ENV PATH=/usr/local/bin:/usr/bin:/bin",
    "WORKDIR /srv/timetable",
    "USER nobody",
    "EXPOSE 8080/tcp",
    'ENTRYPOINT ["/srv/timetable/serve"]',
)
SPDX = {
    "spdxVersion": "SPDX-2.3",
    "packages": [
        {"name": name, "versionInfo": version, "licenseConcluded": license}
        for name, version, license in (
            ("libc6", "2.36", "LGPL-2.1"),
            ("libssl3", "3.0.15", "Apache-2.0"),
            ("curl", "7.88", "curl"),
            ("ca-certificates", "20230311", "MPL-2.0"),
        )
    ],
}


def timetable_config(version: int) -> dict[str, Any]:
    """What a container of the timetable starts with."""
    return {
        "Entrypoint": ["/srv/timetable/serve"],
        "Cmd": ["--port", "8080"],
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", f"VERSION={version}.0", "ZONE=UTC"],
        "WorkingDir": "/srv/timetable",
        "User": "nobody",
        "ExposedPorts": {"8080/tcp": {}},
        "Labels": {
            "org.opencontainers.image.description": "Which ships come, which go, and when",
            "org.opencontainers.image.source": "https://example.com/harbour/timetable",
            "org.opencontainers.image.version": f"{version}.0",
        },
    }


def timetable_layers(version: int) -> list[Layered]:
    """The same base, more of the program with each version."""
    dice = random.Random(7)
    base = Layered(
        "/bin/sh -c #(nop) ADD file:3b2c1d in / ",
        {
            "bin/": b"",
            "bin/sh": dice.randbytes(420_000),
            "bin/ls": "-> sh",
            "etc/": b"",
            "etc/os-release": "ID=quay\n",
            "usr/lib/libc.so.6": dice.randbytes(310_000),
        },
    )
    tools = Layered(
        "RUN /bin/sh -c apt-get update && apt-get install -y --no-install-recommends ca-certificates curl "
        "&& rm -rf /var/lib/apt/lists/* # buildkit",
        {
            "usr/bin/curl": dice.randbytes(160_000),
            "usr/lib/libssl.so.3": dice.randbytes(240_000),
            "etc/ssl/certs/ca.pem": dice.randbytes(40_000),
        },
    )
    app: dict[str, bytes | str] = {
        "srv/timetable/serve": dice.randbytes(90_000 + 30_000 * version),
        "srv/timetable/static/site.css": "body {}\n" * 40,
    }
    if version > 1:
        app["srv/timetable/zones.json"] = json.dumps({"UTC": 0})
    layers = [base, tools, Layered("COPY dist/ /srv/timetable/ # buildkit", app)]
    if version > 2:
        layers.append(Layered("RUN /bin/sh -c rm /usr/bin/curl # buildkit", {"usr/bin/.wh.curl": b""}))
    return layers


def push_timetable(pusher: Pusher) -> dict[str, Any]:
    """Three versions; ``latest`` for two platforms, signed, with a bill of materials. The newest's descriptor."""
    name = "harbour/timetable"
    for version in (1, 2, 3):
        how = {"config": timetable_config(version), "empty": _EMPTY}
        newest = pusher.image(name, f"{version}.0", timetable_layers(version), **how)
    arm = pusher.image(
        name, "", timetable_layers(3), config=timetable_config(3), empty=_EMPTY, architecture="arm64"
    )
    pusher.index(name, "latest", [newest, arm])
    pusher.attach(name, newest, json.dumps(SPDX).encode(), "application/spdx+json")
    signature = {
        "critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": newest["digest"]},
        }
    }
    pusher.attach(
        name,
        newest,
        json.dumps(signature).encode(),
        "application/vnd.dev.cosign.simplesigning.v1+json",
        ref=newest["digest"].replace(":", "-") + ".sig",
    )
    return newest


def stock(served: ApiHub, *, accounts: bool = True) -> dict[str, Any]:
    """Fill the hub: people (``root``, ``harbour``, ``nautilus``, ``alder``), images, pulls. The newest timetable's
    descriptor."""
    if accounts:
        populate(served, "harbour", "nautilus", "alder")
    pusher = Pusher(served.port, ("root", served.tokens["root"]) if accounts else None)
    newest = push_timetable(pusher)
    for index, (name, about) in enumerate(SHIPS):
        config = {"Labels": {"org.opencontainers.image.description": about}}
        layer = Layered("ADD rootfs.tar /", {"bin/app": random.Random(index).randbytes(9_000 * (index + 1))})
        pusher.image(name, "1", [layer], config=config)
        pusher.pull(name, "1", 1 + index % 3)
    pusher.pull("harbour/timetable", "latest", 5)
    served.run(served.hub.registry.flush())
    served.run(_remember_pulls(served))
    return newest


async def _remember_pulls(served: ApiHub) -> None:
    """A year of pulls, and a README."""

    def act(db: Any) -> None:
        (today,) = db.execute("SELECT MAX(day) FROM pulls").fetchone()
        (id,) = db.execute("SELECT id FROM repositories WHERE name = 'harbour/timetable'").fetchone()
        dice = random.Random(3)
        days = [
            (id, today - n, max(0, int(60 - n / 8 + 18 * dice.random() - 25 * (n % 7 < 2))))
            for n in range(1, 365)
        ]
        db.executemany("INSERT INTO pulls VALUES (?, ?, ?)", days)
        db.execute(
            "UPDATE repositories SET pulls = pulls + ?, readme = ? WHERE id = ?",
            (sum(count for _, _, count in days), README, id),
        )
        for index, (name, _) in enumerate(SHIPS):
            db.execute("UPDATE repositories SET pulls = ? WHERE name = ?", (4000 // (index + 1), name))

    await served.hub.database.write(act)


def logged_in(hub: ApiHub, name: str) -> Visitor:
    """Somebody with a session."""
    visitor = Visitor(hub.port)
    value, _ = hub.run(hub.hub.people.sessions.open(name))
    visitor.cookies["cais_session"] = value
    return visitor


def push(hub: ApiHub, name: str, tag: str = "1", **how: object) -> None:
    """A small image, by the administrator."""
    pusher = Pusher(hub.port, ("root", hub.tokens["root"]))
    pusher.image(name, tag, [Layered("ADD x /", {"x": name.encode()})], **how)
