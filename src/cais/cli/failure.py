"""How a command ends badly: the message, the exit code and how much of the usage is shown with it."""

from cais.errors import CaisError

USAGE = 125
"""Docker's exit code for a command line it does not understand."""


class Failure(CaisError):
    """The command failed; ``show`` is "usage" (with the usage line), "help" (named, with a pointer), or ""."""

    def __init__(self, message: str, code: int = 1, show: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.show = show


class Refused(CaisError):
    """The engine answered with an error; ``status`` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Error response from daemon: {message}")
        self.status = status
        self.message = message


class Unreachable(CaisError):
    """No engine answers at the host."""


def wrong_usage(message: str) -> Failure:
    """The command line is wrong: the message, then the usage line, exit code 125."""
    return Failure(message, USAGE, "usage")


def wrong_option(message: str) -> Failure:
    """An option's value makes no sense: named message and a pointer to the help, exit code 125."""
    return Failure(message, USAGE, "help")
