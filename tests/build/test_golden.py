"""Golden folders: a Dockerfile and what the parser makes of it. ``CAIS_GOLDEN=write`` writes them anew."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import asdict

from cais.build.dockerfile.fault import DockerfileError
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.values import Instruction

FOLDER = Path(__file__).parent / "golden"
CASES = sorted(path.parent for path in FOLDER.glob("*/Dockerfile"))


def describe(path: Path) -> dict[str, Any]:
    """What the parser says, as JSON."""
    try:
        file = parse_dockerfile((path / "Dockerfile").read_bytes())
    except DockerfileError as error:
        return {"error": str(error).split("\n")}
    return {
        "directives": file.directives,
        "args": [show(step) for step in file.args],
        "stages": [
            {"from": compact(asdict(stage.base)), "steps": [show(step) for step in stage.steps]}
            for stage in file.stages
        ],
    }


def show(step: Instruction) -> dict[str, Any]:
    """One instruction: its lines and every field that is set."""
    lines = step.line.lines
    fields = compact(msgspec.to_builtins(step.value))
    return {type(step.value).__name__: fields, "lines": f"{lines.start}-{lines.end}"}


def compact(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is empty."""
    return {
        key: [compact(item) if isinstance(item, dict) else item for item in value]
        if isinstance(value, list | tuple)
        else compact(value)
        if isinstance(value, dict)
        else value
        for key, value in fields.items()
        if value not in ("", (), [], None, False)
    }


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_a_dockerfile_means_what_is_on_record(case: Path) -> None:
    """Every instruction, flag and line range, or the error."""
    found = json.loads(json.dumps(describe(case)))
    expected = case / "expected.json"
    if os.environ.get("CAIS_GOLDEN") == "write":
        expected.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    assert found == json.loads(expected.read_text())


def test_there_are_cases_of_both_kinds() -> None:
    """Good files and bad ones."""
    names = [path.name for path in CASES]
    assert len(names) >= 30 and sum(name.startswith("bad-") for name in names) >= 12
