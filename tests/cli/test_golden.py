"""What the docker CLI sends and says for a command line, cais sends and says too."""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cais.cli.main import run

GOLDEN = Path(__file__).parent / "golden"
DOCKER = os.environ.get("CAIS_GOLDEN_DOCKER", "")
"""A docker 28 CLI; if set, the golden answers are written anew instead of compared."""

OPAQUE = (
    "Labels",
    "Tmpfs",
    "Sysctls",
    "Annotations",
    "StorageOpt",
    "Config",
    "DriverOpts",
    "PortBindings",
    "Options",
)

KEPT_EMPTY = ("MaskedPaths", "ReadonlyPaths", "Entrypoint", "ExposedPorts", "Volumes", "StopTimeout")
DEFAULTS = {"MemorySwappiness": -1, "ConsoleSize": [0, 0]}


def prune(value: Any) -> Any:
    """The body without what says nothing: nulls, empties, defaults; lists that docker sends in no order, sorted."""
    if isinstance(value, list):
        return [prune(item) for item in value]
    if not isinstance(value, dict):
        return value
    pruned = {}
    for key, item in value.items():
        small = item if key in (*OPAQUE, *KEPT_EMPTY) else prune(item)
        empty = small is None or (small in ("", 0, False, [], {}) and key not in KEPT_EMPTY)
        if (
            not empty
            and DEFAULTS.get(key) != small
            and not (key in ("ExposedPorts", "Volumes") and not small)
        ):
            pruned[key] = sorted(small) if key in ("Binds", "Env") else small
    return pruned


def load_cases(name: str) -> list[str]:
    return (GOLDEN / f"{name}.txt").read_text().splitlines()


def load_answers(name: str) -> dict[str, Any]:
    path = GOLDEN / f"{name}.json"
    answers: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return answers


def save_answer(name: str, line: str, answer: Any) -> None:
    answers = {**load_answers(name), line: answer}
    ordered = {case: answers[case] for case in load_cases(name) if case in answers}
    (GOLDEN / f"{name}.json").write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any) -> Path:
    """A working folder with the files the command lines name, and the environment they expect."""
    (tmp_path / "env.txt").write_text("A=1\n# c\nFROM_OUTSIDE\n  B=2 3 \n\nC=\n")
    (tmp_path / "bad.txt").write_text("GOOD=1\nin valid=2\n")
    (tmp_path / "profile.json").write_text('{"defaultAction":"SCMP_ACT_ALLOW",\n "syscalls": []}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAIS_HOST", engine.host)
    monkeypatch.setenv("FROM_OUTSIDE", "outside value")
    return tmp_path


def run_docker(engine: Any, folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "DOCKER_HOST": engine.host}
    return subprocess.run(
        [DOCKER, *shlex.split(line)],
        env={**env, "FROM_OUTSIDE": "outside value"},
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def sent(engine: Any, folder: Path) -> dict[str, Any] | None:
    requests = engine.of("POST /containers/create")
    if not requests:
        return None
    text = requests[0].body.decode().replace(str(folder), "$PWD")
    return {"query": requests[0].query, "body": prune(json.loads(text))}


@pytest.mark.parametrize("line", load_cases("bodies"))
def test_create_body(line: str, engine: Any, folder: Path) -> None:
    """The create request means the same to an engine as docker's for the same command line."""
    if DOCKER:
        run_docker(engine, folder, line)
        save_answer("bodies", line, sent(engine, folder))
        return
    run(shlex.split(line))
    assert sent(engine, folder) == load_answers("bodies")[line]


def to_cais(text: str) -> str:
    """Docker's message with our program's name (and without a slip of the pen in 28.2)."""
    return text.replace("docker", "cais").replace("SRun", "Run")


@pytest.mark.parametrize("line", load_cases("refusals"))
def test_refusal(line: str, engine: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line gets docker's message and exit code, before anything is sent."""
    if DOCKER:
        done = run_docker(engine, folder, line)
        assert done.returncode and sent(engine, folder) is None
        save_answer("refusals", line, {"code": done.returncode, "stderr": to_cais(done.stderr)})
        return
    code = run(shlex.split(line))
    answer = load_answers("refusals")[line]
    assert capsys.readouterr().err.split() == answer["stderr"].split()
    assert code == answer["code"]
    assert engine.requests == []
