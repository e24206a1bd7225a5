"""What is marked stays, what is not goes, and a lease counts like a name."""

import threading
from pathlib import Path

import pytest

from cais.spec.descriptor import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    format_manifest,
)
from cais.spec.digest import Digest, digest_bytes
from cais.spec.image import ImageConfig, RootFs, format_image_config
from cais.store.content import Content
from cais.store.gc import Leases, collect, mark, mentioned
from cais.store.layers.layers import Layers

EMPTY_TAR = bytes(1024)


@pytest.fixture
def content(tmp_path: Path) -> Content:
    """An empty content store."""
    return Content(tmp_path / "content")


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    """An empty layer store."""
    return Layers(tmp_path)


def put_image(content: Content, name: str) -> tuple[Descriptor, set[Digest]]:
    """An image of one layer; its manifest's descriptor and all of its blobs."""
    layer = EMPTY_TAR + name.encode()
    config = ImageConfig(author=name, rootfs=RootFs(diff_ids=(digest_bytes(layer),)))
    parts = [(layer, OCI_LAYER), (format_image_config(config), OCI_CONFIG)]
    found = [Descriptor(media_type=kind, digest=content.put(data), size=len(data)) for data, kind in parts]
    document = format_manifest(Manifest(config=found[1], layers=(found[0],)))
    target = Descriptor(media_type=OCI_MANIFEST, digest=content.put(document), size=len(document))
    return target, {target.digest, *(descriptor.digest for descriptor in found)}


def test_a_name_keeps_everything_below_it(content: Content, layers: Layers) -> None:
    """Through an index to manifests, configurations and layers; the other image goes."""
    kept = [put_image(content, name) for name in "ab"]
    put_image(content, "c")
    document = format_manifest(Index(media_type=OCI_INDEX, manifests=tuple(target for target, _ in kept)))
    index = content.put(document)
    _, freed = collect(content, layers, Leases(), [index])
    assert set(content.list()) == {index}.union(*(blobs for _, blobs in kept))
    assert freed > len(EMPTY_TAR)


def test_layers_go_with_their_last_image(content: Content, layers: Layers, tmp_path: Path) -> None:
    """An unpacked layer stays as long as some configuration names it."""
    target, _ = put_image(content, "a")
    layer = digest_bytes(EMPTY_TAR + b"a")
    layers.unpack(content.path(layer), layer)
    assert collect(content, layers, Leases(), [target.digest])[0] == set()
    assert layers.has(layer)
    assert collect(content, layers, Leases(), [])[0] == {layer}
    assert not layers.has(layer)


def test_a_lease_keeps_until_it_ends(content: Content, layers: Layers) -> None:
    """A leased manifest keeps its tree, a leased blob itself."""
    leases = Leases()
    target, blobs = put_image(content, "a")
    loose = content.put(b"loose")
    with leases.lease() as lease:
        lease.add(target.digest)
        lease.add(loose)
        collect(content, layers, leases, [])
        assert set(content.list()) == {*blobs, loose}
    collect(content, layers, leases, [])
    assert content.list() == []


def test_adding_to_a_lease_waits_for_the_sweep(content: Content) -> None:
    """Whoever leases first and looks then never finds what a running sweep is about to take."""
    leases = Leases()
    added = threading.Event()
    with leases.lease() as lease:
        thread = threading.Thread(target=lambda: (lease.add(digest_bytes(b"x")), added.set()))
        with leases.lock:
            thread.start()
            assert not added.wait(0.05)
        thread.join(5)
        assert added.is_set()


def test_a_commit_under_a_lease_is_kept_at_once(content: Content, layers: Layers) -> None:
    """There is no moment in which the blob is visible and not leased."""
    leases = Leases()
    with leases.lease() as lease, content.writer() as writer:
        writer.write(b"data")
        digest = lease.commit(writer)
        collect(content, layers, leases, [])
        assert content.has(digest)


def test_damaged_and_absent_documents_lead_nowhere(content: Content) -> None:
    """Marking survives whatever lies in the store."""
    absent, garbage = digest_bytes(b"absent"), content.put(b'{"schemaVersion": 2, "layers": 7}')
    target, _ = put_image(content, "a")
    content.path(target.digest).write_bytes(b"damaged")
    marks = mark(content, [absent, garbage, target.digest])
    assert marks.digests == {absent, garbage, target.digest}


def test_records_mention_digests_in_any_form() -> None:
    """The image's ID and the layer folders in a container's record are roots."""
    image, layer = digest_bytes(b"i"), digest_bytes(b"l")
    record = f'{{"image_id": "{image}", "lowers": ["/x/layers/sha256-{layer.hex}/fs"]}}'
    assert mentioned(record.encode()) == {image, layer}
