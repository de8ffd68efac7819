"""What bad input is told: one object per violation, by the operator and by the API server alike."""

from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest

from manifest_tables import accepted_specs, deployment, experiment, merged, refused_specs
from sundog_operator.api import RESOURCE_TYPES, PlanGuardrail, find_immutable_changes, find_violations

DIGEST = "sha256:" + "0" * 64


def step(**fields: Any) -> dict[str, Any]:
    return deployment({"rollout": {"steps": [fields, {"weight": 50}]}})


def arm(**fields: Any) -> dict[str, Any]:
    return experiment({"arms": [{"name": "wide", **fields}]})


def at_every_uri(uri: str, error: str) -> list[tuple[dict[str, Any], str]]:
    """The same mistake wherever a model's URI is written; the digest keeps the rule about pins out of it."""
    return [
        (deployment({"model": {"uri": uri, "digest": DIGEST}}), f"spec.model.uri: {error}"),
        (deployment({"baseline": {"uri": uri}}), f"spec.baseline.uri: {error}"),
        (arm(model={"uri": uri}), f"spec.arms[0].model.uri: {error}"),
    ]


OF_A_ROLLOUT = "canary is the name of a rollout's own arm; expected another name"
MORE_THAN_ALL = "for each arm, including control, is more than 100% together; expected less"
NO_SERVICE = "is no name of a Service; expected a DNS label that starts with a letter"
FLOOR_OF_60 = {
    "allocation": {"mode": "thompson", "floor": "60%"},
    "metrics": {"success": [{"name": "conversion", "feedback": "converted"}]},
}

NAMES: list[tuple[dict[str, Any], str]] = [
    (deployment({}, name="a" * 41), f"metadata.name: {'a' * 41} is too long; expected at most 40 characters"),
    (deployment({}, name="8b-llama"), f"metadata.name: 8b-llama {NO_SERVICE}"),
    (deployment({}, name="a.b"), f"metadata.name: a.b {NO_SERVICE}"),
    (experiment({}, name="a" * 64), f"metadata.name: {'a' * 64} is too long; expected at most 63 characters"),
    (experiment({}, name="a.b"), "metadata.name: a.b is not a DNS label; expected a name without dots"),
    (experiment({"arms": [{"name": "wide"}, {"name": "canary"}]}, name="letters-r8"), f"spec.arms: {OF_A_ROLLOUT}"),
    (experiment({"arms": [{"name": "canary"}]}, name="digits-red"), f"spec.arms: {OF_A_ROLLOUT}"),
]
RULES: list[tuple[dict[str, Any], str]] = [
    *NAMES,
    *(case for uri, error in refused_specs("bad_uris") for case in at_every_uri(uri, error)),
    *((deployment(spec), error) for spec, error in refused_specs("bad_revisions")),
    *((arm(**spec), error.replace("spec.", "spec.arms[0].", 1)) for spec, error in refused_specs("bad_revisions")),
    *((deployment(spec), error) for spec, error in refused_specs("bad_deployments")),
    *((experiment(spec), error) for spec, error in refused_specs("bad_experiments")),
]

MAPS: dict[str, Callable[[str], dict[str, Any]]] = {
    "spec.runtime.podLabels": lambda key: deployment({"runtime": {"podLabels": {key: "x"}}}),
    "spec.scheduling.nodeSelector": lambda key: deployment({"scheduling": {"nodeSelector": {key: "x"}}}),
    "spec.arms[0].runtime.podLabels": lambda key: arm(runtime={"podLabels": {key: "x"}}),
}
LABEL = "expected a label key such as example.com/team"
HEADER = "expected a header name in lower case such as x-canary"
KEYS: list[tuple[dict[str, Any], str, str]] = [
    *(
        (made(key), f"{path}: {found}", denied)
        for path, made in MAPS.items()
        for key, found, denied in (
            ("a b", f'key "a b"; {LABEL}', f"invalid key; {LABEL}"),
            ("-", f"key -; {LABEL}", f"invalid key; {LABEL}"),
            ("", "key empty; expected at least 1 character", f"invalid key; {LABEL}"),
            ("k" * 318, "key of 318 characters; expected at most 317", "key too long; expected at most 317 characters"),
        )
    ),
    *(
        (step(headers={key: "true"}), f"spec.rollout.steps[0].headers: {found}", denied)
        for key, found, denied in (
            ("x y", f'key "x y"; {HEADER}', f"invalid key; {HEADER}"),
            ("X-Canary", f"key X-Canary; {HEADER}", f"invalid key; {HEADER}"),
            ("h" * 64, "key of 64 characters; expected at most 63", "key too long; expected at most 63 characters"),
        )
    ),
]
"""A schema cannot bound keys, so these are rules there, and shape in the types."""


def ids(cases: list[Any]) -> list[str]:
    return [case[1] for case in cases]


@pytest.mark.parametrize(("obj", "message"), RULES, ids=ids(RULES))
def test_both_report_a_broken_rule_alike(admissions: Any, obj: dict[str, Any], message: str) -> None:
    assert [str(violation) for violation in find_violations(obj)] == [message]
    (denial,) = admissions[obj["kind"]].denials(obj)
    assert message in (f"{denial.path}: {denial.message}", denial.message)


@pytest.mark.parametrize(("obj", "message", "expected_message"), KEYS, ids=ids(KEYS))
def test_a_bad_key_is_found_by_both(admissions: Any, obj: dict[str, Any], message: str, expected_message: str) -> None:
    assert message in [str(violation) for violation in find_violations(obj)]
    assert expected_message in [denial.message for denial in admissions[obj["kind"]].denials(obj)]


def test_an_experiment_cannot_move_to_another_deployment(admissions: Any) -> None:
    old, new = experiment({}), experiment({"modelDeployment": "letters"})
    message = "cannot be changed; create another Experiment"
    kind = RESOURCE_TYPES["Experiment"]
    assert [str(found) for found in find_immutable_changes(kind.parse(old), kind.parse(new))] == [
        f"spec.modelDeployment: {message}"
    ]
    assert [(found.path, found.message) for found in admissions["Experiment"].denials(new, old)] == [
        ("spec.modelDeployment", message)
    ]
    assert admissions["Experiment"].denials(old, old) == []
    assert admissions["Experiment"].denials(new) == []
    assert find_immutable_changes(kind.parse(old), kind.parse(old)) == []


def test_an_arm_that_was_stored_as_canary_may_stay(documented: Any) -> None:
    old = arm(name="canary")
    status = {**old, "status": {"phase": "Running"}}
    stopped = experiment({"arms": [{"name": "canary"}], "stopped": True})
    assert [documented["Experiment"].denials(new, old) for new in (status, stopped)] == [[], []]
    (denial,) = documented["Experiment"].denials(stopped)
    assert denial.message == OF_A_ROLLOUT


def test_the_operator_accepts_stored_windows_and_deadlines_of_an_earlier_release() -> None:
    rollout = {"windows": [{"cron": "* * * * *", "duration": "1m"}], "progressDeadline": "30d"}
    new = deployment({"rollout": rollout})
    assert len(find_violations(new)) == 2
    stored = merged(new, {"metadata": {"uid": "7f0c"}})
    assert RESOURCE_TYPES["ModelDeployment"].parse(stored).to_json()["spec"]["rollout"]["progressDeadline"] == "30d"


def test_a_floor_that_was_stored_as_more_than_all_may_be_ended(documented: Any) -> None:
    old = experiment(FLOOR_OF_60)
    stopped = merged(old, {"spec": {"stopped": True}})
    assert [documented["Experiment"].denials(new, old) for new in (old, stopped)] == [[], []]
    (denial,) = documented["Experiment"].denials(stopped)
    assert denial.message == f"60% {MORE_THAN_ALL}"


def test_no_outcome_has_the_name_of_what_is_judged_of_an_arm_anyway() -> None:
    judged = {*get_args(get_type_hints(PlanGuardrail)["metric"])}
    assert {"errorRate", "rejections", "retries"} < judged
    for name in judged:
        assert find_violations(experiment({"metrics": {"success": [{"name": name, "feedback": "b"}]}})), name


def test_entries_that_name_nothing_do_not_share_a_name(documented: Any) -> None:
    nameless = experiment({"metrics": {"success": [{}], "secondary": [{}]}})
    said = {f"spec.metrics.{role}[0]: expected exactly one of metric and feedback" for role in ("success", "secondary")}
    assert {str(each) for each in find_violations(nameless)} == said
    assert {f"{each.path}: {each.message}" for each in documented["Experiment"].denials(nameless)} == said


def test_every_rule_has_an_object_that_trips_only_it(documented: Any) -> None:
    tripped: set[tuple[str, tuple[str, str]]] = set()
    for obj, *_ in [*RULES, *KEYS]:
        denials = documented[obj["kind"]].denials(obj)
        if len(denials) == 1:
            tripped.add((obj["kind"], denials[0].rule))
    transition = ("Experiment", ("spec.modelDeployment", "self == oldSelf"))
    wanted = {(kind, rule) for kind, admission in documented.items() for rule in admission.rules()}
    assert wanted - tripped == {transition}
    assert len(wanted) > 50


GOOD: list[dict[str, Any]] = [
    deployment({}, name="a" * 40),
    experiment({"arms": [{"name": "canary"}]}, name="digits-r8"),
    experiment({"arms": [{"name": "canary"}]}, name="digits-r8-a12"),
    *(deployment(spec) for spec in accepted_specs("everywhere", "inPods", "notYet")),
    *(experiment(spec) for spec in accepted_specs("experiments")),
]


@pytest.mark.parametrize("obj", GOOD, ids=range(len(GOOD)))
def test_good_objects_pass_both(admissions: Any, obj: dict[str, Any]) -> None:
    assert find_violations(obj) == []
    assert admissions[obj["kind"]].denials(obj) == []


@pytest.mark.parametrize("obj", GOOD, ids=range(len(GOOD)))
def test_the_operator_and_the_api_server_fill_in_the_same_defaults(admissions: Any, obj: dict[str, Any]) -> None:
    kind = RESOURCE_TYPES[obj["kind"]]
    stored = admissions[obj["kind"]].stored(obj)
    assert kind.parse(stored).to_json()["spec"] == kind.parse(obj).to_json()["spec"]
    assert stored["status"] == {"observedGeneration": -1}
