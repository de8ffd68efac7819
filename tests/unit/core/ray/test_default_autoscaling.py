"""Autoscaling with its defaults: what Ray Serve is sent, and that it stays still under a constant load."""

import json
from typing import Any

import pytest

from measuring.autoscaling import Outcome, product_config, simulate
from sundog_operator.api import ModelDeployment
from sundog_operator.core import revisions
from sundog_operator.errors import SpecError

BOUNDS = {"minReplicas": 1, "maxReplicas": 12}
RPS = 40.0
SERVE_DEFAULTS = {"target_ongoing_requests": 2, "downscaling_factor": 1.0, "upscale_delay_s": 10.0}
"""What was sent, or left to Serve, before there was a factor."""


def constant(**changes: Any) -> Outcome:
    return simulate({**product_config(BOUNDS), **changes}, lambda _: RPS, RPS, 1.0)


def test_a_constant_load_makes_at_most_one_reversal_an_hour() -> None:
    found = constant()
    assert found.reversals_per_hour <= 1
    assert found.wait_s(0.99) < 1


def test_without_a_factor_the_replicas_oscillate() -> None:
    found = constant(**SERVE_DEFAULTS)
    assert found.reversals_per_hour > 10
    assert found.wait_s(0.99) > 5


@pytest.mark.parametrize(
    ("spec", "target"),
    [
        ({}, 1),
        ({"runtime": {"batching": {"maxSize": 8}}}, 2),
        ({"autoscaling": {**BOUNDS, "targetOngoingRequests": 3}}, 3),
        ({"autoscaling": {**BOUNDS, "targetOngoingRequests": 2}}, 2),
        ({"runtime": {"maxOngoingRequests": 2}}, 1),
    ],
)
def test_the_target_is_one_request_where_nothing_batches(spec: dict[str, Any], target: int) -> None:
    config = product_config(spec.get("autoscaling", BOUNDS), **{k: v for k, v in spec.items() if k != "autoscaling"})
    assert config["target_ongoing_requests"] == target


def test_the_factors_are_those_of_the_spec() -> None:
    config = product_config({**BOUNDS, "upscaleFactor": "150%", "downscaleFactor": "12.5%"})
    assert (config["upscaling_factor"], config["downscaling_factor"]) == (1.5, 0.125)
    config = product_config(BOUNDS)
    assert (config["upscaling_factor"], config["downscaling_factor"]) == (1.0, 0.2)


def test_a_service_that_may_scale_to_zero_reports_its_requests_sooner() -> None:
    intervals = [product_config({**BOUNDS, "minReplicas": fewest})["metrics_interval_s"] for fewest in (0, 1)]
    assert intervals == [1.0, 2.0]


def parse(**spec: Any) -> ModelDeployment:
    document = {"metadata": {"name": "digits"}, "spec": {"model": {"uri": "file:///m"}, **spec}}
    return ModelDeployment.parse(
        {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment", **json.loads(json.dumps(document))}
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"autoscaling": {"downscaleFactor": "0%"}}, "0% never changes the replicas; expected more than 0%"),
        ({"autoscaling": {"downscaleFactor": "120%"}}, "expected a percentage from 0% to 100%"),
        ({"autoscaling": {"upscaleFactor": "0.00%"}}, "0.00% never changes the replicas"),
        ({"autoscaling": {}, "runtime": {"maxOngoingRequests": 1}}, "1 is more than half of runtime.maxOngoing"),
        (
            {"autoscaling": {}, "runtime": {"maxOngoingRequests": 3, "batching": {"maxSize": 2}}},
            "2 is more than half of runtime.maxOngoing",
        ),
    ],
)
def test_what_never_scales_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        parse(**spec)


def test_defaults_of_autoscaling_make_no_revision() -> None:
    plain = parse(replicas=1).spec
    contents = [
        revisions.content_of(parse(autoscaling=each).spec) for each in (BOUNDS, {**BOUNDS, "upscaleDelay": "9s"})
    ]
    assert {revisions.content_hash(each) for each in contents} == {revisions.content_hash(revisions.content_of(plain))}
