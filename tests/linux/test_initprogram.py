"""The init program passes signals on and ends as its child ended (orphans: tests/runtime, in a container)."""

import contextlib
import os
import signal

import pytest

from cais.linux.initprogram import make_program, open_program

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="written for x86_64 only")

EVERY = signal.valid_signals()


@pytest.fixture
def start():
    """``start(act)``: a process that becomes the program with a child that calls ``act``; its pid."""
    pids = []

    def begin(act):
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                signal.pthread_sigmask(signal.SIG_BLOCK, EVERY)
                child = os.fork()
                if child == 0:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, EVERY)
                    os._exit(act() or 0)
                os.execve(open_program(make_program(child, "x86_64")), ["init"], {})
            os._exit(99)
        pids.append(pid)
        return pid

    yield begin
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def code_of(pid):
    """How it ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_it_ends_with_the_childs_code(start, code):
    """The exit code is the child's."""
    assert code_of(start(lambda: code)) == code


def test_a_killed_child_is_128_and_the_signal(start):
    """A signal's end becomes Docker's code."""
    assert code_of(start(lambda: os.kill(os.getpid(), signal.SIGKILL))) == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGRTMIN + 3])
def test_signals_are_passed_on(start, number):
    """What the program gets, its child gets."""
    reader, writer = os.pipe()

    def act():
        signal.signal(number, lambda *_: os._exit(42))
        os.write(writer, b"x")
        signal.pause()

    pid = start(act)
    os.read(reader, 1)
    os.kill(pid, number)
    assert code_of(pid) == 42
    os.close(reader)
    os.close(writer)


def test_it_is_sealed():
    """The program's memory file takes no more writes."""
    fd = open_program(make_program(1, "x86_64"))
    with pytest.raises(PermissionError):
        os.write(fd, b"x")
    os.close(fd)


def test_there_is_none_for_other_machines():
    """Where no code was written, the answer is None and not a broken program."""
    assert make_program(1, "riscv64") is None
