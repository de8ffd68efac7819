"""The nodes that Karpenter launches for pods with an affinity: it drops required terms first, then preferred ones."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from karpenter_replay import OFFERED, InstanceType, card, launch
from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.api.installation import parse_installation
from sundog_operator.core.kubernetes import node_affinity

SMALL, L4, A10G, A100, A100_LARGE, H100 = (OFFERED[name] for name in list(OFFERED)[1:])
ALL = tuple(OFFERED.values())


def affinity(profiles: str, types: Sequence[str] = (), spot: str = "never", **gpu: Any) -> Any:
    resources = {"gpu": {"count": 1, "type": list(types), **gpu}}
    spec = ModelDeploymentSpec.from_json(
        {"model": {"uri": "file:///m"}, "resources": resources, "scheduling": {"spot": spot}}
    )
    installation = parse_installation(f"gpu: {{profiles: [{profiles}]}}", "test")
    return node_affinity.make_node_affinity(node_affinity.make_demand(spec, installation))


def but(*gone: InstanceType) -> list[InstanceType]:
    return [each for each in ALL if each not in gone]


@pytest.mark.parametrize("profiles", ["karpenter", "gpu-operator, karpenter", "", "gke, eks, karpenter"])
class TestOfAws:
    def test_the_first_type_is_launched_while_it_is_offered(self, profiles: str) -> None:
        assert (launch(affinity(profiles, ["h100", "l4"]), ALL) or ())[:2] == (H100.name, "on-demand")

    def test_the_next_type_is_launched_where_the_first_is_sold_out(self, profiles: str) -> None:
        assert (launch(affinity(profiles, ["h100", "l4"]), but(H100)) or ("",))[0] == L4.name
        three = affinity(profiles, ["h100", "a10g", "l4"])
        assert (launch(three, but(H100)) or ("",))[0] == A10G.name
        assert (launch(three, but(H100, A10G)) or ("",))[0] == L4.name
        assert launch(three, but(H100, A10G, L4)) is None

    def test_on_demand_is_launched_where_preferred_spot_is_sold_out(self, profiles: str) -> None:
        made = affinity(profiles, ["l4"], "prefer")
        assert (launch(made, ALL) or ())[:2] == (L4.name, "spot")
        assert (launch(made, [each.without("spot") for each in ALL]) or ())[:2] == (L4.name, "on-demand")

    def test_a_type_goes_before_spot(self, profiles: str) -> None:
        made = affinity(profiles, ["h100", "l4"], "prefer")
        found = launch(made, [each.without("spot") if each is H100 else each for each in ALL])
        assert (found or ())[:2] == (H100.name, "on-demand")
        assert (launch(made, but(H100)) or ())[:2] == (L4.name, "spot")

    def test_required_and_excluded_spot_is_never_dropped(self, profiles: str) -> None:
        assert (launch(affinity(profiles, ["h100", "l4"], "require"), ALL) or ())[1] == "spot"
        no_spot = [each.without("spot") for each in ALL]
        assert launch(affinity(profiles, ["h100", "l4"], "require"), no_spot) is None
        only_spot = [each.without("on-demand") for each in ALL]
        assert launch(affinity(profiles, ["h100", "l4"], "never"), only_spot) is None

    def test_both_a100_are_told_apart_by_name(self, profiles: str) -> None:
        assert (launch(affinity(profiles, ["a100-80gb"]), ALL) or ("",))[0] == A100_LARGE.name
        assert (launch(affinity(profiles, ["a100-40gb"]), ALL) or ("",))[0] == A100.name
        assert launch(affinity(profiles, ["a100-80gb"]), but(A100_LARGE)) is None
        assert launch(affinity(profiles, ["a100-40gb"]), but(A100)) is None
        both = affinity(profiles, ["a100-80gb", "a100-40gb"])
        assert (launch(both, ALL) or ("",))[0] == A100_LARGE.name
        assert (launch(both, but(A100_LARGE)) or ("",))[0] == A100.name

    def test_an_eighth_of_an_l4_is_no_l4(self, profiles: str) -> None:
        assert launch(affinity(profiles, ["l4"]), [SMALL]) is None

    def test_memory_without_a_type_is_enough(self, profiles: str) -> None:
        found = launch(affinity(profiles, memory="30Gi"), ALL)
        assert (found or ("",))[0] == A100.name
        assert launch(affinity(profiles, memory="100Gi"), ALL) is None


def required(made: Any) -> list[Any]:
    terms: list[Any] = made["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return terms


EIGHT = ("b200", "h200", "h100", "a100-80gb", "a100-40gb", "l40s", "l4", "t4")


@pytest.mark.parametrize(("types", "terms"), [(["h100"], 1), (["h100", "a10g", "l4"], 1), (EIGHT, 8)])
def test_with_the_profile_types_share_a_term_or_have_one_each_and_nothing_is_dropped_for_the_first(
    types: Sequence[str], terms: int
) -> None:
    for spot in ("never", "prefer", "require"):
        made = affinity("karpenter", types, spot, memory="10Gi")
        assert len(required(made)) == terms
        assert len(json.dumps(made, separators=(",", ":"))) < 8_000
        found = launch(made, [card("first", types[0], 190_000)])
        assert found == ("first", "on-demand" if spot == "never" else "spot", 0)


def test_where_each_type_has_a_term_they_are_tried_in_their_order() -> None:
    made = affinity("karpenter", ["h100", "a100-80gb", "a10g", "a100-40gb", "l4"])
    left = list(ALL)
    for expected in (H100, A100_LARGE, A10G, A100, L4):
        assert (launch(made, left) or ("",))[0] == expected.name
        left.remove(expected)
    assert launch(made, left) is None


def test_the_terms_of_every_vendor_alone_end_with_a_key_that_karpenter_does_not_know() -> None:
    """So the order of the terms matters: with another vendor's last, nothing is launched."""
    made = affinity("karpenter, gke", ["h100", "l4"])
    of_nodes = made["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    of_nodes["nodeSelectorTerms"].reverse()
    assert launch(made, but(H100)) is None


def test_a_typed_pod_of_another_vendor_launches_its_own_card() -> None:
    gaudi = card("dl1.24xlarge", "gaudi-hl-205", 32768)
    assert (launch(affinity("karpenter", ["gaudi"], vendor="gaudi", memory="30Gi"), [*ALL, gaudi]) or ())[
        0
    ] == gaudi.name
