"""The folder of a distribution server, made by hand as that server makes it."""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.wire import describe, format_image, format_index, sha256


@dataclass(frozen=True)
class Storage:
    """``root``: what the server's configuration calls rootdirectory."""

    root: Path

    @property
    def path(self) -> Path:
        """Where its data begins."""
        return self.root / "docker" / "registry" / "v2"

    def blob(self, digest: str) -> Path:
        """A blob's file."""
        name = digest.partition(":")[2]
        return self.path / "blobs" / "sha256" / name[:2] / name / "data"

    def put_blob(self, repository: str, data: bytes) -> str:
        """A blob that the repository has."""
        digest = sha256(data)
        _write(self.blob(digest), data)
        name = digest.partition(":")[2]
        _write(
            self.path / "repositories" / repository / "_layers" / "sha256" / name / "link", digest.encode()
        )
        return digest

    def put_manifest(
        self, repository: str, data: bytes, tags: Iterable[str] = (), at: int = 1_700_000_000
    ) -> str:
        """A manifest with tags, pushed at that second."""
        digest = sha256(data)
        _write(self.blob(digest), data)
        name = digest.partition(":")[2]
        manifests = self.path / "repositories" / repository / "_manifests"
        links = [manifests / "revisions" / "sha256" / name / "link"]
        for tag in tags:
            links.append(manifests / "tags" / tag / "current" / "link")
            links.append(manifests / "tags" / tag / "index" / "sha256" / name / "link")
        for link in links:
            _write(link, digest.encode())
            os.utime(link, (at, at))
        return digest

    def put_image(
        self,
        repository: str,
        tags: Iterable[str],
        layers: Iterable[bytes],
        at: int = 1_700_000_000,
        **fields: Any,
    ) -> str:
        """An image and its blobs."""
        layers = list(layers)
        for data in (b"{}", *layers):
            self.put_blob(repository, data)
        return self.put_manifest(repository, format_image(b"{}", layers, **fields), tags, at)

    def put_index(self, repository: str, tags: Iterable[str], digests: Iterable[str]) -> str:
        """An index of manifests that are there."""
        data = format_index([self.blob(digest).read_bytes() for digest in digests])
        return self.put_manifest(repository, data, tags)

    def delete_manifest(self, repository: str, digest: str) -> None:
        """As the server does it: the link goes, the folder and the tags' index stay."""
        name = digest.partition(":")[2]
        (self.path / "repositories" / repository / "_manifests/revisions/sha256" / name / "link").unlink()

    def delete_tag(self, repository: str, tag: str) -> None:
        """As the server does it."""
        shutil.rmtree(self.path / "repositories" / repository / "_manifests" / "tags" / tag)


def refer(data: bytes) -> dict[str, Any]:
    """The field of a manifest that is about another."""
    return {"subject": describe(data, json.loads(data)["mediaType"])}


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
