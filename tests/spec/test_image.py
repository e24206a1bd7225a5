"""The image configuration: Docker's and OCI's JSON, Go's habits, times."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cais.errors import Invalid
from cais.spec.digest import digest_bytes
from cais.spec.image import (
    ContainerDefaults,
    Healthcheck,
    History,
    ImageConfig,
    RootFs,
    format_image_config,
    format_time_ns,
    parse_image_config,
    parse_time_ns,
)

ROOTFS: dict[str, Any] = {"type": "layers", "diff_ids": [digest_bytes(b"l")]}
FULL = ImageConfig(
    created="2024-02-29T01:02:03.5Z",
    author="a",
    architecture="amd64",
    os="linux",
    config=ContainerDefaults(
        user="1:2",
        exposed_ports={"80/tcp": {}},
        env=("A=b",),
        entrypoint=("/e",),
        cmd=("c",),
        volumes={"/v": {}},
        working_dir="/w",
        labels={"k": "v"},
        stop_signal="SIGINT",
        shell=("/bin/sh", "-c"),
        healthcheck=Healthcheck(test=("CMD", "true"), interval=5),
        on_build=("RUN x",),
    ),
    rootfs=RootFs(diff_ids=(digest_bytes(b"l"),)),
    history=(History(created_by="RUN x"), History(empty_layer=True)),
)


def parse(**raw: Any) -> ImageConfig:
    """The parsed value of a small configuration."""
    return parse_image_config(json.dumps({"rootfs": ROOTFS} | raw).encode())


def test_a_configuration_parses_back() -> None:
    """Every field survives format and parse, and formatting is deterministic."""
    data = format_image_config(FULL)
    assert parse_image_config(data) == FULL
    assert format_image_config(parse_image_config(data)) == data


def test_json_names_are_the_specifications() -> None:
    """Names as in image-spec config.md."""
    raw = json.loads(format_image_config(FULL))
    assert raw["config"]["ExposedPorts"] == {"80/tcp": {}}
    assert raw["config"]["OnBuild"] == ["RUN x"]
    assert raw["history"][1] == {"empty_layer": True}
    assert raw["rootfs"]["type"] == "layers"


def test_gos_nulls_are_absent() -> None:
    """Docker writes null for what is not set, in every place."""
    config = parse(
        history=None,
        config={
            "Env": None,
            "Cmd": None,
            "Labels": {"a": None},
            "Healthcheck": None,
            "Volumes": {"/v": None},
        },
        created=None,
    )
    assert config.config == ContainerDefaults(labels={"a": ""}, volumes={"/v": None})
    assert parse(config=None).config == ContainerDefaults()


def test_a_lone_string_is_a_list_of_one() -> None:
    """Docker's strslice takes both."""
    assert parse(config={"Cmd": "sh", "Entrypoint": ["e"]}).config.cmd == ("sh",)


def test_unknown_fields_are_passed_over() -> None:
    """The blob keeps them; the value need not know them."""
    assert parse(container="x", docker_version="1", config={"Hostname": "h", "Tty": False}).config.cmd == ()


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"config": {"Env": "A=b"}}, r"config\.Env"),
        ({"config": {"Labels": ["a"]}}, r"config\.Labels"),
        ({"rootfs": {"type": "layers", "diff_ids": ["sha256:x"]}}, "invalid digest"),
        ({"rootfs": {"type": "tarball", "diff_ids": []}}, "rootfs type 'tarball'"),
        ({"rootfs": None}, "rootfs"),
        ({"history": [3]}, "history"),
        ({"os": 3}, r"\$\.os"),
    ],
)
def test_wrong_fields_are_named(raw: dict[str, Any], field: str) -> None:
    """A wrong type is Invalid and the message says where."""
    with pytest.raises(Invalid, match=field):
        parse(**raw)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{}", b'{"rootfs":[]}', b"[" * 100_000])
def test_no_configuration(data: bytes) -> None:
    """Whatever is no configuration is Invalid."""
    with pytest.raises(Invalid):
        parse_image_config(data)


@settings(deadline=None)
@given(st.integers(-62_000_000_000, 250_000_000_000), st.integers(0, 999_999_999))
def test_times_parse_back(seconds: int, fraction: int) -> None:
    """Nanoseconds survive the text."""
    time_ns = seconds * 1_000_000_000 + fraction
    assert parse_time_ns(format_time_ns(time_ns)) == time_ns


def test_times_have_zones() -> None:
    """An offset counts; what is no time is Invalid; created_ns is 0 then."""
    assert parse_time_ns("1970-01-01T01:00:00+01:00") == 0
    assert FULL.created_ns == 1709168523_500000000
    with pytest.raises(Invalid):
        parse_time_ns("2024-02-30T00:00:00Z")
    assert parse(created="yesterday").created_ns == 0
