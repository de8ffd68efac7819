"""Refusals of local mode's API server."""

from typing import Any

from sundog_operator.shell.local.api_server import find_admission_violations


def experiment(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "wide-or-narrow", "namespace": "vision"},
        "spec": {"modelDeployment": "digits", "arms": [{"name": "wide"}], **spec},
    }


def test_what_was_wrong_before_may_stay_so() -> None:
    old = experiment(arms=[{"name": "canary"}])
    assert len(find_admission_violations(old, None)) == 1
    assert find_admission_violations(experiment(arms=[{"name": "canary"}], stopped=True), old) == ()
    assert len(find_admission_violations(old, experiment())) == 1


def test_what_is_wrong_as_well_is_shown() -> None:
    old = experiment(arms=[{"name": "canary"}])
    (message,) = find_admission_violations(experiment(arms=[{"name": "canary"}], exposure="0%"), old)
    assert message.startswith("spec.exposure: 0% ")


def test_another_deployment_is_refused() -> None:
    (message,) = find_admission_violations(experiment(modelDeployment="letters"), experiment())
    assert message == "spec.modelDeployment: cannot be changed; create another Experiment"
