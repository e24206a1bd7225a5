"""Two names that change places all the time, by a process of its own: what a hostile container does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAM = """
import os, sys
from cais.linux.syscalls import AT_FDCWD, check, prototype
rename = prototype("renameat2", "isisu")
first, second = map(os.fsencode, sys.argv[1:])
print("ready", flush=True)
while True:
    check(rename(AT_FDCWD, first, AT_FDCWD, second, 2), "exchange")
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
