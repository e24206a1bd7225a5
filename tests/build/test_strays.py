"""Tasks that are on no record: what an engine was building when it was killed."""

from pathlib import Path

from cais.runtime.base import TaskState
from harness.engines import Engine, until


async def test_the_end_of_a_task_on_no_record_is_acknowledged(tmp_path: Path) -> None:
    """It ends after the new engine has come, and nobody else will: the keeper must not keep it for ever."""
    engine = await Engine(tmp_path).open()
    engine.driver.tasks["stray", ""] = TaskState("stray", "", 1234, 5)
    engine.driver.end("stray", 137)
    await until(lambda: not engine.driver.tasks)
    await engine.containers.shutdown()
    engine.metadata.close()
