"""Passwords: slow hashes made off the event loop, the same time for every answer, and patience that runs out.

A wrong name costs as long as a wrong password, or the time would tell which names exist. Failures are counted by name
and address together, and by address; never by name alone, or anybody could lock somebody else out.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import bcrypt

from cais.errors import Invalid
from cais.registry.refusal import Refusal

T = TypeVar("T")
ROUNDS = 11
MIN_LENGTH, MAX_BYTES = 10, 72
"""bcrypt reads 72 bytes and would silently ignore the rest."""
WAITING = 64
"""Checks that may wait for their turn; more are refused."""
FREE_FAILURES, FREE_BY_ADDRESS = 5, 30
MAX_PAUSE = 300.0
REMEMBERED = 10_000
KEEP_SECONDS = 300.0
_NOBODY = bcrypt.hashpw(secrets.token_bytes(16), bcrypt.gensalt(ROUNDS)).decode()


class Passwords:
    """Hashes and checks, two at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="password")
        self._waiting = 0
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()

    async def hash(self, password: str) -> str:
        """The bcrypt hash. Raises Invalid for passwords that are no good."""
        check_password(password)
        return await self._run(lambda: bcrypt.hashpw(password.encode(), bcrypt.gensalt(ROUNDS)).decode())

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Whether this is the password; ``hashed`` None or empty, for nobody: never, but not sooner. A right one is
        remembered for some minutes, by a keyed hash, as clients send it with every request. Raises Refusal
        TOOMANYREQUESTS."""
        mark = hmac.digest(self._key, f"{hashed}\0{password}".encode(), hashlib.sha256)
        if self._right.get(mark, 0.0) > self._clock():
            return True
        data = password.encode()
        right = await self._run(lambda: _check(data, hashed or _NOBODY)) and bool(hashed)
        if right:
            self._right[mark] = self._clock() + KEEP_SECONDS
            while len(self._right) > REMEMBERED:
                self._right.popitem(last=False)
        return right

    async def _run(self, act: Callable[[], T]) -> T:
        if self._waiting >= WAITING:
            raise Refusal("TOOMANYREQUESTS", "too many are logging in: try again in a moment")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, act)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False)


def check_password(password: str) -> None:
    """Raises Invalid for one that is too short, too long, or the same character again and again."""
    if len(password) < MIN_LENGTH:
        raise Invalid(f"a password has {MIN_LENGTH} characters at least")
    if len(password.encode()) > MAX_BYTES:
        raise Invalid(f"a password has {MAX_BYTES} bytes at most")
    if len(set(password)) < 4:
        raise Invalid("a password has more than three different characters")


def _check(password: bytes, hashed: str) -> bool:
    if len(password) > MAX_BYTES or b"\0" in password:
        password, hashed = b"-", _NOBODY  # takes as long as any other
    try:
        return bcrypt.checkpw(password, hashed.encode())
    except ValueError:
        return False  # no bcrypt hash: of an htpasswd file with another kind


class Throttle:
    """Counts failures and says how long who fails must wait. In memory, and no more than REMEMBERED."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, name: str, address: str) -> None:
        """Raises Refusal TOOMANYREQUESTS while it must wait."""
        for key in (f"{name}\0{address}", address):
            _, until = self._failures.get(key, (0, 0.0))
            left = until - self._clock()
            if left > 0:
                refusal = Refusal(
                    "TOOMANYREQUESTS", f"too many failures: try again in {int(left) + 1} seconds"
                )
                refusal.headers["Retry-After"] = str(int(left) + 1)
                raise refusal

    def fail(self, name: str, address: str) -> None:
        """One more."""
        for key, free in ((f"{name}\0{address}", FREE_FAILURES), (address, FREE_BY_ADDRESS)):
            count = self._failures.get(key, (0, 0.0))[0] + 1
            pause = min(2.0 ** min(count - free, 20), MAX_PAUSE) if count >= free else 0.0
            self._failures[key] = count, self._clock() + pause
            self._failures.move_to_end(key)
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def succeed(self, name: str, address: str) -> None:
        """It knew the password: its own count begins anew, its address's does not."""
        self._failures.pop(f"{name}\0{address}", None)
