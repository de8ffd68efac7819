"""The record of a demo run: its steps, requests and changes of traffic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sundog_operator.api import Condition
from sundog_operator.shell.demo import results
from sundog_operator.shell.demo.load import RequestSample
from sundog_operator.shell.demo.results import WeightPhase


@dataclass(slots=True)
class DemoStep:
    """One step of the demo. `outcome` describes its result, or why it was not reached."""

    name: str
    title: str
    seconds: float = 0.0
    reached: bool = False
    outcome: str = ""


@dataclass(slots=True)
class DemoRecord:
    """The record of one run.

    Attributes:
        models: the model of each revision.
        offline: accuracy of each model on the held-out images, measured after its training.
        refused: the conditions that explain why the broken revision got no traffic.
        seconds: duration of the run.
    """

    steps: list[DemoStep] = field(default_factory=list)
    phases: list[WeightPhase] = field(default_factory=list)
    models: dict[int, str] = field(default_factory=dict)
    offline: Mapping[str, float] = field(default_factory=dict)
    labels: Sequence[int] = ()
    samples: Sequence[RequestSample] = ()
    refused: list[Condition] = field(default_factory=list)
    seconds: float = 0.0

    def problems(self) -> list[str]:
        """Return why the run failed; empty after a success."""
        missed = [step for step in self.steps if not step.reached]
        problems = [f"not reached: {step.title}: {step.outcome or 'interrupted'}" for step in missed[:1]]
        failed = [sample.problem for sample in self.samples if sample.problem]
        if failed:
            problems.append(f"{len(failed)} of {len(self.samples)} requests failed; the first: {failed[0]}")
        return problems

    def summary(self) -> results.Results:
        """Return the statistics."""
        return results.summarise(self.samples, self.phases, self.labels)

    def document(self) -> dict[str, Any]:
        """Return the run as JSON."""
        problems = self.problems()
        return {
            "version": 1,
            "succeeded": not problems,
            "failures": problems,
            "seconds": round(self.seconds, 1),
            "steps": [
                {"name": step.name, "reached": step.reached, "seconds": round(step.seconds, 2), "outcome": step.outcome}
                for step in self.steps
            ],
            **results.make_results_document(self.summary(), self.models, self.offline),
            "refused": [
                {"type": each.type, "status": each.status, "reason": each.reason, "message": each.message}
                for each in self.refused
            ],
        }
