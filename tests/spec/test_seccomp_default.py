"""The default profile gives Docker's verdicts, call by call."""

import json
from pathlib import Path

import pytest

from cais.spec.seccomp import Machine, select_rules
from cais.spec.seccomp_default import DEFAULT_PROFILE

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/seccomp/docker-28.json").read_text())
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# Stricter than Docker 28, which allows all but AF_VSOCK (40): AF_ALG (38) is refused too, as by Docker 29, and what
# looks greater than 40 only because of bits the kernel ignores.
SOCKET = sorted(
    ["ALLOW if 0 LT 38 0", "ALLOW if 0 EQ 39 0", *(f"ALLOW if 0 EQ {n} 0" for n in range(41, 48))]
)


def verdicts(case):
    """Our verdict of every call, in the words of the golden file."""
    machine = Machine(MACHINES.get(case["machine"], case["machine"]), tuple(case["kernel"]))
    found = {}
    for rule in select_rules(DEFAULT_PROFILE, case["caps"].split(), machine).rules:
        text = rule.action.removeprefix("SCMP_ACT_") + (f" {rule.errno}" if rule.errno is not None else "")
        for each in rule.conditions:
            operator = each.operator.removeprefix("SCMP_CMP_")
            text += f" if {each.index} {operator} {each.value} {each.value_two}"
        for name in rule.names:
            found.setdefault(name, set()).add(text)
    return {name: ["ALLOW"] if "ALLOW" in texts else sorted(texts) for name, texts in found.items()}


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_the_verdicts_are_dockers(name):
    """For each machine, kernel and set of capabilities every call has the verdict that Docker's profile gives it."""
    case = GOLDEN["cases"][name]
    allowed = (set(GOLDEN["allow"].split()) | set(case["more"].split())) - set(case["fewer"].split())
    expected = {call: ["ALLOW"] for call in allowed} | case["other"] | {"socket": SOCKET}
    assert verdicts(case) == expected


def test_what_is_not_named_is_refused():
    """The default is EPERM."""
    assert (DEFAULT_PROFILE.default_action, DEFAULT_PROFILE.default_errno) == ("SCMP_ACT_ERRNO", 1)


@pytest.mark.parametrize(
    "call",
    [
        "add_key",
        "keyctl",
        "request_key",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "userfaultfd",
        "kexec_load",
        "swapon",
        "pivot_root",
        "mount",
        "unshare",
        "setns",
        "bpf",
        "ptrace_unknown",
        "open_by_handle_at",
        "init_module",
        "iopl",
        "nfsservctl",
    ],
)
def test_the_dangerous_ones_are_not_in(call):
    """The calls behind known escapes have no rule for a default container."""
    assert call not in verdicts(GOLDEN["cases"]["amd64 default"])
