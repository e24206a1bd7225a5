"""What Docker's build plugin can ask for, by the plugin itself on a real engine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from harness.builds import cgroup_processes
from harness.live import LiveEngine, wait_until
from harness.registry import Registry, running_registry

PLUGINS = os.environ.get("CAIS_DOCKER_PLUGINS", "")
needs_plugins = pytest.mark.skipif(
    not PLUGINS, reason="needs Docker's build plugin: set CAIS_DOCKER_PLUGINS to its folder"
)
pytestmark = [needs_plugins, pytest.mark.slow]


@dataclass(frozen=True)
class Buildx:
    """The plugin, in a folder of its own."""

    folder: Path
    environment: dict[str, str]
    docker: str

    def run(self, *words: str, check: bool = True, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run ``docker buildx …`` to its end."""
        done = subprocess.run(
            [self.docker, "buildx", *words],
            input=stdin,
            capture_output=True,
            cwd=self.folder,
            env=self.environment,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr.decode(errors="replace")
        return done

    def build(self, *words: str, check: bool = True, stdin: bytes = b"") -> str:
        """``build``: what it showed, plain."""
        context = "-" if stdin else "."
        done = self.run("build", "--progress=plain", *words, context, check=check, stdin=stdin)
        return (done.stdout + done.stderr).decode(errors="replace")

    def write(self, files: dict[str, str]) -> None:
        """Files of the context."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


@pytest.fixture
def buildx(engine: LiveEngine, tmp_path: Path) -> Buildx:
    """For the shared engine."""
    named = os.environ.get("CAIS_DOCKER_CLI", "").split(":")
    command = next((path for path in (*named, shutil.which("docker")) if path), None)
    if command is None:
        pytest.skip("no docker command")
    folder, config = tmp_path / "made", tmp_path / "config"
    folder.mkdir()
    config.mkdir()
    (config / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [PLUGINS]}))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DOCKER_HOST": f"unix://{engine.socket}",
        "DOCKER_CONFIG": str(config),
        "BUILDX_BAKE_ENTITLEMENTS_FS": "0",
    }
    made = Buildx(folder, environment, command)
    made.write(
        {"Dockerfile": "FROM busybox AS base\nCOPY a /a\nRUN cp /a /b\nFROM base\nRUN ln /b /c\n", "a": "A"}
    )
    return made


@pytest.fixture
def registry(engine: LiveEngine, tmp_path: Path) -> Iterator[Registry]:
    """In the engine's network namespace."""
    with running_registry(tmp_path / "registry", netns=engine.netns.pid) as registry:
        yield registry


def names_in(path: Path) -> set[str]:
    """The members of a tar."""
    with tarfile.open(path) as tar:
        return {name.rstrip("/") for name in tar.getnames()}


def test_outputs_land_on_the_client(buildx: Buildx) -> None:
    """A folder, a tar of files, an OCI layout and a docker archive."""
    buildx.write(
        {
            "Dockerfile": "FROM busybox AS made\nRUN echo x > /x; ln /x /y\nFROM scratch\nCOPY --from=made /x /y /\n"
        }
    )
    buildx.build("-o", "out")
    assert (buildx.folder / "out/x").read_text() == "x\n"
    assert (buildx.folder / "out/x").stat().st_ino == (buildx.folder / "out/y").stat().st_ino
    buildx.build("-o", "type=tar,dest=files.tar")
    assert names_in(buildx.folder / "files.tar") == {"x", "y"}
    buildx.build("-o", "type=oci,dest=layout.tar")
    assert {"index.json", "oci-layout"} <= names_in(buildx.folder / "layout.tar")
    buildx.build("-o", "type=docker,dest=docker.tar", "-t", "t/outputs")
    assert "manifest.json" in names_in(buildx.folder / "docker.tar")


def test_a_cache_in_a_folder_of_the_client(buildx: Buildx) -> None:
    """It goes there, and comes back when the engine has forgotten everything; what people need to know is told."""
    buildx.build("--cache-to", "type=local,dest=cache,mode=max")
    buildx.run("prune", "-af")
    shown = buildx.build("--cache-from", "type=local,src=cache")
    assert shown.count("CACHED") >= 4, shown
    buildx.run("prune", "-af")
    shown = buildx.build("--cache-from", "type=local,src=missing")
    assert "RUN cp /a /b\n" in shown and "DONE" in shown


def test_a_cache_in_a_registry_and_a_push(buildx: Buildx, registry: Registry) -> None:
    """Also a push of what was made."""
    name = f"{registry.address}/cached"
    buildx.build("--cache-to", f"type=registry,ref={name}:cache,mode=max", "--push", "-t", f"{name}:image")
    tags = registry.folder / "data/docker/registry/v2/repositories/cached/_manifests/tags"
    assert {path.name for path in tags.iterdir()} == {"cache", "image"}
    buildx.run("prune", "-af")
    shown = buildx.build("--cache-from", f"type=registry,ref={name}:cache")
    assert shown.count("CACHED") >= 4, shown


def test_contexts_by_name(buildx: Buildx) -> None:
    """A folder, an image, and an OCI layout stand for stages and images."""
    buildx.write({"Dockerfile": "FROM scratch\nCOPY a /in-layout\n"})
    buildx.build("-o", "type=oci,dest=layout,tar=false")
    buildx.write(
        {
            "other/file": "from the other folder",
            "Dockerfile": "FROM base\nCOPY --from=more file /file\nCOPY --from=kept in-layout /\n"
            "RUN cat /file /in-layout\n",
        }
    )
    contexts = ("base=docker-image://busybox", "more=other", f"kept=oci-layout://{buildx.folder}/layout")
    flags = [word for each in contexts for word in ("--build-context", each)]
    shown = buildx.build(*flags)
    assert "from the other folderA" in shown


def test_secrets_and_agents_leave_nothing(buildx: Buildx, client: docker.DockerClient) -> None:
    """They are there while the step runs, and in no layer."""
    buildx.write(
        {
            "secret": "geheim",
            "Dockerfile": "FROM busybox\n"
            "RUN --mount=type=secret,id=s --mount=type=ssh test -S $SSH_AUTH_SOCK && wc -c < /run/secrets/s\n",
        }
    )
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(buildx.folder / "agent"))
        agent.listen()
        shown = buildx.build(
            "--secret", "id=s,src=secret", "--ssh", f"default={buildx.folder}/agent", "-t", "t/secret"
        )
    assert " 6\n" in shown
    layers = client.images.get("t/secret").attrs["RootFS"]["Layers"]
    assert len(layers) == 1, "the step made a layer, so something was left"


def test_questions_are_answered(buildx: Buildx) -> None:
    """Checks, arguments and targets, for people and for programs."""
    buildx.write(
        {
            "Dockerfile": "# VERSION of everything\nARG VERSION=1\nFROM busybox:latest as base\n"
            "# dev is for developers\nFROM base AS dev\nRUN --mount=type=secret,id=tok,required true\n"
        }
    )
    done = buildx.run("build", "--call=check", ".", check=False)
    assert done.returncode == 1 and b"FromAsCasing" in done.stdout
    found: dict[str, Any] = json.loads(
        buildx.run("build", "--call=check,format=json", ".", check=False).stdout
    )
    assert [each["ruleName"] for each in found["warnings"]] == ["FromAsCasing"]
    outline = buildx.run("build", "--call=outline", ".").stdout.decode()
    assert "VERSION" in outline and "tok" in outline
    targets = buildx.run("build", "--call=targets", ".").stdout.decode()
    assert "dev (default)" in targets and "base" in targets
    assert "FromAsCasing" in buildx.build("--target", "base")


def test_bake_links_targets(buildx: Buildx, client: docker.DockerClient) -> None:
    """One target's result is the other's base, in one go."""
    buildx.write(
        {
            "app/Dockerfile": "FROM base\nCOPY --from=more a /from-more\nRUN cat /b /from-more > /both\n",
            "docker-bake.json": json.dumps(
                {
                    "group": {"default": {"targets": ["app", "plain"]}},
                    "target": {
                        "plain": {"context": ".", "tags": ["t/plain"]},
                        "app": {
                            "context": "app",
                            "contexts": {"base": "target:plain", "more": "."},
                            "tags": ["t/app"],
                        },
                    },
                }
            ),
        }
    )
    buildx.run("bake")
    assert client.containers.run("t/app", "cat /both", remove=True) == b"AA"
    assert client.images.get("t/plain")


def test_a_context_from_standard_input(buildx: Buildx, client: docker.DockerClient) -> None:
    """A tar is the context, a text the Dockerfile."""
    tar = subprocess.run(["tar", "c", "."], cwd=buildx.folder, capture_output=True, check=True).stdout
    buildx.build("-t", "t/stdin", stdin=tar)
    assert client.containers.run("t/stdin", "cat /c", remove=True) == b"A"
    buildx.build("-t", "t/text", stdin=b"FROM busybox\nRUN echo alone > /x\n")
    assert client.containers.run("t/text", "cat /x", remove=True) == b"alone\n"


def test_usage_pruning_and_history(buildx: Buildx) -> None:
    """What is kept can be seen and removed; builds of the past can be read."""
    buildx.build()
    buildx.write({"Dockerfile": "FROM busybox\nRUN echo told; exit 4\n"})
    buildx.build(check=False)
    assert b"Reclaimable" in buildx.run("du").stdout
    listed = buildx.run("history", "ls").stdout.decode()
    assert "Error" in listed and "Completed" in listed
    assert b"told" in buildx.run("history", "logs").stderr + buildx.run("history", "logs").stdout
    assert b"exit code: 4" in buildx.run("history", "inspect").stdout
    buildx.run("history", "rm", "--all")
    assert len(buildx.run("history", "ls").stdout.splitlines()) == 1
    buildx.run("prune", "-af")
    assert "CACHED" not in buildx.run("du").stdout.decode()


def test_a_remote_builder(buildx: Buildx, engine: LiveEngine) -> None:
    """gRPC without HTTP/1.1, and the session inside a call."""
    buildx.run("create", "--name", "far", "--driver", "remote", f"unix://{engine.socket}")
    try:
        shown = buildx.build("--builder", "far", "-o", "type=tar,dest=far.tar")
        assert "RUN ln /b /c" in shown and {"a", "b", "c"} <= names_in(buildx.folder / "far.tar")
    finally:
        buildx.run("rm", "far")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_a_killed_build_ends_its_steps(buildx: Buildx, engine: LiveEngine, number: signal.Signals) -> None:
    """Within a second, whether or not it can say goodbye. The plugin is run by itself: docker's command ends alone."""
    buildx.write({"Dockerfile": "FROM busybox\nRUN (trap '' TERM INT; sleep 1000) & sleep 1000\n"})
    command = [os.path.join(PLUGINS, "docker-buildx"), "build", "."]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=buildx.folder, env=buildx.environment, stdout=quiet, stderr=quiet
    ) as building:
        wait_until(lambda: len(cgroup_processes(engine)) >= 2)
        building.send_signal(number)
        wait_until(lambda: not cgroup_processes(engine), 1.0)
        assert building.wait()


def test_metadata_says_what_was_made(buildx: Buildx, client: docker.DockerClient) -> None:
    """By digest and name."""
    buildx.build("--metadata-file", "metadata.json", "-t", "t/metadata")
    found = json.loads((buildx.folder / "metadata.json").read_text())
    assert found["containerimage.digest"] == client.images.get("t/metadata").id
    assert found["image.name"] == "docker.io/t/metadata:latest"
    # buildx takes it for the image's id where it is there.
    assert "containerimage.config.digest" not in found
    shown = buildx.run("build", "-q", "--iidfile", "id", ".").stdout.decode().strip()
    assert shown == (buildx.folder / "id").read_text() == client.images.get("t/metadata").id


def test_metadata_of_a_layout_names_its_configuration(buildx: Buildx) -> None:
    """What lies in no engine is known by its parts."""
    buildx.build("--metadata-file", "metadata.json", "-o", "type=oci,dest=layout,tar=false")
    found = json.loads((buildx.folder / "metadata.json").read_text())
    algorithm, _, hexadecimal = found["containerimage.digest"].partition(":")
    manifest = json.loads((buildx.folder / "layout" / "blobs" / algorithm / hexadecimal).read_text())
    assert found["containerimage.config.digest"] == manifest["config"]["digest"]


@pytest.mark.parametrize("output", ["type=oci,dest=x.tar", "type=docker,dest=x.tar", "type=image"])
def test_several_outputs_agree_on_the_id(buildx: Buildx, output: str) -> None:
    """One that is kept by an engine is enough for no digest of a configuration."""
    buildx.build("--metadata-file", "metadata.json", "-o", output, "-o", "type=oci,dest=layout.tar")
    found = json.loads((buildx.folder / "metadata.json").read_text())
    assert ("containerimage.config.digest" in found) == output.startswith("type=oci")
