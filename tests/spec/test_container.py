"""Docker's create JSON: what clients send is read, what they may not send is refused by name."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.spec.container import (
    ContainerConfig,
    ExecConfig,
    HostConfig,
    Mount,
    NetworkingConfig,
    PortBinding,
    ResourceUpdate,
    Ulimit,
    format_create,
    format_inspect,
    parse_body,
    parse_create,
)

CLI_28 = b"""{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":true,"AttachStderr":true,
"ExposedPorts":{"80/tcp":{}},"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":["true"],"Image":"busybox",
"Volumes":{},"WorkingDir":"","Entrypoint":null,"Labels":{},"HostConfig":{"Binds":null,"ContainerIDFile":"",
"LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]},
"RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":true,"VolumeDriver":"","VolumesFrom":null,
"ConsoleSize":[24,80],"CapAdd":null,"CapDrop":null,"CgroupnsMode":"","Dns":null,"DnsOptions":[],"DnsSearch":[],
"ExtraHosts":null,"GroupAdd":null,"IpcMode":"","Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"",
"Privileged":false,"PublishAllPorts":false,"ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"","UsernsMode":"",
"ShmSize":0,"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,
"BlkioWeightDevice":[],"BlkioDeviceReadBps":[],"BlkioDeviceWriteBps":[],"BlkioDeviceReadIOps":[],
"BlkioDeviceWriteIOps":[],"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"",
"CpusetMems":"","Devices":[],"DeviceCgroupRules":null,"DeviceRequests":null,"MemoryReservation":0,"MemorySwap":0,
"MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"Ulimits":[{"Name":"nofile","Hard":20,"Soft":10}],
"CpuCount":0,"CpuPercent":0,"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPaths":null,"ReadonlyPaths":null},
"NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":null,"Links":null,"Aliases":null,"MacAddress":"",
"DriverOpts":null,"GwPriority":0,"NetworkID":"","EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,
"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"DNSNames":null}}}}"""


def test_what_the_docker_cli_28_sends_is_read() -> None:
    """Every field of a plain docker run arrives under its own name."""
    request = parse_create(CLI_28)
    assert request.config.cmd == ("true",)
    assert request.config.entrypoint is None
    host = request.host_config
    assert host.port_bindings == {"80/tcp": (PortBinding(host_port="8080"),)}
    assert host.console_size == (24, 80)
    assert host.ulimits == (Ulimit(name="nofile", soft=10, hard=20),)
    assert host.masked_paths is None
    assert list(request.networking_config.endpoints_config) == ["default"]


def test_go_null_means_absent() -> None:
    """A field that a Go client leaves nil has its default, also inside a map."""
    body = b'{"Cmd":null,"Volumes":{"/x":null},"HostConfig":{"Mounts":null,"PortBindings":{"1/tcp":null}}}'
    request = parse_create(body)
    assert request.cmd is None
    assert request.volumes == {"/x": {}}
    assert request.host_config == HostConfig(port_bindings={"1/tcp": ()})


def test_an_empty_list_of_masks_is_not_null() -> None:
    """systempaths=unconfined arrives as an empty list and must not become the default list."""
    assert parse_create(b'{"HostConfig":{"MaskedPaths":[]}}').host_config.masked_paths == ()


@pytest.mark.parametrize("name", ["Cmd", "Entrypoint"])
def test_a_text_stands_for_a_list_of_one(name: str) -> None:
    """Docker's strslice."""
    request = parse_create(f'{{"{name}":"sh"}}'.encode())
    assert (request.cmd or request.entrypoint) == ("sh",)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"HostConfig":{"Memory":"1g"}}', "$.HostConfig.Memory"),
        (b'{"Env":"A=1"}', "$.Env"),
        (b'{"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":80}]}}}', "HostPort"),
        (b'{"Tty":1}', "$.Tty"),
        (b'{"HostConfig":{"Mounts":[{"Target":5}]}}', ".Target"),
        (b'{"HostConfig":{"BlkioWeight":70000}}', "$.HostConfig.BlkioWeight"),
    ],
)
def test_a_wrong_type_is_refused_with_the_field_name(body: bytes, field: str) -> None:
    """The client learns which of a hundred fields was wrong."""
    with pytest.raises(msgspec.ValidationError) as caught:
        parse_create(body)
    assert field in str(caught.value)


def test_unknown_fields_are_ignored() -> None:
    """A newer client is understood as far as we know its words."""
    assert parse_create(b'{"Image":"a","Shiny":{"New":1}}').image == "a"


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"'])
def test_something_else_than_an_object_is_refused(body: bytes) -> None:
    """The body is an object or nothing."""
    with pytest.raises(msgspec.ValidationError):
        parse_create(body)


def test_an_empty_body_is_an_empty_object() -> None:
    """Clients that have nothing to say may send nothing."""
    assert parse_body(b"", ExecConfig) == ExecConfig()


def test_update_takes_resources_and_a_policy() -> None:
    """The update body is flat: limits and RestartPolicy side by side."""
    update = parse_body(b'{"Memory":5,"RestartPolicy":{"Name":"always"}}', ResourceUpdate)
    assert (update.memory, update.restart_policy.name) == (5, "always")


texts = st.text(max_size=8)


@given(
    st.builds(ContainerConfig, hostname=texts, env=st.tuples(texts), cmd=st.none() | st.tuples(texts)),
    st.builds(HostConfig, memory=st.integers(0, 2**40), binds=st.tuples(texts), privileged=st.booleans()),
)
def test_format_create_is_read_back(config: ContainerConfig, host: HostConfig) -> None:
    """What our client writes, our engine reads as the same values."""
    request = parse_create(format_create(config, host, NetworkingConfig()))
    assert (request.config, request.host_config) == (config, host)


def test_inspect_shows_what_go_would_show() -> None:
    """Empty lists are null, omitempty fields are gone, pointers that are set stay."""
    shown = format_inspect(HostConfig(init=False, mounts=(Mount(type="bind"),)))
    assert shown["CapAdd"] is None
    assert list(shown["Dns"]) == []
    assert shown["Init"] is False
    assert "Tmpfs" not in shown
    assert shown["ConsoleSize"] == [0, 0]
    assert "Healthcheck" not in format_inspect(ContainerConfig())
