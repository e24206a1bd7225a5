"""exec: from create to inspect."""

import pytest

from cais.errors import Conflict, Invalid, NotFound, TaskFailed
from cais.spec.container import ExecConfig
from harness.engines import Engine

TRUE = ExecConfig(cmd=("true",), attach_stdout=True)


async def test_the_life_of_an_exec(engine: Engine) -> None:
    """Created, running with a pid, ended with its code; events as Docker's."""
    id = await engine.run("one")
    exec_id = engine.containers.exec_create("one", TRUE)
    stream = await engine.containers.exec_start(exec_id)
    assert stream is not None
    stream.close()
    found = engine.containers.exec_inspect(exec_id)
    assert found.running and found.pid
    engine.driver.end(id, 3, exec_id)
    assert (found.running, found.exit_code) == (False, 3)
    assert engine.actions()[-3:] == ["exec_create: true", "exec_start: true", "exec_die"]


async def test_an_exec_runs_once(engine: Engine) -> None:
    """The second start says so."""
    id = await engine.run()
    exec_id = engine.containers.exec_create(id, TRUE)
    await engine.containers.exec_start(exec_id, detach=True)
    with pytest.raises(Conflict, match="is already running"):
        await engine.containers.exec_start(exec_id, detach=True)
    engine.driver.end(id, 0, exec_id)
    with pytest.raises(Conflict, match="has already run"):
        await engine.containers.exec_start(exec_id, detach=True)


async def test_a_program_that_is_not_there(engine: Engine, failed: TaskFailed) -> None:
    """The exit code can be asked for afterwards."""
    id = await engine.run()
    exec_id = engine.containers.exec_create(id, TRUE)
    engine.driver.fail = failed
    with pytest.raises(TaskFailed):
        await engine.containers.exec_start(exec_id)
    assert engine.containers.exec_inspect(exec_id).exit_code == 127


async def test_exec_needs_a_container_that_acts(engine: Engine) -> None:
    """Not one that does not run or is paused; and a command."""
    id = await engine.create("idle")
    with pytest.raises(Conflict, match=f"container {id} is not running"):
        engine.containers.exec_create("idle", TRUE)
    await engine.containers.start("idle")
    with pytest.raises(Invalid, match="No exec command specified"):
        engine.containers.exec_create("idle", ExecConfig())
    await engine.containers.pause("idle")
    with pytest.raises(Conflict, match="Container idle is paused, unpause the container before exec"):
        engine.containers.exec_create("idle", TRUE)
    with pytest.raises(NotFound, match="No such exec instance: nope"):
        engine.containers.exec_inspect("nope")


async def test_the_process_is_the_containers_with_changes(engine: Engine) -> None:
    """User, folder and variables of its own; capabilities and limits of the container; all with privilege."""
    id = await engine.run(user="app", working_dir="/w", env=("X=1",))
    config = ExecConfig(cmd=("id",), user="root", env=("X=2", "Y=3"), tty=True, console_size=(24, 80))
    await engine.containers.exec_start(engine.containers.exec_create(id, config), detach=True)
    await engine.containers.exec_start(
        engine.containers.exec_create(id, ExecConfig(cmd=("id",), privileged=True)), detach=True
    )
    plain, privileged = (start.process for start in engine.driver.execs)
    assert (plain.user.username, plain.cwd, plain.terminal) == ("root", "/w", True)
    assert {"X=2", "Y=3", "TERM=xterm", "A=image"} <= set(plain.env)
    assert plain.capabilities == engine.driver.starts[0].spec.process.capabilities
    assert "CAP_SYS_ADMIN" in privileged.capabilities.bounding
    assert privileged.user.username == "app"


async def test_a_running_exec_is_adopted_by_the_next_engine(engine: Engine) -> None:
    """Its exit code arrives there."""
    id = await engine.run()
    exec_id = engine.containers.exec_create(id, TRUE)
    await engine.containers.exec_start(exec_id, detach=True)
    other = await engine.again()
    assert other.containers.exec_inspect(exec_id).running
    engine.driver.end(id, 6, exec_id)
    assert other.containers.exec_inspect(exec_id).exit_code == 6
