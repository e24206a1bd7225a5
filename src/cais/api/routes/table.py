"""All routes of the engine."""

from cais.api.router import Route
from cais.api.routes.archive import ArchiveRoutes
from cais.api.routes.budget import BudgetRoutes
from cais.api.routes.build import BuildRoutes
from cais.api.routes.buildkit import BuildkitRoutes
from cais.api.routes.cais import CaisRoutes
from cais.api.routes.caisbuild import CaisBuildRoutes
from cais.api.routes.commit import CommitRoutes
from cais.api.routes.containers import ContainerRoutes
from cais.api.routes.events import EventRoutes
from cais.api.routes.exec import ExecRoutes
from cais.api.routes.images import ImageRoutes
from cais.api.routes.networks import NetworkRoutes
from cais.api.routes.registry import RegistryRoutes
from cais.api.routes.stats import StatsRoutes
from cais.api.routes.streams import StreamRoutes
from cais.api.routes.system import SystemRoutes
from cais.api.routes.usage import UsageRoutes
from cais.api.routes.volumes import VolumeRoutes
from cais.api.services import Services


def make_routes(services: Services) -> list[Route]:
    """The whole table; a new noun is one more line here."""
    return [
        *SystemRoutes(services).routes(),
        *UsageRoutes(services).routes(),
        *EventRoutes(services.bus).routes(),
        *ImageRoutes(services).routes(),
        *RegistryRoutes(services).routes(),
        *ContainerRoutes(services).routes(),
        *ArchiveRoutes(services).routes(),
        *CommitRoutes(services).routes(),
        *BudgetRoutes(services).routes(),
        *BuildRoutes(services).routes(),
        *CaisBuildRoutes(services).routes(),
        *BuildkitRoutes(services.buildkit).routes(),
        *StatsRoutes(services).routes(),
        *StreamRoutes(services).routes(),
        *ExecRoutes(services).routes(),
        *NetworkRoutes(services).routes(),
        *VolumeRoutes(services).routes(),
        *CaisRoutes(services).routes(),
    ]
