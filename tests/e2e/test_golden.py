"""Our JSON has every key that dockerd 28's has, with the same type.

The golden files hold shapes, not values. ``CAIS_GOLDEN_FROM=/path/to/docker.sock pytest
tests/e2e/test_golden.py`` writes them anew from a real dockerd.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "api"
NAMES = (
    "version",
    "info",
    "images",
    "image",
    "history",
    "container",
    "containers",
    "network",
    "networks",
    "volume",
)
NAMES += ("volumes", "exec", "df", "event", "stats")

MAPS = {
    "Labels",
    "Options",
    "Ports",
    "Networks",
    "Volumes",
    "Sysctls",
    "Tmpfs",
    "ExposedPorts",
    "PortBindings",
    "Config.Config",
}
MAPS |= {
    "Attributes",
    "IndexConfigs",
    "Containers",
    "Runtimes",
    "Details",
    "Data",
    "DriverOpts",
    "networks",
    "Annotations",
}
"""Objects whose keys are not Docker's but the user's or the machine's."""

OURS_LACKS = {
    "info.Containerd": "there is none",
    "info.Runtimes.*.status": "optional: the features of a runtime binary, and there is none",
}


def shape(value: Any, key: str = "") -> Any:
    """Keys and types without values."""
    if isinstance(value, dict):
        if key in MAPS:
            return {"*": shape(next(iter(value.values())))} if value else {}
        return {name: shape(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return (
        "null"
        if value is None
        else "number"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else type(value).__name__
    )


def differences(ours: Any, golden: Any, path: str) -> Iterator[str]:
    """Where ours lacks a key or has another type; null fits everything."""
    if path in OURS_LACKS or "null" in (ours, golden):
        return
    if isinstance(golden, dict) and isinstance(ours, dict):
        for key, item in golden.items():
            if key in ours:
                yield from differences(ours[key], item, f"{path}.{key}")
            elif key != "*" and f"{path}.{key}" not in OURS_LACKS:
                yield f"{path}.{key} is missing"
    elif isinstance(golden, list) and isinstance(ours, list):
        if golden and ours:
            yield from differences(ours[0], golden[0], f"{path}[]")
    elif ours != golden:
        yield f"{path} is {ours}, dockerd's is {golden}"


def collect(client: docker.DockerClient, name: str) -> dict[str, Any]:
    """The shapes of an engine's answers about one container made for it."""
    api = client.api
    volume = client.volumes.create(name)
    container = client.containers.run(
        "busybox",
        ["sleep", "1000"],
        detach=True,
        name=name,
        ports={"80/tcp": 0},
        volumes={name: {"bind": "/data"}, "/tmp": {"bind": "/host", "mode": "ro"}},
        tmpfs={"/t": ""},
        labels={"a": "b"},
    )
    try:
        exec_id = api.exec_create(container.id, ["true"])["Id"]
        wanted = {"container": container.id, "event": "create"}
        (event,) = api.events(since=0, until=int(time.time()) + 1, decode=True, filters=wanted)
        found = {
            "version": api.version(api_version=False),
            "info": api.info(),
            "images": api.images(),
            "image": api.inspect_image("busybox"),
            "history": api.history("busybox"),
            "container": api.inspect_container(container.id),
            "containers": api.containers(),
            "network": api.inspect_network("bridge"),
            "networks": api.networks(),
            "volume": api.inspect_volume(name),
            "volumes": api.volumes(),
            "exec": api.exec_inspect(exec_id),
            "df": api.df(),
            "event": event,
            "stats": api.stats(container.id, stream=False),
        }
    finally:
        container.remove(force=True)
        volume.remove()
    return {key: shape(value) for key, value in found.items()}


@pytest.fixture(scope="module")
def ours(engine: Any) -> dict[str, Any]:
    """Our answers' shapes."""
    with contextlib.closing(engine.client()) as client:
        return collect(client, "golden-shapes")


@pytest.mark.parametrize("name", NAMES)
def test_shapes(ours: dict[str, Any], name: str) -> None:
    """No key is missing and no type differs."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert not list(differences(ours[name], golden, name))


@pytest.mark.skipif(
    "CAIS_GOLDEN_FROM" not in os.environ, reason="only on demand: CAIS_GOLDEN_FROM=/path/to/docker.sock"
)
def test_refresh() -> None:
    """Write the golden files from a real dockerd, which has the image ``busybox``."""
    with contextlib.closing(
        docker.DockerClient(base_url=f"unix://{os.environ['CAIS_GOLDEN_FROM']}")
    ) as client:
        shapes = collect(client, "golden-shapes")
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (GOLDEN / f"{name}.json").write_text(json.dumps(shapes[name], indent=1, sort_keys=True) + "\n")
