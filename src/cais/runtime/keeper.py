"""The keeper: one small, single-threaded process that starts every container process and outlives the engine.

It owns standard streams, terminals, log files, pidfds and exit codes. Of all Cais only this process enters
namespaces, which a process with threads cannot. It imports everything before the first request, freezes the
collector, and trusts only whoever may open its socket (root). What it holds is handed to the engine in
copies, so that either of the two can be killed."""

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from cais.linux import pidfd as pidfds
from cais.linux import syscalls
from cais.linux.cgroups.base import Cgroups
from cais.runtime import fresh, init, recipes, tracing
from cais.runtime.acts import Acts
from cais.runtime.link import Link
from cais.runtime.logs import LogFile
from cais.runtime.loop import Loop
from cais.runtime.processes import (
    ENDED,
    RUNNING,
    STARTING,
    Failure,
    Process,
    close_all,
    describe_failure,
    is_new,
    make_stdio,
    now_ns,
    open_namespaces,
    take_over,
)
from cais.runtime.streams import Client, StandardStreams

DRAIN_SECONDS = 2.0
"""How long output may come after a process has ended, from others that hold its pipes."""

CODE_TRIES, FAILED_TRIES, LIST_TRIES = 50, 500, 1000

IDLE_SECONDS = 10.0
"""A keeper without tasks and without an engine ends after this long."""

EMPTY_FOLDER, PLACE_FOLDER = "empty", "place"


class Keeper:
    """The loop, the table of processes, and one method per request (named ``op_…``)."""

    def __init__(self, run: str, listener: socket.socket, cgroups: Cgroups) -> None:
        self.run_folder = run
        self.cgroups = cgroups
        self.processes: dict[tuple[str, str], Process] = {}
        self.waiting: dict[tuple[str, str], list[Client]] = {}
        self.acts = Acts(self.processes, cgroups)
        self.loop = Loop()
        self.watch, self.after = self.loop.watch, self.loop.after
        self.link = Link(listener, self.watch, self.serve)
        self.tell = self.link.tell
        self.after(IDLE_SECONDS, self.check_idle)

    def check_idle(self) -> None:
        """Forget clients that left before their process started; end when nobody needs us any more."""
        for key, clients in list(self.waiting.items()):
            self.waiting[key] = [client for client in clients if client.sock.fileno() >= 0]
            if not self.waiting[key]:
                del self.waiting[key]
        if not self.link.connected and not self.processes:
            self.loop.stop()
        self.after(IDLE_SECONDS, self.check_idle)

    def serve(self, message: dict[str, Any], fds: list[int]) -> None:
        """One request; its descriptors are ours to close unless the operation keeps them."""
        seq = message.get("seq")

        def reply(**values: object) -> None:
            self.tell({"seq": seq, **values})

        name = "op_" + str(message.get("op"))
        operation = getattr(self, name, None) or getattr(self.acts, name, None)
        try:
            if operation is None:
                raise Failure("Unsupported", f"unknown request: {message.get('op')}")
            answer = operation(message, fds, reply)
        except Failure as failure:
            reply(error={"kind": failure.kind, "text": failure.text, "code": failure.code})
        except OSError as error:
            reply(error={"kind": "OSError", "text": str(error), "code": error.errno or 0})
        except Exception as error:
            reply(error={"kind": "Invalid", "text": f"{type(error).__name__}: {error}", "code": 0})
            sys.__excepthook__(type(error), error, error.__traceback__)
        else:
            if answer is not None:
                reply(**answer)
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    # --- requests

    def op_hello(self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]) -> None:
        """A new engine: everything we hold, with descriptors, then the list."""
        for process in self.processes.values():
            if process.state == RUNNING:
                self.hand_over(process)
        self.tell_list(reply)

    def op_list(self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]) -> None:
        """Everything that runs, or whose exit nobody has acknowledged."""
        self.tell_list(reply)

    def tell_list(
        self, reply: Callable[..., None], pending: set[Process] | None = None, tries: int = LIST_TRIES
    ) -> None:
        """Once nothing is half-way: a start that an engine asked for before it was killed must not come to run after
        its successor was told that there is no such task. One that a tracer (or a dead disk) holds up is given up."""
        tasks = self.processes.values()
        pending = {each for each in (tasks if pending is None else pending) if each.state == STARTING}
        pending &= set(tasks)
        if pending:
            for each in () if tries else pending:
                self.fail_start(each, b"the start took too long", plain=True)
            self.after(0.005, lambda: self.tell_list(reply, pending, tries - 1 if tries else LIST_TRIES))
        else:
            reply(tasks=[each.describe() for each in tasks if each.state != STARTING], pid=os.getpid())

    def op_leave(self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]) -> dict[str, Any]:
        """The engine ends in order; without tasks there is nothing left to keep, nor a folder to keep them in."""
        if not self.processes:
            with contextlib.suppress(OSError):  # another engine's groups may be in it
                self.cgroups.remove_empty(message["parent"])
            self.loop.stop()
        return {}

    def op_start(self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]) -> None:
        """Start a container's first process."""
        key = (message["id"], "")
        if key in self.processes:
            raise Failure("Conflict", f"task is running: {message['id']}")
        spec = message["spec"]
        process = Process(message["id"], "", spec["linux"]["cgroupsPath"])
        process.record["log"] = message["log"]
        process.record["stdin_once"] = message.get("stdin_once", False)
        process.record["own_pid_namespace"] = is_new(spec, "pid")
        process.record["traces"] = tracing.may_trace(spec["process"])
        process.reply = reply
        resources = spec["linux"].get("resources", {})
        self.cgroups.prepare(process.cgroup, resources)
        opened: list[int] = []
        try:
            joins = open_namespaces(spec, opened)
            seen = [f"/proc/self/fd/{fd}" for fd, flag in joins if flag == syscalls.CLONE_NEWPID]
            process.changes_pid = bool(seen)
            traced = process.record["traces"] and tracing.stays_interpreter(spec)
            traced |= any(tracing.is_traced(path, self.processes.values()) for path in seen)
            child = self.make_child(spec, process, message)
            child.traced, child.rootfs, child.joins = traced, message["rootfs"], joins
            child.netns = fds[0] if fds else -1
            flags = sum(
                f for name, f in init.NAMESPACE_FLAGS.items() if name != "cgroup" and is_new(spec, name)
            )
            if child.netns >= 0:
                flags &= ~syscalls.CLONE_NEWNET
            self.launch(process, child, flags, resources)
        except BaseException:
            self.cgroups.remove(process.cgroup)
            raise
        finally:
            for fd in opened:
                os.close(fd)

    def op_exec(self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]) -> None:
        """Start one more process in a running task."""
        task = self.processes.get((message["id"], ""))
        if task is None or task.state != RUNNING:
            raise Failure("Conflict", f"container {message['id']} is not running")
        if task.paused:
            raise Failure(
                "Conflict", f"Container {message['id']} is paused, unpause the container before exec"
            )
        process = Process(message["id"], message["exec_id"], task.cgroup)
        if process.key in self.processes:
            raise Failure("Conflict", f"exec is running: {message['exec_id']}")
        process.reply, process.changes_pid = reply, True
        process.record["stdin_once"] = True
        process.record["log"] = {"driver": "none", "path": "", "max_size": 0, "max_files": 1}
        if tracing.may_trace(message["process"]) and not task.record.get("traces"):
            task.record["traces"] = True
            self.hand_over(task)
        traced = tracing.is_traced(f"/proc/{task.pid}/ns/pid", self.processes.values())
        child = self.make_child({"process": message["process"]}, process, message)
        child.traced, child.pidfd = traced, task.pidfd
        self.launch(process, child, 0)

    def make_child(self, spec: dict[str, Any], process: Process, message: dict[str, Any]) -> init.Child:
        """The recipe's input, with fresh streams."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            stdio, outputs, feed = make_stdio(
                spec["process"], message.get("open_stdin", False), message.get("attach", True)
            )
        except OSError:  # too many open files
            ours.close()
            theirs.close()
            raise
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        process.sync = ours
        process.terminal = bool(spec["process"].get("terminal"))
        process.record["outputs"], process.record["feed"] = outputs, feed
        child = init.Child(spec, theirs, stdio, self.cgroups)
        child.cgroup = process.cgroup
        child.seccomp = bytes.fromhex(message.get("seccomp", ""))
        child.place = os.path.join(self.run_folder, PLACE_FOLDER)
        child.empty = os.path.join(self.run_folder, EMPTY_FOLDER)
        return child

    def launch(
        self, process: Process, child: init.Child, flags: int, resources: dict[str, Any] | None = None
    ) -> None:
        """Clone the child into its namespaces and group, and listen to what it reports. ``resources``: of a new group,
        which is made ready while the child takes its first steps; it waits for that before it joins."""
        unified = None
        try:
            # A new interpreter's memory is not for the container's limit: that one joins later.
            unified = None if child.traced else self.cgroups.unified_fd(process.cgroup)
            child.entered = unified is not None
            pid = syscalls.clone3(flags, cgroup=-1 if unified is None else unified)
            if pid == 0:
                recipes.run(child, fresh.LEAVE if child.traced else recipes.find_recipe(child))
            process.pid, process.pidfd = pid, pidfds.open_pidfd(pid)
            if resources is not None:
                self.finish_group(process, resources)
        except BaseException:
            self.close_streams(process)
            raise
        finally:
            child.sync.close()
            for fd in set(child.stdio):
                os.close(fd)
            if unified is not None:
                os.close(unified)
        self.processes[process.key] = process
        assert process.sync is not None
        process.sync.setblocking(False)
        self.watch(process.sync.fileno(), select.EPOLLIN, lambda _: self.on_child(process))
        self.watch(process.pidfd, select.EPOLLIN, lambda _: self.on_end(process))
        if resources is not None and not process.changes_pid:
            process.hold_mounts()
        if not process.terminal and not process.changes_pid:
            self.make_ready(process)

    def finish_group(self, process: Process, resources: dict[str, Any]) -> None:
        """Ten hierarchies take half a millisecond. Nothing of the image has run yet: who waits is our own child."""
        assert process.sync is not None
        try:
            self.cgroups.finish(process.cgroup, resources)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # as in ``make_ready``
                process.sync.send(init.GROUP)
        except BaseException:
            process.kill()  # ``on_child_signal`` collects it
            os.close(process.pidfd)
            process.pidfd = -1
            raise

    def close_streams(self, process: Process) -> None:
        """Close our ends of a process that did not come to run."""
        for fd in {*process.record.pop("outputs", {}), process.record.pop("feed", -1), process.master} - {-1}:
            os.close(fd)
        process.master = -1
        self.close_sync(process)

    def close_sync(self, process: Process) -> None:
        """The child has no more to report."""
        for _, _, fds in process.early:
            close_all(fds)
        process.early.clear()
        if process.sync is not None:
            self.watch(process.sync.fileno(), 0, None)
            process.sync.close()
            process.sync = None

    # --- a child on its way to execve

    def on_child(self, process: Process) -> None:
        """A report of the recipe: pid, terminal, going, failed; or end of file, which is the execve."""
        while process.sync is not None:
            try:
                data, fds = process.receive()
            except BlockingIOError:
                return
            except ConnectionResetError:
                # The child ended without having read our word to go: told once, what it had sent before comes next.
                continue
            ready = process.io is not None
            if process.terminal and not ready and process.master < 0 and len(fds) == 1:
                process.master = fds.pop()
            close_all(fds)
            # Each report counts at its own time only: a tracer may make a child say anything at any.
            if data[:1] == b"P" and process.changes_pid:
                self.replace_pid(process, int(data[1:]))
            elif data[:1] == init.TERMINAL and process.master >= 0 and not process.changes_pid:
                self.make_ready(process)
            elif data[:1] in (b"P", init.TERMINAL):
                continue
            elif data[:1] == init.GOING:
                process.going = ready
            elif data[:1] == init.FAILED:
                self.fail_start(process, data[1:])
            elif process.going:
                self.finish_start(process)
            else:
                self.fail_start(process, b"")

    def replace_pid(self, process: Process, pid: int) -> None:
        """The child made another one inside a pid namespace and ends; from now on that one is meant."""
        try:
            pidfd = pidfds.open_pidfd(pid)
        except OSError as error:  # too many open files
            os.kill(pid, signal.SIGKILL)  # ours and not collected: the number is no other's
            self.fail_start(process, f"pidfd: {error}".encode(), plain=True)
            return
        self.watch(process.pidfd, 0, None)
        os.close(process.pidfd)
        os.waitpid(process.pid, 0)
        process.pid, process.pidfd, process.changes_pid = pid, pidfd, False
        self.watch(process.pidfd, select.EPOLLIN, lambda _: self.on_end(process))
        self.on_child_signal()
        if not process.terminal or process.master >= 0:
            self.make_ready(process)

    def make_ready(self, process: Process) -> None:
        """Everything is set up inside: streams, record, a copy of all to the engine, and only then the word
        to go."""
        outputs, feed = process.record.pop("outputs"), process.record.pop("feed")
        if process.terminal:
            outputs, feed = {process.master: "stdout"}, process.master
            process.master = -1
        process.started_ns = now_ns()
        try:
            self.open_streams(process, outputs, feed)
        except OSError as error:
            process.record["outputs"], process.record["feed"] = outputs, feed
            self.fail_start(process, f"log: {error}".encode(), plain=True)
            return
        self.hand_over(process)
        assert process.sync is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has failed already, and said so
            process.sync.send(init.GO)

    def open_streams(self, process: Process, outputs: dict[int, str], feed: int) -> None:
        """Connect streams, log and the clients that were there first."""
        options = process.record["log"]
        log = None
        if options["driver"] != "none":
            log = LogFile(options["driver"], options["path"], options["max_size"], options["max_files"])
        io = StandardStreams(outputs, feed, log, self.watch)
        io.stdin_once = process.record["stdin_once"]
        io.on_input_closed = lambda: self.tell(
            {"event": "closed", "id": process.id, "exec_id": process.exec_id}
        )
        io.on_finished = lambda: self.report(process)
        process.io = io
        for client in self.waiting.pop(process.key, []):
            if client.sock.fileno() >= 0:
                io.add(client)

    def hand_over(self, process: Process) -> None:
        """Copies of a process's descriptors and its record to the engine."""
        if process.io is not None:
            record, fds = process.hand_over(process.io)
            self.tell({"event": "held", "record": record}, tuple(fds))

    def finish_start(self, process: Process) -> None:
        """The program runs."""
        self.close_sync(process)
        process.state = RUNNING
        if process.reply is not None:
            process.reply(state=process.describe())
            process.reply = None

    def fail_start(self, process: Process, report: bytes, *, plain: bool = False) -> None:
        """The program could not be started: kill what there is of it, then undo everything and say why."""
        process.kill()
        self.watch(process.pidfd, 0, None)
        self.close_sync(process)
        text = report.decode("utf-8", "replace") if plain else ""
        self.undo_start(process, text, b"" if plain else report, FAILED_TRIES)

    def undo_start(self, process: Process, text: str, report: bytes, tries: int) -> None:
        """As soon as it is dead. Never waiting for that: a tracer in the container keeps its dead from us as long as
        it likes (ptrace(2)), and all others would have to wait too."""
        pid, status = os.waitpid(process.pid, os.WNOHANG)
        if not pid and tries:
            self.after(0.002, lambda: self.undo_start(process, text, report, tries - 1))
            return
        failure = describe_failure(text, report, status)
        os.close(process.pidfd)
        process.drop_mounts()
        if process.io is not None:
            process.io.on_finished = lambda: None
            process.io.finish()
        self.close_streams(process)
        for client in self.waiting.pop(process.key, []):
            client.close()
        del self.processes[process.key]
        if not process.exec_id:
            self.remove_cgroup(process.cgroup)
        self.tell({"event": "failed", "id": process.id, "exec_id": process.exec_id})
        self.on_child_signal()
        if process.reply is not None:
            process.reply(error={"kind": failure.kind, "text": failure.text, "code": failure.code})

    # --- the end of a process

    def on_end(self, process: Process) -> None:
        """A pidfd became readable."""
        if process.sync is not None:
            self.on_child(process)
            if process.sync is not None or self.processes.get(process.key) is not process:
                return
        if process.state != RUNNING:
            return
        self.watch(process.pidfd, 0, None)
        self.collect(process, CODE_TRIES)

    def collect(self, process: Process, tries: int) -> None:
        """Fetch the exit code. One of an earlier keeper's children has another parent now, who must collect
        it before the kernel tells us, or who tells us itself (``op_ended``)."""
        if process.state != RUNNING:
            return
        if process.collect(last=not tries):
            self.conclude(process)
            self.on_child_signal()
        else:
            self.after(0.02, lambda: self.collect(process, tries - 1))

    def conclude(self, process: Process) -> None:
        """Its code is known: kill what is left of the task, read the last output, report."""
        if not process.exec_id and not process.record.get("own_pid_namespace", True):
            self.cgroups.kill(process.cgroup)
        process.end(not process.exec_id and self.cgroups.oom_kills(process.cgroup) > 0)
        io = process.io
        if io is None:
            self.report(process)
            return
        io.end()
        if not io.finished:
            self.after(DRAIN_SECONDS, io.finish)

    def report(self, process: Process) -> None:
        """All output is written: tell the engine, and keep the exit until it is acknowledged."""
        if process.pidfd >= 0:
            os.close(process.pidfd)
            process.pidfd = -1
        # Streams and process know each other; without this only the collector, which is off, could free them.
        process.io = None
        self.tell({"event": "exit", **(process.exit or {})})
        process.drop_mounts()  # before any other request: the next start may want the same folders
        if (
            not process.exec_id
        ):  # after the answer: ten hierarchies take a while, and no request comes in between
            self.remove_cgroup(process.cgroup)

    def remove_cgroup(self, path: str, tries: int = 50) -> None:
        """Now, or as soon as the last process has left it."""
        try:
            self.cgroups.remove(path, timeout=0)
        except OSError:
            if tries:
                self.after(0.02, lambda: self.remove_cgroup(path, tries - 1))

    def op_forget(
        self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]
    ) -> dict[str, Any]:
        """There will be no such task: who waited for it sees the end."""
        for key in [key for key in self.waiting if key[0] == message["id"]]:
            for client in self.waiting.pop(key):
                client.close()
        return {}

    def op_acknowledge(
        self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]
    ) -> dict[str, Any]:
        """The exit is on record elsewhere."""
        key = (message["id"], message.get("exec_id", ""))
        process = self.processes.get(key)
        if process is not None and process.state >= ENDED:
            del self.processes[key]
        return {}

    def op_attach(
        self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]
    ) -> dict[str, Any]:
        """Connect a client, now or when the process starts."""
        wants = {name for name in ("stdin", "stdout", "stderr") if message.get(name)}
        key = (message["id"], message.get("exec_id", ""))
        client = Client(socket.socket(fileno=fds.pop()), wants, self.watch)
        process = self.processes.get(key)
        if process is not None and process.io is not None:
            process.io.add(client)
        elif process is not None and process.state >= ENDED:
            client.close()
        else:
            self.waiting.setdefault(key, []).append(client)
        return {"waits": key in self.waiting}

    # --- taking over from a keeper that died

    def op_adopt(self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]) -> dict[str, Any]:
        """A process of our predecessor, with the copies the engine held."""
        process, outputs, feed = take_over(message["record"], fds)
        fds.clear()
        process.state = RUNNING
        self.processes[process.key] = process
        self.open_streams(process, outputs, feed)
        self.watch(process.pidfd, select.EPOLLIN, lambda _: self.on_end(process))
        return {}

    def op_ended(self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]) -> dict[str, Any]:
        """The engine collected an orphan's exit code (it is the subreaper after a keeper's death)."""
        process = self.processes.get((message["id"], message["exec_id"]))
        if process is not None and process.state == RUNNING:
            self.watch(process.pidfd, 0, None)
            process.code = message["code"]
            self.conclude(process)
        return {}

    def on_child_signal(self) -> None:
        """Collect orphans that came to us, and those that a tracer had kept from us; our own processes are collected
        through their pidfds. One of them may be the first in the kernel's list: so this is called after each, too.

        Not while a child has yet to tell the pid of its other half (``replace_pid``): that one may have ended already,
        and would be taken for an orphan."""
        while not any(each.changes_pid for each in self.processes.values()):
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or any(
                each.pid == found.si_pid and each.state < ENDED for each in self.processes.values()
            ):
                return
            os.waitpid(found.si_pid, 0)
