"""Which file a process is to execute, and why it cannot: with Docker's words."""

import errno
import os
import stat

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def quote(text: str) -> str:
    """``text`` as Go's %q has it, for an error message."""
    safe = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe) + '"'


def find_executable(name: str, path: str) -> str:
    """The file to execute for ``name``: searched in ``path`` unless it holds a slash (execvp(3))."""
    quoted = quote(name)
    if "/" in name:
        check_executable(name, quoted)
        return name
    for folder in path.split(":"):
        candidate = os.path.join(folder or ".", name)
        try:
            check_executable(candidate, quoted)
        except OSError:
            continue
        return candidate
    raise FileNotFoundError(errno.ENOENT, f"exec: {quoted}: executable file not found in $PATH")


def check_executable(path: str, quoted: str) -> None:
    """Raise what execve would, with Docker's words."""
    try:
        status = os.stat(path)
    except OSError as error:
        words = {
            errno.ENOENT: "no such file or directory",
            errno.ENOTDIR: "not a directory",
            errno.EACCES: "permission denied",
        }
        raise OSError(
            error.errno, f"exec: {quoted}: stat {path}: {words.get(error.errno or 0, error.strerror)}"
        ) from None
    if stat.S_ISDIR(status.st_mode):
        raise PermissionError(errno.EACCES, f"exec: {quoted}: is a directory: permission denied")
    if not os.access(path, os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, f"exec: {quoted}: permission denied")
