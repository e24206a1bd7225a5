"""The git command, caged: it speaks with servers that nobody vouches for, and reads what they send.

Each one is a process of its own pid and mount namespace, without any right, under a user id that owns nothing but the
folder of one remote, which it finds at ``PLACE``. It reads no configuration but what stands here, runs no hook, asks
nobody, and dies with the engine. No command ever writes a work tree, so what a repository calls its files and links
leads nowhere on this machine (CVE-2024-32002, CVE-2021-21300 and their kind).
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cais.errors import Invalid, Unavailable, Unsupported

PLACE = "/mnt"
"""Where the folder of the remote is shown. Nothing of the machine's is changed: it is a mount of the process's own."""
PROTOCOLS = "https:http:ssh:git"
LOCAL = "file"
OWN_UID = 2_000_000_117
"""Nobody's: no account has it, and no program but these."""
SSH_UID = 65534
"""ssh refuses to run for who has no account."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TOOLS = ("setpriv", "unshare", "prlimit", "mount")
_OLDEST = (2, 31)
"""The first that takes its settings from the environment."""
_MAX_FILE = 64 << 30
_STDERR = 64 << 10
_ENTER = 'mount --bind "$0" "$1" && cd "$1" && shift && exec "$@"'
_SETTINGS: tuple[tuple[str, str], ...] = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.logAllRefUpdates", "false"),
    ("credential.helper", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("submodule.recurse", "false"),
    ("pack.threads", "2"),
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "60"),
    ("advice.detachedHead", "false"),
)
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_SSH = (
    "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=30 -o StrictHostKeyChecking=accept-new "
    f"-o UserKnownHostsFile={PLACE}/known_hosts -o ForwardAgent=no -o ProxyCommand=none"
)
"""A server's key is kept when it is seen for the first time, and must be the same from then on."""


class GitFailed(Unavailable):
    """A command ended with ``code``; ``text`` is what it wrote to its standard error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text or f"git ended with {code}")
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Git:
    """Commands for one remote. ``folder``: all they see; ``repository``: a name in it; ``settings``: more
    configuration, which may be secret; ``agent``: a socket in ``folder``."""

    folder: Path
    uid: int
    repository: str = "repo"
    settings: tuple[tuple[str, str], ...] = ()
    protocols: str = PROTOCOLS
    agent: str = ""
    index: str = ""

    def argv(self, *args: str) -> list[str]:
        """What is executed. Nothing secret is in it: everybody on the machine can read it."""
        user = str(self.uid)
        return [
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--"),
            *("sh", "-c", _ENTER, str(self.folder), PLACE),
            *("prlimit", f"--fsize={_MAX_FILE}", "--core=0", "--nofile=4096", "--"),
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"),
            # Last, and again: another user id takes back what was set before.
            *("--inh-caps=-all", "--bounding-set=-all", "--pdeathsig", "KILL", "--"),
            *("git", *args),
        ]

    def environment(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """All that the command knows of the machine."""
        found = {
            "PATH": _PATH,
            "LC_ALL": "C",
            "HOME": "/nonexistent",
            "GIT_DIR": f"{PLACE}/{self.repository}",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": self.protocols,
            "GIT_SSH_COMMAND": _SSH,
            "GIT_ATTR_NOSYSTEM": "1",
        }
        for name in _PROXIES:
            for each in (name, name.upper()):
                if each in environ:
                    found[each] = environ[each]
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            if name in environ:
                found[name] = environ[name]
        if self.agent:
            found["SSH_AUTH_SOCK"] = f"{PLACE}/{self.agent}"
        if self.index:
            found["GIT_INDEX_FILE"] = f"{PLACE}/{self.index}"
        settings = (*_SETTINGS, *self.settings)
        found["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, (key, value) in enumerate(settings):
            found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return found

    async def run(self, *args: str, limit: int = 4 << 20, seconds: float = 120.0) -> bytes:
        """What the command writes, at most ``limit`` bytes. Cancelling kills it.

        Raises GitFailed, Unavailable (it takes too long), Invalid (it writes too much).
        """
        process = await asyncio.create_subprocess_exec(
            *self.argv(*args),
            cwd="/",
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout and process.stderr
        try:
            async with asyncio.timeout(seconds):
                out, err = await asyncio.gather(
                    _read(process.stdout, limit), _read(process.stderr, _STDERR, cut=True)
                )
                code = await process.wait()
        except TimeoutError:
            raise Unavailable(f"git {args[0]} took longer than {seconds:.0f} seconds") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if code:
            raise GitFailed(code, err.decode("utf-8", "replace").strip())
        return out

    def start(self, *args: str, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        """The same for a worker, which reads from its standard output; errors are not read."""
        return subprocess.Popen(
            self.argv(*args),
            cwd="/",
            env=self.environment(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


async def _read(stream: asyncio.StreamReader, limit: int, *, cut: bool = False) -> bytes:
    """All of it; what is more than ``limit`` is an error, or with ``cut`` dropped."""
    parts: list[bytes] = []
    size = 0
    while part := await stream.read(64 << 10):
        if size < limit:
            parts.append(part[: limit - size])
        size += len(part)
        if size > limit and not cut:
            raise Invalid(f"git wrote more than {limit} bytes")
    return b"".join(parts)


def check_tools(remote_is_ssh: bool) -> None:
    """Raises Unsupported if the machine lacks what is needed, with the package that has it; blocks for some
    milliseconds."""
    if os.geteuid():
        raise Unsupported("only an engine that runs as root can fetch from git repositories: it cages git")
    if not shutil.which("git", path=_PATH):
        raise Unsupported(
            "git is not installed on this machine: install the package git to build from repositories"
        )
    said = subprocess.run(["git", "--version"], env={"PATH": _PATH}, capture_output=True, text=True).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    if not found or (int(found[1]), int(found[2])) < _OLDEST:
        raise Unsupported(f"{said.strip() or 'git'} is too old: 2.31 is the first that can be used")
    missing = [tool for tool in _TOOLS if not shutil.which(tool, path=_PATH)]
    if missing:
        raise Unsupported(f"{', '.join(missing)} not found: install the packages util-linux and mount")
    if remote_is_ssh and not shutil.which("ssh", path=_PATH):
        raise Unsupported("ssh is not installed on this machine: install the package openssh-client")


def make_repository(folder: Path, name: str, uid: int) -> Path:
    """An empty bare one, owned by ``uid``, without hooks. Idempotent. Raises OSError, Unavailable."""
    path = folder / name
    if path.is_dir():
        return path
    half = folder / f".half-{name}"
    shutil.rmtree(half, ignore_errors=True)
    environment = {
        "PATH": _PATH,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "HOME": "/nonexistent",
    }
    command = ["git", "-c", "init.defaultBranch=master", "init", "-q", "--bare", "--template=", str(half)]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if made.returncode:
        raise Unavailable(f"git cannot make a repository: {made.stderr.strip()}")
    for base, folders, files in os.walk(half):
        for each in (base, *(os.path.join(base, name) for name in (*folders, *files))):
            os.chown(each, uid, uid, follow_symlinks=False)
    half.rename(path)
    return path
