"""What an endpoint and a rollout's unit become in the split document."""

from datetime import UTC, datetime
from typing import Any

import pytest

from sundog_operator.api import ExperimentStatus, FrozenPlan, ModelDeploymentSpec, ModelDeploymentStatus, PlanUnit
from sundog_operator.api import Rollout as RolloutSpec
from sundog_operator.core import live, traffic
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.rollout import freeze
from sundog_operator.core.units import frozen_in

T0 = datetime(2026, 11, 25, 12, tzinfo=UTC)

STEPS = [{"weight": 25, "gate": "manual"}]
QUEUE = {"queue": {"maxRequests": 100, "timeoutSeconds": 5.0}}


def service(split: traffic.Split | None = None, **spec: Any) -> dict[str, Any]:
    parsed = ModelDeploymentSpec.from_json({"model": {"uri": "file:///m"}, **spec})
    return traffic.make_service("vision", "digits", parsed, "sundog-0", split)


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ({}, QUEUE),
        (
            {"queue": {"maxRequests": 0, "timeout": "250ms"}},
            {"queue": {"maxRequests": 0, "timeoutSeconds": 0.25}},
        ),
        ({"tls": {"secretName": "cert"}}, {**QUEUE, "tls": "cert"}),
        ({"auth": {"apiKeys": {"secretName": "keys"}}}, {**QUEUE, "auth": {"apiKeys": "keys"}}),
        (
            {"auth": {"jwt": {"jwksSecretName": "jwks", "audience": "digits"}}},
            {**QUEUE, "auth": {"jwt": {"jwks": "jwks", "issuer": "", "audience": "digits"}}},
        ),
        (
            {"rateLimit": {"perClient": "100/s", "total": "5000/h"}},
            {
                **QUEUE,
                "rateLimit": {
                    "perClient": {"requests": 100, "seconds": 1},
                    "total": {"requests": 5000, "seconds": 3600},
                },
            },
        ),
        ({"rateLimit": {"total": "90/m"}}, {**QUEUE, "rateLimit": {"total": {"requests": 90, "seconds": 60}}}),
    ],
)
def test_admission_of_an_endpoint(endpoint: dict[str, Any], told: dict[str, Any]) -> None:
    made = service(endpoint=endpoint)
    assert {name: made[name] for name in ("queue", "tls", "auth", "rateLimit") if name in made} == told


UNITS = [
    ({}, {"kind": "request"}),
    ({"request": {}}, {"kind": "request"}),
    ({"header": "x-user-id"}, {"kind": "header", "name": "x-user-id"}),
    ({"cookie": "visitor"}, {"kind": "cookie", "name": "visitor"}),
    ({"jsonPath": "$.user.id"}, {"kind": "jsonPath", "name": "$.user.id"}),
]


@pytest.mark.parametrize(("unit", "told"), UNITS)
def test_the_unit_of_a_spec_and_of_a_plan_frozen_from_it(unit: dict[str, Any], told: dict[str, Any]) -> None:
    assert service(rollout={"unit": unit})["unit"] == told
    frozen = running({"steps": STEPS, "unit": unit})
    edited = service(frozen, rollout={"unit": {"header": "x-other"}})
    assert edited["unit"] == told, "an edit of the spec moves nobody while a rollout runs"


def running(rollout: dict[str, Any]) -> traffic.Split:
    status = ModelDeploymentStatus.parse(
        {"stable": {"revision": 1}, "candidate": {"revision": 2}, "experiment": "digits-r2"}
    )
    frozen = freeze.freeze(RolloutSpec.from_json(rollout), stable=1, candidate=2, now=T0)
    stored = ExperimentStatus.parse(frozen.to_json())
    split = live.split_of("digits", status, "uid", stored)
    assert split is not None
    return split


def test_a_salt_of_the_spec_outlives_attempts_and_else_each_has_its_own() -> None:
    assert running({"steps": STEPS}).salt == "uid"
    salted = running({"steps": STEPS, "unit": {"cookie": "visitor", "salt": "spring-2026"}})
    assert (salted.attempt, salted.salt) == ("uid", "spring-2026")


def test_a_plan_that_an_earlier_version_froze_keeps_its_unit() -> None:
    assert frozen_in(FrozenPlan.from_json({"unitHeader": "x-user-id"})) == PlanUnit(kind="header", name="x-user-id")
    assert frozen_in(FrozenPlan.from_json({})) == PlanUnit(kind="request")


@pytest.mark.parametrize(("quantity", "told"), [("1Ki", 1024), ("8Ei", (1 << 63) - 1), ("1e30", (1 << 63) - 1)])
def test_a_limit_is_never_more_than_an_edge_can_count(quantity, told):
    assert service(endpoint={"maxRequestBytes": quantity})["maxRequestBytes"] == told


def in_force(slow_us: int | None) -> EdgeReport:
    arm: dict[str, Any] = {"application": "digits-r7", "weight": 100, "servers": {"up": 1}}
    told = arm if slow_us is None else {**arm, "slowMicroseconds": slow_us}
    told_of = {"attempt": "3b9f", "epoch": 2, "arms": {"stable": told}}
    return EdgeReport("edge-0", True, False, {"services": {"digits": told_of}})


@pytest.mark.parametrize(
    ("wanted", "told", "confirmed"), [(None, None, True), (500, 500, True), (500, None, False), (500, 400, False)]
)
def test_an_edge_that_counts_other_answers_as_slow_confirms_no_split(
    wanted: int | None, told: int | None, confirmed: bool
) -> None:
    arm = traffic.Arm("stable", 7, 100, ((0, 10_000),), slow_us=wanted)
    found = traffic.confirm("digits", traffic.Split("3b9f", "3b9f", 2, (arm,)), [in_force(told)])
    assert found.confirmed is confirmed
