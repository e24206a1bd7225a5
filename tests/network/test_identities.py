"""Ids of the predefined networks are made once per engine root."""

from pathlib import Path

import pytest

from cais.errors import Corrupt
from cais.network.identities import PREDEFINED, ensure_identities


def test_made_once(tmp_path: Path) -> None:
    """The first call makes ids of 64 hex digits, the next ones find them."""
    first = ensure_identities(tmp_path)
    assert set(first) == set(PREDEFINED)
    assert all(len(bytes.fromhex(each.id)) == 32 for each in first.values())
    assert first["bridge"].created.endswith("Z")
    assert ensure_identities(tmp_path) == first
    assert [path.name for path in (tmp_path / "network").iterdir()] == ["identities.json"]


def test_each_root_has_its_own(tmp_path: Path) -> None:
    """Two roots never share an id."""
    assert ensure_identities(tmp_path / "a")["host"] != ensure_identities(tmp_path / "b")["host"]


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"bridge": {"id": 1, "created": ""}}'])
def test_broken_file(tmp_path: Path, text: str) -> None:
    """A file that is not ours is named, not overwritten."""
    path = tmp_path / "network" / "identities.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(Corrupt, match=r"identities\.json"):
        ensure_identities(tmp_path)
    assert path.read_text() == text
