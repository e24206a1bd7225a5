"""Two names that change places all the time, by a process of its own: what a hostile container does."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from itertools import count
from pathlib import Path

_PROGRAM = """
import os, random, sys
from cais.linux.syscalls import AT_FDCWD, check, prototype
rename = prototype("renameat2", "isisu")
first, second = map(os.fsencode, sys.argv[1:])
print("ready", flush=True)
while True:
    check(rename(AT_FDCWD, first, AT_FDCWD, second, 2), "exchange")
    for _ in range(random.randrange(3000)):
        pass  # both states last a moment, but never equally long: who is raced must win sometimes
"""


@contextmanager
def exchanging(first: Path, second: Path) -> Iterator[None]:
    """``first`` is what ``second`` is and the next moment not, on the other processor: a thread of ours would exchange
    them only where the interpreter changes threads."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _PROGRAM, str(first), str(second)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            yield
            assert process.poll() is None, "the exchange ended by itself"
        finally:
            process.kill()


def attempts(won: Sized, least: int = 300, seconds: float = 30) -> Iterator[int]:
    """Rounds of a race: ``least`` of them, and as many more as it takes until something is in ``won``."""
    deadline = time.monotonic() + seconds
    for number in count():
        if number >= least and won:
            return
        assert time.monotonic() < deadline, "the race was never won"
        yield number
