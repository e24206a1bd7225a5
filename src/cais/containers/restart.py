"""When a container that has ended is started again, and after how long (pure)."""

import msgspec

from cais.spec.container import RestartPolicy

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
STEADY = 10.0
"""Seconds; a container that ran so long starts over with the first delay. All three are Docker's."""


class Ended(msgspec.Struct, frozen=True):
    """How it ended. ``ran`` seconds; ``stopped``: somebody asked for it."""

    code: int
    ran: float
    stopped: bool
    restarts: int
    """Restarts by policy since somebody last started it."""


def next_delay(last: float, ran: float) -> float:
    """Seconds to wait; ``last`` is the previous delay, 0 for none."""
    if ran >= STEADY or last <= 0:
        return FIRST_DELAY
    return min(last * 2, LONGEST_DELAY)


def should_restart(policy: RestartPolicy, ended: Ended) -> bool:
    """Whether the policy starts it again now."""
    if ended.stopped:
        return False
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name == "on-failure":
        limit = policy.maximum_retry_count
        return ended.code != 0 and (limit == 0 or ended.restarts < limit)
    return False


def should_start_with_engine(policy: RestartPolicy, ended: Ended) -> bool:
    """Whether a new engine starts it: ``always`` even when it was stopped by hand."""
    if policy.name == "always":
        return True
    return should_restart(policy, ended)
