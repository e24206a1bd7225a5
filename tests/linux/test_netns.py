"""Network namespaces are made, entered and left by descriptor."""

import os
import threading

import pytest

from cais.linux import netns

pytestmark = pytest.mark.kernel


def current() -> int:
    """The inode of the namespace we are in."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_created() -> None:
    """Inside the block we are in a new namespace, after it back home, and the descriptor names the new one."""
    home = current()
    with netns.created() as fd:
        inside = current()
    assert current() == home != inside
    assert os.fstat(fd).st_ino == inside
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_failure_inside_leaves_nothing() -> None:
    """A block that fails ends at home with the descriptor closed."""
    home, before = current(), len(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError), netns.created():
        raise ZeroDivisionError
    assert current() == home
    assert len(os.listdir("/proc/self/fd")) == before


def test_entered() -> None:
    """A thread enters by descriptor and comes back, after a failure too."""
    with netns.created() as fd:
        pass
    with pytest.raises(ZeroDivisionError), netns.entered(fd):
        assert current() == os.fstat(fd).st_ino
        raise ZeroDivisionError
    assert current() != os.fstat(fd).st_ino
    os.close(fd)


def test_not_a_namespace(tmp_path: object) -> None:
    """A descriptor of something else is refused, and we are where we were."""
    home = current()
    with (
        open("/dev/null") as file,
        pytest.raises(OSError, match="network namespace"),
        netns.entered(file.fileno()),
    ):
        pass
    assert current() == home


def test_sysctls_follow_the_thread() -> None:
    """/proc/sys/net shows and changes the namespace the thread is in, no other."""
    seen: list[str] = []
    with netns.created() as fd:
        netns.write_sysctl("ipv4/ip_unprivileged_port_start", "7")
        assert netns.read_sysctl("ipv4/ip_unprivileged_port_start") == "7"
        thread = threading.Thread(
            target=lambda: seen.append(netns.read_sysctl("ipv4/ip_unprivileged_port_start"))
        )
        thread.start()
        thread.join()
    os.close(fd)
    assert seen == ["7"], "a thread starts in the namespace of its maker"
    assert netns.read_sysctl("ipv4/ip_unprivileged_port_start") != "7"
