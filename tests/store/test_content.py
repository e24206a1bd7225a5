"""Blobs: visible only when whole, verified when read, a valid OCI image layout."""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cais.errors import Corrupt, Invalid, NotFound
from cais.spec.descriptor import OCI_MANIFEST, Descriptor, Index
from cais.spec.digest import digest_bytes, parse_digest
from cais.store.content import Content


@pytest.fixture
def content(tmp_path: Path) -> Content:
    """An empty store."""
    return Content(tmp_path / "content")


def files(content: Content) -> list[str]:
    """Every file of the store but the layout's own two."""
    root = content.path(digest_bytes(b"")).parent.parent.parent
    found = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return sorted(set(found) - {"oci-layout", "index.json"})


def test_a_blob_comes_back(content: Content) -> None:
    """put, has, size, read, open, list, remove; twice is once."""
    digest = content.put(b"data")
    assert content.put(b"data") == digest == digest_bytes(b"data")
    assert content.has(digest) and content.size(digest) == 4 and content.list() == [digest]
    assert content.read(digest) == b"data"
    with content.open(digest) as file:
        assert file.read() == b"data"
    content.remove(digest)
    content.remove(digest)
    assert not content.has(digest) and content.list() == []


def test_an_absent_blob_is_not_found(content: Content) -> None:
    """Every way of reading says so, with the digest."""
    digest = digest_bytes(b"absent")
    for act in (content.size, content.open, content.read, content.verify):
        with pytest.raises(NotFound, match=f"no such blob: {digest}"):
            act(digest)


@settings(deadline=None)
@given(chunks=st.lists(st.binary(max_size=50), max_size=6))
def test_a_written_blob_is_the_sum_of_its_chunks(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    """The digest is of all chunks in order, and only commit makes the blob visible."""
    content = Content(tmp_path_factory.mktemp("content"))
    whole = b"".join(chunks)
    with content.writer() as writer:
        for chunk in chunks:
            writer.write(memoryview(chunk))
        assert content.list() == [] and writer.size == len(whole)
        assert writer.commit(digest_bytes(whole)) == digest_bytes(whole)
    assert content.read(digest_bytes(whole)) == whole


def test_a_wrong_digest_leaves_nothing(content: Content) -> None:
    """Neither the blob nor a temporary file."""
    with pytest.raises(Corrupt, match="not what it claims"), content.writer() as writer:
        writer.write(b"data")
        writer.commit(digest_bytes(b"other"))
    assert files(content) == []


def test_an_abandoned_writer_leaves_nothing(content: Content) -> None:
    """Leaving the block by an exception, or without commit, drops the file."""
    with pytest.raises(RuntimeError), content.writer() as writer:
        writer.write(b"data")
        raise RuntimeError
    with content.writer() as writer:
        writer.write(b"data")
    assert files(content) == []


def test_sha512_blobs(content: Content) -> None:
    """The second algorithm has its own folder."""
    digest = parse_digest("sha512:" + hashlib.sha512(b"data").hexdigest())
    with content.writer("sha512") as writer:
        writer.write(b"data")
        assert writer.commit(digest) == digest
    assert content.read(digest) == b"data" and content.list() == [digest]


def test_damage_is_noticed(content: Content) -> None:
    """A read blob is always what its name says."""
    digest = content.put(b"data")
    content.path(digest).write_bytes(b"dat4")
    for act in (content.read, content.verify):
        with pytest.raises(Corrupt, match="is damaged"):
            act(digest)


def test_a_large_blob_is_not_read_into_memory(content: Content) -> None:
    """The limit is asked before anything is read."""
    digest = content.put(b"data")
    assert content.read(digest, limit=4) == b"data"
    with pytest.raises(Invalid, match="larger than 3 bytes"):
        content.read(digest, limit=3)


def test_the_folder_is_an_oci_image_layout(tmp_path: Path, content: Content) -> None:
    """image-spec image-layout.md: oci-layout and index.json, also when opened again."""
    root = tmp_path / "content"
    assert json.loads((root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((root / "index.json").read_bytes())["manifests"] == []
    descriptor = Descriptor(media_type=OCI_MANIFEST, digest=content.put(b"{}"), size=2)
    content.write_index(Index(manifests=(descriptor,)))
    Content(root)
    assert json.loads((root / "index.json").read_bytes())["manifests"][0]["digest"] == descriptor.digest
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_left_overs_are_swept(tmp_path: Path, content: Content) -> None:
    """A killed writer's file goes at the next start; blobs stay; strangers among them are passed over."""
    digest = content.put(b"data")
    (tmp_path / "content" / ".tmp-x").write_bytes(b"half")
    (tmp_path / "content" / "blobs" / "sha256" / "README").write_bytes(b"")
    content.sweep()
    assert content.list() == [digest]
    assert not (tmp_path / "content" / ".tmp-x").exists()


def test_blobs_that_a_crash_of_the_machine_damaged_are_swept(tmp_path: Path, content: Content) -> None:
    """After another boot, what was never settled is read through once; what was settled is trusted."""
    good, bad, old = content.put(b"good"), content.put(b"bad"), content.put(b"old")
    content.path(bad).write_bytes(b"")
    content.path(old).write_bytes(b"OLD")
    os.utime(content.path(old), ns=(1, 1))
    (tmp_path / "content" / ".settled").write_text("an-earlier-boot 1")
    content.sweep()
    assert set(content.list()) == {good, old}
    content.path(good).write_bytes(b"GOOD")
    content.sweep()  # the same boot: nothing is read
    assert content.has(good)
