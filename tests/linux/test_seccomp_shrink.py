"""The shorter program decides everything as the one it was made from."""

import json
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cais.linux import seccomp_compile
from cais.linux.seccomp_shrink import decode, shrink
from cais.spec.seccomp import parse_machine, parse_profile, select_rules
from cais.spec.seccomp_default import DEFAULT_PROFILE
from harness.bpf import X86, X86_64, run

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the programs are those of x86_64")

NUMBERS = (*range(700), *range(1 << 30, (1 << 30) + 700), (1 << 30) - 1, 1 << 31, 3 << 30, (1 << 32) - 1)
ARGUMENTS = (
    (0,),
    (1, 2, 3),
    (0x10000011,),
    (40,),
    (39,),
    (1 << 32 | 40,),
    (0xFFFFFFFF, 0xFFFFFFFF),
    ((1 << 64) - 1,),
)
CALLS = (
    "read",
    "write",
    "mount",
    "socket",
    "clone",
    "clone3",
    "cachestat",
    "mseal",
    "personality",
    "setns",
    "_llseek",
)
ACTIONS = ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG")

LOAD_CALL, ALLOW = (0x20, 0, 0, 0), (0x06, 0, 0, 0x7FFF0000)


def both(profile, monkeypatch, caps=("CAP_CHOWN",)):
    """The program as libseccomp made it, with our head, and the shrunk one."""
    chosen = select_rules(profile, caps, parse_machine("x86_64", "6.1"))
    with monkeypatch.context() as patch:
        patch.setattr(seccomp_compile, "shrink", lambda program: program)
        whole = seccomp_compile.compile_filter(chosen, "SCMP_ARCH_X86_64")
    return whole, shrink(whole)


def differences(whole, short, numbers, arguments):
    """The calls that the two judge differently."""
    return [
        (hex(arch), number, args)
        for arch in (X86_64, X86, 0xC00000B7, 0)
        for number in numbers
        for args in arguments
        if run(whole, number, *args, arch=arch) != run(short, number, *args, arch=arch)
    ]


@pytest.mark.parametrize("caps", [("CAP_CHOWN",), ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE"), ("CAP_SYSLOG",)])
def test_the_default_profile_means_the_same(caps, monkeypatch):
    """Every call number of every architecture, with arguments that the profile asks for; in half the instructions."""
    whole, short = both(DEFAULT_PROFILE, monkeypatch, caps)
    assert len(short) < 0.6 * len(whole)
    assert differences(whole, short, NUMBERS, ARGUMENTS[:1]) == []
    assert differences(whole, short, (41, 56, 57, 135, 359, 120, 136, 435), ARGUMENTS) == []


def test_no_call_goes_through_many_comparisons(monkeypatch):
    """The longest way to a verdict that needs no arguments is a search in halves."""
    _, short = both(DEFAULT_PROFILE, monkeypatch)
    code, longest = decode(short), 0
    for arch in (X86_64, X86):
        for number in range(600):
            at = steps = 0
            value = arch
            while code[at].code != 0x06 and not (code[at].code == 0x20 and code[at].value > 4):
                each, steps = code[at], steps + 1
                value = {0: number, 4: arch}[each.value] if each.code == 0x20 else value
                jump = {0x15: value == each.value, 0x35: value >= each.value}.get(each.code)
                at += 1 + (
                    each.value if each.code == 5 else 0 if jump is None else each.yes if jump else each.no
                )
            longest = max(longest, steps)
    assert 5 < longest < 20


arguments = st.lists(
    st.builds(
        lambda index, value, op: {"index": index, "value": value, "valueTwo": value, "op": f"SCMP_CMP_{op}"},
        st.integers(0, 2),
        st.sampled_from((0, 1, 40, 1 << 32, 0xFFFFFFFF)),
        st.sampled_from(("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")),
    ),
    max_size=2,
    unique_by=lambda each: each["index"],
)
rules = st.builds(
    lambda names, action, args: {"names": names, "action": action, "args": args},
    st.lists(st.sampled_from(CALLS), min_size=1, max_size=6, unique=True),
    st.sampled_from(ACTIONS),
    arguments,
)


@settings(max_examples=60)
@given(
    st.lists(rules, max_size=6),
    st.sampled_from(ACTIONS),
    st.sampled_from(([], ["SCMP_ARCH_X86", "SCMP_ARCH_X32"])),
)
def test_any_profile_means_the_same(rows, default, architectures):
    """Whatever rules: the same verdicts on all calls near those that the rules name."""
    text = json.dumps({"defaultAction": default, "architectures": architectures, "syscalls": rows})
    try:
        with pytest.MonkeyPatch.context() as patch:
            whole, short = both(parse_profile(text), patch)
    except OSError:
        return  # libseccomp refuses rules that contradict each other
    near = (
        0,
        1,
        2,
        3,
        40,
        41,
        42,
        56,
        57,
        135,
        136,
        140,
        165,
        308,
        435,
        451,
        462,
        500,
        (1 << 30) | 41,
        1 << 31,
    )
    assert differences(whole, short, near, ARGUMENTS) == []


@pytest.mark.parametrize(
    "code",
    [
        [LOAD_CALL, (0x45, 0, 1, 1), ALLOW, (0x06, 0, 0, 0)],
        [(0x20, 0, 0, 4), (0x15, 0, 2, X86_64), LOAD_CALL, (0x45, 0, 1, 1), ALLOW, (0x06, 0, 0, 0)],
        [(0x20, 0, 0, 4), (0x15, 0, 3, X86_64), LOAD_CALL, (0x07, 0, 0, 0), (0x87, 0, 0, 0), ALLOW, ALLOW],
        [(0x20, 0, 0, 4), (0x05, 0, 0, 7)],
        [],
    ],
    ids=["no-architecture", "low-bit", "registers", "beyond-the-end", "empty"],
)
def test_what_is_not_understood_is_left_as_it_is(code):
    """A program with other means than comparisons of architecture and call is not touched."""
    program = b"".join(struct.pack("=HBBI", *each) for each in code)
    assert shrink(program) == program


def test_a_long_way_is_jumped_in_two_steps():
    """Conditions reach 255 instructions; sections and halves may be longer."""
    odd = [(0x15, 0, 1, number) for number in range(1, 1001, 2)]
    code = [(0x20, 0, 0, 4), (0x15, 1, 0, X86_64), ALLOW, LOAD_CALL]
    idle = [(0x05, 0, 0, 0)] * 3
    code += [each for test in odd for each in (*idle, test, (0x06, 0, 0, 0x50000 | 7))]
    program = b"".join(struct.pack("=HBBI", *each) for each in [*code, ALLOW])
    short = shrink(program)
    assert len(short) < len(program)
    verdicts = [run(short, number) for number in range(1003)]
    assert verdicts == [0x50007 if number % 2 and number < 1000 else 0x7FFF0000 for number in range(1003)]
