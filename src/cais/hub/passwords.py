"""Passwords: slow hashes made off the event loop, the same time for every answer, and patience that runs out.

A wrong name costs as long as a wrong password, or the time would tell which names exist. Failures are counted by name
and address together, and by address; never by name alone, or anybody could lock somebody else out. Of IPv6 it is the
network that counts: a host has 2⁶⁴ addresses there.
"""

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import bcrypt

from cais.errors import Invalid
from cais.registry.refusal import Refusal

T = TypeVar("T")
ROUNDS = 11
MIN_LENGTH, MAX_BYTES = 10, 72
"""bcrypt reads 72 bytes and would silently ignore the rest."""
WAITING, PLACES = 64, 16
"""Checks that may wait for their turn, in all and of one address; more are refused."""
FREE_FAILURES, FREE_BY_ADDRESS = 5, 30
MAX_PAUSE = 300.0
FORGET_SECONDS = 3600.0
"""After a pause, how long failures still count."""
REMEMBERED = 10_000
KEEP_SECONDS = 300.0
_HASH = re.compile(r"\$2[aby]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53}")
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

    async def matches(self, password: str, hashed: str | None, cost: int = ROUNDS) -> bool:
        """Whether this is the password; ``hashed`` None or empty, for nobody: never, but not sooner. ``cost``: what
        every answer costs, where hashes are of different costs. A right one is remembered for some minutes, by a keyed
        hash, as clients send it with every request. Raises Refusal TOOMANYREQUESTS."""
        data = password.encode(errors="surrogatepass")
        mark = hmac.digest(self._key, f"{hashed}\0".encode() + data, hashlib.sha256)
        if self._right.get(mark, 0.0) > self._clock():
            return True
        right = await self._run(lambda: _check(data, hashed or _NOBODY, cost)) and bool(hashed)
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
    try:
        data = password.encode()
    except UnicodeEncodeError:
        raise Invalid("a password is text") from None
    if len(data) > MAX_BYTES:
        raise Invalid(f"a password has {MAX_BYTES} bytes at most")
    if b"\0" in data:
        raise Invalid("a password has no null characters")  # some bcrypt would ignore what follows
    if len(set(password)) < 4:
        raise Invalid("a password has more than three different characters")


def parse_cost(hashed: str) -> int | None:
    """The cost of a bcrypt hash: it takes 2 to this power rounds. None: it is no bcrypt hash."""
    match = _HASH.fullmatch(hashed)
    return int(match["cost"]) if match else None


def _check(password: bytes, hashed: str, cost: int) -> bool:
    own = parse_cost(hashed)
    if own is None or len(password) > MAX_BYTES or b"\0" in password:
        password, hashed, own = b"-", _NOBODY, ROUNDS
    try:
        right = bcrypt.checkpw(password, hashed.encode())
    except ValueError:  # looks like a hash, and is none
        right, own = bcrypt.checkpw(b"-", _NOBODY.encode()), ROUNDS
    # 2ⁿ + (2ⁿ + … + 2ᶜ⁻¹) = 2ᶜ: a cheap hash takes as long as a dear one, also where it was right.
    for more in range(own, cost):
        bcrypt.checkpw(b"-", f"$2b${more:02}${_NOBODY[7:]}".encode())
    return right


class Throttle:
    """Counts failures and says how long who fails must wait. In memory, and no more than REMEMBERED."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._places: dict[str, int] = {}

    def check(self, name: str, address: str) -> None:
        """Raises Refusal TOOMANYREQUESTS while it must wait. Who has known the password at this address before does
        not wait for what others did there."""
        pair, network = _keys(name, address)
        for key in (pair,) if pair in self._known else (pair, network):
            left = self._failures.get(key, (0, 0.0))[1] - self._clock()
            if left > 0:
                seconds = str(int(left) + 1)
                refusal = Refusal("TOOMANYREQUESTS", f"too many failures: try again in {seconds} seconds")
                refusal.headers["Retry-After"] = seconds
                raise refusal

    @contextlib.contextmanager
    def place(self, address: str) -> Iterator[None]:
        """For the time of a check: one address may not take all the places. Raises Refusal TOOMANYREQUESTS."""
        network = find_network(address)
        taken = self._places.get(network, 0)
        if taken >= PLACES:
            raise Refusal("TOOMANYREQUESTS", "too many are logging in from there: try again in a moment")
        self._places[network] = taken + 1
        try:
            yield
        finally:
            self._places[network] -= 1
            if not self._places[network]:
                del self._places[network]

    def fail(self, name: str, address: str) -> None:
        """One more."""
        for key, free in zip(_keys(name, address), (FREE_FAILURES, FREE_BY_ADDRESS), strict=True):
            count, until = self._failures.get(key, (0, 0.0))
            if until + FORGET_SECONDS < self._clock():
                count = 0
            count += 1
            pause = min(2.0 ** min(count - free, 20), MAX_PAUSE) if count >= free else 0.0
            self._failures[key] = count, self._clock() + pause
            self._failures.move_to_end(key)
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def succeed(self, name: str, address: str) -> None:
        """It knew the password: its own count begins anew, its address's does not."""
        pair, _ = _keys(name, address)
        self._failures.pop(pair, None)
        self._known[pair] = None
        self._known.move_to_end(pair)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def find_network(address: str) -> str:
    """What counts as one address: of IPv6 the first 64 bits; an IPv4 address inside of one is that."""
    if ":" not in address:
        return address
    try:
        ip = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))


def _keys(name: str, address: str) -> tuple[str, str]:
    network = find_network(address)
    # No name is so long; keys are kept, and a request could send 64 KiB.
    return f"{name[:64]}\0{network}", network
