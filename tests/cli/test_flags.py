"""The flag grammar beyond what the golden command lines show."""

import pytest

from cais.cli.failure import Failure
from cais.cli.flags import Flags, parse_flags

ROWS = (
    ("detach", "d", "bool", ""),
    ("tty", "t", "bool", ""),
    ("env", "e", "list...", ""),
    ("name", "n", "string", ""),
    ("time", "", "int", ""),
    ("timeout", "", "int", ""),
)


def parse(*argv: str, interspersed: bool = True) -> Flags:
    return parse_flags(ROWS, argv, interspersed=interspersed)


def test_cluster_with_value() -> None:
    """Short flags cluster; the last may take the rest, or the next word, as its value."""
    flags = parse("-dtnbox", "-e", "A", "-eB", "-e=C")
    assert flags.on("detach") and flags.on("tty") and flags.text("name") == "box"
    assert flags.many("env") == ["A", "B", "C"]


def test_bool_values() -> None:
    """A bool takes a value only with =."""
    flags = parse("--detach=false", "--tty", "false")
    assert flags.given("detach") and not flags.on("detach", True)
    assert flags.on("tty") and flags.args == ["false"]


def test_interspersed() -> None:
    """Flags may follow arguments unless the rest is somebody else's command line."""
    assert parse("a", "-d", "b").args == ["a", "b"]
    assert parse("a", "-d", "b", interspersed=False).args == ["a", "-d", "b"]


def test_double_dash() -> None:
    """Everything after -- is an argument, also what looks like a flag."""
    flags = parse("-d", "--", "-t", "--name")
    assert flags.args == ["-t", "--name"] and not flags.given("tty")


def test_single_dash_is_an_argument() -> None:
    """A lone dash means stdin to somebody, never a flag."""
    assert parse("-", "").args == ["-", ""]


def test_last_wins() -> None:
    """A flag given twice has its last value."""
    assert parse("--name", "a", "--name=b").text("name") == "b"


def test_old_spelling() -> None:
    """Docker's --time is today's --timeout."""
    assert parse("--time", "3").number("timeout") == 3


def test_value_that_looks_like_a_flag() -> None:
    """The word after a flag is its value, whatever it looks like."""
    assert parse("--name", "--tty").text("name") == "--tty"


@pytest.mark.parametrize("word", ["9223372036854775808", "1.5", "", "0x10", "１", "1_000"])
def test_not_an_int(word: str) -> None:
    """Ints are Go's, not Python's."""
    with pytest.raises(Failure, match=r"strconv\.ParseInt"):
        parse("--timeout", word)
