"""The keeper's loop: errors that do not spread, and do not stay for ever."""

import os
import select

import pytest

from cais.runtime.loop import MAX_FAILURES, Loop


def fail(_: int) -> None:
    raise OSError("always")


def test_a_callback_that_always_fails_is_not_called_for_ever(capfd: pytest.CaptureFixture[str]) -> None:
    """What it never reads stays readable: the loop would turn on the spot, and the log would fill the disk."""
    loop, turns = Loop(), []
    bad, _, good, write = *os.pipe(), *os.pipe()
    os.write(_, b"x")

    def turn() -> None:
        turns.append(capfd.readouterr().err.count("OSError: always"))
        if len(turns) < 3 * MAX_FAILURES:
            loop.after(0, turn)
        else:
            os.write(write, b"x")

    loop.watch(bad, select.EPOLLIN, fail)
    loop.watch(good, select.EPOLLIN, lambda _: loop.stop())
    loop.after(0, turn)
    loop.run()
    assert sum(turns) == MAX_FAILURES
    for fd in (bad, _, good, write):
        os.close(fd)


def test_one_that_works_now_and_then_is_called_for_ever(capfd: pytest.CaptureFixture[str]) -> None:
    """Only failures in a row count."""
    loop, calls = Loop(), []
    read, write = os.pipe()
    os.write(write, b"x")

    def work(_: int) -> None:
        calls.append(1)
        if len(calls) > 4 * MAX_FAILURES:
            loop.stop()
        elif len(calls) % 10:
            raise OSError("nearly always")

    loop.watch(read, select.EPOLLIN, work)
    loop.run()
    assert capfd.readouterr().err.count("OSError: nearly always") == 4 * MAX_FAILURES * 9 // 10
    for fd in (read, write):
        os.close(fd)
