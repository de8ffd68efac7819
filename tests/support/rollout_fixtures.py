"""Stored Experiments of rollouts after some minutes, for tests of reports and commands."""

import base64
import json
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sundog_operator.api import (
    Condition,
    Epoch,
    EvidenceEpoch,
    ExperimentStatus,
    HistoryMetric,
    HistoryPoint,
    MetricStatus,
    Rollout,
    StepStatus,
    Verdict,
)
from sundog_operator.core.analysis import counters
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.rollout import freeze

BEGUN = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
UID = "uid-1"
ERRORS = MetricStatus(
    name="errorRate",
    role="guardrail",
    arm="canary",
    events=(900, 310),
    ratio=1.047,
    interval=(0.81, 1.33),
    allowed=1.5,
    verdict="Undecided",
    message="errorRate is 1.05 times stable's (0.81 to 1.33 at every evaluation), and 1.5 times are allowed",
)
REJECTIONS = MetricStatus(
    name="rejections", role="harm", arm="canary", events=(0, 0), interval=(0.0,), verdict="Undecided", message="none"
)


def make_history(
    count: int = 12, weights: Sequence[int] = (0, 25), verdict: str | None = None
) -> tuple[HistoryPoint, ...]:
    """Return one point per minute: weights share the time, the interval gets narrower, and the last point has the verdict."""
    found = []
    for n in range(count):
        weight = weights[min(n * len(weights) // count, len(weights) - 1)]
        reach = 1 + 4 / (n + 1)
        metric = HistoryMetric(
            name="errorRate",
            ratio=1.05,
            lower=round(1.05 / reach, 3),
            upper=None if n == 1 else round(1.05 * reach, 3),
            verdict=verdict if n == count - 1 else None,
        )
        found.append(
            HistoryPoint(
                at=BEGUN + n * MINUTE,
                epoch=n,
                weight=weight,
                requests=(4500 * n, 1500 * n),
                errors=(45 * n, 16 * n),
                metrics=(metric,) if n else None,
            )
        )
    return tuple(found)


def running(**changes: Any) -> ExperimentStatus:
    """Return revision 8 at 25 % beside revision 7, after eleven minutes."""
    frozen = freeze.freeze(Rollout(), stable=7, candidate=8, now=BEGUN, traffic=StableTraffic(100.0))
    counted = {"stable": (49_500, 495), "canary": (16_500, 176)}
    status = frozen.model_copy(
        update={
            "phase": "Running",
            "step": StepStatus(index=2, of=4, since=BEGUN, gate="evidence", reason=ERRORS.message, warm=True),
            "epoch": Epoch(number=2, since=BEGUN, confirmed=True),
            "evidence_epochs": (EvidenceEpoch(number=2, weight=25),),
            "arms": tuple(
                arm.model_copy(update=dict(zip(("requests", "errors"), counted[arm.name], strict=True)))
                for arm in freeze.arms_at_weight(25, 7, 8)
            ),
            "metrics": (ERRORS, REJECTIONS),
            "history": make_history(),
            "counted_at": BEGUN + 11 * MINUTE,
            "tallies": packed(stable=(49_000, 3, 2), canary=(16_333, 1, 0)),
            "conditions": (condition("DataQuality", "True", "Consistent"),),
        }
    )
    return status.model_copy(update=changes)


def promoted() -> ExperimentStatus:
    passed = ERRORS.model_copy(
        update={"verdict": "Passed", "message": "errorRate is 1.05 times stable's: no worse than allowed"}
    )
    return running(
        phase="Concluded",
        arms=running_arms(100),
        metrics=(passed, REJECTIONS),
        history=make_history(12, (0, 5, 25, 50, 100), "Passed"),
        verdict=Verdict(decision="Promoted", winner="canary", reason="Promoted: after step 4 at 100 %"),
        conditions=(condition("Running", "False", "Promoted", BEGUN + 11 * MINUTE),),
    )


def rolled_back() -> ExperimentStatus:
    harm = ERRORS.model_copy(
        update={"verdict": "Harm", "ratio": 3.0, "interval": (2.1, 4.4), "message": "errorRate is 3 times stable's"}
    )
    return running(
        phase="Stopped",
        arms=running_arms(0),
        metrics=(harm, REJECTIONS),
        history=make_history(6, (0, 5), "Harm"),
        verdict=Verdict(decision="RolledBack", winner="stable", reason="RolledBack: errorRate is 3 times stable's"),
        conditions=(condition("Running", "False", "RolledBack", BEGUN + 5 * MINUTE),),
    )


def without_traffic() -> ExperimentStatus:
    """Return a rollout in its first minute, without counts."""
    nothing = ERRORS.model_copy(
        update={"events": (0, 0), "ratio": None, "interval": (0.0,), "verdict": "NoData", "message": "nothing yet"}
    )
    empty = HistoryPoint(at=BEGUN, epoch=1, weight=25, requests=(0, 0), errors=(0, 0))
    return running(
        arms=freeze.arms_at_weight(25, 7, 8), metrics=(nothing,), history=(empty,), counted_at=None, tallies=""
    )


def running_arms(weight: int) -> Any:
    counts = {arm.name: {"requests": arm.requests, "errors": arm.errors} for arm in running().arms}
    return tuple(arm.model_copy(update=counts[arm.name]) for arm in freeze.arms_at_weight(weight, 7, 8))


def condition(type_: str, status: Any, reason: str, at: datetime = BEGUN, message: str = "") -> Condition:
    return Condition(
        type=type_, status=status, reason=reason, message=message, last_transition_time=at, observed_generation=1
    )


def packed(stable: tuple[int, int, int], canary: tuple[int, int, int]) -> str:
    """Encode (assigned, lost, running) of each arm in epoch 2, as a status stores it."""
    rows = {
        f"2/{arm}": [assigned, 0, 0, 0, 0, lost, running]
        for arm, (assigned, lost, running) in (("stable", stable), ("canary", canary))
    }
    stored = {
        "version": counters.FORMAT_VERSION,
        "attempt": UID,
        "columns": ["assigned", "errors", "slow", "rejections", "retried", "lost", "running"],
        "sources": {"edge-0/b": rows},
        "epochs": {},
    }
    return base64.b64encode(zlib.compress(json.dumps(stored).encode())).decode()


def stored(status: ExperimentStatus, name: str = "digits-r8", deployment: str = "digits") -> dict[str, Any]:
    """Return the object as the API server stores it."""
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"namespace": "vision", "name": name, "uid": UID, "creationTimestamp": "2026-11-26T11:59:58Z"},
        "spec": {"modelDeployment": deployment},
        "status": status.to_json(),
    }
