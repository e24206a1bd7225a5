"""Docker's words for times and states in ``ps``."""

from cais.containers.record import State

_DAY = 24


def human_duration(seconds: float) -> str:
    """A rough length of time (the rules of docker/go-units, HumanDuration)."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    return _long_duration(int(seconds / 3600 + 0.5))


def _long_duration(hours: int) -> str:
    if hours == 1:
        return "About an hour"
    for limit, unit, name in (
        (_DAY * 2, 1, "hours"),
        (_DAY * 7 * 2, _DAY, "days"),
        (_DAY * 30 * 2, _DAY * 7, "weeks"),
        (_DAY * 365 * 2, _DAY * 30, "months"),
    ):
        if hours < limit:
            return f"{hours // unit} {name}"
    return f"{hours // _DAY // 365} years"


def human_state(state: State, now_ns: int) -> str:
    """The STATUS column of ``ps``."""
    since_start = human_duration((now_ns - state.started_ns) / 1e9)
    since_end = human_duration((now_ns - state.finished_ns) / 1e9)
    match state.status:
        case "running":
            return f"Up {since_start}"
        case "paused":
            return f"Up {since_start} (Paused)"
        case "restarting":
            return f"Restarting ({state.exit_code}) {since_end} ago"
        case "removing":
            return "Removal In Progress"
        case "dead":
            return "Dead"
        case "created":
            return "Created"
    return f"Exited ({state.exit_code}) {since_end} ago" if state.finished_ns else ""
