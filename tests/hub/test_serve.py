"""`cais hub serve`: a process that starts, says where it is, serves and ends."""

import json
import os
from pathlib import Path

import pytest

from cais.spec.digest import digest_bytes as digest_of
from harness.hub import CONFIG, LAYER, MANIFEST, LiveHub, running_hub

pytestmark = pytest.mark.slow


def push(hub: LiveHub, name: str, tag: str, layer: bytes) -> str:
    """An image of one layer; its digest."""
    parts = []
    for media_type, data in ((CONFIG, b"{}"), (LAYER, layer)):
        status, headers, _ = hub.ask("POST", f"/v2/{name}/blobs/uploads/")
        assert status == 202
        status, _, body = hub.ask("PUT", f"{headers['location']}?digest={digest_of(data)}", data)
        assert status == 201, body
        parts.append({"mediaType": media_type, "digest": digest_of(data), "size": len(data)})
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:]}
    status, headers, body = hub.ask(
        "PUT", f"/v2/{name}/manifests/{tag}", json.dumps(manifest), {"Content-Type": MANIFEST}
    )
    assert status == 201, body
    return headers["docker-content-digest"]


def test_an_image_survives_a_kill(tmp_path: Path) -> None:
    """What was pushed is there after kill -9, byte for byte, and the hub ends well when asked."""
    layer = os.urandom(3 << 20)
    with running_hub(tmp_path / "hub", "--open") as hub:
        digest = push(hub, "team/app", "1", layer)
        hub.kill()
        hub.start()
        status, headers, _ = hub.ask("HEAD", "/v2/team/app/manifests/1")
        assert (status, headers["docker-content-digest"]) == (200, digest)
        assert hub.ask("GET", f"/v2/team/app/blobs/{digest_of(layer)}")[2] == layer
        assert hub.stop() == 0
