"""Filters hold in the real kernel: a child loads one and tries."""

import ctypes
import errno
import os
import signal

import pytest

from cais.linux.seccomp import load_filter
from cais.linux.seccomp_compile import compile_profile
from cais.spec.seccomp import parse_profile
from cais.spec.seccomp_default import DEFAULT_PROFILE

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="call numbers below are those of x86_64"),
]

LIBC = ctypes.CDLL(None, use_errno=True)


def under(program, act):
    """The exit code of ``act()`` in a child under the filter, minus the signal when killed."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            load_filter(program)
            code = act()
        except OSError as error:
            code = error.errno
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def call(number, *args):
    """The errno of a raw call, 0 when it works."""
    values = [ctypes.c_long(each) for each in args]
    return ctypes.get_errno() if LIBC.syscall(ctypes.c_long(number), *values) < 0 else 0


@pytest.fixture
def default(tmp_path):
    """The default profile, for the capabilities a container has by default (here: none that open a call)."""
    return compile_profile(DEFAULT_PROFILE, (), tmp_path)


@pytest.mark.parametrize(
    ("number", "args", "expected"),
    [
        (39, (), 0),
        (165, (0, 0, 0, 0, 0), errno.EPERM),
        (272, (0x10000000,), errno.EPERM),
        (425, (8, 0), errno.EPERM),
        (250, (0, 0), errno.EPERM),
        (435, (0, 0), errno.ENOSYS),
        (41, (40, 1, 0), errno.EPERM),
        (41, (38, 5, 0), errno.EPERM),
        (41, (1 << 32 | 40, 1, 0), errno.EPERM),
        (41, (2, 1, 0), 0),
        (135, (0xFFFFFFFF,), 0),
        (135, (0x0040000,), errno.EPERM),
        (9999, (), errno.ENOSYS),
    ],
)
def test_the_kernel_decides_as_the_profile_says(default, number, args, expected):
    """getpid works; mount, unshare, io_uring, keyctl, clone3, vsock, alg, an odd personality and the unknown do not."""
    assert under(default, lambda: call(number, *args)) == expected


def test_processes_can_still_be_made(default):
    """fork, execve and threads work under the default profile."""

    def act():
        child = os.fork()
        if child == 0:
            os.execv("/bin/true", ["true"])
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert under(default, act) == 0


def test_a_kill_action_kills(tmp_path):
    """SCMP_ACT_KILL_PROCESS ends the process with SIGSYS."""
    rule = '{"names": ["getppid"], "action": "SCMP_ACT_KILL_PROCESS"}'
    text = f'{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}'
    program = compile_profile(parse_profile(text), (), tmp_path)
    assert under(program, os.getppid) == -signal.SIGSYS


def test_no_filter_is_no_filter():
    """Empty bytes mean unconfined."""
    assert under(b"", lambda: call(39)) == 0


@pytest.mark.parametrize("program", [b"1234", b"\0" * 8])
def test_what_is_no_program_is_refused(program):
    """A cut or senseless program is an error and never a filter."""

    def act():
        try:
            load_filter(program)
        except (ValueError, OSError):
            return 7
        return 0

    assert under(b"", act) == 7
