"""Device rules: their normal form, and the v2 program, which gives the v1 controller's verdicts."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.errors import Invalid
from cais.linux.cgroups.bpf import make_program
from cais.linux.cgroups.devices import Rule, format_v1, parse_rules

rules_json = st.lists(
    st.fixed_dictionaries(
        {"allow": st.booleans()},
        optional={
            "type": st.sampled_from(["a", "b", "c"]),
            "major": st.sampled_from([-1, 0, 1, 5, 4294967295]),
            "minor": st.sampled_from([-1, 0, 3]),
            "access": st.sampled_from(["r", "w", "m", "rw", "wm", "rwm"]),
        },
    ),
    min_size=1,
    max_size=6,
)
requests = st.tuples(
    st.sampled_from("bc"),
    st.sampled_from([0, 1, 5, 4294967295]),
    st.sampled_from([0, 3, 9]),
    st.sampled_from(["r", "w", "m", "rw"]),
)


def judge(rules, request):
    """The specification read naively: every access asked for is decided by the last rule that speaks of
    it."""
    kind, major, minor, access = request
    for letter in access:
        allowed = False
        for rule in rules:
            numbers = rule.get("major", -1) in (-1, major) and rule.get("minor", -1) in (-1, minor)
            if rule.get("type", "a") in ("a", kind) and numbers and letter in rule.get("access", "rwm"):
                allowed = rule["allow"]
        if not allowed:
            return False
    return True


def run(program, request):
    """A BPF interpreter of the few instructions a device program has."""
    kind, major, minor, access = request
    bits = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = {0: (bits << 16) | {"b": 1, "c": 2}[kind], 4: major, 8: minor}
    registers = [0] * 11
    ops = list(struct.iter_unpack("<BBhi", program))
    position = 0
    while True:
        code, pair, offset, value = ops[position]
        target, source, value = pair & 15, pair >> 4, value & 0xFFFFFFFF
        position += 1
        if code == 0x95:
            return registers[0] == 1
        if code == 0x61:
            registers[target] = context[offset]
        elif code == 0xB4:
            registers[target] = value
        elif code == 0xBC:
            registers[target] = registers[source]
        elif code == 0x54:
            registers[target] &= value
        elif code == 0x74:
            registers[target] >>= value
        elif code == 0x56:
            position += offset if registers[target] != value else 0
        elif code == 0x46:
            position += offset if registers[target] & value else 0
        elif code == 0x05:
            position += offset
        else:
            raise AssertionError(f"unknown instruction {code:#x}")


@given(rules_json, requests)
def test_the_program_decides_as_the_rules_say(rules, request):
    """For any rules and any request the v2 program's verdict is that of the rules in order."""
    assert run(make_program(parse_rules(rules)), request) == judge(rules, request)


@given(rules_json)
def test_every_instruction_can_be_reached_by_a_forward_jump(rules):
    """Jumps stay inside the program and go forward; the verifier refuses all else."""
    ops = list(struct.iter_unpack("<BBhi", make_program(parse_rules(rules))))
    assert ops[-1][0] == 0x95
    jumps = [(index, op[2]) for index, op in enumerate(ops) if op[0] in (0x05, 0x46, 0x56)]
    assert all(offset >= 0 and index + 1 + offset < len(ops) for index, offset in jumps)


def test_rules_that_only_allow_start_from_nothing():
    """An allow-list without a leading deny of everything still denies everything else."""
    assert parse_rules([{"allow": True, "type": "c", "major": 1}])[0] == Rule(False, "a", None, None, "rwm")
    assert parse_rules([]) == []


def test_v1_lines():
    """One line a rule; a means all devices and has no numbers."""
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 5, "access": "rw"}]
    assert [format_v1(rule) for rule in parse_rules(rules)] == [
        ("devices.deny", "a"),
        ("devices.allow", "c 5:* rw"),
    ]


def test_a_partial_all_is_split_for_v1():
    """The v1 controller would take `a 1:3 r` for everything: it becomes a c and a b rule."""
    lines = [
        format_v1(rule)[1] for rule in parse_rules([{"allow": True, "major": 1, "minor": 3, "access": "r"}])
    ]
    assert lines == ["a", "c 1:3 r", "b 1:3 r"]


@pytest.mark.parametrize("rule", [{"type": "x"}, {"access": "rwx"}])
def test_malformed_rules_are_refused(rule):
    """An unknown type or access is Invalid, not ignored."""
    with pytest.raises(Invalid, match="invalid device rule"):
        parse_rules([rule])
