"""top reads /proc and speaks ps's argument forms."""

import os

import pytest

from cais.containers.top import make_table, parse_arguments, read_moment, read_processes
from cais.errors import Invalid


@pytest.mark.parametrize(
    ("arguments", "titles"),
    [
        ("", "UID PID PPID C STIME TTY TIME CMD"),
        ("-ef", "UID PID PPID C STIME TTY TIME CMD"),
        ("aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        ("ax", "PID TTY STAT TIME COMMAND"),
        ("-e", "PID TTY TIME CMD"),
        ("-o pid,comm", "PID COMMAND"),
        ("-eo pid,ppid -o args", "PID PPID COMMAND"),
        ("-o pid -o user=WHO", "PID WHO"),
    ],
)
def test_argument_forms(arguments: str, titles: str) -> None:
    """Each has ps's own titles."""
    assert [title for title, _ in parse_arguments(arguments)] == titles.split()


@pytest.mark.parametrize("arguments", ["-o comm", "-o odd,pid", "--odd", "-o ppid=PID", "; id"])
def test_wrong_arguments_are_refused(arguments: str) -> None:
    """Nothing is executed, and a column may not pose as the pid."""
    with pytest.raises(Invalid):
        parse_arguments(arguments)


def test_our_own_process_is_shown_as_it_is() -> None:
    """Pid, parent and command line; a process that has gone is left out."""
    processes = read_processes([os.getpid(), 2**22 + 5])
    titles, rows = make_table(parse_arguments("-o pid,ppid,args,etimes,rss"), processes, read_moment())
    assert titles[:2] == ["PID", "PPID"]
    assert rows[0][:2] == [str(os.getpid()), str(os.getppid())]
    assert "pytest" in rows[0][2]
    assert int(rows[0][4]) > 1000
    assert len(rows) == 1
