"""What BuildKit's clients say, as builds understand it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.api.buildkit.attrs import check_frontend, format_attrs, parse_attrs, parse_fields, parse_imports
from cais.api.buildkit.gatewaywire import make_definition, read_definition
from cais.api.buildkit.messages import CacheOptions, Definition
from cais.api.buildkit.messages import Option as WireOption
from cais.build.request import BuildRequest, Option
from cais.errors import Invalid, Unsupported
from cais.spec.container import HostConfig, Ulimit
from cais.spec.platform import format_platform, parse_platform


def test_attributes_become_a_request() -> None:
    """All that buildx sends."""
    asked = parse_attrs(
        {
            "filename": "Other",
            "target": "dev",
            "build-arg:A": "1",
            "label:l": "2",
            "platform": "linux/amd64,linux/arm64",
            "no-cache": "one,two",
            "image-resolve-mode": "pull",
            "force-network-mode": "none",
            "add-hosts": "a=1.2.3.4,b=::1",
            "shm-size": "1048576",
            "ulimit": "nofile=10:20,nproc=5",
            "context:base": "docker-image://x",
            "attest:sbom": "generator=x",
            "context": "https://example.com/x.git",
            "requestid": "frontend.outline",
        },
        ("network.host",),
    )
    request = asked.request
    assert (asked.context, asked.call) == ("https://example.com/x.git", "outline")
    assert (request.dockerfile, request.target, request.pull) == ("Other", "dev", True)
    assert (dict(request.args), dict(request.labels)) == ({"A": "1"}, {"l": "2"})
    assert [format_platform(each) for each in request.platforms] == ["linux/amd64", "linux/arm64"]
    assert (request.no_cache, request.no_cache_filter) == (False, {"one", "two"})
    assert request.host.network_mode == "none" and request.host.extra_hosts == ("a:1.2.3.4", "b:::1")
    assert request.host.shm_size == 1 << 20
    assert [(each.name, each.soft, each.hard) for each in request.host.ulimits] == [
        ("nofile", 10, 20),
        ("nproc", 5, 5),
    ]
    assert dict(request.contexts) == {"base": "docker-image://x"}
    assert request.attests == (Option("sbom", {"generator": "x"}),)
    assert request.entitlements == {"network.host"}


def test_nothing_cached_and_what_buildx_adds_by_itself() -> None:
    """An empty no-cache means everything; provenance that nobody asked for is none."""
    asked = parse_attrs({"no-cache": "", "attest:provenance": "mode=min,inline-only=true"})
    assert asked.request.no_cache and asked.request.attests == ()


@given(
    st.builds(
        BuildRequest,
        dockerfile=st.sampled_from(["Dockerfile", "a/b"]),
        args=st.dictionaries(st.text(), st.text()),
        labels=st.dictionaries(st.text(), st.text()),
        target=st.text(),
        platforms=st.sampled_from([(), (parse_platform("linux/arm64"),)]),
        no_cache=st.booleans(),
        pull=st.booleans(),
        host=st.builds(
            HostConfig,
            network_mode=st.sampled_from(["default", "none", "host"]),
            extra_hosts=st.sampled_from([(), ("a:1.2.3.4", "b:::1")]),
            shm_size=st.integers(0, 1 << 40),
            cgroup_parent=st.text(),
            ulimits=st.sampled_from(
                [(), (Ulimit(name="nofile", soft=1, hard=2), Ulimit(name="nproc", soft=-1, hard=-1))]
            ),
        ),
    )
)
def test_a_request_of_the_classic_api_is_said_in_attributes(request: BuildRequest) -> None:
    """And means the same."""
    found = parse_attrs(format_attrs(request)).request
    assert replace(found, secrets=request.secrets, agents=request.agents) == request


@pytest.mark.parametrize(
    "attrs",
    [
        {"platform": "what/"},
        {"shm-size": "lots"},
        {"ulimit": "nofile"},
        {"ulimit": "a=b"},
        {"add-hosts": "x"},
    ],
)
def test_what_makes_no_sense_is_refused(attrs: dict[str, str]) -> None:
    """Before anything is built."""
    with pytest.raises(Invalid):
        parse_attrs(attrs)


def test_frontends() -> None:
    """Docker's own are built in, whatever version; others are not run."""
    check_frontend("dockerfile.v0", {})
    check_frontend("gateway.v0", {"source": "docker/dockerfile:1.7-labs"})
    for frontend, attrs in (("gateway.v0", {"source": "evil/x"}), ("", {}), ("other.v0", {})):
        with pytest.raises(Unsupported, match="not supported"):
            check_frontend(frontend, attrs)


def test_caches_are_named_once() -> None:
    """Clients say them twice."""
    cache = CacheOptions(imports=(WireOption(type="registry", attrs={"ref": "a"}),), import_refs=("b",))
    attrs = {"cache-imports": '[{"Type":"registry","Attrs":{"ref":"a"}}]', "cache-from": "c"}
    assert [option.attrs["ref"] for option in parse_imports(cache, attrs)] == ["a", "b", "c"]
    with pytest.raises(Invalid, match="cache-imports"):
        parse_imports(None, {"cache-imports": "{"})


def test_fields_with_quotes() -> None:
    """As CSV has them."""
    assert parse_fields('a=1,"b=x,y",flag') == {"a": "1", "b": "x,y", "flag": "true"}


def test_results_are_graphs_of_our_own() -> None:
    """And no others."""
    definition = make_definition("some-id")
    assert read_definition(definition) == "some-id" and definition.metadata
    with pytest.raises(Invalid, match="LLB"):
        read_definition(Definition(operations=(b"\x1a\x08\x0a\x06docker",)))
