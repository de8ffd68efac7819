"""Shadow traffic that the split document may not have."""

import re
from typing import Any

import pytest

from split_documents import arms_document
from sundog_edge.split.shadow import Comparator


@pytest.mark.parametrize(
    ("shadow", "message"),
    [
        ({"arm": "a9", "percent": 20}, "names arm 'a9'; expected an arm"),
        ({"arm": "a1", "percent": 0}, "greater than or equal to 1"),
        ({"arm": "a1", "percent": 20, "comparator": {"kind": "code"}}, "'exact', 'tolerance', 'argmax' or 'custom'"),
        ({"arm": "a1", "percent": 20, "comparator": {"kind": "custom"}}, "expected parts with kind custom"),
        ({"arm": "a1", "percent": 20, "comparator": {"path": "outputs"}}, "match pattern"),
        ({"arm": "a1", "percent": 20, "comparator": {"rtol": -1}}, "greater than or equal to 0"),
    ],
    ids=str,
)
def test_an_invalid_shadow_is_refused(shadow, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        arms_document("digits-r7", "digits-r8", shadow=shadow)


@pytest.mark.parametrize(
    "comparator",
    [
        {"kind": "custom"},
        {"kind": "exact", "parts": [{"path": "$.a"}]},
        {"kind": "custom", "parts": [{"kind": "custom", "path": "$.a"}]},
        {"kind": "custom", "parts": [{"path": "$.a"}] * 9},
        {"kind": "custom", "parts": [{"path": "a"}]},
    ],
    ids=str,
)
def test_invalid_parts_are_refused(comparator: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"[Cc]omparator"):
        Comparator.model_validate(comparator)
