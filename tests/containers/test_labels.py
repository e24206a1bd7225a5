"""AppArmor profiles and SELinux labels: what is asked for, what is given, what is refused."""

import asyncio
from pathlib import Path

import msgspec
import msgspec.structs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cais.containers import labels
from cais.containers.explain import describe_labels
from cais.containers.labels import Profiles, choose_profile, compose_label, relabel_warnings
from cais.containers.limits import Machine
from cais.containers.machine import why_no_selinux
from cais.containers.options import check_request, parse_security
from cais.containers.record import MountPoint, Record
from cais.errors import Invalid, Unsupported
from cais.linux import apparmor
from cais.spec.container import ContainerConfig, ExecConfig, HostConfig
from harness.engines import MACHINE, Engine

PLAIN = Machine()
ARMED = msgspec.structs.replace(MACHINE, no_apparmor="", no_selinux="")
NO_SUCH = "this kernel has no apparmor"


@pytest.mark.parametrize(
    ("asked", "privileged", "profile"),
    [
        ("", False, "cais-default"),
        ("", True, "unconfined"),
        ("unconfined", False, "unconfined"),
        ("mine", True, "mine"),
        ("cais-default", True, "cais-default"),
    ],
)
def test_every_container_has_a_profile(asked: str, privileged: bool, profile: str) -> None:
    """The default one, unless it is privileged or says otherwise."""
    assert choose_profile(asked, privileged=privileged, machine=ARMED) == profile


@pytest.mark.parametrize("asked", ["", "unconfined", "cais-default"])
@pytest.mark.parametrize("privileged", [False, True])
def test_without_apparmor_nothing_is_given(asked: str, privileged: bool) -> None:
    """And the words for what is usual are no error."""
    assert choose_profile(asked, privileged=privileged, machine=PLAIN) == ""


@pytest.mark.parametrize("reason", [NO_SUCH, "securityfs is not mounted"])
def test_a_profile_that_cannot_be_given_is_refused_at_create(reason: str) -> None:
    """With its name and the reason."""
    host = HostConfig(security_opt=("apparmor=mine",))
    with pytest.raises(Unsupported, match=f"^apparmor profile mine was asked for, but {reason}$"):
        check_request(ContainerConfig(), host, Machine(no_apparmor=reason))


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ((), ""),
        (("disable",), ""),
        (("type:my_t", "disable", "user:u"), ""),
        (("type:my_t",), "system_u:system_r:my_t:s0"),
        (("level:s0:c1,c2",), "system_u:system_r:container_t:s0:c1,c2"),
        (("role:r", "user:u", "level:s1-s2:c0.c9", "type:t"), "u:r:t:s1-s2:c0.c9"),
        (("type:a", "type:b"), "system_u:system_r:b:s0"),
    ],
)
def test_a_label_is_composed(options: tuple[str, ...], label: str) -> None:
    """From the pieces that were said and the usual ones; the last of two counts."""
    assert compose_label(options) == label
    assert parse_security(tuple(f"label={option}" for option in options)).selinux == label


@pytest.mark.parametrize("text", ["", "nope", "type", "color:red", "Type:a", ":", "disable:"])
def test_unknown_label_options_are_refused(text: str) -> None:
    """In Docker's words."""
    with pytest.raises(Invalid) as caught:
        compose_label((text,))
    assert str(caught.value) == (
        f"bad label option \"{text}\", valid options 'disable' or \n"
        "'user, role, level, type, filetype' followed by ':' and a value"
    )


def test_a_label_for_files_is_refused() -> None:
    """Docker would give it to the files, which have none here."""
    with pytest.raises(Unsupported, match="filetype is not supported"):
        compose_label(("filetype:t",))


def test_a_label_that_cannot_be_given_is_refused_at_create() -> None:
    """With the label and the reason; disable asks for nothing."""
    wish = HostConfig(security_opt=("label=type:my_t",))
    with pytest.raises(
        Unsupported,
        match=r"^selinux label system_u:system_r:my_t:s0 was asked for, but this kernel has no selinux$",
    ):
        check_request(ContainerConfig(), wish, MACHINE)
    check_request(ContainerConfig(), wish, ARMED)
    check_request(ContainerConfig(), HostConfig(security_opt=("label=disable",)), MACHINE)


TRICKS = st.text(st.sampled_from("ab:./ \t\n\r\0\v\f\x1c\x85\xa0\u2028\u3000"), max_size=8) | st.text(
    max_size=8
)


@given(TRICKS)
def test_a_profile_name_is_written_as_it_was_read(text: str) -> None:
    """The kernel trims blanks, splits at them and ends at a null byte: no such name passes."""
    try:
        labels.check_profile_name(text)
    except Invalid:
        return
    assert text.split() == ([text] if text else [])
    assert text.isprintable() or not any(letter < " " or "\x7f" <= letter < "\xa0" for letter in text)
    assert len(f"exec {text}".encode()) < 4096


@given(st.sampled_from(["user", "role", "type", "level"]), TRICKS)
def test_a_piece_stays_in_its_field(key: str, value: str) -> None:
    """No value moves what follows into another field, or out of the line."""
    try:
        label = compose_label((f"{key}:{value}",))
    except Invalid:
        return
    fields = dict(zip(labels.BASE_LABEL, label.split(":", 3), strict=True))
    assert fields == labels.BASE_LABEL | {key: value}
    assert label.isascii() and label.isprintable() and " " not in label


@pytest.mark.parametrize("name", ["a" * 513, "a b", " a", "a\n", "\0", "a\0b"])
def test_names_that_the_kernel_would_change_are_refused(name: str) -> None:
    """Before anything is made."""
    with pytest.raises(Invalid, match="invalid apparmor profile name"):
        parse_security((f"apparmor={name}",))


def test_relabeling_is_not_passed_over() -> None:
    """Without SELinux ``:z`` means nothing, with it one is told."""
    points = [MountPoint(type="bind", destination="/a", mode=mode) for mode in ("ro,Z", "z", "ro", "")]
    assert relabel_warnings(points, MACHINE) == []
    assert relabel_warnings(points, ARMED) == [
        "Files are not relabeled for SELinux: 'ro,Z' of /a is discarded.",
        "Files are not relabeled for SELinux: 'z' of /a is discarded.",
    ]


@pytest.mark.parametrize(
    ("filesystems", "label", "reason"),
    [
        ("nodev\tproc\n", "unconfined", "this kernel has no selinux"),
        ("nodev\tselinuxfs\n", "kernel", "selinux has no policy loaded"),
        ("nodev\tselinuxfs\n", "", "selinux has no policy loaded"),
        ("nodev\tselinuxfs\n", "u:r:t:s0", ""),
    ],
)
def test_selinux_is_there_with_a_policy_only(filesystems: str, label: str, reason: str) -> None:
    """Without one the kernel takes every label for the same."""
    assert why_no_selinux(filesystems, label) == reason


def test_explain_says_why_there_is_none() -> None:
    """What was asked for, while nothing runs; else the reason."""
    record = Record(id="1", name="a", created_ns=1, config=ContainerConfig(), host=HostConfig())
    assert describe_labels(record, MACHINE, 0) == {
        "apparmor": NO_SUCH,
        "selinux": "this kernel has no selinux",
    }
    asked = replace(record, apparmor="mine", selinux="u:r:t:s0")
    assert describe_labels(asked, ARMED, 0) == {"apparmor": "mine", "selinux": "u:r:t:s0"}


def make_parser(folder: Path, text: str) -> str:
    """A program that stands for apparmor_parser."""
    path = folder / "parser"
    path.write_text(f"#!/bin/sh\ncd {folder}\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_the_default_profile_is_loaded_once_for_many_starts(tmp_path: Path) -> None:
    """Those that come meanwhile wait for it; when somebody takes it away it is loaded again."""
    listing = tmp_path / "profiles"
    listing.write_text("other (enforce)\n")
    parser = make_parser(tmp_path, 'cat >text; echo "$@" >>calls; echo "cais-default (enforce)" >>profiles')
    profiles = Profiles(listing, parser)
    await asyncio.gather(*(profiles.ensure("cais-default") for _ in range(20)))
    assert (tmp_path / "calls").read_text() == "-Kr\n"
    assert (tmp_path / "text").read_text() == apparmor.make_profile()
    listing.write_text("")
    await profiles.ensure("cais-default")
    assert (tmp_path / "calls").read_text() == "-Kr\n-Kr\n"


async def test_other_profiles_are_never_loaded_by_us(tmp_path: Path) -> None:
    """They are there or the start fails; other namespaces and stacks are the kernel's to judge."""
    listing = tmp_path / "profiles"
    listing.write_text("mine (complain)\n")
    profiles = Profiles(listing, "/nowhere/parser")
    for name in ("mine", "unconfined", "", ":space:mine", "mine//&other"):
        await profiles.ensure(name)
    with pytest.raises(
        Invalid, match=r"^apparmor profile other is not loaded: load it with apparmor_parser$"
    ):
        await profiles.ensure("other")


async def test_without_the_parser_the_error_says_what_to_install(tmp_path: Path) -> None:
    """The start fails: a container that says nothing was to be confined."""
    (tmp_path / "profiles").write_text("")
    with pytest.raises(
        Unsupported, match=r"cais-default profile could not be loaded: .*apt-get install apparmor"
    ):
        await Profiles(tmp_path / "profiles", "/nowhere/parser").ensure("cais-default")


async def test_a_refusal_of_the_parser_is_told(tmp_path: Path) -> None:
    """In its own words; the next start tries again."""
    (tmp_path / "profiles").write_text("")
    parser = make_parser(tmp_path, "echo cannot: Permission denied >&2; exit 4")
    profiles = Profiles(tmp_path / "profiles", parser)
    for _ in range(2):
        with pytest.raises(Unsupported, match="parser failed with 4: cannot: Permission denied"):
            await profiles.ensure("cais-default")


async def test_a_start_without_apparmor_gives_no_profile(engine: Engine) -> None:
    """Nor does an exec; inspect shows none, as Docker's."""
    id = await engine.run(host=HostConfig(security_opt=("apparmor=unconfined",)))
    exec_id = engine.containers.exec_create(id, ExecConfig(cmd=("true",), privileged=True))
    await engine.containers.exec_start(exec_id, detach=True)
    assert engine.driver.starts[0].spec.process.apparmor_profile == ""
    assert engine.driver.execs[0].process.apparmor_profile == ""
    assert engine.containers.record(id).apparmor == ""


async def test_a_container_that_cannot_be_confined_does_not_start(tmp_path: Path) -> None:
    """Nothing is attached and nothing runs; the record says why."""
    listing = Path("/sys/kernel/security/apparmor/profiles")
    if listing.exists():
        pytest.skip("this kernel has the list of profiles")
    engine = await Engine(tmp_path, machine=ARMED).open()
    id = await engine.create()
    with pytest.raises(Unsupported, match="cannot tell whether apparmor profile cais-default is loaded"):
        await engine.containers.start(id)
    record = engine.containers.record(id)
    assert (engine.driver.starts, engine.networks.taken, record.state.status) == ([], {}, "created")
    assert "cais-default" in record.state.error
    await engine.containers.shutdown()
    engine.metadata.close()


async def test_start_and_exec_give_the_profile_and_the_label(tmp_path: Path) -> None:
    """An exec with privilege too; inspect shows the profile from the start on."""
    engine = await Engine(tmp_path, machine=ARMED).open()
    wish = HostConfig(security_opt=("apparmor=:space:mine", "label=type:my_t"), privileged=True)
    id = await engine.run(host=wish)
    exec_id = engine.containers.exec_create(id, ExecConfig(cmd=("true",), privileged=True))
    await engine.containers.exec_start(exec_id, detach=True)
    for process in (engine.driver.starts[0].spec.process, engine.driver.execs[0].process):
        assert (process.apparmor_profile, process.selinux_label) == (
            ":space:mine",
            "system_u:system_r:my_t:s0",
        )
    privileged = await engine.run(host=HostConfig(privileged=True))
    assert engine.containers.record(privileged).apparmor == "unconfined"
    await engine.containers.shutdown()
    engine.metadata.close()


async def test_a_machine_that_has_lost_its_module_starts_nothing_that_asked_for_it(tmp_path: Path) -> None:
    """A container made under another kernel; one that said nothing goes without."""
    engine = await Engine(tmp_path, machine=ARMED).open()
    asked = await engine.create(host=HostConfig(security_opt=("apparmor=mine",)))
    labelled = await engine.create(host=HostConfig(security_opt=("label=type:my_t",)))
    silent = await engine.create()
    await engine.containers.shutdown()
    engine.metadata.close()
    engine = await Engine(tmp_path).open()
    for id, word in ((asked, "apparmor profile mine"), (labelled, "my_t:s0")):
        with pytest.raises(Unsupported, match=f"{word} was asked for, but this kernel has no"):
            await engine.containers.start(id)
    await engine.containers.start(silent)
    assert [start.spec.process.apparmor_profile for start in engine.driver.starts] == [""]
    await engine.containers.shutdown()
    engine.metadata.close()
