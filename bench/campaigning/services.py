"""Digit services of a campaign, and their rollouts."""

import json
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from campaigning.clients import Samples
from real_local import EXPERIMENTS, Up

OVER: Final = ("Concluded", "Stopped")

Json = dict[str, Any]


@dataclass
class Digits:
    """A ModelDeployment of handwritten digits with `rps` requests a second. `model` is the network's folder."""

    up: Up
    model: Path
    name: str
    rps: float
    rollout: Json = field(default_factory=dict)
    endpoint: Json = field(default_factory=dict)
    samples: Samples = field(default_factory=Samples)
    releases: int = 0

    def release(self, **behaviour: float) -> "Release":
        """Save the manifest with the next revision, which behaves so."""
        self.releases += 1
        config = {"release": self.releases, **behaviour}
        spec = {
            "model": {"uri": f"file://{self.model}", "entrypoint": "faulty_model:FaultyModel", "config": config},
            "rollout": self.rollout,
            "endpoint": self.endpoint,
        }
        document = {
            "apiVersion": "serving.sundog.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": self.name},
            "spec": spec,
        }
        # A file that is half written would be read.
        made = self.up.manifests / f".{self.name}.new"
        made.write_text(json.dumps(document))
        made.replace(self.up.manifests / f"{self.name}.yaml")
        return Release(self, self.releases, time.time())

    def read(self) -> Json:
        """Return the stored object; empty while the API does not answer."""
        return self.up.read(self.name)


@dataclass
class Release:
    """A revision and its rollout.

    Attributes:
        number: of the revision.
        released: when the manifest was saved, in Unix seconds.
        found: its Experiment as last read.
        left_at: when nobody followed it any longer though it had no verdict, in Unix seconds; 0 before.
    """

    service: Digits
    number: int
    released: float
    found: Json = field(default_factory=dict)
    left_at: float = 0.0

    def attempt(self) -> Json:
        """Return its Experiment. It is read again until it has ended; {} while there is none."""
        if (self.found.get("status") or {}).get("phase") in OVER:
            return self.found
        path = f"{EXPERIMENTS}/{self.service.name}-r{self.number}"
        try:
            status, found = self.service.up.api("GET", path)
        except (OSError, ValueError):
            return self.found
        if status == 200:
            self.found = found
        return self.found

    def is_over(self) -> bool:
        """Return whether there is a verdict."""
        return (self.attempt().get("status") or {}).get("phase") in OVER

    @property
    def over_at(self) -> float:
        """Return the time of the verdict in Unix seconds, from the newest point of the history; 0 before."""
        status = self.status
        return unix(status["history"][-1]["at"]) if status.get("phase") in OVER else 0.0

    @property
    def until(self) -> float:
        """Return the end of its record in Unix seconds: its verdict, or the end of the recording, or now."""
        return self.over_at or self.left_at or time.time()

    @property
    def stable(self) -> int:
        """Return the stable revision; 0 while it is not known."""
        return next((int(arm["revision"]) for arm in self.status.get("arms", ()) if arm["name"] == "stable"), 0)

    @property
    def begun(self) -> dict[int, float]:
        """Return each weight that it has had, in percent, with its start in Unix seconds."""
        found: dict[int, float] = {}
        for look in self.status.get("history", ()):
            if 0 < look["weight"] < 100:
                found.setdefault(look["weight"], unix(look["at"]))
        return found

    @property
    def uid(self) -> str:
        """Return the uid of its Experiment, by which edges count."""
        return str((self.found.get("metadata") or {}).get("uid", ""))

    @property
    def status(self) -> Json:
        """Return the status of its Experiment, as last read."""
        return dict(self.found.get("status") or {})

    def how(self) -> str:
        """Return Promoted or RolledBack by evidence, the reason of another end, or its phase."""
        status = self.status
        if status.get("phase") not in OVER:
            return "Paused" if "paused" in status else str(status.get("phase", "none"))
        verdict = status["verdict"]
        return str(verdict["decision"] if verdict["winner"] else verdict["reason"].partition(":")[0])


def unix(instant: str) -> float:
    """Return the Unix seconds of a time of the API."""
    return datetime.fromisoformat(instant).timestamp()
