"""An endpoint and a rollout's unit in the split document."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sundog_operator.api import (
    ExperimentStatus,
    FrozenPlan,
    ModelDeploymentSpec,
    ModelDeploymentStatus,
    PlanHeader,
    PlanUnit,
    StepStatus,
)
from sundog_operator.api import Rollout as RolloutSpec
from sundog_operator.core.edge import confirmation, request_counts, split_document
from sundog_operator.core.edge import split as edge_split
from sundog_operator.core.edge.units import frozen_unit
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.planner import desired_state
from sundog_operator.core.trial.rollout import freeze

T0 = datetime(2026, 11, 25, 12, tzinfo=UTC)

STEPS = [{"weight": 25, "gate": "manual"}]
QUEUE = {"queue": {"maxRequests": 1000, "timeoutSeconds": 5.0}}


def service(split: edge_split.Split | None = None, **spec: Any) -> dict[str, Any]:
    parsed = ModelDeploymentSpec.from_json({"model": {"uri": "file:///m"}, **spec})
    return split_document.make_service_entry("vision", "digits", parsed, "sundog-0", split)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
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
        (
            {"cors": {"allowedOrigins": ["https://a.example"], "maxAge": "1500ms", "exposedHeaders": ["x-b"]}},
            {
                **QUEUE,
                "cors": {
                    "allowedOrigins": ["https://a.example"],
                    "allowedHeaders": [],
                    "exposedHeaders": ["x-b"],
                    "maxAgeSeconds": 1,
                    "allowCredentials": False,
                },
            },
        ),
        ({"compression": "gzip"}, {**QUEUE, "compression": "gzip"}),
        ({"compression": "none"}, QUEUE),
        ({"rateLimit": {"total": "90/m"}}, {**QUEUE, "rateLimit": {"total": {"requests": 90, "seconds": 60}}}),
    ],
)
def test_admission_of_an_endpoint(endpoint: dict[str, Any], expected: dict[str, Any]) -> None:
    made = service(endpoint=endpoint)
    assert {
        name: made[name] for name in ("queue", "compression", "cors", "tls", "auth", "rateLimit") if name in made
    } == expected


UNITS = [
    ({}, {"kind": "request"}),
    ({"request": {}}, {"kind": "request"}),
    ({"header": "x-user-id"}, {"kind": "header", "name": "x-user-id"}),
    ({"cookie": "visitor"}, {"kind": "cookie", "name": "visitor"}),
    ({"jsonPath": "$.user.id"}, {"kind": "jsonPath", "name": "$.user.id"}),
    ({"jwtClaim": "sub"}, {"kind": "jwtClaim", "name": "sub"}),
]


@pytest.mark.parametrize(("unit", "expected"), UNITS)
def test_the_unit_of_a_spec_and_of_a_plan_frozen_from_it(unit: dict[str, Any], expected: dict[str, Any]) -> None:
    assert service(rollout={"unit": unit})["unit"] == expected
    frozen = running({"steps": STEPS, "unit": unit})
    edited = service(frozen, rollout={"unit": {"header": "x-other"}})
    assert edited["unit"] == expected, "an edit of the spec moves nobody while a rollout runs"


def running(rollout: dict[str, Any]) -> edge_split.Split:
    status = ModelDeploymentStatus.parse(
        {"stable": {"revision": 1}, "candidate": {"revision": 2}, "experiment": "digits-r2"}
    )
    frozen = freeze.freeze(RolloutSpec.from_json(rollout), stable=1, candidate=2, now=T0)
    stored = ExperimentStatus.parse(frozen.to_json())
    split = desired_state.desired_split("digits", status, "uid", stored)
    assert split is not None
    return split


def test_a_salt_of_the_spec_outlives_attempts_and_else_each_has_its_own() -> None:
    assert running({"steps": STEPS}).salt == "uid"
    salted = running({"steps": STEPS, "unit": {"cookie": "visitor", "salt": "spring-2026"}})
    assert (salted.attempt, salted.salt) == ("uid", "spring-2026")


def test_a_plan_that_an_earlier_version_froze_keeps_its_unit() -> None:
    assert frozen_unit(FrozenPlan.from_json({"unitHeader": "x-user-id"})) == PlanUnit(kind="header", name="x-user-id")
    assert frozen_unit(FrozenPlan.from_json({})) == PlanUnit(kind="request")


@pytest.mark.parametrize(("quantity", "expected"), [("1Ki", 1024), ("8Ei", (1 << 63) - 1), ("1e30", (1 << 63) - 1)])
def test_a_limit_is_never_more_than_an_edge_can_count(quantity, expected):
    assert service(endpoint={"maxRequestBytes": quantity})["maxRequestBytes"] == expected


def test_the_experiment_of_a_rollout_is_named_and_left_out_again_after_it() -> None:
    asked = running({"steps": STEPS})
    assert service(asked)["experiment"] == "digits-r2"
    plain = edge_split.make_stable_split("digits", "uid", 1)
    assert "experiment" not in service(plain)
    assert "experiment" not in split_document.update_service_entry(service(asked), "sundog-0", "digits", plain, {})


MATCHED = {"arm": "canary", "headers": {"x-canary": "true"}}


def test_a_step_by_header_is_sent_to_edges_and_left_out_again_where_nothing_else_changes() -> None:
    plain = running({"steps": STEPS})
    asked = replace(plain, headers=(PlanHeader(name="x-canary", value="true"),))
    assert "match" not in service(plain)
    assert service(asked)["match"] == MATCHED
    kept = split_document.update_service_entry(service(asked), "sundog-0", "digits", plain, {})
    assert "match" not in kept
    assert split_document.update_service_entry(kept, "sundog-0", "digits", asked, {})["match"] == MATCHED


@pytest.mark.parametrize(
    ("reported", "confirmed"),
    [
        (None, False),
        (MATCHED, True),
        ({**MATCHED, "headers": {"x-canary": "yes"}}, False),
        ({**MATCHED, "arm": "a"}, False),
    ],
)
def test_an_edge_confirms_headers_by_reporting_the_same(reported: dict[str, Any] | None, confirmed: bool) -> None:
    report, arm = in_force(()), edge_split.SplitArm("stable", 7, 100, ((0, 10_000),))
    assert report.evidence is not None
    if reported is not None:
        report.evidence["services"]["digits"]["match"] = reported
    plain = edge_split.Split("3b9f", "3b9f", 2, (arm,))
    asked = replace(plain, headers=(PlanHeader(name="x-canary", value="true"),))
    assert confirmation.confirm("digits", asked, [report]).confirmed is confirmed
    assert confirmation.confirm("digits", plain, [report]).confirmed is (reported is None)


def test_what_is_reached_by_header_alone_carries_traffic() -> None:
    split = running({"steps": STEPS})
    for headers, carried in (((), {"digits-r1"}), ((PlanHeader(name="a", value="b"),), {"digits-r1", "digits-r2"})):
        document = {"services": [service(replace(split, headers=headers))]}
        assert split_document.find_applications_with_traffic(document, "sundog-0", {"digits"}) == carried


def test_only_requests_that_were_assigned_are_counted() -> None:
    def row(origin: str, assigned: int, failed: int) -> dict[str, Any]:
        where = {"attempt": "uid", "arm": "canary", "origin": origin}
        return {**where, "assigned": assigned, "ends": {"ok": assigned - failed, "server5xx": failed}}

    rows = [row("assigned", 10, 1), row("override", 5, 4), row("probe", 99, 99), row("assigned", 20, 0)]
    reports = [EdgeReport("edge-0", True, False, {"counters": rows})]
    assert request_counts.count_requests_and_errors("uid", "canary", reports) == (30, 1)
    assert request_counts.count_requests_and_errors("uid", "stable", reports) == (0, 0)


def in_force(slow_us: tuple[int, ...]) -> EdgeReport:
    arm: dict[str, Any] = {"application": "digits-r7", "weight": 100, "slowMicroseconds": None, "servers": {"up": 1}}
    reported = {**arm, **dict(zip(split_document.SLOW_THRESHOLD_FIELDS, slow_us, strict=False))}
    told_of = {"attempt": "3b9f", "epoch": 2, "arms": {"stable": reported}}
    return EdgeReport("edge-0", True, False, {"services": {"digits": told_of}})


@pytest.mark.parametrize(
    ("wanted", "reported", "confirmed"),
    [
        ((), (), True),
        ((500,), (500,), True),
        ((500,), (), False),
        ((500,), (400,), False),
        ((500, 90), (500, 90), True),
        ((500, 90), (90, 500), False),
        # An older edge with one threshold.
        ((500, 90), (500,), False),
        ((500,), (500, 90), False),
        ((500, 90, 7), (500, 90, 7), True),
        ((500, 90, 7), (500, 90), False),
    ],
)
def test_an_edge_that_counts_other_answers_as_slow_confirms_no_split(
    wanted: tuple[int, ...], reported: tuple[int, ...], confirmed: bool
) -> None:
    arm = edge_split.SplitArm("stable", 7, 100, ((0, 10_000),), slow_us=wanted)
    found = confirmation.confirm("digits", edge_split.Split("3b9f", "3b9f", 2, (arm,)), [in_force(reported)])
    assert found.confirmed is confirmed


def test_why_an_edge_has_another_split_in_force_is_shown_with_what_it_has() -> None:
    split = edge_split.make_stable_split("digits", "1f0c9a3e-5d2b", 7)
    why = "generation 9 could not be applied and is tried again: [Errno 28] No space left on device"
    for services in ({}, {"digits": {"attempt": "other", "epoch": 1, "arms": {}}}):
        reported = {"document": {"generation": 8, "error": why}, "services": services}
        found = confirmation.confirm("digits", split, [EdgeReport("edge-0", True, False, reported)])
        ((pod, waits),) = found.waiting
        assert (found.confirmed, pod) == (False, "edge-0")
        assert waits.endswith(f" ({why})")


@pytest.mark.parametrize(
    ("reported", "error", "waits"),
    [
        ({"hash": "b2"}, "", None),
        # Another service may be the reason.
        ({"hash": "b2"}, "generation 9 cannot be applied", None),
        ({"hash": "a1"}, "", "has older settings"),
        ({"hash": "a1"}, "generation 9 cannot be applied", "has older settings (generation 9 cannot be applied)"),
        # An edge of this release with a document of an earlier operator.
        ({"hash": ""}, "", "has older settings"),
        # An edge of an earlier release.
        ({}, "", None),
        ({}, "no", "cannot apply the newest document (no)"),
    ],
)
def test_an_edge_confirms_the_settings_of_its_service_by_their_hash(
    reported: dict[str, Any], error: str, waits: str | None
) -> None:
    report = in_force(())
    assert report.evidence is not None
    report.evidence["services"]["digits"] |= reported
    edge = replace(report, evidence={**report.evidence, "document": {"error": error}})
    split = edge_split.Split("3b9f", "3b9f", 2, (edge_split.SplitArm("stable", 7, 100, ((0, 10_000),)),))
    assert confirmation.confirm("digits", split, [edge], "b2").waiting == ((("edge-0", waits),) if waits else ())
    assert confirmation.confirm("digits", split, [edge]).confirmed, "traffic has moved in any case"


def test_the_hash_of_an_entry_follows_all_its_fields_and_nothing_else() -> None:
    split = running({"steps": STEPS})
    entry = service(split)
    kept = split_document.update_service_entry(json.loads(json.dumps(entry)), "sundog-0", "digits", split, {})
    assert kept["hash"] == entry["hash"] == service(split)["hash"]
    others = [
        service(split, endpoint={"auth": {"apiKeys": {"secretName": "keys"}}}),
        service(replace(split, epoch=split.epoch + 1)),
        split_document.update_service_entry(entry, "sundog-0", "digits", split, {1: 8}),
    ]
    assert len({each["hash"] for each in (entry, *others)}) == 4


def test_an_edge_that_is_not_ready_says_why() -> None:
    split = edge_split.make_stable_split("digits", "1f0c9a3e-5d2b", 7)
    taken = "port 8080, on which the haproxy of this edge listens, is held by python (pid 7)"
    reports = [EdgeReport("edge-0", False, False, None, unready=taken), EdgeReport("edge-1", False, False, None)]
    found = confirmation.confirm("digits", split, reports)
    assert (found.confirmed, found.waiting) == (False, (("edge-0", f"not ready: {taken}"), ("edge-1", "not ready")))
    assert confirmation.confirm("digits", split, []).waiting == (("no edge", "not ready"),)


def override(arm: str, value: str = "b", *networks: str, keys: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"header": "x-pick", "value": value, "arm": arm, "callers": {"apiKeys": [*keys], "networks": [*networks]}}


def told_override(arm: str, value: str = "b", *networks: str, keys: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"header": "x-pick", "value": value, "arm": arm, "callers": {"keys": [*keys], "networks": [*networks]}}


PAUSED_FIRST = {"steps": [{"pause": {}}, {"weight": 25, "gate": "manual"}]}


def at(phase: str, rollout: dict[str, Any] | None = None, **update: Any) -> edge_split.Split:
    """Return the split of a rollout to revision 2 in a phase, before its first weight."""
    frozen = freeze.freeze(RolloutSpec.from_json(rollout or PAUSED_FIRST), stable=1, candidate=2, now=T0)
    step = StepStatus(index=1, of=len(frozen.plan.steps), gate="manual")
    stored = frozen.model_copy(update={"phase": phase, "step": step if phase != "Pending" else None, **update})
    status = ModelDeploymentStatus.parse(
        {"stable": {"revision": 1}, "candidate": {"revision": 2}, "experiment": "digits-r2"}
    )
    split = desired_state.desired_split("digits", status, "uid", stored)
    assert split is not None
    return split


def chosen(split: edge_split.Split | None) -> list[str]:
    """Return the arms of the overrides in the document."""
    wanted = [override(arm, arm, "10.0.0.0/8") for arm in ("stable", "canary", "wide")]
    return [each["arm"] for each in service(split, endpoint={"overrides": wanted}).get("overrides", ())]


def test_overrides_are_reported_in_the_words_of_the_document() -> None:
    asked = [override("canary", "a", "10.0.0.0/8", "127.0.0.0/8"), override("stable", "b", keys=("ops", "ann"))]
    made = service(at("Running"), endpoint={"overrides": asked, "auth": {"apiKeys": {"secretName": "keys"}}})
    assert made["overrides"] == [
        told_override("canary", "a", "10.0.0.0/8", "127.0.0.0/8"),
        told_override("stable", "b", keys=("ops", "ann")),
    ]
    assert "overrides" not in service(at("Running"))


def test_an_override_has_no_effect_while_its_arm_is_not_there_not_ready_or_on_its_way_out() -> None:
    assert chosen(None) == []
    assert chosen(edge_split.make_stable_split("digits", "1f0c9a3e-5d2b", 1)) == ["stable"]
    assert chosen(edge_split.make_stable_split("digits", "1f0c9a3e-5d2b", 1, followed=2)) == ["stable"], (
        "what follows may not be ready"
    )
    assert chosen(at("Pending")) == ["stable"]
    assert chosen(at("Running")) == ["stable", "canary"]
    assert chosen(at("Stopped")) == ["stable"]


def test_a_candidate_that_is_promoted_in_full_before_it_is_ready_is_not_to_be_chosen() -> None:
    last = len(freeze.freeze(RolloutSpec.from_json(PAUSED_FIRST), stable=1, candidate=2, now=T0).plan.steps)
    promoted = at("Running", step=StepStatus(index=last, of=last, gate="none"))
    assert chosen(promoted) == ["stable"]


def test_after_a_promotion_what_was_stable_is_not_to_be_chosen() -> None:
    frozen = freeze.freeze(RolloutSpec.from_json(PAUSED_FIRST), stable=1, candidate=2, now=T0)
    arms = tuple(
        arm.model_copy(update={"weight": 0 if arm.name == "stable" else 100, "ranges": ()}) for arm in frozen.arms
    )
    assert chosen(at("Concluded", arms=arms)) == ["canary"]


def test_an_endpoint_that_stays_as_it_was_keeps_what_it_reveals_and_what_may_still_be_chosen() -> None:
    asked = {
        "reveal": False,
        "overrides": [override("canary", "a", "10.0.0.0/8"), override("stable", "b", "10.0.0.0/8")],
    }
    known = service(at("Running"), endpoint=asked)
    kept = split_document.update_service_entry(known, "sundog-0", "digits", at("Stopped"), {})
    assert kept["overrides"] == [told_override("stable", "b", "10.0.0.0/8")]
    assert kept["reveal"] is False
    assert "reveal" not in service(at("Running"))


def test_what_is_reached_by_an_override_alone_carries_traffic() -> None:
    for asked, carried in (([], {"digits-r1"}), ([override("canary", "a", "10.0.0.0/8")], {"digits-r1", "digits-r2"})):
        document = {"services": [service(at("Running"), endpoint={"overrides": asked})]}
        assert split_document.find_applications_with_traffic(document, "sundog-0", {"digits"}) == carried


def test_overrides_beyond_the_networks_that_an_edge_takes_are_left_out_of_the_youngest() -> None:
    def of(name: str, first: int, *counts: int) -> dict[str, Any]:
        starts = [first + sum(counts[:place]) for place in range(len(counts))]
        overrides = [
            override("stable", f"v{place}", *(f"10.{n // 256}.{n % 256}.0/24" for n in range(start, start + count)))
            for place, (start, count) in enumerate(zip(starts, counts, strict=True))
        ]
        return {
            **service(edge_split.make_stable_split("digits", "1f0c9a3e-5d2b", 1), endpoint={"overrides": overrides}),
            "name": name,
        }

    old, middle, young = of("old", 0, *[29] * 8), of("middle", 0, 32), of("young", 1000, 20, 4, 1)
    document = split_document.make_document(
        "vision", [old, middle, young], {"sundog-0": {"dashboard": "http://a"}}, None
    )
    left = {each["name"]: [one["value"] for one in each.get("overrides", ())] for each in document["services"]}
    assert left["middle"] == ["v0"], "networks count once"
    assert (len(left["old"]), left["young"]) == (8, ["v0", "v1"])
    assert split_document.find_services_with_dropped_overrides([old, middle, young], document) == ["young"]
    assert split_document.find_services_with_dropped_overrides([old, middle], document) == []
