"""The program of one worker process: takes a function's name and arguments from a socket, runs it, answers.

Imports nothing that it does not need: a worker is started while somebody waits. Only our own engine holds the other
end of the socket, so what comes from it may be unpickled.
"""

import importlib
import os
import pickle
import signal
import socket
import struct
import sys
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, NoReturn

LENGTH = struct.Struct("!Q")
_OOM_SCORE = "600"


def main(fd: int) -> None:
    """Serve requests from the socket ``fd`` until it is closed."""
    signal.signal(signal.SIGTERM, _leave)
    _offer_to_oom_killer()
    connection = socket.socket(fileno=fd)
    requests: SimpleQueue[bytes] = SimpleQueue()
    # The reader notices at once when the engine is gone, even in the middle of a long piece of work.
    Thread(target=_read_requests, args=(connection, requests), daemon=True).start()
    while True:
        answer = _run(requests.get())
        connection.sendall(LENGTH.pack(len(answer)) + answer)


def _read_requests(connection: socket.socket, requests: "SimpleQueue[bytes]") -> None:
    with suppress(OSError), connection.makefile("rb") as stream:
        while header := stream.read(LENGTH.size):
            requests.put(stream.read(*LENGTH.unpack(header)))
    os.kill(os.getpid(), signal.SIGTERM)  # so that clean-up in the main thread still runs


def _run(request: bytes) -> bytes:
    try:
        module, name, args = pickle.loads(request)
        result = (True, getattr(importlib.import_module(module), name)(*args))
    except Exception as error:
        result = (False, error)
    return _dump(result)


def _dump(result: tuple[bool, Any]) -> bytes:
    try:
        answer = pickle.dumps(result)
        pickle.loads(answer)  # an exception with its own __init__ may pickle and yet not come back
    except Exception as error:
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}; of {result[1]!r}")))
    return answer


def _leave(*_: object) -> NoReturn:
    # Once only: both the engine and our reader may say it, and a second time would break off the clean-up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def _offer_to_oom_killer() -> None:
    """When memory runs out, a worker is a better loss than the engine or a container."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(_OOM_SCORE)
    except OSError:
        return  # not allowed here: then the kernel's own choice stands


if __name__ == "__main__":
    main(int(sys.argv[1]))
