"""Pushing, logging in and searching with unmodified clients, beside a real registry."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from cais import AsyncEngine, Engine
from cais.client.models import RegistryAuth
from cais.errors import Unauthenticated, Unavailable
from harness.registry import PASSWORD, USER, running_hub, running_registry

SOURCES = Path(__file__).parents[2] / "src"


@pytest.fixture(params=[running_registry, running_hub], ids=["distribution", "hub"])
def registry(engine: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an empty registry in the engine's network namespace, Docker's and ours; its names are removed at
    the end."""
    with request.param(tmp_path / "r", netns=engine.netns.pid) as registry:
        yield registry.address
    forget(engine, registry.address)


@pytest.fixture
def locked(engine: Any, tmp_path: Path) -> Iterator[str]:
    """One that wants USER and PASSWORD."""
    with running_registry(tmp_path / "l", password=True, netns=engine.netns.pid) as registry:
        yield registry.address
    forget(engine, registry.address)


def forget(engine: Any, address: str) -> None:
    """Remove every name of a registry."""
    with contextlib.closing(engine.client()) as client:
        for image in client.images.list():
            for tag in image.tags:
                if tag.startswith(address):
                    client.images.remove(tag, force=True)


def cais(
    engine: Any, *words: str, stdin: str | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Our own command line."""
    own = {**os.environ, "PYTHONPATH": str(SOURCES), "CAIS_HOST": f"unix://{engine.socket}", **environment}
    command = [sys.executable, "-m", "cais", *words]
    return subprocess.run(command, capture_output=True, text=True, env=own, timeout=60, input=stdin)


def test_docker_push_and_pull(cli: Any, registry: str) -> None:
    """The digest that the CLI shows is the one that pulls and inspects say; a second push has nothing to do."""
    name = f"{registry}/team/app"
    cli.text("tag", "busybox", f"{name}:1")
    text = cli.text("push", f"{name}:1")
    assert text.splitlines()[0] == f"The push refers to repository [{name}]"
    line = text.splitlines()[-1]
    digest = line.split()[2]
    assert line.startswith("1: digest: sha256:") and int(line.split()[-1]) > 0 and ": Pushed" in text
    assert f"{name}@{digest}" in cli.inspect(f"{name}:1")["RepoDigests"]
    assert "Layer already exists" in cli.text("push", f"{name}:1")
    cli.text("rmi", f"{name}:1")
    assert f"Digest: {digest}" in cli.text("pull", f"{name}:1")
    assert cli.text("run", "--rm", f"{name}@{digest}", "echo", "there and back") == "there and back"


def test_docker_push_all_tags_and_pull_all(cli: Any, registry: str) -> None:
    """-a sends and fetches every tag."""
    name = f"{registry}/app"
    for tag in ("1", "2", "latest"):
        cli.text("tag", "busybox", f"{name}:{tag}")
    text = cli.text("push", "-a", name)
    assert [line.split(":")[0] for line in text.splitlines() if ": digest: " in line] == ["1", "2", "latest"]
    cli.text("rmi", *(f"{name}:{tag}" for tag in ("1", "2", "latest")))
    cli.text("pull", "-a", name)
    tags = cli.text("images", name, "--format", "{{.Tag}}").split()
    assert sorted(tags) == ["1", "2", "latest"]


def test_docker_push_fails(cli: Any, registry: str, locked: str) -> None:
    """In words that say what to do, with its exit code."""
    run = cli.run("push", f"{registry}/none:1", check=False)
    words = f"An image does not exist locally with the tag: {registry}/none"
    assert run.returncode == 1 and words in run.stderr.decode()
    cli.text("tag", "busybox", f"{locked}/app:1")
    run = cli.run("push", f"{locked}/app:1", check=False)
    assert run.returncode == 1 and "no basic auth credentials" in run.stderr.decode()
    cli.text("tag", "busybox", "127.0.0.1:1/app:1")
    run = cli.run("push", "127.0.0.1:1/app:1", check=False)
    assert run.returncode == 1 and "connect: connection refused" in run.stderr.decode()
    cli.text("rmi", "127.0.0.1:1/app:1")


def test_docker_login_push_pull_logout(cli: Any, locked: str, engine: Any) -> None:
    """The wrong password is refused, the right one opens the registry until logout; no secret is in the log."""
    wrong = cli.run("login", "-u", USER, "--password-stdin", locked, stdin=b"wr0ng-word", check=False)
    assert wrong.returncode == 1 and b"401 Unauthorized" in wrong.stderr
    assert "Login Succeeded" in cli.text(
        "login", "-u", USER, "--password-stdin", locked, stdin=PASSWORD.encode()
    )
    name = f"{locked}/app:1"
    cli.text("tag", "busybox", name)
    cli.text("push", name)
    cli.text("rmi", name)
    cli.text("pull", name)
    assert cli.text("search", f"{locked}/app", "--format", "{{.Name}}") == "app"
    cli.text("logout", locked)
    assert cli.run("push", name, check=False).returncode == 1
    log = (engine.folder / "engine.log").read_text()
    assert "wr0ng" not in log and PASSWORD not in log


def test_docker_search(cli: Any, registry: str) -> None:
    """A registry without a search has its catalogue looked through."""
    for name in ("one/app", "two/app", "other"):
        cli.text("tag", "busybox", f"{registry}/{name}:1")
        cli.text("push", f"{registry}/{name}:1")
    found = cli.text("search", f"{registry}/app", "--format", "{{.Name}}").split()
    assert sorted(found) == ["one/app", "two/app"]
    assert cli.text("search", "--limit", "1", f"{registry}/app", "--format", "{{.Name}}").count("\n") == 0
    assert cli.text("search", "--filter", "stars=3", f"{registry}/app", "--format", "{{.Name}}") == ""
    bad = cli.run("search", "--limit", "101", f"{registry}/app", check=False)
    assert bad.returncode == 1 and b"outside the range of [1, 100]" in bad.stderr


def test_docker_py_pushes(client: docker.DockerClient, registry: str) -> None:
    """The stream is docker's: statuses, layers with progressDetail, the result for programs at the end."""
    client.images.get("busybox").tag(f"{registry}/app", "1")
    lines = [*client.api.push(f"{registry}/app", "1", stream=True, decode=True)]
    assert lines[0] == {"status": f"The push refers to repository [{registry}/app]"}
    statuses = [line["status"] for line in lines if "id" in line]
    assert statuses[0] == "Preparing" and statuses[-1] == "Pushed"
    assert all("progressDetail" in line for line in lines if "id" in line)
    aux = lines[-1]["aux"]
    assert lines[-2] == {"status": f"1: digest: {aux['Digest']} size: {aux['Size']}"}
    assert lines[-1]["progressDetail"] == {} and aux["Tag"] == "1"
    data = client.images.get_registry_data(f"{registry}/app:1")
    assert data.id == aux["Digest"] and data.has_platform("linux/amd64")


def test_docker_py_logs_in(client: docker.DockerClient, locked: str) -> None:
    """401 for the wrong password; what it was is in no message."""
    with pytest.raises(docker.errors.APIError) as refused:
        client.login(USER, "wr0ng-word", registry=locked, reauth=True)
    assert refused.value.status_code == 401 and "wr0ng" not in str(refused.value)
    assert client.login(USER, PASSWORD, registry=locked, reauth=True)["Status"] == "Login Succeeded"
    client.images.get("busybox").tag(f"{locked}/app", "1")
    auth = {"username": USER, "password": PASSWORD}
    assert "digest: sha256:" in client.images.push(f"{locked}/app", "1", auth_config=auth)


def test_the_client_library_pushes_and_pulls(engine: Any, registry: str, locked: str) -> None:
    """With what the registry answers as a value, and errors by kind."""
    with Engine(f"unix://{engine.socket}") as own:
        own.tag("busybox", f"{registry}/lib:1")
        pushed = own.push(f"{registry}/lib:1", compression="zstd")
        own.remove_image(f"{registry}/lib:1")
        assert own.pull(f"{registry}/lib:1").id == pushed.digest
        own.tag("busybox", f"{locked}/lib:1")
        with pytest.raises(Unavailable, match="push access denied"):
            own.push(f"{locked}/lib:1")
        auth = RegistryAuth(username=USER, password=PASSWORD, serveraddress=locked)
        assert own.login(auth) == auth and PASSWORD not in repr(auth)
        with pytest.raises(Unauthenticated):
            own.login(RegistryAuth(username=USER, password="wr0ng", serveraddress=locked))
        assert own.push(f"{locked}/lib:1", auth=auth).tag == "1"


async def test_the_async_client_pushes_and_pulls(engine: Any, registry: str) -> None:
    """As the other one."""
    async with AsyncEngine(f"unix://{engine.socket}") as own:
        await own.tag("busybox", f"{registry}/async:1")
        pushed = await own.push(f"{registry}/async:1", platform="linux/amd64")
        await own.remove_image(f"{registry}/async:1")
        found = await own.pull(f"{registry}/async@{pushed.digest}")
        assert found.id == pushed.digest
        await own.remove_image(found.id, force=True)
        with pytest.raises(Unavailable, match="An image does not exist locally"):
            await own.push(f"{registry}/none:1")


def test_cais_login_push_run_logout(engine: Any, locked: str, tmp_path: Path) -> None:
    """What login keeps opens the registry to push, pull, run and search, is readable for its owner alone, and is
    forgotten by logout; what else was in the file stays."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.json").write_text('{"detachKeys":"ctrl-x","auths":{"other.example":{"auth":"YTpi"}}}')
    own = {"DOCKER_CONFIG": str(home)}
    wrong = cais(engine, "login", "-u", USER, "--password-stdin", locked, stdin="wr0ng-word\n", **own)
    assert wrong.returncode == 1 and "401 Unauthorized" in wrong.stderr and "wr0ng" not in wrong.stderr
    done = cais(engine, "login", "-u", USER, "--password-stdin", locked, stdin=f"{PASSWORD}\n", **own)
    assert done.stdout == "Login Succeeded\n" and "stored unencrypted" in done.stderr
    assert (home / "config.json").stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in (home / "config.json").read_text()
    name = f"{locked}/app:1"
    cais(engine, "tag", "busybox", name)
    pushed = cais(engine, "push", name, **own)
    assert pushed.returncode == 0 and "1: digest: sha256:" in pushed.stdout, pushed.stderr
    cais(engine, "rmi", name)
    run = cais(engine, "run", "--rm", name, "echo", "hello", **own)
    assert run.stdout == "hello\n", run.stderr
    assert cais(engine, "search", f"{locked}/app", "--format", "{{.Name}}", **own).stdout == "app\n"
    shown = json.loads(cais(engine, "manifest", "inspect", name, **own).stdout)
    assert shown["layers"][0]["mediaType"].endswith("+gzip")
    assert "existing credentials" in cais(engine, "login", locked, **own).stdout
    assert cais(engine, "logout", locked, **own).stdout == f"Removing login credentials for {locked}\n"
    assert cais(engine, "logout", locked, **own).stdout == f"Not logged in to {locked}\n"
    assert cais(engine, "push", name, **own).returncode == 1
    left = json.loads((home / "config.json").read_text())
    assert left == {"detachKeys": "ctrl-x", "auths": {"other.example": {"auth": "YTpi"}}}


HELPER = """#!/bin/sh
folder=$(dirname "$0")
echo "$@" >>"$folder/arguments"
input=$(cat)
case $1 in
store) printf %s "$input" >"$folder/kept" ;;
get) [ -s "$folder/kept" ] || { echo credentials not found in native keychain; exit 1; }; cat "$folder/kept" ;;
erase) rm "$folder/kept" ;;
esac
"""


@pytest.mark.parametrize("config", ['{"credsStore":"test"}', '{"credHelpers":{"%s":"test"}}'])
def test_cais_login_with_a_credential_helper(engine: Any, locked: str, tmp_path: Path, config: str) -> None:
    """The secret goes there by standard input and comes from there; the file says only that there is one."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.json").write_text(config.replace("%s", locked))
    helper = home / "docker-credential-test"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    own = {"DOCKER_CONFIG": str(home), "PATH": f"{home}:{os.environ['PATH']}"}
    done = cais(engine, "login", "-u", USER, "--password-stdin", locked, stdin=PASSWORD, **own)
    assert done.returncode == 0 and "unencrypted" not in done.stderr, done.stderr
    assert json.loads((home / "kept").read_text())["Secret"] == PASSWORD
    assert PASSWORD not in (home / "config.json").read_text() + (home / "arguments").read_text()
    cais(engine, "tag", "busybox", f"{locked}/helped:1")
    assert cais(engine, "push", f"{locked}/helped:1", **own).returncode == 0
    cais(engine, "logout", locked, **own)
    assert not (home / "kept").exists()
    assert cais(engine, "push", f"{locked}/helped:1", **own).returncode == 1


def test_cais_push_options(engine: Any, registry: str) -> None:
    """All tags, quiet, compression; contradictions are refused before anything is sent."""
    name = f"{registry}/own"
    for tag in ("1", "2"):
        cais(engine, "tag", "busybox", f"{name}:{tag}")
    assert cais(engine, "push", "-q", "-a", name).stdout == f"{name}\n"
    assert cais(engine, "push", "-q", f"{name}:1").stdout == f"{name}:1\n"
    assert "Using default tag: latest" in cais(engine, "push", name).stdout
    for words, said in (
        (("-a", f"{name}:1"), "tag can't be used with --all-tags/-a"),
        (("--compression", "lzma", f"{name}:1"), "unknown compression 'lzma'"),
        (("--platform", "linux", f"{name}:1"), "invalid platform 'linux'"),
        ((f"{name}@sha256:{'0' * 64}",), "cannot push a digest reference"),
    ):
        run = cais(engine, "push", *words)
        assert run.returncode == 1 and said in run.stderr
    cais(engine, "rmi", f"{name}:1", f"{name}:2")
    assert cais(engine, "pull", "-a", "-q", name).stdout == f"{name}\n"
    assert cais(engine, "images", "--format", "{{.Tag}}", name).stdout.split() == ["1", "2"]


def test_a_broken_config_json_is_told_and_passed_over(engine: Any, registry: str, tmp_path: Path) -> None:
    """Many images can be had without credentials."""
    (tmp_path / "config.json").write_text("{")
    cais(engine, "tag", "busybox", f"{registry}/b:1")
    run = cais(engine, "push", f"{registry}/b:1", DOCKER_CONFIG=str(tmp_path))
    assert run.returncode == 0 and "config.json: it is not JSON" in run.stderr
