"""Start, stop, kill, wait, remove: states, events, and what is free when the answer comes."""

import asyncio

import pytest

from cais.errors import AlreadyExists, CaisError, Conflict, Invalid, NotFound, NotModified, TaskFailed
from cais.spec.container import HostConfig, PortBinding, ResourceUpdate, RestartPolicy
from harness.engines import Engine, until

REMOVED = HostConfig(auto_remove=True)


async def test_the_life_of_a_container(engine: Engine) -> None:
    """Created, running, exited with its code, gone; with Docker's events in this order."""
    id = await engine.create("one")
    assert engine.status(id) == "created"
    await engine.containers.start("one")
    assert engine.status(id) == "running"
    ended = engine.containers.wait(id)
    engine.driver.end(id, 3)
    assert await ended == (3, "")
    assert engine.status(id) == "exited"
    await engine.containers.remove("one")
    assert engine.actions() == ["create", "start", "die", "destroy"]
    assert (engine.containers.records(), engine.networks.taken) == ([], {})


async def test_ids_names_and_beginnings_all_mean_the_container(engine: Engine) -> None:
    """And two that begin alike are told apart or refused."""
    id = await engine.create("one")
    for text in (id, id[:8], "one", "/one"):
        assert engine.containers.record(text).id == id
    with pytest.raises(NotFound, match="No such container: nope"):
        engine.containers.record("nope")


async def test_starting_twice_is_not_modified(engine: Engine) -> None:
    """Also when both come at once: one task is started."""
    id = await engine.create()
    results = await asyncio.gather(*(engine.containers.start(id) for _ in range(3)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "NotModified", "NotModified"]
    assert len(engine.driver.starts) == 1


async def test_a_failed_start_leaves_nothing_but_its_reason(engine: Engine, failed: TaskFailed) -> None:
    """State, error and exit code as Docker's; address and ports are free; it can be started again."""
    id = await engine.create()
    engine.driver.fail = failed
    with pytest.raises(TaskFailed):
        await engine.containers.start(id)
    state = engine.containers.record(id).state
    assert (state.status, state.exit_code) == ("created", 127)
    assert "executable file not found" in state.error
    assert engine.networks.taken == {}
    await engine.containers.start(id)
    assert engine.status(id) == "running"


async def test_rm_after_a_failed_start(engine: Engine, failed: TaskFailed) -> None:
    """run --rm of a program that is not there leaves no container behind."""
    id = await engine.create(host=REMOVED)
    removed = engine.containers.wait(id, "removed")
    engine.driver.fail = failed
    with pytest.raises(TaskFailed):
        await engine.containers.start(id)
    assert (await asyncio.wait_for(removed, 5))[0] == 127


async def test_name_ports_and_address_are_free_when_removed_is_answered(engine: Engine) -> None:
    """The next run with the same name and port succeeds at once."""
    host = HostConfig(auto_remove=True, port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    for _ in range(3):
        id = await engine.run("web", host)
        removed = engine.containers.wait(id, "removed")
        engine.driver.end(id)
        assert await removed == (0, "")
    assert engine.containers.records() == []
    assert list((engine.root / "containers").iterdir()) == []


async def test_a_taken_port_fails_the_start_only(engine: Engine) -> None:
    """The container stays and can be started when the port is free."""
    host = HostConfig(port_bindings={"80/tcp": (PortBinding(host_port="8080"),)})
    first = await engine.run(host=host)
    second = await engine.create(host=host)
    with pytest.raises(Conflict, match="8080"):
        await engine.containers.start(second)
    engine.driver.end(first)
    await until(lambda: not engine.networks.taken)
    await engine.containers.start(second)


async def test_stop_asks_then_forces(engine: Engine) -> None:
    """SIGTERM first; a process that does not care gets SIGKILL after the grace."""
    engine.driver.stubborn = True
    id = await engine.run()
    await engine.containers.stop(id, grace=0)
    assert [signal for _, signal in engine.driver.signals] == [15, 9]
    assert engine.containers.record(id).state.exit_code == 137
    with pytest.raises(NotModified):
        await engine.containers.stop(id)


async def test_stop_uses_the_images_signal(engine: Engine) -> None:
    """STOPSIGNAL, unless the client names another."""
    id = await engine.run(stop_signal="SIGQUIT")
    await engine.containers.stop(id, grace=0)
    assert engine.driver.signals[0] == (id, 3)


async def test_kill_of_what_does_not_run_is_a_conflict(engine: Engine) -> None:
    """With Docker's words."""
    id = await engine.create("idle")
    with pytest.raises(Conflict, match=f"cannot kill container: idle: container {id} is not running"):
        await engine.containers.kill("idle")


async def test_pause_and_unpause(engine: Engine) -> None:
    """Each only from the other; a paused container can be stopped."""
    id = await engine.run()
    await engine.containers.pause(id)
    assert engine.status(id) == "paused"
    with pytest.raises(Conflict, match="already paused"):
        await engine.containers.pause(id)
    with pytest.raises(Conflict, match="paused and must be unpaused first"):
        await engine.containers.remove(id)
    await engine.containers.unpause(id)
    with pytest.raises(Conflict, match="is not paused"):
        await engine.containers.unpause(id)
    await engine.containers.pause(id)
    await engine.containers.stop(id)
    assert engine.status(id) == "exited"


async def test_a_running_container_is_removed_by_force_only(engine: Engine) -> None:
    """And then it has been killed."""
    id = await engine.run("busy")
    with pytest.raises(
        Conflict, match='cannot remove container "busy": container is running: stop the container'
    ):
        await engine.containers.remove("busy")
    await engine.containers.remove("busy", force=True)
    assert engine.driver.signals == [(id, 9)]
    assert engine.containers.records() == []


async def test_remove_while_starting_never_wedges(engine: Engine) -> None:
    """Start and forced removal at once: in the end nothing is left, in whatever order they came."""
    engine.driver.gate = asyncio.Event()
    id = await engine.create()
    starting = asyncio.create_task(engine.containers.start(id))
    await until(lambda: bool(engine.driver.starts))
    removing = asyncio.create_task(engine.containers.remove(id, force=True))
    await asyncio.sleep(0)
    engine.driver.gate.set()
    await asyncio.wait_for(asyncio.gather(starting, removing), 5)
    assert engine.containers.records() == []
    assert engine.networks.taken == {}


async def test_two_removals_at_once(engine: Engine) -> None:
    """One removes, the other is told so."""
    id = await engine.run()
    results = await asyncio.gather(
        *(engine.containers.remove(id, force=True) for _ in range(2)), return_exceptions=True
    )
    assert [type(result) for result in results].count(Conflict) == 1
    assert "already in progress" in str(next(result for result in results if result))


async def test_wait_conditions(engine: Engine) -> None:
    """not-running answers at once for what does not run, next-exit waits for the next end."""
    id = await engine.create()
    assert await engine.containers.wait(id) == (0, "")
    following = engine.containers.wait(id, "next-exit")
    await engine.containers.start(id)
    assert not following.done()
    engine.driver.end(id, 7)
    assert await following == (7, "")
    with pytest.raises(Invalid):
        engine.containers.wait(id, "odd")


async def test_a_policy_starts_it_again_and_a_stop_ends_that(engine: Engine) -> None:
    """The count of restarts is on record; after the stop it stays down."""
    id = await engine.run(host=HostConfig(restart_policy=RestartPolicy(name="always")))
    engine.driver.end(id, 1)
    assert engine.status(id) == "restarting"
    await until(lambda: engine.status(id) == "running")
    assert engine.containers.record(id).restart_count == 1
    await engine.containers.stop(id)
    assert engine.status(id) == "exited"


async def test_a_stop_between_two_runs_calls_the_next_off(engine: Engine) -> None:
    """restarting is a state one can leave."""
    id = await engine.run(host=HostConfig(restart_policy=RestartPolicy(name="always")))
    engine.driver.end(id, 1)
    await engine.containers.stop(id)
    await asyncio.wait_for(engine.containers.remove(id), 5)
    assert len(engine.driver.starts) == 1


async def test_on_failure_gives_up_after_its_count(engine: Engine) -> None:
    """on-failure:1 starts twice in all."""
    policy = RestartPolicy(name="on-failure", maximum_retry_count=1)
    id = await engine.run(host=HostConfig(restart_policy=policy))
    engine.driver.end(id, 1)
    await until(lambda: engine.status(id) == "running")
    engine.driver.end(id, 1)
    assert engine.status(id) == "exited"
    assert len(engine.driver.starts) == 2


async def test_restart_by_hand_keeps_rm_containers(engine: Engine) -> None:
    """--rm means after the last end, not after the one in the middle of a restart."""
    id = await engine.run(host=REMOVED)
    await engine.containers.restart(id)
    assert engine.status(id) == "running"
    assert engine.actions()[-1] == "restart"


async def test_out_of_memory_is_on_record(engine: Engine) -> None:
    """An oom event, and the flag that inspect shows."""
    id = await engine.run()
    engine.driver.end(id, 137, oom=True)
    assert engine.containers.record(id).state.oom_killed
    assert "oom" in engine.actions()


async def test_rename(engine: Engine) -> None:
    """The old name is free, the new one is taken; wrong ones are refused."""
    await engine.create("one")
    await engine.create("two")
    with pytest.raises(AlreadyExists, match='The container name "/two" is already in use by container'):
        await engine.containers.rename("one", "two")
    with pytest.raises(Invalid, match="same name"):
        await engine.containers.rename("one", "/one")
    await engine.containers.rename("one", "three")
    await engine.create("one")
    assert engine.containers.record("three").name == "three"


async def test_an_exit_is_acknowledged_after_it_is_on_record(engine: Engine) -> None:
    """Or a kill of the engine in between would lose the code."""
    id = await engine.run()
    engine.driver.end(id, 5)
    assert (id, "") in engine.driver.tasks
    assert b'"exit_code":5' in engine.metadata.list_containers()[0][2]
    await until(lambda: (id, "") not in engine.driver.tasks)


async def test_joining_a_namespace_of_a_stopped_container_is_refused(engine: Engine) -> None:
    """There is none to join; and a private IPC namespace is not shared."""
    await engine.create("donor")
    guest = await engine.create(host=HostConfig(network_mode="container:donor"))
    with pytest.raises(Conflict, match="is not running"):
        await engine.containers.start(guest)
    await engine.containers.start("donor")
    await engine.containers.start(guest)
    pid = engine.containers.record("donor").state.pid
    paths = [namespace.path for namespace in engine.driver.starts[-1].spec.linux.namespaces]
    assert f"/proc/{pid}/ns/net" in paths
    other = await engine.create(host=HostConfig(ipc_mode="container:donor"))
    with pytest.raises(CaisError, match="non-shareable IPC"):
        await engine.containers.start(other)


async def test_update_changes_limits_of_a_running_container(engine: Engine) -> None:
    """On record; contradictions to what is set are refused."""
    id = await engine.run(host=HostConfig(memory=64 << 20))
    await engine.containers.update(id, ResourceUpdate(memory=32 << 20))
    assert engine.containers.record(id).host.memory == 32 << 20
    with pytest.raises(Invalid, match="Memory limit should be smaller than already set memoryswap"):
        await engine.containers.update(id, ResourceUpdate(memory=1 << 30))


async def test_shutdown_without_live_restore_stops_all_but_remembers(engine: Engine) -> None:
    """The next engine starts by policy what nobody stopped by hand."""
    id = await engine.run(host=HostConfig(restart_policy=RestartPolicy(name="unless-stopped")))
    object.__setattr__(engine.config, "live_restore", False)
    await engine.containers.shutdown()
    assert engine.status(id) == "exited"
    assert not engine.containers.record(id).manually_stopped
