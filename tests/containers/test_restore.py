"""A new engine finds everything as it was, whenever the old one was killed."""

import asyncio
from contextlib import suppress

from msgspec.structs import replace

from cais.containers.record import format_record
from cais.spec.container import HostConfig, RestartPolicy
from harness.engines import Engine, until


async def test_what_runs_is_adopted(engine: Engine) -> None:
    """Same pid, same address; its end arrives at the new engine."""
    id = await engine.run("one")
    before = engine.containers.record(id)
    other = await engine.again()
    after = other.containers.record("one")
    assert (after.state.pid, after.endpoints) == (before.state.pid, before.endpoints)
    assert other.networks.restored == list(before.endpoints)
    engine.driver.end(id, 4)
    assert (other.status(id), other.containers.record(id).state.exit_code) == ("exited", 4)


async def test_an_end_between_two_engines_is_put_on_record(engine: Engine) -> None:
    """The keeper kept the code until somebody wrote it down."""
    id = await engine.run()
    engine.driver.subscribe(lambda exit: None)
    engine.driver.end(id, 9)
    other = await engine.again()
    assert (other.status(id), other.containers.record(id).state.exit_code) == ("exited", 9)
    await until(lambda: not engine.driver.tasks)


async def test_a_lost_task_is_marked(engine: Engine) -> None:
    """Nobody saw its end: 137, and its address is not kept."""
    id = await engine.run()
    await engine.containers.pause(id)
    engine.driver.tasks.clear()
    other = await engine.again()
    assert other.containers.record(id).state.exit_code == 137
    assert other.networks.restored == []


async def test_a_kill_between_record_and_start(engine: Engine) -> None:
    """On record as running without a pid, and no task: a client may have been told that it runs, so it ended."""
    id = await engine.create()
    engine.driver.fail = KeyboardInterrupt()  # type: ignore[assignment]
    with suppress(KeyboardInterrupt):
        await engine.containers.start(id)
    assert engine.status(id) == "running"
    other = await engine.again()
    assert (other.status(id), other.containers.record(id).state.exit_code) == ("exited", 137)


async def test_half_made_containers_vanish(engine: Engine) -> None:
    """A snapshot without a record, and a task without one."""
    (engine.root / "containers" / ("f" * 64) / "upper").mkdir(parents=True)
    await engine.run("keeps")
    lost = await engine.run("lost")
    await asyncio.sleep(0)
    engine.metadata.delete_container(lost)
    other = await engine.again()
    names = [folder.name for folder in (engine.root / "containers").iterdir()]
    assert names == [other.containers.record("keeps").id]
    await until(lambda: (lost, "") not in engine.driver.tasks)


async def test_policies_are_obeyed(engine: Engine) -> None:
    """always comes back even if it was stopped, unless-stopped does not; no stays down."""
    ids = {}
    for name in ("always", "unless-stopped", "no"):
        ids[name] = await engine.run(name, HostConfig(restart_policy=RestartPolicy(name=name)))
        await engine.containers.stop(name)
    crashed = await engine.run("crashed", HostConfig(restart_policy=RestartPolicy(name="unless-stopped")))
    await asyncio.sleep(0)  # the pid is written after the start was answered
    engine.driver.tasks.clear()
    other = await engine.again()
    await until(lambda: other.status(ids["always"]) == other.status(crashed) == "running")
    assert (other.status(ids["unless-stopped"]), other.status(ids["no"])) == ("exited", "exited")


async def test_rm_containers_that_ended_meanwhile_are_removed(engine: Engine) -> None:
    """Their removal was owed."""
    id = await engine.run(host=HostConfig(auto_remove=True))
    engine.driver.subscribe(lambda exit: None)
    engine.driver.end(id, 0)
    other = await engine.again()
    await until(lambda: other.containers.records() == [])


async def test_a_restarting_container_goes_on(engine: Engine) -> None:
    """The engine was killed while it waited to start it again."""
    id = await engine.run(host=HostConfig(restart_policy=RestartPolicy(name="always")))
    engine.driver.end(id, 1)
    await until(lambda: not engine.driver.tasks)
    assert engine.status(id) == "restarting"
    other = await engine.again()
    await until(lambda: other.status(id) == "running")


async def test_names_survive(engine: Engine) -> None:
    """Also a renamed one."""
    id = await engine.create("old")
    await engine.containers.rename("old", "new")
    other = await engine.again()
    assert other.containers.record("new").id == id


async def test_an_unreadable_record_hides_nothing_else(engine: Engine) -> None:
    """It stays where it is, the others are shown."""
    id = await engine.create("good")
    engine.metadata.put_container("0" * 64, "bad", b"{")
    other = await engine.again()
    assert [record.id for record in other.containers.records()] == [id]
    assert len(other.metadata.list_containers()) == 2


async def test_a_removal_that_was_begun_is_finished(engine: Engine) -> None:
    """Its volumes were on their way out already."""
    id = await engine.create("one", volumes={"/v": {}})
    record = engine.containers.record(id)
    state = replace(record.state, status="removing")
    engine.metadata.put_container(id, "one", format_record(replace(record, state=state)))
    other = await engine.again()
    await until(lambda: other.containers.records() == other.volumes.list() == [])
