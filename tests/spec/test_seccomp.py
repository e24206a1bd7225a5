"""Profiles in Docker's JSON form are read as Docker reads them, and malformed ones refused by name."""

import json

import pytest

from cais.errors import Invalid
from cais.spec.seccomp import Condition, parse_machine, parse_profile, select_rules

MACHINE = parse_machine("x86_64", "6.1.0-18-amd64")
ALLOW_READ = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}


def profile(*rules, **members):
    """A parsed profile that refuses by default and has the given rules."""
    return parse_profile(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules} | members))


def chosen(rule, caps=(), machine=MACHINE):
    """Whether the rule counts for such a container."""
    return len(select_rules(profile(ALLOW_READ | rule), caps, machine).rules) == 1


def test_a_whole_profile():
    """Every member of the form arrives in the value."""
    text = {
        "defaultErrnoRet": 38,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    }
    args = [{"index": 1, "value": 7, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}]
    result = profile({"names": ["a", "b"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": args}, **text)
    assert (result.default_action, result.default_errno) == ("SCMP_ACT_ERRNO", 38)
    assert result.arch_map == (("SCMP_ARCH_X86_64", ("SCMP_ARCH_X86",)),)
    assert result.rules[0].names == ("a", "b")
    assert result.rules[0].errno == 5
    assert result.rules[0].conditions == (Condition(1, "SCMP_CMP_MASKED_EQ", 7, 3),)


def test_the_old_name_form():
    """A rule with ``name`` is a rule for that one call; null members count as absent."""
    result = profile({"name": "read", "action": "SCMP_ACT_ALLOW", "args": None, "names": None}, archMap=None)
    assert result.rules[0].names == ("read",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "decoding seccomp profile failed"),
        ("[]", "decoding seccomp profile failed"),
        ("{}", "no defaultAction"),
        ('{"defaultAction": 1}', "defaultAction"),
        ('{"defaultAction": "ALLOW"}', "unknown defaultAction: ALLOW"),
        ('{"defaultAction": "SCMP_ACT_NOTIFY"}', "unknown defaultAction: SCMP_ACT_NOTIFY"),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": -1}',
            "defaultErrnoRet is not an error number",
        ),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}', "unknown architecture"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}', "unknown flag: X"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}', "listenerPath"),
    ],
)
def test_malformed_profiles_are_refused(text, message):
    """The error names the member that is wrong."""
    with pytest.raises(Invalid, match=message):
        parse_profile(text)


ARG = {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": "ALLOW"}, "unknown action for syscall read: ALLOW"),
        ({"action": "SCMP_ACT_NOTIFY"}, "unknown action for syscall read"),
        ({"name": "write"}, "both 'name' and 'names'"),
        ({"names": [""]}, "empty string"),
        ({"errnoRet": 4096}, "errnoRet of syscall read"),
        ({"args": [ARG | {"op": "EQ"}]}, "unknown operator for syscall read: EQ"),
        ({"args": [ARG | {"index": 6}]}, "syscall read has no argument 6"),
        ({"args": [ARG | {"value": -1}]}, "out of range for syscall read"),
        ({"args": [ARG | {"value": "1"}]}, r"\$.syscalls\[0\].args\[0\].value"),
        ({"includes": {"minKernel": "4"}}, "invalid kernel version: 4"),
        ({"includes": {"minKernel": "0.0"}}, "invalid kernel version: 0.0"),
        ({"includes": {"caps": "CAP_X"}}, r"\$.syscalls\[0\].includes.caps"),
    ],
)
def test_malformed_rules_are_refused(change, message):
    """The error names the system call, or the place in the text."""
    with pytest.raises(Invalid, match=message):
        profile(ALLOW_READ | change)


def test_two_architecture_lists_are_refused():
    """``architectures`` and ``archMap`` exclude each other."""
    arch_map = [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": None}]
    with pytest.raises(Invalid, match="both 'architectures' and 'archMap'"):
        profile(architectures=["SCMP_ARCH_X86"], archMap=arch_map)


@pytest.mark.parametrize(
    ("choice", "caps", "expected"),
    [
        ({"includes": {"caps": ["CAP_A"]}}, ["CAP_A"], True),
        ({"includes": {"caps": ["CAP_A"]}}, [], False),
        ({"includes": {"caps": ["CAP_A", "CAP_B"]}}, ["CAP_A"], False),
        ({"excludes": {"caps": ["CAP_A", "CAP_B"]}}, ["CAP_B"], False),
        ({"excludes": {"caps": ["CAP_A"]}}, ["CAP_B"], True),
        ({"includes": {"arches": ["amd64", "x32"]}}, [], True),
        ({"includes": {"arches": ["arm64"]}}, [], False),
        ({"excludes": {"arches": ["amd64"]}}, [], False),
        ({"includes": {"minKernel": "6.1"}}, [], True),
        ({"includes": {"minKernel": "6.2"}}, [], False),
        ({"includes": {"minKernel": "5.19"}}, [], True),
        ({"excludes": {"minKernel": "6.1"}}, [], False),
        ({"excludes": {"minKernel": "10.0"}}, [], True),
        ({"includes": {"caps": ["CAP_A"], "arches": ["s390x"]}}, ["CAP_A"], False),
    ],
)
def test_a_rule_counts_by_capability_architecture_and_kernel(choice, caps, expected):
    """Includes want all they name, excludes are met by any."""
    assert chosen(choice, caps) is expected


def test_architectures_of_the_map_are_the_native_ones_only():
    """Of the map, the entry of this machine is used; the plain list always is."""
    arch_map = [
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
    ]
    assert select_rules(profile(archMap=arch_map), (), MACHINE).architectures == (
        "SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86",
    )
    plain = profile(architectures=["SCMP_ARCH_ARM"])
    assert select_rules(plain, (), MACHINE).architectures == ("SCMP_ARCH_ARM",)


@pytest.mark.parametrize(("machine", "release"), [("vax", "6.1"), ("x86_64", "unknown")])
def test_an_unknown_machine_is_refused(machine, release):
    """No filter is guessed for an architecture we do not know."""
    with pytest.raises(Invalid, match="seccomp is not supported"):
        parse_machine(machine, release)
