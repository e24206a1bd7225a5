"""What `cais build`'s flags ask for: outputs, caches, secrets, agents, contexts, as buildx reads them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.cli.build import BUILD
from cais.cli.buildrequest import (
    find_agents,
    is_remote,
    make_fields,
    parse_attests,
    parse_cache,
    parse_outputs,
    read_secrets,
    split_contexts,
    split_fields,
)
from cais.cli.failure import Failure
from cais.cli.flags import Flags, parse_flags


def flags(*words: str) -> Flags:
    """As the program reads them."""
    return parse_flags(BUILD.flags, words, kinds=BUILD.kinds)


def outputs(*words: str) -> list[tuple[str, dict[str, str], str]]:
    """Types, attributes and places."""
    return [(each.type, each.attrs, each.dest) for each in parse_outputs(flags(*words))]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("a,b", ["a", "b"]),
        ("", [""]),
        ("a,", ["a", ""]),
        ('"a,b",c', ["a,b", "c"]),
        ('"a ""x""",b', ['a "x"', "b"]),
        ('x"y', ['x"y']),
    ],
)
def test_fields_are_csv(text: str, fields: list[str]) -> None:
    """Quotes hold commas together."""
    assert split_fields(text) == fields


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=8), min_size=1, max_size=4))
def test_what_is_quoted_comes_back(fields: list[str]) -> None:
    """Whatever it is."""
    text = ",".join('"' + field.replace('"', '""') + '"' for field in fields)
    assert split_fields(text) == fields


@pytest.mark.parametrize("text", ['"a', '"a"b,c'])
def test_bad_quotes_are_refused(text: str) -> None:
    """And not guessed at."""
    with pytest.raises(ValueError, match="quote"):
        split_fields(text)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("-o", "out"), [("local", {}, "out")]),
        (("-o", "-"), [("tar", {}, "-")]),
        (("-o", "type=oci,dest=x.tar,compression=zstd"), [("oci", {"compression": "zstd"}, "x.tar")]),
        (("-o", "type=docker"), [("image", {}, "")]),
        (("-o", "type=docker,dest=a"), [("docker", {}, "a")]),
        (("-o", "type=registry,name=a/b"), [("image", {"push": "true", "name": "a/b"}, "")]),
        (("--push",), [("image", {"push": "true"}, "")]),
        (("--load",), [("image", {}, "")]),
        (("--load", "-o", "out"), [("local", {}, "out"), ("image", {}, "")]),
        (("-o", "type=image,name=x", "--push"), [("image", {"name": "x", "push": "true"}, "")]),
        (("-o", "type=cacheonly"), [("cacheonly", {}, "")]),
        (("--annotation", "a=b=c"), [("image", {"annotation.a": "b=c"}, "")]),
        (
            ("--annotation", "index,manifest:k=v"),
            [("image", {"annotation-index.k": "v", "annotation-manifest.k": "v"}, "")],
        ),
        ((), []),
    ],
)
def test_outputs(words: tuple[str, ...], found: list[Any]) -> None:
    """All the ways to say where results go."""
    assert outputs(*words) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "type=zip,dest=x"), "unknown type 'zip'"),
        (("-o", "dest=x"), "unknown type ''"),
        (("-o", "type=local"), "needs dest=FOLDER"),
        (("-o", "type=local,dest=-"), "needs dest=FOLDER"),
        (("-o", "type=image,dest=x"), "dest cannot be used"),
        (("-o", "type=oci,x"), "not of the form key=value"),
        (("-o", "out", "--push"), "needs an output of type image"),
        (("-o", "-", "-o", "type=oci,dest=-"), "only one output"),
        (("--annotation", "x"), "want key=value"),
    ],
)
def test_bad_outputs_are_refused(words: tuple[str, ...], message: str) -> None:
    """Before anything is sent."""
    with pytest.raises(Failure, match=message):
        outputs(*words)


def test_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare reference is a registry's; folders are absolute for the engine."""
    monkeypatch.chdir(tmp_path)
    found = parse_cache(["a/b:c", "type=local,dest=x,mode=max", "type=inline"], "cache-to")
    assert found == [
        {"type": "registry", "attrs": {"ref": "a/b:c"}},
        {"type": "local", "attrs": {"dest": f"{tmp_path}/x", "mode": "max"}},
        {"type": "inline", "attrs": {}},
    ]
    with pytest.raises(Failure, match="type is missing"):
        parse_cache(["ref=x"], "cache-to")


def test_attestations() -> None:
    """By --attest and its short forms; what is disabled is not asked for."""

    def found(*words: str) -> list[dict[str, Any]]:
        return parse_attests(flags(*words))

    assert found("--sbom=true", "--provenance", "mode=max") == [
        {"type": "sbom", "attrs": {}},
        {"type": "provenance", "attrs": {"mode": "max"}},
    ]
    assert found("--attest", "type=sbom,generator=x") == [{"type": "sbom", "attrs": {"generator": "x"}}]
    assert found("--attest", "type=sbom", "--sbom=false", "--provenance=false") == []
    assert found("--attest", "type=provenance,disabled=true") == []
    with pytest.raises(Failure, match="want type=sbom"):
        found("--attest", "type=x")


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and variables; errors say the id and the place, never the content."""
    (tmp_path / "f").write_bytes(b"\xff\0")
    monkeypatch.setenv("HELD", "valué")
    monkeypatch.chdir(tmp_path)
    found = read_secrets(["id=a,src=f", "id=b,env=HELD", "id=HELD", "id=f", "type=env,id=c,env=HELD"])
    assert found == {
        "a": b"\xff\0",
        "b": "valué".encode(),
        "HELD": "valué".encode(),
        "f": b"\xff\0",
        "c": "valué".encode(),
    }
    for text, message in (
        ("src=f", "id is missing"),
        ("id=a,src=none", "secret a: cannot read none"),
        ("id=a,env=NONE", "secret a: the environment has no variable NONE"),
        ("id=a,type=x", "unknown type x"),
        ("id=a,bad=x", "unknown bad"),
    ):
        with pytest.raises(Failure, match=message):
            read_secrets([text])
    (tmp_path / "big").write_bytes(bytes(600_000))
    with pytest.raises(Failure, match="larger than"):
        read_secrets(["id=big,src=big"])


def test_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual one by the environment, others by their sockets."""
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    assert find_agents(["default"]) == {"default": "/run/agent"}
    assert find_agents(["work=/x", ""]) == {"work": "/x", "default": "/run/agent"}
    with pytest.raises(Failure, match="given twice"):
        find_agents(["a=/x", "a=/y"])
    monkeypatch.delenv("SSH_AUTH_SOCK")
    with pytest.raises(Failure, match="SSH_AUTH_SOCK is not set"):
        find_agents(["default"])


def test_contexts(tmp_path: Path) -> None:
    """Folders are this side's, all else is the engine's to find."""
    folders, others = split_contexts(
        [f"here={tmp_path}", "base=docker-image://busybox", "src=https://x/y.git#v1", "lay=oci-layout://x"]
    )
    assert folders == {"here": str(tmp_path)}
    assert others == {
        "base": "docker-image://busybox",
        "src": "https://x/y.git#v1",
        "lay": "oci-layout://x",
    }
    for text in ("x", "x=", f"x={tmp_path}/none", f"context={tmp_path}"):
        with pytest.raises(Failure):
            split_contexts([text])


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("https://x/y", True),
        ("git@github.com:a/b.git", True),
        ("host:a/b.git#main", True),
        ("github.com/a/b", True),
        (".", False),
        ("./a.git", False),
        ("-", False),
    ],
)
def test_what_is_remote(text: str, remote: bool) -> None:
    """Docker's rule: a URL, or what looks like a git repository."""
    assert is_remote(text) is remote


def test_the_fields_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what was said; commas and repeats are one list."""
    monkeypatch.setenv("TAKEN", "from outside")
    given = flags(
        *("-t", "a", "-t", "b:2", "--build-arg", "A=1", "--build-arg", "TAKEN", "--build-arg", "ABSENT"),
        *("--platform", "linux/amd64,linux/arm64", "--no-cache-filter", "a,b", "--allow", "network.host"),
        *("--ulimit", "nofile=10:20", "--shm-size", "1m", "--cgroup-parent", "p", "--add-host", "x:1.2.3.4"),
        *("--label", "l", "--target", "t", "--pull", "--no-cache", "--memory-swap", "-1", "."),
    )
    assert make_fields(given, []) == {
        "names": ["a", "b:2"],
        "args": {"A": "1", "TAKEN": "from outside"},
        "labels": {"l": ""},
        "target": "t",
        "platforms": ["linux/amd64", "linux/arm64"],
        "no_cache": True,
        "no_cache_filter": ["a", "b"],
        "pull": True,
        "allow": ["network.host"],
        "host": {
            "memory_swap": -1,
            "shm_size": 1 << 20,
            "cgroup_parent": "p",
            "ulimits": [{"name": "nofile", "soft": 10, "hard": 20}],
            "extra_hosts": ["x:1.2.3.4"],
        },
    }
    assert make_fields(flags("."), []) == {}
