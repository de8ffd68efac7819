from typing import Any

import pytest

from sundog_operator.core.edge import salts
from sundog_operator.core.edge.salts import SaltOwner, SaltOwnerKind


def stored(kind: SaltOwnerKind, unit: Any) -> dict[str, Any]:
    spec = {"unit": unit} if kind == "Experiment" else {"rollout": {"unit": unit}}
    return {"metadata": {"name": "digits"}, "spec": spec}


@pytest.mark.parametrize("kind", ["Experiment", "ModelDeployment"])
@pytest.mark.parametrize("source", [{"header": "x-user-id"}, {"cookie": "c"}, {"jsonPath": "$.a"}, {"jwtClaim": "sub"}])
def test_units_that_stay_have_the_salt_of_the_spec(kind: SaltOwnerKind, source: dict[str, str]) -> None:
    assert salts.find_salt_owner(kind, stored(kind, {**source, "salt": "spring"})) == SaltOwner(
        kind, "digits", "spring"
    )


@pytest.mark.parametrize("kind", ["Experiment", "ModelDeployment"])
@pytest.mark.parametrize(
    "unit",
    [
        None,
        {},
        {"salt": "spring"},
        {"request": {}, "salt": "spring"},
        {"header": "x-user-id"},
        {"header": "x-user-id", "salt": ""},
        {"header": "x-user-id", "salt": 5},
        "broken",
    ],
)
def test_without_a_salt_and_of_requests_there_is_nothing_to_share(kind: SaltOwnerKind, unit: Any) -> None:
    assert salts.find_salt_owner(kind, stored(kind, unit)) is None


@pytest.mark.parametrize("spec", [None, {}, {"rollout": None}, {"rollout": "broken"}])
def test_a_spec_that_is_none_fixes_nothing(spec: Any) -> None:
    assert salts.find_salt_owner("ModelDeployment", {"metadata": {"name": "digits"}, "spec": spec}) is None


DIGITS, LETTERS = (SaltOwner("ModelDeployment", name, "spring") for name in ("digits", "letters"))
WIDE, OTHER = SaltOwner("Experiment", "digits", "spring"), SaltOwner("Experiment", "other", "autumn")


@pytest.mark.parametrize(
    ("own", "known", "message"),
    [
        (DIGITS, [DIGITS, LETTERS, OTHER], "spec.rollout.unit.salt: ModelDeployment letters"),
        # An Experiment may have the name of a ModelDeployment.
        (DIGITS, [DIGITS, LETTERS, WIDE], "spec.rollout.unit.salt: Experiment digits"),
        (WIDE, [WIDE, LETTERS, DIGITS], "spec.unit.salt: ModelDeployment digits"),
        (DIGITS, [DIGITS, OTHER], ""),
        (DIGITS, [LETTERS, WIDE], ""),
        (OTHER, [], ""),
    ],
)
def test_the_first_of_those_with_the_same_salt_is_named(own: SaltOwner, known: list[SaltOwner], message: str) -> None:
    wanted = message and f"{message} has the same salt, so both assign units alike; choose another for independent arms"
    assert salts.make_reuse_message(own.kind, own.name, known) == wanted
