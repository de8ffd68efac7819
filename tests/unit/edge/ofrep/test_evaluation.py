"""The arm of a unit, as OFREP answers it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_documents import arm_fields, header_unit, service_fields
from sundog_edge.ofrep.evaluation import EvaluationError, evaluate_flag, evaluate_flags, flag_keys
from sundog_edge.split.assignment import BUCKET_COUNT, unit_bucket
from sundog_edge.split.document import Service

HEADER = header_unit()
EXPERIMENT = {"stable": [[2000, 10_000]], "control": [[0, 1000]], "wide": [[1000, 2000]]}


def service(ranges: dict[str, list[list[int]]], **changes: Any) -> Service:
    arms = [
        arm_fields(f"digits-r{number}", name, number, ranges=own)
        for number, (name, own) in enumerate(ranges.items(), 7)
    ]
    own = {"hosts": ["digits.vision.svc"], "unit": HEADER, "epoch": 3, "experiment": "wide-or-narrow"}
    return Service.model_validate(service_fields(*arms, **{**own, **changes}))


def body(unit: Any) -> bytes:
    return json.dumps({"context": {"targetingKey": unit, "country": "fi"}}).encode()


def unit_in(ranges: list[list[int]]) -> str:
    return next(
        f"u{n}" for n in range(10_000) if any(start <= unit_bucket("salt", b"u%d" % n) < end for start, end in ranges)
    )


@st.composite
def splits(draw: st.DrawFn) -> dict[str, list[list[int]]]:
    """Ranges of 1 to 11 arms that cover every bucket once."""
    names = [f"a{number}" for number in range(draw(st.integers(1, 11)))]
    cuts = sorted(draw(st.sets(st.integers(1, BUCKET_COUNT - 1), max_size=40)))
    ranges: dict[str, list[list[int]]] = {name: [] for name in names}
    for start, end in zip([0, *cuts], [*cuts, BUCKET_COUNT], strict=True):
        ranges[draw(st.sampled_from(names))].append([start, end])
    return ranges


salts = st.from_regex(r"[A-Za-z0-9._-]{1,63}", fullmatch=True)
units = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda text: text.strip(" \t"))
kinds = st.sampled_from(
    [
        HEADER,
        {"kind": "cookie", "name": "sid"},
        {"kind": "jsonPath", "name": "$.id"},
        {"kind": "jwtClaim", "name": "sub"},
    ]
)


@given(splits(), salts, st.lists(units, min_size=1, max_size=20), kinds)
def test_a_unit_is_in_the_arm_that_haproxys_rule_gives_it(
    ranges: dict[str, list[list[int]]], salt: str, named: list[str], unit: dict[str, str]
) -> None:
    """`tests/integration/edge` compares HAProxy with the same buckets."""
    split = service(ranges, salt=salt, unit=unit)
    revisions = {arm.name: arm.revision for arm in split.arms}
    for each in named:
        seen = each.strip(" \t") if unit is HEADER else each
        bucket = unit_bucket(salt, seen.encode())
        (arm,) = (name for name, own in ranges.items() if any(start <= bucket < end for start, end in own))
        found = evaluate_flag(split, "digits", body(each))
        assert found["value"] == found["variant"] == arm
        assert found["metadata"]["revision"] == revisions[arm]


@given(st.lists(units, min_size=1, max_size=20))
def test_a_ramp_moves_units_in_one_direction_alone(named: list[str]) -> None:
    on_canary: set[str] = set()
    for epoch, end in enumerate((0, 100, 2500, 9999, 10_000)):
        ranges = {"stable": [[end, 10_000]] if end < 10_000 else [], "canary": [[0, end]] if end else []}
        split = service(ranges, epoch=epoch)
        found = {each: evaluate_flag(split, "digits", body(each)) for each in named}
        now = {each for each, flag in found.items() if flag["variant"] == "canary"}
        assert on_canary <= now
        assert {flag["metadata"]["epoch"] for flag in found.values()} == {epoch}
        on_canary = now
    assert on_canary == {*named}


@pytest.mark.parametrize(
    ("arm", "reason", "is_in"), [("stable", "DEFAULT", False), ("control", "SPLIT", True), ("wide", "SPLIT", True)]
)
def test_units_outside_the_exposure_have_the_default(arm: str, reason: str, is_in: bool) -> None:
    split = service(EXPERIMENT)
    for key in ("digits", "wide-or-narrow"):
        assert evaluate_flag(split, key, body(unit_in(EXPERIMENT[arm]))) == {
            "key": key,
            "reason": reason,
            "variant": arm,
            "value": arm,
            "metadata": {
                "experiment": "wide-or-narrow",
                "revision": 7 + list(EXPERIMENT).index(arm),
                "epoch": 3,
                "inExperiment": is_in,
            },
        }


def test_both_arms_of_a_rollout_are_in_it_and_without_one_the_answer_is_static() -> None:
    rollout = service({"stable": [[2500, 10_000]], "canary": [[0, 2500]]}, experiment="digits-r8")
    for unit in (unit_in([[2500, 10_000]]), unit_in([[0, 2500]])):
        found = evaluate_flag(rollout, "digits-r8", body(unit))
        assert (found["reason"], found["metadata"]["inExperiment"]) == ("SPLIT", True)
    alone = service({"stable": [[0, 10_000]], "canary": []}, experiment="")
    assert evaluate_flag(alone, "digits", body("ada")) == {
        "key": "digits",
        "reason": "STATIC",
        "variant": "stable",
        "value": "stable",
        "metadata": {"revision": 7, "epoch": 3, "inExperiment": False},
    }


def test_an_arm_that_the_request_chooses_holds_and_is_not_in_the_experiment() -> None:
    split = service(EXPERIMENT)
    found = evaluate_flag(split, "digits", body(unit_in(EXPERIMENT["control"])), "wide")
    assert (found["variant"], found["reason"], found["metadata"]["inExperiment"]) == ("wide", "TARGETING_MATCH", False)
    # HAProxy may have had an earlier document.
    gone = evaluate_flag(split, "digits", body(unit_in(EXPERIMENT["control"])), "narrow")
    assert (gone["variant"], gone["reason"]) == ("control", "SPLIT")


def test_all_flags_of_a_service() -> None:
    split = service(EXPERIMENT)
    asked = body("ada")
    assert evaluate_flags(split, asked) == {"flags": [evaluate_flag(split, key, asked) for key in flag_keys(split)]}
    assert flag_keys(split) == ("digits", "wide-or-narrow")
    assert (
        flag_keys(service(EXPERIMENT, experiment="digits"))
        == flag_keys(service(EXPERIMENT, experiment=""))
        == ("digits",)
    )


NO_KEY = "context.targetingKey is missing; expected the value of the header x-user-id, as a string"


@pytest.mark.parametrize(
    ("sent", "changes", "status", "code", "details"),
    [
        (b"{}", {}, 400, "TARGETING_KEY_MISSING", NO_KEY),
        (b'{"context":{}}', {}, 400, "TARGETING_KEY_MISSING", NO_KEY),
        (body(None), {}, 400, "TARGETING_KEY_MISSING", NO_KEY),
        (body(""), {}, 400, "TARGETING_KEY_MISSING", NO_KEY),
        (body(" \t"), {}, 400, "TARGETING_KEY_MISSING", NO_KEY),
        (
            body(7),
            {"unit": {"kind": "jsonPath", "name": "$.user.id"}},
            400,
            "INVALID_CONTEXT",
            "context.targetingKey: found a number; expected the value at $.user.id of the body, as a string",
        ),
        (b'{"context":[]}', {}, 400, "INVALID_CONTEXT", "context: found a list; expected an object"),
        (b"", {}, 400, "PARSE_ERROR", "the body is not JSON: "),
        (b'{"context":{"targetingKey":"\\ud800"}}', {}, 400, "PARSE_ERROR", "the body is not JSON: "),
        (b"[" * 60_000, {}, 400, "PARSE_ERROR", "the body is not JSON: "),
        (b"null", {}, 400, "PARSE_ERROR", "the body is null; expected an object"),
        (body("ada"), {"unit": {"kind": "request"}}, 400, "INVALID_CONTEXT", "each request is its own unit here"),
        (body("ada"), {"reveal": False}, 403, "GENERAL", "this service does not reveal its arms (endpoint.reveal)"),
        (body("ada"), {"arms": []}, 503, "GENERAL", "the service is not ready yet"),
    ],
)
def test_what_cannot_be_evaluated(sent: bytes, changes: dict[str, Any], status: int, code: str, details: str) -> None:
    split = service(EXPERIMENT, **changes)
    for evaluate, key in (
        (lambda: evaluate_flag(split, "digits", sent), "digits"),
        (lambda: evaluate_flags(split, sent), None),
    ):
        with pytest.raises(EvaluationError) as caught:
            evaluate()
        assert (caught.value.status, caught.value.code) == (status, code)
        assert caught.value.details.startswith(details)
        document = caught.value.document(key)
        assert document == ({} if key is None else {"key": key}) | {
            "errorCode": code,
            "errorDetails": caught.value.details,
        }


def test_another_key_is_no_flag() -> None:
    with pytest.raises(EvaluationError, match="expected digits or wide-or-narrow") as caught:
        evaluate_flag(service(EXPERIMENT), "narrow", body("ada"))
    assert (caught.value.status, caught.value.code) == (404, "FLAG_NOT_FOUND")


def test_a_service_that_hides_its_arms_names_no_experiment() -> None:
    with pytest.raises(EvaluationError) as caught:
        evaluate_flag(service(EXPERIMENT, reveal=False), "narrow", body("ada"))
    assert (caught.value.status, caught.value.code) == (403, "GENERAL")
