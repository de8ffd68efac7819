"""What a newer release wrote into a status stays through the writes of this one."""

from typing import Any

import pytest

from sundog_operator.api import ExperimentStatus, ModelDeploymentStatus
from sundog_operator.api.schema.node_tree import build_node_tree
from sundog_operator.api.schema.unknown_status import keep_unknown_fields

NODE = build_node_tree(ModelDeploymentStatus)
STORED: dict[str, Any] = {
    "url": "http://a",
    "forecast": {"at": "noon"},
    "stable": {"revision": 1, "uri": "a", "temperature": 3},
    "retiring": [{"revision": 1, "since": "x", "why": "old"}, {"revision": 2, "since": "y", "why": "older"}],
}


def carried(written: dict[str, Any], stored: Any = STORED) -> Any:
    return keep_unknown_fields(stored, written, NODE)


def test_unknown_fields_stay_in_each_object_that_stays() -> None:
    written = {"url": "http://b", "stable": {"revision": 2, "uri": "b"}}
    assert carried(written) == {
        "url": "http://b",
        "forecast": {"at": "noon"},
        "stable": {"revision": 2, "uri": "b", "temperature": 3},
    }


def test_items_of_a_list_keep_theirs_while_they_are_the_same() -> None:
    known = [{"revision": 3, "since": "z"}, {"revision": 2, "since": "y"}]
    assert carried({"retiring": known})["retiring"] == [known[0], {"revision": 2, "since": "y", "why": "older"}]
    assert carried({"retiring": [{"revision": 2, "since": "later"}]})["retiring"] == [{"revision": 2, "since": "later"}]


@pytest.mark.parametrize("stored", [None, [], "x", {"stable": "x", "retiring": {}}])
def test_a_status_of_another_shape_leaves_nothing_behind(stored: Any) -> None:
    written = {"url": "", "stable": {"revision": 1}, "retiring": [{"revision": 1}]}
    assert carried(written, stored) == written


def test_what_is_known_is_written_as_it_is() -> None:
    written = {"phase": "Running", "plan": {"hash": "a"}}
    assert (
        keep_unknown_fields(
            {"phase": "Pending", "plan": {"hash": "b", "steps": []}}, written, build_node_tree(ExperimentStatus)
        )
        == written
    )
