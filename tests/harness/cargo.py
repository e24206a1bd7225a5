"""Images for the pages' tests, with layers, history, labels and files as real ones have them, and ways to push them."""

import base64
import gzip
import http.client
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.wire import CONFIG, INDEX, LAYER, MANIFEST, describe, sha256

GZIP = LAYER + "+gzip"


@dataclass(frozen=True)
class Layered:
    """A layer: its instruction and its files (a text ending in ``/`` is a folder, ``-> x`` as content a link)."""

    made_by: str
    files: Mapping[str, bytes | str] = field(default_factory=dict)


@dataclass
class Pusher:
    """Puts things into the hub on ``port`` of loopback. ``account``: name, and password or token."""

    port: int
    account: tuple[str, str] | None = None

    def ask(
        self, method: str, path: str, body: bytes | None = None, media_type: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        """One request, with a token where the hub wants one."""
        headers = {"Content-Type": media_type} if media_type else {}
        if self.account:
            pair = base64.b64encode(":".join(self.account).encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, {key.lower(): value for key, value in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def blob(self, name: str, data: bytes) -> str:
        """Push it; its digest."""
        status, headers, body = self.ask("POST", f"/v2/{name}/blobs/uploads/")
        assert status == 202, (status, body)
        place, digest = headers["location"], sha256(data)
        status, _, body = self.ask("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", data)
        assert status == 201, (status, body)
        return digest

    def manifest(self, name: str, ref: str, document: Mapping[str, Any]) -> str:
        """Push it; its digest."""
        data = json.dumps(document).encode()
        status, _, body = self.ask(
            "PUT", f"/v2/{name}/manifests/{ref or sha256(data)}", data, document["mediaType"]
        )
        assert status == 201, (status, body)
        return sha256(data)

    def image(self, name: str, ref: str, layers: Sequence[Layered], **how: Any) -> dict[str, Any]:
        """Push an image; its descriptor. ``how``: ``config`` (the inner object), ``architecture``, ``empty``
        (instructions that made no layer), ``annotations``, ``subject``, ``artifact_type``."""
        blobs = [make_layer(layer.files) for layer in layers]
        config = make_config(layers, blobs, how)
        for data in (config, *map(pack, blobs)):
            self.blob(name, data)
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe(config, CONFIG),
            "layers": [describe(pack(blob), GZIP) for blob in blobs],
        }
        if "annotations" in how:
            document["annotations"] = how["annotations"]
        digest = self.manifest(name, ref, document)
        platform = {"os": "linux", "architecture": how.get("architecture", "amd64")}
        return {
            "mediaType": MANIFEST,
            "digest": digest,
            "size": len(json.dumps(document)),
            "platform": platform,
        }

    def index(self, name: str, ref: str, members: Sequence[Mapping[str, Any]]) -> str:
        """Push an index; its digest."""
        return self.manifest(name, ref, {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(members)})

    def attach(
        self, name: str, subject: Mapping[str, Any], data: bytes, media_type: str, **more: Any
    ) -> dict[str, Any]:
        """Push an artifact about ``subject``. ``more``: ``annotations`` of the layer, ``artifact_type``, ``ref``."""
        empty = b"{}"
        self.blob(name, empty)
        self.blob(name, data)
        layer = describe(data, media_type, annotations=more.get("annotations", {}))
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": more.get("artifact_type", media_type),
            "config": describe(empty, "application/vnd.oci.empty.v1+json"),
            "layers": [layer],
        }
        if not more.get("ref"):
            document["subject"] = {key: subject[key] for key in ("mediaType", "digest", "size")}
        digest = self.manifest(name, more.get("ref", ""), document)
        return {"mediaType": MANIFEST, "digest": digest, "size": len(json.dumps(document).encode())}

    def pull(self, name: str, ref: str, times: int = 1) -> None:
        """Ask for the manifest, as a pull does."""
        for _ in range(times):
            status, _, body = self.ask("GET", f"/v2/{name}/manifests/{ref}")
            assert status == 200, body


def make_layer(files: Mapping[str, bytes | str]) -> bytes:
    """A tar, the same for the same files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.rstrip("/"))
            if name.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            elif isinstance(content, str) and content.startswith("-> "):
                entry.type, entry.linkname = tarfile.SYMTYPE, content[3:]
                tar.addfile(entry)
            else:
                data = content.encode() if isinstance(content, str) else content
                entry.size, entry.mode = len(data), 0o755 if name.startswith(("bin/", "usr/bin/")) else 0o644
                tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def pack(data: bytes) -> bytes:
    """gzip, the same for the same bytes."""
    return gzip.compress(data, 6, mtime=0)


def make_config(layers: Sequence[Layered], blobs: Sequence[bytes], how: Mapping[str, Any]) -> bytes:
    """The configuration of an image made by these instructions."""
    made = "2024-05-01T12:00:00Z"
    history: list[dict[str, Any]] = [{"created": made, "created_by": layer.made_by} for layer in layers]
    for text in how.get("empty", ('CMD ["/bin/app"]',)):
        history.append({"created": made, "created_by": text, "empty_layer": True})
    document = {
        "architecture": how.get("architecture", "amd64"),
        "os": "linux",
        "created": made,
        "config": how.get("config", {}),
        "rootfs": {"type": "layers", "diff_ids": [sha256(blob) for blob in blobs]},
        "history": history,
    }
    return json.dumps(document).encode()
