"""What local mode's API server refuses."""

from typing import Any

from sundog_operator.shell.local.api_server import admit


def experiment(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "wide-or-narrow", "namespace": "vision"},
        "spec": {"modelDeployment": "digits", "arms": [{"name": "wide"}], **spec},
    }


def test_what_was_wrong_before_may_stay_so() -> None:
    old = experiment(arms=[{"name": "canary"}])
    assert len(admit(old, None)) == 1
    assert admit(experiment(arms=[{"name": "canary"}], stopped=True), old) == ()
    assert len(admit(old, experiment())) == 1


def test_what_is_wrong_as_well_is_told() -> None:
    old = experiment(arms=[{"name": "canary"}])
    (told,) = admit(experiment(arms=[{"name": "canary"}], exposure="0%"), old)
    assert told.startswith("spec.exposure: 0% ")


def test_another_deployment_is_refused() -> None:
    (told,) = admit(experiment(modelDeployment="letters"), experiment())
    assert told == "spec.modelDeployment: cannot be changed; create another Experiment"
