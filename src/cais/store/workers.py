"""A small pool of processes for work on bytes: hash, inflate, unpack, compare, compress."""

import asyncio
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from cais.errors import Unavailable
from cais.store.worker import LENGTH

T = TypeVar("T")

_IDLE = 60.0


class _Worker:
    """One process and the socket to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # A fresh interpreter, not a fork: the engine has threads. -P: no module comes from the current folder.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cais.store.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a Ctrl-C in the engine's terminal is for the engine
            )
        ours.setblocking(False)
        self._socket = ours
        self.expiry: asyncio.TimerHandle | None = None
        self.ending = False

    @property
    def pid(self) -> int:
        return self._process.pid

    async def call(self, request: bytes) -> bytes:
        """Send one request and wait for its answer. Raises EOFError, ConnectionError when the process is gone."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, LENGTH.pack(len(request)) + request)
        (length,) = LENGTH.unpack(await self._receive(LENGTH.size))
        return await self._receive(length)

    async def _receive(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        gathered = bytearray()
        while len(gathered) < size:
            part = await loop.sock_recv(self._socket, min(size - len(gathered), 1 << 20))
            if not part:
                raise EOFError
            gathered += part
        return bytes(gathered)

    async def stop(self) -> None:
        """End the process, let it clean up, and reap it."""
        if self.expiry:
            self.expiry.cancel()
        # Not closed yet: somebody may wait for an answer, and a closed descriptor would never wake him.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._process.terminate()
        await asyncio.to_thread(self._wait)
        self._socket.close()

    def _wait(self) -> None:
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Workers:
    """At most ``count`` processes, started when there is work, ended after ``idle`` seconds without any.

    Belongs to one event loop. ``close`` ends them all.
    """

    def __init__(self, count: int = 0, *, idle: float = _IDLE) -> None:
        self._idle = idle
        self._slots = asyncio.Semaphore(count or os.cpu_count() or 1)
        self._free: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """``function(*args)`` in a worker; the function is one of a module's own, arguments and result are pickled.

        Its exception comes back as itself. Raises Unavailable if the process died. Cancelling ends the worker, after
        the function's own clean-up.
        """
        request = pickle.dumps((function.__module__, function.__qualname__, args))
        async with self._slots:
            if self._closed:
                raise Unavailable("the workers are closed")
            done, result = await self._call(function, request)
        if not done:
            raise result
        answer: T = result
        return answer

    def warm(self) -> None:
        """Have one process ready: there will be work soon, and an interpreter takes a while to come up."""
        if not self._closed and not self._free and not self._busy:
            self._give_back(_Worker())

    async def _call(self, function: Callable[..., T], request: bytes) -> tuple[bool, Any]:
        worker = self._take()
        self._busy.add(worker)
        try:
            answer = await worker.call(request)
        except (EOFError, ConnectionError) as error:
            self._end(worker)
            raise Unavailable(f"the worker for {function.__qualname__} died") from error
        except BaseException:
            self._end(worker)
            raise
        finally:
            self._busy.discard(worker)
        done, result = pickle.loads(answer)
        if not done and isinstance(result, OSError):
            # It may still hold files open, which were to be removed: on a full disk nobody could go on.
            self._end(worker)
        else:
            self._give_back(worker)
        return done, result

    def pids(self) -> list[int]:
        """The processes that run now."""
        return [worker.pid for worker in (*self._free, *self._busy)]

    async def close(self) -> None:
        """End every worker, what they are doing included, and wait until they are gone. Idempotent."""
        self._closed = True
        for worker in (*self._free, *self._busy):
            self._end(worker)
        self._free.clear()
        await asyncio.gather(*self._ending)

    def _take(self) -> _Worker:
        if not self._free:
            return _Worker()
        worker = self._free.pop()  # the one used last is the warmest; the others can expire
        if worker.expiry:
            worker.expiry.cancel()
        return worker

    def _give_back(self, worker: _Worker) -> None:
        if self._closed:
            self._end(worker)
            return
        self._free.append(worker)
        worker.expiry = asyncio.get_running_loop().call_later(self._idle, self._expire, worker)

    def _expire(self, worker: _Worker) -> None:
        if worker in self._free:
            self._free.remove(worker)
            self._end(worker)

    def _end(self, worker: _Worker) -> None:
        if worker.ending:
            return
        worker.ending = True
        # Ending takes a moment and is nobody's business to wait for; the set keeps the task from being collected.
        task = asyncio.get_running_loop().create_task(worker.stop())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
