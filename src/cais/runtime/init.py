"""What a container's processes do between clone and execve: the steps of ``recipes``, each a function.

Runs in a child of the keeper, single-threaded, with everything already imported. A failing step is reported
to the keeper as data (step, errno, text), never printed. Nothing here knows of images, networks or records;
it obeys the OCI runtime specification (config.md, config-linux.md) it is given as plain JSON data."""

import errno
import os
import resource
import signal
import socket
import stat
import struct
from fcntl import ioctl
from typing import Any

from cais.linux import caps, mounts, pty, syscalls
from cais.linux.cgroups.base import Cgroups
from cais.linux.seccomp import load_filter
from cais.runtime import procfs, rootfs, users
from cais.runtime.program import DEFAULT_PATH, explain_format, find_executable
from cais.runtime.reaper import become_reaper

NAMESPACE_FLAGS = {
    "mount": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "network": syscalls.CLONE_NEWNET,
    "cgroup": syscalls.CLONE_NEWCGROUP,
}
# Set by the interpreter (the first two) and by the keeper.
CHANGED_SIGNALS = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGCHLD,
)
GROUP, TERMINAL, GO, GOING, FAILED = b"C", b"T", b"G", b"X", b"F"
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


class Child:
    """What the recipe works on. Descriptors are open in the child; -1 means none.

    ``stdio``: three descriptors that become 0, 1, 2, unless a terminal is asked for. ``pidfd``: of the
    running container's first process, for an exec. ``cgroup``: path of the group to join; ``entered``: clone3
    has put us into its v2 folder. ``traced``: whoever can see this process may be able to trace it. ``proc``: a procfs
    to write to; ``labels``: what of ``procfs.plan_labels``."""

    __slots__ = (
        "binds",
        "cgroup",
        "cgroup_binds",
        "cgroups",
        "empty",
        "entered",
        "identity",
        "joins",
        "labels",
        "masks",
        "master",
        "netns",
        "pidfd",
        "place",
        "proc",
        "program",
        "rootfs",
        "seccomp",
        "spec",
        "stdio",
        "sync",
        "traced",
    )  # fmt: skip

    def __init__(
        self, spec: dict[str, Any], sync: socket.socket, stdio: tuple[int, int, int], cgroups: Cgroups
    ) -> None:
        self.spec = spec
        self.sync = sync
        self.stdio = stdio
        self.cgroups = cgroups
        self.cgroup = ""
        self.cgroup_binds: list[int] = []
        self.entered = self.traced = False
        self.joins: list[tuple[int, int]] = []
        self.netns = self.pidfd = self.master = self.proc = -1
        self.labels: list[procfs.Label] = []
        self.seccomp = b""
        self.rootfs: dict[str, Any] = {}
        self.place = self.empty = ""
        self.binds: dict[int, int] = {}
        self.masks: rootfs.Masks | None = None
        self.identity = users.Identity(0, 0, [], "")
        self.program = ""

    @property
    def process(self) -> dict[str, Any]:
        """The specification's ``process``."""
        process: dict[str, Any] = self.spec["process"]
        return process

    @property
    def linux(self) -> dict[str, Any]:
        """The specification's ``linux``."""
        linux: dict[str, Any] = self.spec.get("linux", {})
        return linux


def leave_keeper(child: Child) -> None:
    """First act: nothing of the keeper or of other containers stays open (CVE-2024-21626)."""
    wanted = {child.sync.fileno(), child.netns, child.pidfd, *child.stdio, *(fd for fd, _ in child.joins)}
    syscalls.keep_only(wanted)
    signal.set_wakeup_fd(-1)
    for number in CHANGED_SIGNALS:  # an ignored signal stays ignored across execve
        signal.signal(number, signal.SIG_DFL)
    os.umask(0)


def set_oom_score(child: Child) -> None:
    """Here, while /proc is the host's; the keeper protects itself and its children must not inherit that.

    A lower score than ours needs CAP_SYS_RESOURCE: without it the present one is as low as it gets on this
    machine."""
    score = child.process.get("oomScoreAdj") or 0
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(score).encode())
        finally:
            os.close(fd)
    except PermissionError:
        if score >= 0:
            raise


def plan_labels(child: Child) -> None:
    """While /proc and /sys are the host's: which security labels this kernel can give, and for an exec, whose /proc
    will be the container's, the way to give them."""
    profile, label = child.process.get("apparmorProfile", ""), child.process.get("selinuxLabel", "")
    if procfs.asks_for_label(profile, label):
        child.labels = procfs.plan_labels(profile, label, procfs.read_modules())
        if child.pidfd >= 0:
            child.proc = procfs.open_proc()


def wait_for_group(child: Child) -> None:
    """The keeper makes the group while we take our first steps; without a keeper there will be none."""
    if child.sync.recv(1) != GROUP:
        os._exit(1)


def join_cgroup(child: Child) -> None:
    """Before the namespaces: a new cgroup namespace is rooted at the group its maker is in."""
    child.cgroups.join(child.cgroup, entered=child.entered)


def join_namespaces(child: Child) -> None:
    """The namespaces of others; their descriptors were opened by the keeper, on the host."""
    if child.netns >= 0:
        syscalls.setns(child.netns, syscalls.CLONE_NEWNET, "network namespace")
    for fd, flag in child.joins:
        syscalls.setns(fd, flag)


def join_container(child: Child) -> None:
    """For an exec: all namespaces of the container's first process in one call (Linux 5.8), root and working
    folder with them."""
    flags = 0
    for flag in NAMESPACE_FLAGS.values():
        flags |= flag
    syscalls.setns(child.pidfd, flags, "container")
    rootfs.hold_root()


def fork_into_pid_namespace(child: Child) -> None:
    """A joined pid namespace holds only for children: one is made, as the keeper's child and not ours, and we
    end.

    The keeper learns the pid from our last message; CLONE_PARENT makes the exit code its to collect.
    """
    if child.pidfd < 0 and all(flag != syscalls.CLONE_NEWPID for _, flag in child.joins):
        return
    pid = syscalls.clone3(syscalls.CLONE_PARENT)
    if pid:
        child.sync.send(b"P" + str(pid).encode())
        os._exit(0)


def fork_at_last(child: Child) -> None:
    """The same where others may trace what they see: they get to see a process with no more rights than the program
    will have, nothing of the host open, and no memory but of this request (CVE-2016-9962)."""
    pid = syscalls.clone_sibling()
    if pid:
        socket.send_fds(child.sync, [b"P" + str(pid).encode()], [child.master] if child.master >= 0 else [])
        os._exit(0)
    if child.master >= 0:
        os.close(child.master)
        child.master = -1


def new_session(_: Child) -> None:
    """A session of its own: no terminal of ours, and one of its own can become the controlling one."""
    os.setsid()


def unshare_cgroup(child: Child) -> None:
    """See ``join_cgroup``."""
    if any(ns["type"] == "cgroup" and not ns.get("path") for ns in child.linux.get("namespaces", [])):
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)


def new_keyring(child: Child) -> None:
    """Keys of the engine's session are not the container's; kernels without keyrings have none to leak."""
    try:
        syscalls.join_session_keyring("_ses")
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EDQUOT):
            raise


def raise_loopback(child: Child) -> None:
    """A new network namespace has its loopback down; Docker's ``none`` has it up."""
    if (
        not any(ns["type"] == "network" and not ns.get("path") for ns in child.linux.get("namespaces", []))
        or child.netns >= 0
    ):
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        ioctl(control.fileno(), _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def open_host_side(child: Child) -> None:
    """Everything that comes from the host, as detached mounts, while the host's paths still exist."""
    for index, mount in enumerate(child.spec.get("mounts", [])):
        if (
            mount.get("type") == "bind"
            or "bind" in mount.get("options", ())
            or "rbind" in mount.get("options", ())
        ):
            child.binds[index] = rootfs.open_bind(mount)
        elif mount.get("type") in ("cgroup", "cgroup2"):
            child.cgroup_binds = rootfs.open_cgroups(child.cgroups.container_mounts(child.cgroup))
    child.masks = rootfs.Masks(child.empty)


def change_root(child: Child) -> None:
    """Cut mount propagation to the host, then make the image the root; from here on the host's paths are
    gone."""
    propagation = child.linux.get("rootfsPropagation", "")
    mounts.make_private("/", slave=propagation in ("rslave", "slave", "rshared", "shared"))
    root = rootfs.open_root(child.rootfs)
    rootfs.enter_root(root, child.place)
    os.close(root)
    if propagation in ("shared", "rshared"):
        mounts.make_shared("/")


def make_mounts(child: Child) -> None:
    """The specification's mounts, in its order."""
    for index, mount in enumerate(child.spec.get("mounts", [])):
        try:
            if index in child.binds:
                rootfs.place_bind(child.binds[index], mount["destination"])
                os.close(child.binds[index])
            elif mount["type"] == "proc" and mount["destination"] == "/proc":
                child.proc = rootfs.place_file_system(mount)
            elif mount["type"] in ("cgroup", "cgroup2"):
                view = child.cgroups.container_mounts(child.cgroup)
                rootfs.place_cgroups(view, child.cgroup_binds, readonly="ro" in mount.get("options", ()))
            else:
                os.close(rootfs.place_file_system(mount))
        except OSError as error:
            where = f"{mount.get('source', '')} to {mount['destination']}"
            raise OSError(error.errno, f"mounting {where}: {error.strerror} ({error.filename})") from error


def make_devices(child: Child) -> None:
    """Only in a /dev of our own: with a bind mount there, the nodes are the host's."""
    own = [m for m in child.spec.get("mounts", []) if m["destination"] == "/dev"]
    if own and own[-1]["type"] == "tmpfs":
        rootfs.make_devices(child.linux.get("devices", []))


def open_terminal(child: Child) -> None:
    """A terminal of the container's own devpts; its master goes to the keeper later."""
    if not child.process.get("terminal"):
        return
    child.master = pty.open_master("/dev/pts/ptmx")
    slave = pty.open_slave(child.master)
    size = child.process.get("consoleSize")
    if size:
        pty.set_size(slave, size.get("height", 0), size.get("width", 0))
    if child.pidfd < 0:
        rootfs.bind_console(slave)
    child.stdio = (slave, slave, slave)


def set_names(child: Child) -> None:
    """Host and domain name, in our own UTS namespace only."""
    if child.spec.get("hostname"):
        syscalls.sethostname(child.spec["hostname"])
    if child.spec.get("domainname"):
        syscalls.setdomainname(child.spec["domainname"])


def write_sysctls(child: Child) -> None:
    """Through the procfs that we have made, or one for the moment when the specification has a bind there."""
    values = child.linux.get("sysctl", {})
    if child.proc < 0 and (values or child.labels):
        child.proc = mounts.make_file_system("proc", ())
    for name, value in values.items():
        procfs.write_sysctl(child.proc, name, value)


def set_labels(child: Child) -> None:
    """For the next execve, after the last mount: a label may forbid mounting."""
    if child.labels:
        procfs.write_labels(child.proc, child.labels)
    if child.proc >= 0:
        os.close(child.proc)
        child.proc = -1


def hide_paths(child: Child) -> None:
    """Masks and read-only paths come after every mount that could bring such a path."""
    assert child.masks is not None
    for path in child.linux.get("readonlyPaths", []):
        rootfs.make_readonly(path)
    for path in child.linux.get("maskedPaths", []):
        child.masks.cover(path)


def close_root(child: Child) -> None:
    """Read-only root last: mount points had to be made in it."""
    if child.spec.get("root", {}).get("readonly"):
        rootfs.make_root_readonly()


def set_limits(child: Child) -> None:
    """Resource limits. Without CAP_SYS_RESOURCE the kernel refuses more than the hard limit: then as much as
    it allows is set, which is what the caller could get on this machine at all."""
    for limit in child.process.get("rlimits", []):
        number = getattr(resource, limit["type"])
        soft, hard = limit["soft"], limit["hard"]
        try:
            resource.setrlimit(number, (soft, hard))
        except (PermissionError, ValueError):
            highest = resource.getrlimit(number)[1]
            hard = highest if hard == -1 or (highest != -1 and hard > highest) else hard
            soft = hard if soft == -1 or (hard != -1 and soft > hard) else soft
            resource.setrlimit(number, (soft, hard))


def find_user(child: Child) -> None:
    """The user's name is looked up here because here is the image's /etc/passwd, and nobody else's."""
    user = child.process.get("user", {})
    extra = list(user.get("groupAdd", ()))
    if user.get("username") or extra:
        text = user.get("username", "")
        child.identity = users.find_identity(
            text, extra, users.read_table("/etc/passwd"), users.read_table("/etc/group")
        )
    elif user.get("uid") or user.get("gid"):
        child.identity = users.Identity(user["uid"], user["gid"], list(user.get("additionalGids", ())), "")
    else:
        child.identity = users.find_identity(
            "", [], users.read_table("/etc/passwd"), users.read_table("/etc/group")
        )


def place_stdio(child: Child) -> None:
    """0, 1, 2; owned by the user, so that /dev/stdout can be opened again by a process that is not root."""
    for number, fd in enumerate(child.stdio):
        os.dup2(fd, number)
        status = os.fstat(number)
        if status.st_uid != child.identity.uid and not (
            stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)
        ):
            try:
                os.fchown(number, child.identity.uid, -1)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EINVAL, errno.EROFS):
                    raise


def take_terminal(child: Child) -> None:
    """The session's controlling terminal, for signals from the keyboard."""
    if child.process.get("terminal"):
        pty.make_controlling(0)


def enter_folder(child: Child) -> None:
    """The working folder, made where missing as Docker does; then proof that it lies inside our root: a
    descriptor leaked by anybody would make getcwd(2) answer with an unreachable path (CVE-2024-21626)."""
    folder = child.process.get("cwd") or "/"
    fd = rootfs.ensure_folder(folder)
    os.fchdir(fd)
    os.close(fd)
    if not os.getcwd().startswith("/"):
        raise PermissionError(1, "working folder is outside of the container", folder)


def load_seccomp_early(child: Child) -> None:
    """Without no_new_privs the filter needs CAP_SYS_ADMIN, so it is loaded before that is given up."""
    if child.seccomp and not child.process.get("noNewPrivileges"):
        load_filter(child.seccomp)


def become_user(child: Child) -> None:
    """Bounding set, groups, ids, capabilities: in this order, each needs what the next gives up."""
    wanted = child.process.get("capabilities", {})
    keep = syscalls.capget()
    bounding = caps.mask_of(wanted.get("bounding", []))
    caps.drop_bounding(bounding)
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    # The own group is among the supplementary ones: else giving it up would give access that "not in the group"
    # permissions grant (CVE-2022-36109).
    os.setgroups(list(dict.fromkeys((child.identity.gid, *child.identity.groups))))
    os.setresgid(child.identity.gid, child.identity.gid, child.identity.gid)
    os.setresuid(child.identity.uid, child.identity.uid, child.identity.uid)
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 0)
    permitted = caps.mask_of(wanted.get("permitted", [])) & keep & bounding
    effective = caps.mask_of(wanted.get("effective", [])) & permitted
    inheritable = caps.mask_of(wanted.get("inheritable", [])) & permitted
    if child.identity.uid:  # an ordinary user has none until a file or the ambient set gives some
        effective = permitted = 0 if not wanted.get("ambient") else permitted
    syscalls.capset(effective, permitted, inheritable)
    caps.raise_ambient(caps.mask_of(wanted.get("ambient", [])) & permitted & inheritable)
    # Other ids have set this to what fs.suid_dumpable says (prctl(2)): with 1, any process of the same user could read
    # the keeper's memory in us.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def set_no_new_privileges(child: Child) -> None:
    """After it the filter needs no right, so it is loaded as late as can be: it judges nearly nothing of
    ours."""
    if child.process.get("noNewPrivileges"):
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        if child.seccomp:
            load_filter(child.seccomp)


def find_program(child: Child) -> None:
    """PATH lookup with the errors Docker's clients turn into 126 and 127."""
    name = child.process["args"][0]
    environment = dict(entry.split("=", 1) for entry in child.process.get("env", []) if "=" in entry)
    child.program = find_executable(name, environment.get("PATH", DEFAULT_PATH))


def close_at_execve(_: Child) -> None:
    """Nothing but 0, 1, 2 stays open in the program; before any filter that might refuse the call."""
    syscalls.close_range(3, 0x7FFFFFFF, cloexec=True)


def close_now(child: Child) -> None:
    """The same, and for those who may trace us nothing is open even before it."""
    syscalls.keep_only({child.sync.fileno(), child.master})
    close_at_execve(child)


def wait_for_go(child: Child) -> None:
    """Hand over the terminal and wait for the word: if the keeper dies before the task is on record
    elsewhere, nothing runs. The keeper gives it early, so that its work and ours overlap; our answer tells an
    execve, which closes the socket, from a sudden death, which does too."""
    if child.master >= 0:
        socket.send_fds(child.sync, [TERMINAL], [child.master])
        os.close(child.master)
    if child.sync.recv(1) != GO:
        os._exit(1)
    child.sync.send(GOING)


def make_environment(child: Child) -> dict[bytes, bytes]:
    """The process's environment, with HOME from the user's entry when nobody set one."""
    pairs = (entry.partition("=") for entry in child.process.get("env", []))
    environment = {os.fsencode(name): os.fsencode(value) for name, _, value in pairs if name}
    if not environment.get(b"HOME"):
        environment[b"HOME"] = os.fsencode(child.identity.home or "/")
    return environment


def execute(child: Child) -> None:
    """Become the program; everything but 0, 1, 2 closes at this moment."""
    if child.spec.get("annotations", {}).get("cais.init") == "true":
        become_reaper(child.sync, terminal=bool(child.process.get("terminal")))
    os.umask(0o022)  # it was 0 for the exact modes of what the recipe makes; programs expect the usual one
    try:
        os.execve(child.program, [os.fsencode(a) for a in child.process["args"]], make_environment(child))
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            raise OSError(errno.ENOEXEC, explain_format(child.program)) from None
        raise
