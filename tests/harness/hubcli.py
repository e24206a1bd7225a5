"""``cais hub …`` as people and programs run it: in a home of its own, with pipes or on a terminal."""

import os
import pty
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.apihub import PASSWORD

SOURCE = Path(__file__).parents[2] / "src"
_DEADLINE = 60
Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class Program:
    """The program, for the hub on ``port`` of loopback. ``homes``: a folder in which each user has one."""

    port: int
    homes: Path

    def __call__(self, *words: str, by: str = "", text: str = "") -> Done:
        """Run it. ``by``: logged in as whom; ``text``: what it can read."""
        return self._run(words, self._environment(by), text)

    def lines(self, *words: str, by: str = "") -> list[str]:
        """What it prints; it must succeed and complain about nothing."""
        done = self(*words, by=by)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout.splitlines()

    def data(self, *words: str, by: str = "") -> bytes:
        """What it prints, as it is."""
        done = subprocess.run(
            _command(words), env=self._environment(by), capture_output=True, timeout=_DEADLINE
        )
        assert done.returncode == 0, done
        return done.stdout

    def on_terminal(self, *words: str, by: str = "", answers: Sequence[str] = ()) -> tuple[int, str]:
        """Its exit code, and what was to be seen on a terminal that knows no size. ``answers`` are typed, each
        after a question, which ends in a colon and a blank."""
        ours, theirs = pty.openpty()
        environment = {**self._environment(by), "TERM": "xterm"}
        with subprocess.Popen(
            _command(words), stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        ) as process:
            os.close(theirs)
            try:
                seen = b""
                for answer in answers:
                    seen += _read_until(ours, b": ")
                    os.write(ours, answer.encode() + b"\n")
                seen += _read_until(ours, b"")
            finally:
                os.close(ours)
            return process.wait(_DEADLINE), seen.decode()

    def _environment(self, by: str) -> dict[str, str]:
        home = self.homes / (by or "nobody")
        home.mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SOURCE),
            "HOME": str(home),
            "CAIS_HUB": f"http://127.0.0.1:{self.port}",
        }
        if by and not (home / ".docker").exists():
            done = self._run(("login", "--username", by, "--password-stdin"), environment, PASSWORD)
            assert done.returncode == 0, done.stderr
        return environment

    @staticmethod
    def _run(words: Sequence[str], environment: dict[str, str], text: str) -> Done:
        return subprocess.run(
            _command(words),
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
        )


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "cais", "hub", *words]


def _read_until(terminal: int, end: bytes) -> bytes:
    """What comes until ``end``, or until the program closes its side."""
    seen = b""
    while not (end and seen.endswith(end)):
        assert select.select([terminal], [], [], _DEADLINE)[0], seen
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # EIO: nobody has the other side open any more
            part = b""
        if not part:
            assert not end, seen
            break
        seen += part
    return seen
