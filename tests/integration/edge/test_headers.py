"""Requests that go to an arm by their headers, whatever its weight."""

import json

import pytest

from sundog_edge.split.assignment import unit_bucket

pytestmark = pytest.mark.haproxy

HOSTILE = "a b|c,d\"e' %[src] \\x $HOME {f} #g !h"
MATCH = {"arm": "canary", "headers": {"x-team": HOSTILE, "x-canary": "true"}}
BOTH = {"x-team": HOSTILE, "x-canary": "true"}


@pytest.fixture(autouse=True)
def no_replicas(serve):
    """One is told one's arm all the same."""
    serve.targets = {"digits-r7": [], "digits-r8": []}


def service(edge, *, weight: int = 0, name: str = "digits", **changes):
    """A candidate with a weight in percent."""
    end = weight * 100
    arms = [
        edge.arm("stable", f"{name}-r7", [[end, 10_000]]),
        edge.arm("canary", f"{name}-r8", [[0, end]] if end else []),
    ]
    return edge.service(name, arms, **{"match": MATCH, **changes})


async def arm(edge, headers, path: str = "/digits/", **asked) -> str:
    response = await edge.get(path, headers=headers, **asked)
    return response.headers["x-sundog-arm"]


async def test_all_headers_with_exactly_their_values_lead_to_an_arm_without_weight(edge):
    await edge.apply(service(edge))
    assert await arm(edge, BOTH) == "canary"
    assert await arm(edge, {**BOTH, "x-other": "1"}) == "canary"
    assert await arm(edge, {"X-Team": f"  {HOSTILE} ", "X-CANARY": "true"}) == "canary"
    others = [
        {},
        {"x-canary": "true"},
        {"x-team": HOSTILE},
        {**BOTH, "x-canary": "True"},
        {**BOTH, "x-canary": "true,true"},
        {**BOTH, "x-canary": ""},
        {**BOTH, "x-team": HOSTILE[:-1]},
        {**BOTH, "x-team": "x" * 9000},
    ]
    assert [await arm(edge, headers) for headers in others] == ["stable"] * len(others)


async def test_the_first_of_two_lines_counts(edge):
    await edge.apply(service(edge, match={"arm": "canary", "headers": {"x-canary": "true"}}))
    assert await arm(edge, [("x-canary", "true"), ("x-canary", "false")]) == "canary"
    assert await arm(edge, [("x-canary", "false"), ("x-canary", "true")]) == "stable"


async def test_such_requests_are_counted_apart_and_their_units_are_in_no_sample(edge):
    await edge.apply(service(edge, weight=50, unit={"kind": "header", "name": "x-user-id"}))
    users = [f"u{number}" for number in range(40)]
    for user in users:
        assert await arm(edge, {**BOTH, "x-user-id": user}) == "canary"
        own = "canary" if unit_bucket("digits-salt", user.encode()) < 5000 else "stable"
        assert await arm(edge, {"x-user-id": user}) == own
    rows = (await edge.settled(80))["counters"]
    counted = {(row["origin"], row["arm"]): row["assigned"] for row in rows}
    assert counted[("override", "canary")] == 40
    assert counted[("assigned", "canary")] + counted[("assigned", "stable")] == 40
    (sample,) = (await edge.evidence("detail=units"))["units"]
    assert [n for _, _, n, _ in sample["units"]] == [1] * 40


async def test_the_evidence_says_what_is_in_force_and_nothing_else_leads_there_afterwards(edge):
    await edge.apply(service(edge))
    assert (await edge.evidence())["services"]["digits"]["match"] == MATCH
    other = {"arm": "canary", "headers": {"x-canary": "false"}}
    await edge.apply(service(edge, match=other))
    assert (await edge.evidence())["services"]["digits"]["match"] == other
    assert await arm(edge, BOTH) == "stable"
    assert await arm(edge, {"x-canary": "false"}) == "canary"
    await edge.apply(service(edge, match=None))
    assert "match" not in (await edge.evidence())["services"]["digits"]
    assert await arm(edge, {"x-canary": "false"}) == "stable"


async def test_services_with_headers_of_their_own_do_not_mix(edge, serve):
    serve.targets |= {"words-r7": [], "words-r8": []}
    words = service(edge, name="words", match={"arm": "canary", "headers": {"x-words": "1"}})
    plain = service(edge, name="plain", match=None)
    serve.targets |= {"plain-r7": [], "plain-r8": []}
    await edge.apply(service(edge), words, plain)
    everything = {**BOTH, "x-words": "1"}
    found = [await arm(edge, everything, f"/{name}/") for name in ("digits", "words", "plain")]
    assert found == ["canary", "canary", "stable"]
    assert await arm(edge, BOTH, "/words/") == "stable"
    assert await arm(edge, {"x-words": "1"}) == "stable"


async def test_an_allow_listed_caller_still_chooses(edge):
    callers = {"networks": ["127.0.0.0/8"]}
    override = {"header": "x-pick", "value": "mine", "arm": "stable", "callers": callers}
    await edge.apply(service(edge, overrides=[override]))
    assert await arm(edge, {**BOTH, "x-pick": "mine"}) == "stable"
    assert await arm(edge, {**BOTH, "x-pick": "other"}) == "canary"


async def test_a_header_reaches_the_replica_and_one_with_an_underscore_is_looked_at_before_it_is_taken_away(
    edge, serve, replicas
):
    replica = await replicas("digits-r8")
    serve.targets["digits-r8"] = [replica.address]
    await edge.apply(service(edge, match={"arm": "canary", "headers": {"x-canary": "true", "x_under": "1"}}))
    await edge.up("digits", canary=1)
    response = await edge.get("/digits/", headers={"x-canary": "true", "x_under": "1"}, data=json.dumps({}).encode())
    assert response.status == 200
    seen = {name.lower(): value for name, value in replica.seen[-1]["headers"].items()}
    assert seen["x-canary"] == "true"
    assert "x_under" not in seen
