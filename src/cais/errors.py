"""The error tree: ten kinds, named by what the caller can do about them.

    CaisError
    ├── Invalid           the input is wrong: change it                        400
    ├── Unauthenticated   say who you are                                      401
    ├── Denied            you may not                                          403
    ├── NotFound          no such object: check the name                       404
    ├── AlreadyExists     the name is taken: choose another                    409
    ├── Conflict          the object is in the wrong state: change it first    409
    ├── NotModified       nothing to do: it is so already                      304
    ├── Unavailable       try again later                                      503
    ├── Unsupported       this engine, kernel or machine cannot                501
    └── Corrupt           stored or received bytes are not what they claim     500

OSError and ValueError pass through below the service rooms. A message is lower case, has no full stop and
names the object: ``no such image: alpine:3``. Translated once at each edge: ``api/errors.py`` (HTTP),
``cli/main.py`` (exit codes).
"""


class CaisError(Exception):
    """Root of the tree; raised only by its subclasses."""


class Invalid(CaisError):
    """The input is wrong; nothing was changed."""


class Unauthenticated(CaisError):
    """The caller has not said who it is."""


class Denied(CaisError):
    """The caller may not do this."""


class NotFound(CaisError):
    """No such object."""


class AlreadyExists(CaisError):
    """The name is taken."""


class Conflict(CaisError):
    """The object is in a state that does not allow the act."""


class NotModified(CaisError):
    """The object is in the wanted state already."""


class Unavailable(CaisError):
    """The act may succeed later."""


class Unsupported(CaisError):
    """This engine, kernel or machine cannot do it."""


class Corrupt(CaisError):
    """Stored or received bytes are not what they claim to be."""


class TaskFailed(CaisError):
    """A container's first process could not be started; ``exit_code`` is Docker's: 126, 127 or 128."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
