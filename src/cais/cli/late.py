"""The one way to import something only when it is needed: by name, out of a table of this room."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def load(target: str) -> Any:
    """The object ``module:name``. The program's own names only, never anything a user typed."""
    module, _, name = target.partition(":")
    __import__(module)
    return getattr(sys.modules[module], name)
