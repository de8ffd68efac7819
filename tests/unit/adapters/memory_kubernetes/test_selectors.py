from typing import Any, Literal

import orjson
import pytest

from sundog_operator.adapters.memory_kubernetes.history import ObjectChange
from sundog_operator.adapters.memory_kubernetes.selectors import BadSelector, parse_selection
from sundog_operator.ports import CONFIG_MAP, POD, SECRET, Ref

ON, OFF = {"x": "1", "y": "2"}, {"x": "0"}


def change(
    kind: Literal["ADDED", "MODIFIED", "DELETED"], now: Any, before: Any, ref: Ref | None = None
) -> ObjectChange:
    return ObjectChange(1, kind, ref or Ref(CONFIG_MAP, "vision", "a"), b"", now, before)


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (change("ADDED", ON, None), "ADDED"),
        (change("ADDED", OFF, None), None),
        (change("MODIFIED", ON, ON), "MODIFIED"),
        (change("MODIFIED", ON, OFF), "ADDED"),
        (change("MODIFIED", OFF, ON), "DELETED"),
        (change("MODIFIED", OFF, OFF), None),
        (change("DELETED", ON, ON), "DELETED"),
        (change("DELETED", OFF, OFF), None),
        (change("ADDED", ON, None, Ref(POD, "vision", "a")), None),
        (change("ADDED", ON, None, Ref(CONFIG_MAP, "audio", "a")), None),
        (change("ADDED", ON, None, Ref(CONFIG_MAP, "vision", "b")), None),
    ],
)
def test_events_of_a_selection(found: ObjectChange, shown: str | None) -> None:
    assert parse_selection(CONFIG_MAP, "vision", "x=1, y==2", "metadata.name=a").event_type(found) == shown


def test_types_of_secrets_can_be_left_out() -> None:
    chosen = parse_selection(SECRET, None, "", "type!=helm.sh/release.v1,type!=other,metadata.name=a")
    secret = {"metadata": {"name": "a", "namespace": "vision"}, "type": "Opaque"}
    helm = secret | {"type": "helm.sh/release.v1"}
    assert chosen.has(secret)
    assert not chosen.has(helm)
    for obj, shown in ((secret, "ADDED"), (helm, None)):
        made = ObjectChange(1, "ADDED", Ref(SECRET, "vision", "a"), orjson.dumps(obj), {}, None)
        assert chosen.event_type(made) == shown


@pytest.mark.parametrize(
    ("labels", "fields"), [("x", ""), ("x!=1", ""), ("x in (1)", ""), ("", "status.phase=Running"), ("", "type!=x")]
)
def test_an_invalid_selector_is_rejected(labels: str, fields: str) -> None:
    with pytest.raises(BadSelector):
        parse_selection(CONFIG_MAP, None, labels, fields)
