"""Which file a process is to execute, and why it cannot: with Docker's words."""

import errno
import os
import stat

from cais.linux.binfmt import find_machine

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


def explain_format(path: str) -> str:
    """Why the kernel calls a file no program (ENOEXEC of execve(2)), in Docker's words and a few more."""
    try:
        with open(path, "rb") as file:
            header = file.read(64)
    except OSError:  # one may execute what one may not read
        header = b""
    machine, own = find_machine(header), os.uname().machine
    if machine and machine != own:
        reason = f"it is for {machine}, this machine is {own}, and no emulator is registered (binfmt_misc)"
    elif header.startswith(b"\x7fELF"):
        reason = "it is a damaged program, or one for another machine"
    else:
        reason = "it is neither a program nor a script that begins with #!"
    return f"exec: {quote(path)}: exec format error: {reason}"
