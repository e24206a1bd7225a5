"""Records of what was built: whole, kept, forgotten."""

import os
from pathlib import Path

import pytest

from cais.build.cache import BuildCache, CacheRecord, Usage, layer_of, parse_usage_filter
from cais.build.journal import LIMIT, Journal
from cais.build.request import StepOutput, StepRuns
from cais.errors import Invalid

LAYER = CacheRecord(
    created_ns=5,
    title="RUN x",
    diff_id="sha256:" + "a" * 64,
    digest="sha256:" + "b" * 64,
    media_type="m",
    size=100,
)


def test_records_survive_and_name_what_is_to_be_kept(tmp_path: Path) -> None:
    """The next engine finds them."""
    BuildCache(tmp_path).put("k", LAYER)
    cache = BuildCache(tmp_path)
    assert cache.find("k") == LAYER and cache.find("other") is None
    assert cache.digests() == {LAYER.diff_id, LAYER.digest}
    layer = layer_of(LAYER)
    assert layer is not None and (layer.diff_id, layer.blob.digest, layer.blob.size) == (
        LAYER.diff_id,
        LAYER.digest,
        100,
    )


@pytest.mark.parametrize("data", [b"", b"{", b'{"created_ns": 1, "diff_id": "x", "digest": "y"}', b"\xff"])
def test_broken_records_are_no_records(data: bytes, tmp_path: Path) -> None:
    """A crash may leave half of one."""
    BuildCache(tmp_path).put("k", LAYER)
    (tmp_path / "build/cache/k").write_bytes(data)
    assert BuildCache(tmp_path).find("k") is None and not list((tmp_path / "build/cache").iterdir())


def test_what_a_killed_engine_was_building_is_swept(tmp_path: Path) -> None:
    """At the next start."""
    with BuildCache(tmp_path).scratch() as folder:
        (folder / "x").touch()
        BuildCache(tmp_path)
        assert not folder.exists()


def test_pruning_goes_by_last_use(tmp_path: Path) -> None:
    """The longest unused first, until little enough is left."""
    cache = BuildCache(tmp_path)
    for name in ("old", "mid", "new"):
        cache.put(name, LAYER)
    for seconds, name in enumerate(("old", "mid", "new"), 1):
        times = (seconds * 10**9, seconds * 10**9)
        path = tmp_path / "build/cache" / name
        os.utime(path, ns=times)
    assert cache.prune(unused_since_ns=15 * 10**8) == (["old"], 100)
    assert cache.prune(keep_bytes=150) == (["mid"], 100)
    assert cache.prune() == (["new"], 100) and cache.usage() == []


def test_cache_mounts_in_use_are_not_pruned(tmp_path: Path) -> None:
    """A step is writing there."""
    cache = BuildCache(tmp_path)
    for name in ("busy", "idle"):
        cache.mount_path(name).mkdir()
    cache.busy[cache.mount_path("busy").name] = 1
    assert cache.prune()[0] == [cache.mount_path("idle").name] and cache.mount_path("busy").exists()


@pytest.mark.parametrize("name", ["../../etc", "/", "a/b", "\udcff"])
def test_names_of_cache_mounts_lead_nowhere(name: str, tmp_path: Path) -> None:
    """The id is anybody's text (CVE-2024-23651)."""
    assert BuildCache(tmp_path).mount_path(name).parent == tmp_path / "build/mounts"


async def test_a_journal_is_read_by_many_and_has_an_end() -> None:
    """Everybody gets everything; endless output is clipped, with a note."""
    journal = Journal()
    journal.add(StepRuns("x"))
    journal.add(StepOutput(1, b"x" * LIMIT))
    for _ in range(3):
        journal.add(StepOutput(1, b"more"))
    journal.finish()
    for _ in range(2):
        events = [event async for event in journal.follow()]
        assert len(events) == 3 and isinstance(events[2], StepOutput) and b"clipped" in events[2].data


USAGES = [
    Usage("aa", "regular", "RUN make", 5, 0, 0, 0, "pp"),
    Usage("bb", "exec.cachemount", "cache mount", 5, 0, 0, 0, in_use=True),
]


@pytest.mark.parametrize(
    ("texts", "want"),
    [
        ([], "aa bb"),
        (["id==aa"], "aa"),
        (["type==exec.cachemount"], "bb"),
        (["type!=regular,inuse"], "bb"),
        (["description~=MAKE"], "aa"),
        (["parents==pp", "immutable"], "aa"),
        (["mutable"], "bb"),
        (["shared"], ""),
        (["id=aa"], "aa"),
    ],
)
def test_filters_choose(texts: list[str], want: str) -> None:
    """All of them must hold."""
    wanted = parse_usage_filter(texts)
    assert " ".join(usage.id for usage in USAGES if wanted(usage)) == want


@pytest.mark.parametrize("text", ["what==x", "id", "type<regular", "until==3h"])
def test_filters_nobody_knows_are_refused(text: str) -> None:
    """Else everything would go."""
    with pytest.raises(Invalid, match="unsupported filter"):
        parse_usage_filter([text])


def test_only_what_is_wanted_goes(tmp_path: Path) -> None:
    """The rest stays, however old."""
    cache = BuildCache(tmp_path)
    cache.put("k" * 30, LAYER)
    cache.put("m" * 30, CacheRecord(created_ns=1, title="COPY"))
    ids, freed = cache.prune(wanted=parse_usage_filter(["description~=run"]))
    assert (ids, freed) == (["k" * 25], 100)
    assert cache.find("k" * 30) is None and cache.find("m" * 30) is not None
