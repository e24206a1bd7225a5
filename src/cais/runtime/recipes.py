"""The recipes that a container's processes walk before their execve: which steps, in which order.

The order is the protection; what breaks with another one stands at the step, here or in ``init``."""

import os
from collections.abc import Callable
from typing import NoReturn

from cais.runtime.init import (
    FAILED,
    Child,
    become_user,
    change_root,
    close_at_execve,
    close_now,
    close_root,
    enter_folder,
    execute,
    find_program,
    find_user,
    fork_at_last,
    fork_into_pid_namespace,
    hide_paths,
    join_cgroup,
    join_container,
    join_namespaces,
    leave_keeper,
    load_seccomp_early,
    make_devices,
    make_mounts,
    new_keyring,
    new_session,
    open_host_side,
    open_terminal,
    place_stdio,
    plan_labels,
    raise_loopback,
    set_labels,
    set_limits,
    set_names,
    set_no_new_privileges,
    set_oom_score,
    take_terminal,
    unshare_cgroup,
    wait_for_go,
    wait_for_group,
    write_sysctls,
)

Recipe = tuple[Callable[[Child], None], ...]

CONTAINER = (
    leave_keeper,
    set_oom_score,
    plan_labels,
    new_keyring,
    wait_for_group,
    join_cgroup,
    join_namespaces,
    unshare_cgroup,
    raise_loopback,
    open_host_side,
    change_root,
    # Who is seen from here on is inside the container's root; it must be one who is for procfs to show that namespace.
    fork_into_pid_namespace,
    new_session,
    make_mounts,
    make_devices,
    open_terminal,
    set_names,
    write_sysctls,
    hide_paths,
    close_root,
    set_limits,
    find_user,
    place_stdio,
    take_terminal,
    enter_folder,
    set_labels,
    close_at_execve,
    wait_for_go,
    load_seccomp_early,
    become_user,
    find_program,
    set_no_new_privileges,
    execute,
)
EXEC = (
    leave_keeper,
    set_oom_score,
    plan_labels,
    join_cgroup,
    join_container,
    fork_into_pid_namespace,
    new_session,
    new_keyring,
    open_terminal,
    set_limits,
    find_user,
    place_stdio,
    take_terminal,
    enter_folder,
    set_labels,
    close_at_execve,
    wait_for_go,
    load_seccomp_early,
    become_user,
    find_program,
    set_no_new_privileges,
    execute,
)
TRACED_EXEC = (
    leave_keeper,
    set_oom_score,
    plan_labels,
    join_cgroup,
    join_container,
    new_keyring,
    open_terminal,
    set_limits,
    find_user,
    place_stdio,
    enter_folder,
    set_labels,
    close_now,
    load_seccomp_early,
    become_user,
    find_program,
    set_no_new_privileges,
    fork_at_last,  # from here on a tracer may do in our place what it wants: nothing must be left to give up
    new_session,
    take_terminal,
    wait_for_go,
    execute,
)


def find_recipe(child: Child) -> Recipe:
    """The steps for this child."""
    if child.pidfd < 0:
        return CONTAINER
    return TRACED_EXEC if child.traced else EXEC


def run(child: Child, recipe: Recipe) -> NoReturn:
    """Walk the ``recipe``; a failure goes to the keeper as data and ends the process with Docker's 128."""
    step: Callable[[Child], None] = leave_keeper
    try:
        for step in recipe:
            step(child)
    except BaseException as error:
        number = error.errno if isinstance(error, OSError) else 0
        text = (
            error.strerror
            if isinstance(error, OSError) and error.strerror
            else str(error) or type(error).__name__
        )
        if isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {text}"
        report = "\0".join((step.__name__, str(number or 0), text))
        try:
            child.sync.send(FAILED + report.encode("utf-8", "replace")[:60000])
        except OSError:  # the keeper has gone; there is nobody left to tell
            os._exit(129)
    os._exit(128)
