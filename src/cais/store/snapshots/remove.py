"""Removing a container's folder, which a hostile container may have nested deeper than any recursion or path goes."""

import os
import secrets
from contextlib import suppress

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str) -> None:
    """Remove the folder ``path`` and all below. Idempotent; OSError when something in it cannot be removed.

    Each folder is first moved up to the top, then emptied: nothing is ever deeper than two levels, no path is longer
    than two names, and two descriptors are enough (``shutil.rmtree`` fails at a depth of about a thousand).
    """
    try:
        top = os.open(path, _FOLDER)
    except FileNotFoundError:
        return
    try:
        # Not to be guessed: an entry that is there already would stand in the way.
        token, number = secrets.token_hex(8), 0
        waiting = _unlink_files(top)
        while waiting:
            name = waiting.pop()
            folder = os.open(name, _FOLDER, dir_fd=top)
            try:
                for below in _unlink_files(folder):
                    number += 1
                    lifted = f"{token}-{number}"
                    os.rename(below, lifted, src_dir_fd=folder, dst_dir_fd=top)
                    waiting.append(lifted)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _unlink_files(folder: int) -> list[str]:
    """Remove everything in ``folder`` but its folders, whose names are returned."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(entry.name, dir_fd=folder)
    return folders
