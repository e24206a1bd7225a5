"""`cais build` starts fast: what it imports, counted instead of timed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

COSTLY = {
    "re",
    "enum",
    "typing",
    "json",
    "dataclasses",
    "socket",
    "asyncio",
    "pathlib",
    "functools",
    "msgspec",
}
COSTLY |= {"collections", "contextlib", "signal", "subprocess", "tarfile", "threading", "shutil", "argparse"}
COSTLY |= {
    "cais.spec.ignore",
    "cais.cli.buildlive",
    "cais.cli.buildfolder",
    "cais.cli.runflags",
    "cais.cli.table",
}
SHOW = "import sys; before = set(sys.modules); from cais.cli.main import run; run(sys.argv[1:]); sys.stdout.flush(); "
SHOW += "sys.stderr.write('\\n'.join(['MODULES', *sorted(set(sys.modules) - before)]))"
LINE = json.dumps({"type": "result", "digest": "sha256:1", "names": [], "response": {}}).encode() + b"\n"


def test_a_build_of_a_folder_imports_nothing_costly(engine: Any, cais: Any, tmp_path: Path) -> None:
    """No pattern, no archive, no socket module: the engine does that work."""
    (tmp_path / "Dockerfile").touch()
    engine.answers["POST /cais/build"] = type(engine.answers["GET /_ping"])(200, LINE)
    done = cais("build", "-q", ".", program=(sys.executable, "-S", "-c", SHOW))
    modules = done.stderr.partition("MODULES\n")[2].split()
    assert "cais.cli.buildanswer" in modules and not COSTLY & set(modules)
    assert sum(name.startswith("cais") for name in modules) <= 23, modules
    body = json.loads(engine.of("POST /cais/build")[0].body)
    assert body["context"]["type"] == "folder" and body["dockerfile"] == "Dockerfile"


def test_the_request_that_a_terminal_sends(engine: Any, cais: Any, tmp_path: Path) -> None:
    """An engine that cannot take the folder gets it as a tar, with the same request in front."""
    (tmp_path / "Dockerfile").write_text("FROM x\n")
    kind = type(engine.answers["GET /_ping"])
    engine.answers["POST /cais/build"] = kind(421, {"message": "send the context"})
    done: subprocess.CompletedProcess[str] = cais(
        "build", "-t", "a", ".", program=(sys.executable, "-m", "cais")
    )
    assert done.returncode == 1 and "send the context" in done.stderr
    first, second = engine.of("POST /cais/build")
    line, _, rest = second.body.partition(b"\n")
    assert json.loads(line) == {**json.loads(first.body), "context": {"type": "tar"}}
    assert b"Dockerfile" in rest and rest.endswith(bytes(4))
