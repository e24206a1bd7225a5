"""Help: every verb has one, with an example that its own parser understands."""

import os
import shlex

import pytest

from cais import __version__
from cais.cli.commands import GROUPS, SHORT, VERBS
from cais.cli.flags import HELP_ROW, HOST_ROW, check_count, parse_flags
from cais.cli.late import load
from cais.cli.main import run


@pytest.mark.parametrize("name", VERBS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`cais VERB --help` shows usage, options and an example, without an engine."""
    command = load(VERBS[name])
    if command.raw:
        return
    assert run([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage:  cais {name}") and "Example:\n  " in text and command.summary in text


@pytest.mark.parametrize("name", VERBS)
def test_examples(name: str) -> None:
    """The example is a command line the verb accepts."""
    command = load(VERBS[name])
    for line in command.example.splitlines():
        words = shlex.split(line.partition(" && ")[0].partition(" | ")[0])
        if words[0] != "cais" or command.raw or line.startswith(("eval", "source")):
            continue
        assert words[1 : 1 + len(name.split())] == name.split() or SHORT.get(" ".join(words[1:3])) == name
        rows = (*command.flags, HELP_ROW, HOST_ROW)
        flags = parse_flags(
            rows, words[1 + len(name.split()) :], kinds=command.kinds, interspersed=command.interspersed
        )
        check_count(command, flags.args, name)


@pytest.mark.parametrize("group", GROUPS)
def test_group(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`cais image` alone lists its verbs."""
    assert run([group]) == 0
    assert f"Usage:  cais {group} COMMAND" in capsys.readouterr().out


def test_every_short_name_leads_somewhere() -> None:
    """The table of other names points at verbs."""
    assert set(SHORT.values()) <= set(VERBS)


@pytest.mark.parametrize("argv", [[], ["--help"], ["help"]])
def test_program(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`cais` alone says what there is."""
    assert run(argv) == 0
    assert "Usage:  cais [OPTIONS] COMMAND" in capsys.readouterr().out


def test_help_of_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """`cais help run` is `cais run --help`."""
    run(["help", "run"])
    first = capsys.readouterr().out
    run(["run", "--help"])
    assert first == capsys.readouterr().out


def test_version_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """`cais --version` needs no engine."""
    assert run(["-v"]) == 0
    assert capsys.readouterr().out == f"Cais version {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The script knows every verb and long flag."""
    assert run(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name.partition(" ")[2] in text for name in VERBS) and "security-opt" in text


def test_bash_completes(tmp_path: os.PathLike[str], capsys: pytest.CaptureFixture[str]) -> None:
    """bash takes the script and completes a verb's flag with it."""
    run(["completion", "bash"])
    script = capsys.readouterr().out
    script += 'COMP_WORDS=(cais image ls --dig); COMP_CWORD=3; _cais; echo "${COMPREPLY[*]}"\n'
    shell = os.popen(f"bash -c {shlex.quote(script)}")
    assert shell.read().strip() == "--digests"
    assert shell.close() is None
