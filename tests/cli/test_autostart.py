"""Starting an engine by itself, as far as a test may: how it fails."""

import os
from pathlib import Path

import pytest

from cais.cli import autostart
from cais.cli.failure import Unreachable


def test_needs_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without root nothing is started; the message says what to do."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unreachable, match="start one as root with 'cais daemon'"):
        autostart.start_engine(str(tmp_path / "run" / "cais.sock"))
    assert not (tmp_path / "run").exists()


@pytest.mark.kernel
def test_engine_that_dies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An engine that ends at once is not waited for; the end of its log is in the message."""
    monkeypatch.setattr(autostart, "MODULE", "cais.no_such_module")
    monkeypatch.setattr(autostart, "PATIENCE_SECONDS", 10.0)
    monkeypatch.setattr(autostart, "GRACE_SECONDS", 0.05)
    with pytest.raises(Unreachable, match="no_such_module"):
        autostart.start_engine(str(tmp_path / "run" / "cais.sock"))
