"""Compiled filters decide as the profile says: every call run through a BPF interpreter."""

import json
import os

import pytest

from cais.errors import Invalid, Unsupported
from cais.linux.libseccomp import ARCHITECTURES, Libseccomp
from cais.linux.seccomp_compile import compile_filter, compile_profile
from cais.linux.seccomp_stub import NEWER
from cais.spec.seccomp import parse_machine, parse_profile, select_rules
from cais.spec.seccomp_default import DEFAULT_PROFILE
from harness.bpf import X86, run

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="call numbers below are those of x86_64"
)

AARCH64 = 0xC00000B7
ALLOW, KILL = 0x7FFF0000, 0
MACHINE = parse_machine("x86_64", "6.1")
DEFAULT_CAPS = ("CAP_CHOWN", "CAP_SYS_CHROOT")


def errno(number):
    """The action that returns this error."""
    return 0x50000 | number


def compiled(profile, caps=DEFAULT_CAPS):
    """The program of a profile for this machine."""
    return compile_filter(select_rules(profile, caps, MACHINE), "SCMP_ARCH_X86_64")


def make(*rules, default="SCMP_ACT_ERRNO", **members):
    """The program of a profile with these rules."""
    return compiled(parse_profile(json.dumps({"defaultAction": default, "syscalls": rules} | members)))


def number(name):
    """The call's number on x86_64, whether libseccomp knows it or not."""
    known = Libseccomp().find_call(name)
    return known if known >= 0 else NEWER.get(name, -1)


@pytest.fixture(scope="module")
def default():
    """The default profile for default capabilities."""
    return compiled(DEFAULT_PROFILE)


def test_every_call_has_the_verdict_of_its_rule(default):
    """All numbers: listed ones are allowed, gaps are EPERM, what the profile is too old for is ENOSYS."""
    rules = select_rules(DEFAULT_PROFILE, DEFAULT_CAPS, MACHINE).rules
    plain = {
        number(name) for rule in rules if not rule.conditions and rule.errno is None for name in rule.names
    }
    special = {number(name) for name in ("socket", "personality", "clone", "clone3")}
    for call in set(range(700)) - special:
        expected = ALLOW if call in plain else errno(1) if call <= max(plain) else errno(38)
        assert run(default, call) == expected, call


def test_calls_newer_than_libseccomp_are_allowed_too(default):
    """cachestat, fchmodat2, futex_wait and mseal work whatever libseccomp is installed."""
    names = ("cachestat", "fchmodat2", "futex_wait", "mseal", "listxattrat")
    assert {run(default, NEWER[name]) for name in names} == {ALLOW}
    assert run(default, NEWER["lsm_list_modules"]) == errno(1)
    assert run(default, NEWER["open_tree_attr"]) == errno(38)


@pytest.mark.parametrize(
    ("call", "args", "expected"),
    [
        ("clone", (0x11,), ALLOW),
        ("clone", (0x3D0F00,), ALLOW),
        *(("clone", (1 << bit | 0x11,), errno(1)) for bit in (17, 25, 26, 27, 28, 29, 30)),
        ("clone3", (), errno(38)),
        ("socket", (2, 1, 0), ALLOW),
        ("socket", (16, 3, 0), ALLOW),
        ("socket", (39,), ALLOW),
        ("socket", (44,), ALLOW),
        ("socket", (38, 5, 0), errno(1)),
        ("socket", (40, 1, 0), errno(1)),
        ("socket", ((1 << 32) | 40, 1, 0), errno(1)),
        ("personality", (0,), ALLOW),
        ("personality", (0xFFFFFFFF,), ALLOW),
        ("personality", (0x0040000,), errno(1)),
        ("personality", (0x0400000,), errno(1)),
        ("ptrace", (), ALLOW),
        ("unshare", (0x10000000,), errno(1)),
        ("io_uring_setup", (), errno(1)),
        ("keyctl", (), errno(1)),
    ],
)
def test_arguments_decide(default, call, args, expected):
    """The conditional rules look at the arguments."""
    assert run(default, number(call), *args) == expected


def test_other_architectures(default):
    """32-bit and x32 calls are filtered by their own numbers; a foreign architecture is killed."""
    x86, find = ARCHITECTURES["X86"], Libseccomp().find_call
    assert run(default, find("read", x86), arch=X86) == ALLOW
    assert run(default, find("mount", x86), arch=X86) == errno(1)
    assert run(default, 1000, arch=X86) == errno(38)
    assert run(default, NEWER["cachestat"], arch=X86) == ALLOW
    assert run(default, 0x40000000 | 0) == ALLOW
    assert run(default, 0x40000000 | 165) == errno(1)
    assert run(default, 0x40000000 | 1000) == errno(38)
    assert run(default, 0, arch=AARCH64) == KILL


def test_capabilities_open_their_calls():
    """With CAP_SYS_ADMIN mount, unshare, clone and clone3 are allowed in every form."""
    program = compiled(DEFAULT_PROFILE, ("CAP_SYS_ADMIN",))
    names = ("mount", "unshare", "clone3", "setns", "lsm_list_modules")
    assert {run(program, number(name)) for name in names} == {ALLOW}
    assert run(program, number("clone"), 1 << 28) == ALLOW
    assert run(program, number("chroot")) == errno(1)


def test_actions_and_errnos():
    """Each action becomes its value; errnoRet is the error given."""
    rules = [
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["rmdir"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["unlink"], "action": "SCMP_ACT_TRAP"},
        {"names": ["link"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
        {"names": ["symlink"], "action": "SCMP_ACT_LOG"},
        {"names": ["rename"], "action": "SCMP_ACT_KILL"},
        {"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"},
    ]
    program = make(*rules, default="SCMP_ACT_ALLOW")
    calls = ("mkdir", "rmdir", "unlink", "link", "symlink", "rename", "read")
    assert [run(program, number(name)) for name in calls] == [
        *(errno(28), 0x80000000, 0x30000, 0x7FF00007, 0x7FFC0000, 0, ALLOW)
    ]
    assert run(program, 1000) == ALLOW


@pytest.mark.parametrize(
    ("operator", "allowed"),
    [
        ("NE", {4, 6}),
        ("LT", {4}),
        ("LE", {4, 5}),
        ("EQ", {5}),
        ("GE", {5, 6}),
        ("GT", {6}),
        ("MASKED_EQ", {4, 6}),
    ],
)
def test_operators(operator, allowed):
    """All seven comparisons, of the argument named; the mask's value is the second one."""
    value = {"value": 1, "valueTwo": 0} if operator == "MASKED_EQ" else {"value": 5}
    args = [{"index": 2, "op": f"SCMP_CMP_{operator}"} | value]
    program = make({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args})
    assert {each for each in (4, 5, 6) if run(program, 0, 0, 0, each) == ALLOW} == allowed


def test_comparisons_of_one_argument_are_alternatives():
    """Two comparisons of the same argument mean either, of different ones both."""
    one, two = ({"index": 0, "value": each, "op": "SCMP_CMP_EQ"} for each in (1, 2))
    program = make({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [one, two]})
    assert [run(program, 0, each) for each in (1, 2, 3)] == [ALLOW, ALLOW, errno(1)]
    program = make({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [one, two | {"index": 1}]})
    assert [run(program, 0, *each) for each in ((1, 2), (1, 3), (2, 2))] == [ALLOW, errno(1), errno(1)]


def test_a_forbidding_condition_on_an_unknown_call_forbids_it():
    """A rule that libseccomp is too old for errs on the strict side."""
    args = [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]
    newest = list(NEWER)[-1]
    deny = {"names": [newest], "action": "SCMP_ACT_ERRNO", "args": args}
    assert run(make(deny, default="SCMP_ACT_ALLOW"), NEWER[newest]) == errno(1)
    permit = {"names": [newest], "action": "SCMP_ACT_ALLOW", "args": args}
    assert run(make(permit, {"names": ["read"], "action": "SCMP_ACT_ALLOW"}), NEWER[newest]) != ALLOW


def test_profiles_without_rules_compile():
    """Allow all and refuse all are profiles too."""
    assert run(make(default="SCMP_ACT_ALLOW"), 0) == ALLOW
    assert run(make(default="SCMP_ACT_ERRNO", defaultErrnoRet=13), 0) == errno(13)


def test_the_cache_answers_and_is_not_trusted_when_broken(tmp_path):
    """The second time the program comes from the folder; a damaged file is compiled anew."""
    program = compile_profile(DEFAULT_PROFILE, DEFAULT_CAPS, tmp_path)
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_ino
    assert compile_profile(DEFAULT_PROFILE, reversed(DEFAULT_CAPS), tmp_path) == program
    assert file.stat().st_ino == stamp
    file.write_bytes(file.read_bytes()[:-8])
    assert compile_profile(DEFAULT_PROFILE, DEFAULT_CAPS, tmp_path) == program
    assert file.stat().st_ino != stamp
    assert compile_profile(DEFAULT_PROFILE, ("CAP_SYS_ADMIN",), tmp_path) != program


def test_a_broken_profile_never_reaches_the_cache(tmp_path):
    """What is refused is refused before anything is written."""
    with pytest.raises(Invalid):
        compile_profile(parse_profile("{}"), (), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_the_library_the_error_says_what_to_install():
    """An engine on a machine without libseccomp can tell what is missing."""
    with pytest.raises(Unsupported, match="install libseccomp2"):
        Libseccomp("libseccomp-none.so")
