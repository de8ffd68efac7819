"""The part of CEL that the operator evaluates. That whole rules agree with an API server is tested in `tests/contract/crds`."""

from typing import Any

import pytest

from sundog_operator.api import Threshold
from sundog_operator.api.schema.cel import compile_rule

CASES: dict[str, tuple[str, Any, bool]] = {
    "not-binds-closer-than-and": ("!self && self", False, False),
    "and-binds-closer-than-or": ("self == 1 || self == 2 && self == 3", 1, True),
    "operators-in-text-stay-text": ("self == 'a || !b'", "a || !b", True),
    "field-that-is-none-is-absent": ("has(self.min)", Threshold(max=1), False),
    "field-with-zero-is-present": ("has(self.min)", Threshold(min=0), True),
    "pattern-matches-inside": ("self.matches('[1-9]')", "0.5", True),
    "pattern-ends-before-no-newline": ("self.matches('^a$')", "a\n", False),
    "dollar-in-brackets-is-itself": ("self.matches('^[^$]+$')", "a$", False),
    "exists-one-of-two-is-false": ("self.exists_one(x, x > 0)", (1, 2), False),
    "filter-keeps-what-holds": ("self.filter(x, x > 0).size() == 2", (1, 0, 2), True),
    "inner-macro-reads-outer-variable": ("self.all(x, self.exists(y, y == x + 1))", (1, 2), False),
    "map-of-entries-sums": ("self.map(k, self[k]).sum() == 100", {"a": 40, "b": 60}, True),
}


@pytest.mark.parametrize(("cel", "value", "expected"), CASES.values(), ids=CASES)
def test_expression(cel: str, value: Any, expected: bool) -> None:
    assert compile_rule(cel)(value) is expected


@pytest.mark.parametrize(
    "cel",
    ["duration(self) > duration('1h')", "self.split('d').size() == 1", "self ? 1 : 2", "1 < self < 3", "self - 1 == 0"],
)
def test_an_expression_beyond_the_known_part_is_an_error(cel: str) -> None:
    with pytest.raises(ValueError, match="expected only tests of fields and lists"):
        compile_rule(cel)
