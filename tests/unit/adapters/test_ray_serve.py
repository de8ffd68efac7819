"""Answers of a dashboard in which a tenant's code runs: every field has its type, and little is kept."""

import sys
import tracemalloc
from typing import Any

import orjson
import pytest

from sundog_operator.adapters import ray_serve
from sundog_operator.adapters.ray_serve import MAX_MESSAGE_CHARS, StoredConfig, parse_serve_state
from sundog_operator.core.observed import ServeState
from sundog_operator.core.ray.readiness import _find_runtime_error
from sundog_operator.core.ray.serve_config import needs_update

CONFIG = {
    "name": "digits-r1",
    "args": {"revisionHash": "abc"},
    "deployments": [
        {"name": "Model", "num_replicas": 2, "user_config": {"a": 1}, "ray_actor_options": {"num_cpus": 1}}
    ],
}


def answer(app: dict[str, Any] | None = None, deployment: dict[str, Any] | None = None) -> dict[str, Any]:
    model = {
        "status": "HEALTHY",
        "message": "",
        "target_num_replicas": 2,
        "replicas": [{"replica_id": "a", "state": "RUNNING"}],
    }
    digits = {
        "status": "RUNNING",
        "message": "",
        "deployed_app_config": CONFIG,
        "deployments": {"Model": model | (deployment or {})},
    }
    return {"controller_info": {"actor_id": "a"}, "applications": {"digits-r1": digits | (app or {})}}


def parse(document: dict[str, Any]) -> ServeState:
    return parse_serve_state(orjson.loads(orjson.dumps(document)))


def config_with(**fields: Any) -> dict[str, Any]:
    return {"deployed_app_config": CONFIG | fields}


@pytest.mark.parametrize(
    "wrong",
    [
        answer({"status": 1}),
        answer({"status": "x" * 1000}),
        answer({"status": None}),
        answer({"message": ["a"]}),
        answer({"deployments": ["Model"]}),
        answer({"deployed_app_config": "a"}),
        answer(config_with(args=[1])),
        answer(config_with(args={"revisionHash": {"a": 1}})),
        answer(config_with(deployments={"a": 1})),
        answer(config_with(deployments=["a"])),
        answer(config_with(deployments=[{"autoscaling_config": [1]}])),
        answer(config_with(deployments=[{"autoscaling_config": {"min_replicas": "2"}}])),
        answer(config_with(deployments=[{"num_replicas": True}])),
        answer(config_with(deployments=[{"user_config": "a"}])),
        answer(deployment={"status": {}}),
        answer(deployment={"message": 1}),
        answer(deployment={"target_num_replicas": True}),
        answer(deployment={"target_num_replicas": 1.5}),
        answer(deployment={"target_num_replicas": -1}),
        answer(deployment={"target_num_replicas": 10**9}),
        answer(deployment={"replicas": [{"replica_id": 1, "state": "RUNNING"}]}),
        answer(deployment={"replicas": [{"replica_id": "a", "state": []}]}),
        answer(deployment={"replicas": ["a"]}),
        {"applications": []},
        {"applications": {"a": 1}},
        {},
    ],
    ids=lambda value: str(value)[-110:],
)
def test_a_field_of_another_type_refuses_the_answer(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        parse(wrong)


def test_a_real_answer_is_read_and_needs_no_update() -> None:
    state = parse(answer())
    app = state.applications["digits-r1"]
    assert (app.status, app.deployments[0].running, app.deployments[0].target_replicas) == ("RUNNING", 1, 2)
    assert app.config == CONFIG
    assert {**app.config} == dict(app.config) == CONFIG
    assert state == parse(answer())
    assert state != parse(answer(config_with(args={"revisionHash": "abd"})))
    assert not needs_update([CONFIG], {"digits-r1": app.config})
    assert needs_update([CONFIG | {"args": {}} | {"route_prefix": "/a"}], {"digits-r1": app.config})


def test_a_long_message_is_cut_and_its_end_still_names_the_cause() -> None:
    text = "x" * 1_000_000 + "\nSUNDOG_ERROR"
    app = parse(answer({"message": text})).applications["digits-r1"]
    assert len(app.message) <= MAX_MESSAGE_CHARS + 3
    assert app.message.endswith("SUNDOG_ERROR")
    assert _find_runtime_error(app) is None


def hostile(entries: int) -> dict[str, Any]:
    return answer(config_with(args={"revisionHash": "a", "junk": [{"": 1}] * entries}))


def test_configurations_are_kept_as_text_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    state = parse(hostile(100_000))
    config = state.applications["digits-r1"].config
    assert isinstance(config, StoredConfig)
    assert sys.getsizeof(config.text) < 1_000_000
    monkeypatch.setattr(ray_serve, "MAX_CONFIG_BYTES", 500_000)
    with pytest.raises(ValueError, match=r"configurations of \d+ bytes"):
        parse(hostile(100_000))


def test_what_is_kept_of_a_hostile_answer_takes_little_memory() -> None:
    body = orjson.dumps(hostile(200_000))
    tracemalloc.start()
    try:
        state = parse_serve_state(orjson.loads(body))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert state.known
    assert kept < 2 * len(body)
