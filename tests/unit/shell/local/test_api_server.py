"""Refusals of local mode's API server."""

from manifest_tables import experiment
from sundog_operator.shell.local.api_server import find_admission_violations

CANARY = {"arms": [{"name": "canary"}]}


def test_what_was_wrong_before_may_stay_so() -> None:
    old = experiment(CANARY)
    assert len(find_admission_violations(old, None)) == 1
    assert find_admission_violations(experiment({**CANARY, "stopped": True}), old) == ()
    assert len(find_admission_violations(old, experiment({}))) == 1


def test_what_is_wrong_as_well_is_shown() -> None:
    old = experiment(CANARY)
    (message,) = find_admission_violations(experiment({**CANARY, "exposure": "0%"}), old)
    assert message.startswith("spec.exposure: 0% ")


def test_another_deployment_is_refused() -> None:
    (message,) = find_admission_violations(experiment({"modelDeployment": "letters"}), experiment({}))
    assert message == "spec.modelDeployment: cannot be changed; create another Experiment"
