"""The route that keeps images within the budget of the settings, now; ours."""

from aiohttp import web

from cais.api.call import Call
from cais.api.replies import json_reply
from cais.api.router import Route
from cais.api.services import Services
from cais.errors import Invalid


class BudgetRoutes:
    """``/cais/images/budget``."""

    def __init__(self, services: Services) -> None:
        self._budgeter = services.budgeter
        self._budget = services.config.budget

    def routes(self) -> list[Route]:
        """The table's part."""
        return [Route("POST", "/cais/images/budget", self.run)]

    async def run(self, call: Call) -> web.Response:
        """Remove what has to go; with ``dry-run`` only tell."""
        if not self._budget.is_set:
            raise Invalid('no budget is set: give the engine one with "gc" in daemon.json or --gc')
        report = await self._budgeter.run(dry_run=call.flag("dry-run"))
        return json_reply(
            {
                "Images": [
                    {"Id": verdict.id, "Name": verdict.name, "Reason": verdict.reason}
                    for verdict in report.verdicts
                ],
                "SpaceReclaimed": report.freed,
                "Size": report.size,
                "MaxSize": self._budget.max_size,
            }
        )
