"""The engine and the hub on one machine."""

import json
from pathlib import Path
from typing import Any

from harness.registry import running_hub


def test_a_push_to_the_hub_beside_the_engine_copies_nothing(cli: Any, engine: Any, tmp_path: Path) -> None:
    """The hub takes the layers from the engine's store by name: one inode, no byte sent; and either may forget it."""
    content = Path(engine.folder) / "root" / "content"
    log = tmp_path / "access"
    words = ("--share", str(content), "--access-log", str(log))
    with running_hub(tmp_path / "h", netns=engine.netns.pid, words=words) as hub:
        name = f"{hub.address}/team/app:1"
        cli.text("tag", "busybox", name)
        assert ": Pushed" in cli.text("push", name)
        asked = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["path"] for line in asked if line["method"] in ("PUT", "PATCH")] == [
            "/v2/team/app/manifests/1"
        ]
        mine, theirs = (path / "blobs" / "sha256" for path in (hub.folder / "hub" / "content", content))
        shared = [entry for entry in mine.iterdir() if (theirs / entry.name).exists()]
        # The manifest is sent, being small; configuration and layer are the same files.
        assert sum(entry.samefile(theirs / entry.name) for entry in shared) == 2
        cli.text("rmi", name)
        cli.text("pull", name)
        assert cli.text("run", "--rm", name, "echo", "shared") == "shared"
        cli.text("rmi", name)


def test_a_hub_without_a_share_is_sent_the_layers(cli: Any, engine: Any, tmp_path: Path) -> None:
    """The other test would pass for a hub that takes nothing at all: here the bytes must come."""
    log = tmp_path / "access"
    with running_hub(tmp_path / "h", netns=engine.netns.pid, words=("--access-log", str(log))) as hub:
        name = f"{hub.address}/team/app:1"
        cli.text("tag", "busybox", name)
        cli.text("push", name)
        asked = [json.loads(line) for line in log.read_text().splitlines()]
        assert len([line for line in asked if line["method"] == "PUT" and "/uploads/" in line["path"]]) == 2
        cli.text("rmi", name)
