"""The maps of a split document."""

import hashlib

import pytest

from split_documents import HOSTILE_VALUE, arms_document, matching_document
from sundog_edge.haproxy.maps import build_maps
from sundog_edge.security.credentials import CallerCredentials
from sundog_edge.split.document import SplitDocument
from sundog_edge.split.layout import Layout, fit_layout


def test_one_value_selects_the_table_and_the_table_has_the_arms():
    wanted = arms_document("digits-r7", "digits-r8", header="X-User", services=2)
    maps = build_maps(wanted, fit_layout(Layout(), wanted))
    table = maps["splits"]["digits"].split("|")[5]
    assert maps["splits"] == {
        "digits": f"salt|header:x-user|2500|3.5|99|{table}|r",
        "empty1": "salt|header:x-user|2500|3.5|99|-|r",
    }
    assert maps["ranges"] == {f"{table}/1": "slot0!digits/att/3/a0/assigned!/digits-r7.app!0!a0!-"}
    assert maps["hosts"] == {"digits.vision.svc": "digits"}
    assert maps["prefixes"] == {"slot0": "/digits-r7.app", "slot1": "/digits-r8.app"}


@pytest.mark.parametrize("changes", [{"epoch": 4}, {"attempt": "other"}, {"name": "x"}], ids=str)
def test_the_name_of_a_table_depends_on_its_content_only(changes):
    def tables(**own) -> set[str]:
        wanted = arms_document("digits-r7", **own)
        return {key.split("/")[0] for key in build_maps(wanted, fit_layout(Layout(), wanted))["ranges"]}

    assert tables() == tables()
    assert tables() == tables(requestTimeoutSeconds=9.0)
    assert not tables() & tables(**changes)


def test_feedback_changes_the_arms_of_its_service_only():
    def maps(**own):
        override = {"header": "x-pick", "value": "v", "arm": "a0", "callers": {"networks": ["10.0.0.0/8"]}}
        wanted = arms_document("digits-r7", header="X-User", overrides=[override], **own)
        return build_maps(wanted, fit_layout(Layout(), wanted), CallerCredentials(signing_key=b"\1\2"))

    plain, taking = maps(), maps(feedback={"metrics": ["m"]})
    (value,), (with_feedback,) = plain["ranges"].values(), taking["ranges"].values()
    assert with_feedback == f"{value}!att~3~a0"
    assert [*maps(feedback={"metrics": ["m"]}, reveal=False)["ranges"].values()] == [f"{value}!att~3~"]
    assert [*taking["overrides"].values()] == [*plain["overrides"].values()], "who chose is not exposed"
    assert [each["splits"]["digits"].split("|")[6] for each in (plain, taking)] == ["ro", "rof"]
    assert (plain["signing"], taking["signing"]) == ({}, {"newest": "AQI="})


def test_matches_look_up_hashes_of_headers():
    wanted = matching_document("x-b", "x-a")
    maps = build_maps(wanted, fit_layout(Layout(), wanted))
    table = maps["splits"]["digits"].split("|")[5]
    digest = hashlib.sha256(HOSTILE_VALUE.encode()).hexdigest()
    assert maps["splits"]["digits"].split("|")[6] == "rh"
    assert maps["matches"] == {
        f"{table}|x-a|{digest}": "+",
        f"{table}|x-b|{digest}": "+",
        f"{table}|2": "slot1!digits/att/3/a1/override!/digits-r8.app!1!a1!-",
    }
    assert {*maps["ranges"]} == {f"{table}/1"}
    assert maps["ranges"][f"{table}/1"].startswith("slot0!digits/att/3/a0/assigned!")


def test_other_headers_give_another_table_and_no_headers_the_earlier_one():
    def table(wanted: SplitDocument) -> str:
        return build_maps(wanted, fit_layout(Layout(), wanted))["splits"]["digits"].split("|")[5]

    tables = {table(matching_document(*headers, arm=arm)) for headers in (["x-a"], ["x-b"]) for arm in ("a0", "a1")}
    assert len(tables) == 4
    assert table(matching_document()) not in tables
    assert table(matching_document()) == table(arms_document("digits-r7", "digits-r8")) == "c5deece6a84e6eee"


def with_thresholds(*us: int | None, **further: int) -> SplitDocument:
    """Two arms that share the buckets, with thresholds of their own and common further ones, and an override for the second."""
    service = arms_document("digits-r7", "digits-r8").model_dump(mode="json")["services"][0]
    for arm, ranges, own in zip(service["arms"], ([[0, 4000]], [[4000, 10_000]]), us, strict=True):
        arm |= {"ranges": ranges, "slowMicroseconds": own, **further}
    callers = {"keys": [], "networks": ["10.0.0.0/8"]}
    return arms_document(
        arms=service["arms"], overrides=[{"header": "x-a", "value": "b", "arm": "a1", "callers": callers}]
    )


def test_an_arms_value_has_its_slow_thresholds_and_another_threshold_gives_another_table():
    def thresholds(*us: int | None, **further: int) -> tuple[str, dict[str, str], dict[str, str]]:
        wanted = with_thresholds(*us, **further)
        maps = build_maps(wanted, fit_layout(Layout(), wanted))
        values = [value.split("!") for value in maps["ranges"].values()]
        (override,) = (value.split("!") for value in maps["overrides"].values())
        table = maps["splits"]["digits"].split("|")[5]
        return table, {name: slow for *_, name, slow in values}, {override[4]: override[5]}

    first, *found = thresholds(100_000, 120_000)
    assert found == [{"a0": "100000", "a1": "120000"}, {"a1": "120000"}]
    second, *found = thresholds(100_000, None)
    assert found == [{"a0": "100000", "a1": "-"}, {"a1": "-"}]
    third, *found = thresholds(100_000, 120_000, slowMicroseconds2=900, slowMicroseconds3=7)
    assert found == [{"a0": "100000,900,7", "a1": "120000,900,7"}, {"a1": "120000,900,7"}]
    assert len({first, second, third}) == 3


def test_an_override_applies_to_every_network_inside_an_allowed_one():
    callers = {"keys": ["ops"], "networks": ["10.0.0.0/8"]}
    wanted = arms_document(
        "digits-r7",
        overrides=[
            {"header": "X-Canary", "value": "yes", "arm": "a0", "callers": callers},
            {"header": "x-canary", "value": "no", "arm": "a0", "callers": {"networks": ["10.1.0.0/16", "fd00::/8"]}},
        ],
    )
    maps = build_maps(wanted, fit_layout(Layout(), wanted))
    *_, table, flags = maps["splits"]["digits"].split("|")
    assert flags == "ro"
    value = "slot0!digits/att/3/a0/override!/digits-r7.app!0!a0!-"
    yes = ("kops", "n10.0.0.0/8", "n10.1.0.0/16")
    no = ("n10.1.0.0/16", "nfd00::/8")
    assert maps["overrides"] == {
        **{f"{table}|x-canary|yes|{caller}": value for caller in yes},
        **{f"{table}|x-canary|no|{caller}": value for caller in no},
    }
    assert set(maps["networks"]) == {"10.0.0.0/8", "10.1.0.0/16", "fd00::/8"}


QUEUE = {"maxRequests": 7, "timeoutSeconds": 5}


def test_only_services_with_a_policy_have_an_entry():
    asked = arms_document(
        "digits-r7",
        auth={"apiKeys": "clients", "jwt": {"jwks": "issuer", "issuer": "https://i/a b", "audience": "d"}},
        rateLimit={"perClient": {"requests": 7, "seconds": 60}, "total": {"requests": 2, "seconds": 3600}},
        queue={"maxRequests": 0, "timeoutSeconds": 1},
    )
    maps = build_maps(asked, fit_layout(Layout(), asked))
    assert maps["policies"] == {"digits": "clients|issuer|https://i/a b|d|7|60|9|2|3600|1800|0"}
    plain = arms_document("digits-r7", queue=QUEUE)
    maps = build_maps(plain, fit_layout(Layout(), plain))
    assert maps["policies"] == {}
    assert maps["queues"] == {"slot0": "7"}


def test_arms_that_share_an_application_share_its_queue():
    asked = arms_document("digits-r7", queue=QUEUE)
    halves = [
        asked.services[0].arms[0].model_copy(update={"name": name, "weight": 45, "ranges": ((start, start + 5000),)})
        for name, start in (("stable", 0), ("control", 5000))
    ]
    service = asked.services[0].model_copy(update={"arms": tuple(halves)})
    shared = asked.model_copy(update={"services": (service,)})
    whole = asked.services[0].queue.share(90)
    assert build_maps(shared, fit_layout(Layout(), shared))["queues"] == {"slot0": str(whole)}
