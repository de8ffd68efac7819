from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sundog_operator.adapters.memory_kubernetes.tables import find_value, make_table

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONDITIONS = {"status": {"conditions": [{"type": "Stalled"}, {"type": "Ready", "status": "True"}], "n": [1, 2]}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ('.status.conditions[?(@.type=="Ready")].status', "True"),
        (".status.conditions[?(@.type=='Ready')].status", "True"),
        ('.status.conditions[?(@.type=="Absent")].status', None),
        (".status.n[1]", 2),
        (".status.n[2]", None),
        (".status.n.x", None),
        (".status.x.y", None),
        (".status[0]", None),
        (".status..n", None),
    ],
)
def test_find(path: str, value: Any) -> None:
    assert find_value(CONDITIONS, path) == value


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172800, "2d"), (-5, "0s")]
)  # fmt: skip
def test_age(seconds: int, shown: str) -> None:
    created = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = make_table([{"metadata": {"name": "a", "creationTimestamp": created}}], (), "7", NOW)
    assert made["rows"][0]["cells"] == ["a", shown]
    assert [column["name"] for column in made["columnDefinitions"]] == ["Name", "Age"]


def test_columns() -> None:
    columns = [
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "N", "type": "integer", "jsonPath": ".status.n[0]", "priority": 1},
        {"name": "None", "type": "string", "jsonPath": ".status.none"},
        {"name": "Since", "type": "date", "jsonPath": ".metadata.name"},
    ]
    made = make_table([CONDITIONS | {"metadata": {"name": "a"}}], columns, "7", NOW)
    assert made["rows"][0]["cells"] == ["a", "True", 1, None, "<invalid>"]
    assert [column["priority"] for column in made["columnDefinitions"]] == [0, 0, 1, 0, 0]
