"""The reading of the chart's roles, by which the cluster's tests tell whether a right is used."""

import pytest

from charting import service_account, values
from charting.service_account import Grant, unused
from real_kubernetes.audit import Right, Use

LIST, PATCH = Right("list", "secrets"), Right("patch", "secrets")
EDGE = "sundog-edge"
FIXED = {EDGE}


def used(right: Right, name: str = "") -> Use:
    return Use(right, "vision", name)


def test_a_grant_with_a_name_is_another_than_one_without() -> None:
    held = service_account.granted(values("smallest"))
    assert Grant(LIST, EDGE) in held
    assert Grant(LIST) not in held
    assert [str(Grant(LIST, EDGE)), str(Grant(LIST))] == ["list secrets sundog-edge", "list secrets"]


@pytest.mark.extended
def test_the_switch_for_secrets_adds_the_grants_without_a_name_and_no_other() -> None:
    given = values("smallest")
    watching = {**given, "installation": {**given["installation"], "watchSecrets": True}}
    added = service_account.granted(watching) - service_account.granted(given)
    assert added == {Grant(LIST), Grant(Right("watch", "secrets"))}


@pytest.mark.parametrize(
    ("held", "uses", "left"),
    [
        ({Grant(PATCH, EDGE)}, [used(PATCH, EDGE)], set()),
        ({Grant(PATCH, EDGE)}, [used(PATCH, "keys")], {Grant(PATCH, EDGE)}),
        ({Grant(PATCH, EDGE)}, [used(LIST, EDGE)], {Grant(PATCH, EDGE)}),
        ({Grant(PATCH, EDGE), Grant(PATCH, "gone")}, [used(PATCH, EDGE)], {Grant(PATCH, "gone")}),
        ({Grant(PATCH)}, [used(PATCH, "keys")], set()),
        ({Grant(LIST)}, [used(LIST)], set()),
        # Had the role named it, it would do.
        ({Grant(PATCH)}, [used(PATCH, EDGE)], {Grant(PATCH)}),
        ({Grant(PATCH), Grant(PATCH, "keys")}, [used(PATCH, "keys")], {Grant(PATCH)}),
        ({Grant(PATCH), Grant(PATCH, "keys")}, [used(PATCH, "keys"), used(PATCH, "more")], set()),
        # A list of one object is bound by its name; a list of all is not.
        ({Grant(LIST), Grant(LIST, EDGE)}, [used(LIST, EDGE)], {Grant(LIST)}),
        ({Grant(LIST), Grant(LIST, EDGE)}, [used(LIST)], {Grant(LIST, EDGE)}),
    ],
)
def test_which_grants_no_use_needed(held: set[Grant], uses: list[Use], left: set[Grant]) -> None:
    assert unused(held, uses, FIXED) == left
