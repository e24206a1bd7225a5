"""The terminal of this process: raw mode, size, and signals as bytes in a pipe."""

from __future__ import annotations

import os
import sys
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from signal import SIG_DFL, SIGWINCH, set_wakeup_fd, signal
    from typing import Any
else:  # `signal` imports `enum`, which costs 3 ms
    from _signal import SIG_DFL, SIGWINCH, set_wakeup_fd, signal


def get_size() -> tuple[int, int]:
    """Rows and columns of the terminal on stdout, stdin or stderr; zeros without one."""
    for number in (1, 0, 2):
        try:
            size = os.get_terminal_size(number)
        except (OSError, ValueError):
            continue
        return size.lines, size.columns
    return 0, 0


class RawMode:
    """Keys go through untouched while the block runs; the terminal is as before after it (termios(3), cfmakeraw)."""

    __slots__ = ("_before", "_number")

    def __init__(self, number: int) -> None:
        self._number = number
        self._before: list[Any] = []

    def __enter__(self) -> None:
        self._before = termios.tcgetattr(self._number)
        mode = termios.tcgetattr(self._number)
        mode[0] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        mode[1] &= ~termios.OPOST
        mode[2] = (mode[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._number, termios.TCSANOW, mode)

    def __exit__(self, *exc: object) -> None:
        # TCSANOW: waiting for output to drain would hang on a terminal that is gone
        try:
            termios.tcsetattr(self._number, termios.TCSANOW, self._before)
        except termios.error as error:
            sys.stderr.write(f"the terminal could not be restored: {error}\n")


class SignalPipe:
    """Caught signals arrive as bytes (their numbers) at ``number``, so one poll waits for them and for data."""

    __slots__ = ("_caught", "_write", "number")

    def __init__(self, signals: Iterable[int]) -> None:
        self.number, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._caught = [(number, signal(number, _note)) for number in signals]

    def read(self) -> bytes:
        """The signals that came since the last read."""
        try:
            return os.read(self.number, 64)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, before in self._caught:
            signal(number, SIG_DFL if before is None else before)
        set_wakeup_fd(-1)
        os.close(self.number)
        os.close(self._write)


def _note(number: int, frame: object) -> None:
    """Nothing: the byte in the wake-up pipe says it all."""


def parse_detach_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` or single characters as bytes. ValueError for anything else."""
    keys = bytearray()
    for key in text.split(","):
        name = key.removeprefix("ctrl-")
        if len(key) == 1 and key.isascii():
            keys += key.encode()
        elif key != name and len(name) == 1 and (name in "@[\\]^_" or (name.isascii() and name.islower())):
            keys.append(ord(name.upper()) & 0x1F)
        else:
            raise ValueError(f"Unknown character: '{key}'")
    return bytes(keys)


class KeyWatch:
    """Finds the detach keys in what is typed, also across reads; holds back a beginning that may become them."""

    __slots__ = ("_held", "_keys")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Bytes to pass on, and whether the keys were pressed."""
        if not self._keys:
            return data, False
        data = self._held + data
        at = data.find(self._keys)
        if at >= 0:
            return data[:at], True
        length = min(len(self._keys) - 1, len(data))
        while length and not self._keys.startswith(data[-length:]):
            length -= 1
        split = len(data) - length
        self._held = data[split:]
        return data[:split], False


WINDOW_CHANGED = int(SIGWINCH)
