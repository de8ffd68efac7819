"""A team whose changes are commits: what the tests of GitOps tools have in common."""

from dataclasses import dataclass
from typing import Any

import yaml

from charting.lifecycle import CANARY, MDEP, TEAM, Life, model_deployment
from git_server import Repository
from real_kubernetes.kubectl import Kubectl, Object

COMMAND = "serving.sundog.dev/command"


def digits(version: int, **spec: Any) -> str:
    """The file of a version, whose canary waits for a command."""
    return yaml.safe_dump(model_deployment(version, **CANARY, **spec))


@dataclass(frozen=True)
class GitTeam:
    """The team, its repository, and its commands beside Git."""

    life: Life
    repository: Repository
    kubectl: Kubectl

    def commit(self, message: str, **files: str | None) -> str:
        """Write files of the team by their names, delete those without text, and return the commit's id."""
        return self.repository.commit(message, {f"teams/vision/{name}.yaml": text for name, text in files.items()})

    def sundog(self, *arguments: str) -> None:
        self.kubectl("sundog", *arguments, "-n", TEAM)

    def scale(self, replicas: int) -> None:
        self.kubectl("-n", TEAM, "scale", MDEP, "digits", f"--replicas={replicas}")

    def found(self) -> Object:
        """The stored ModelDeployment."""
        found: Object = self.kubectl.get("-n", TEAM, MDEP, "digits")
        return found

    def generation(self) -> int:
        return int(self.found()["metadata"]["generation"])

    def command(self) -> str:
        """The command that is written into it; empty if there is none."""
        return str(self.found()["metadata"].get("annotations", {}).get(COMMAND, ""))

    def until_canary(self) -> None:
        self.life.until_weight(25)

    def until_nothing(self) -> None:
        self.life.until(lambda: not self.kubectl.get("-n", TEAM, MDEP, "-o", "name")["items"], "nothing of it left")
