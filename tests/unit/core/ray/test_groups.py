"""The list of worker groups: the autoscaler's fields stay, and no group goes before its pods."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sundog_operator.core.ray.groups import GroupState, find_grown_groups, make_group, merge_groups

TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "ray-worker", "image": "i"}]}}


def group(name: str, fewest: int = 1, most: int = 1, template: dict[str, Any] = TEMPLATE) -> dict[str, Any]:
    return make_group(name, (fewest, most), {"CPU": "1", "memory": "1000"}, template)


def stored(name: str, replicas: int = 1, fewest: int = 1, most: int = 1, **more: Any) -> dict[str, Any]:
    # The form that KubeRay's defaults give it.
    return {**group(name, fewest, most), "replicas": replicas, "numOfHosts": 1, "scaleStrategy": {}, **more}


def seen(
    pods: dict[str, int] | None = None, deployed: tuple[str, ...] | None = (), running: dict[str, int] | None = None
) -> GroupState:
    named = {group: [f"{group}-{number}" for number in range(count)] for group, count in (pods or {}).items()}
    told = running if running is not None else pods or {}
    return GroupState(named, told, None if deployed is None else frozenset(deployed))


def test_a_new_group_is_appended_with_its_fewest_pods() -> None:
    before = [stored("digits-r7", 3, 1, 4)]
    after = merge_groups(before, [group("digits-r8", 2, 2), group("digits-r7", 1, 4)], seen({"digits-r7": 3}))
    assert [each["groupName"] for each in after] == ["digits-r7", "digits-r8"]
    assert after[0] == before[0]
    assert after[1]["replicas"] == 2
    assert after[1]["labels"] == {"sundog.dev/application": "digits-r8"}


def test_what_the_autoscaler_wrote_is_carried_over_when_a_group_changes() -> None:
    strategy = {"workersToDelete": ["digits-r7-worker-x"]}
    changed = {**TEMPLATE, "spec": {"containers": [{"name": "ray-worker", "image": "other"}]}}
    before = [stored("digits-r7", 3, 1, 4, scaleStrategy=strategy)]
    (after,) = merge_groups(before, [group("digits-r7", 2, 5, changed)], seen({"digits-r7": 3}))
    assert (after["replicas"], after["scaleStrategy"]) == (3, strategy)
    assert (after["minReplicas"], after["maxReplicas"]) == (2, 5)
    assert after["template"]["spec"] == changed["spec"]


def test_a_setting_that_is_taken_away_is_noticed() -> None:
    selected = {**TEMPLATE, "spec": {**TEMPLATE["spec"], "nodeSelector": {"disk": "fast"}}}
    before = [{**group("digits-r7", template=selected), "replicas": 1}]
    (after,) = merge_groups(before, [group("digits-r7")], seen({"digits-r7": 1}))
    assert "nodeSelector" not in after["template"]["spec"]


def test_the_ceiling_comes_down_behind_the_pods() -> None:
    (shrinking,) = merge_groups([stored("digits-r7", 5, 5, 5)], [group("digits-r7", 2, 2)], seen({"digits-r7": 5}))
    assert (shrinking["minReplicas"], shrinking["maxReplicas"], shrinking["replicas"]) == (2, 5, 5)
    (later,) = merge_groups([{**shrinking, "replicas": 2}], [group("digits-r7", 2, 2)], seen({"digits-r7": 2}))
    assert (later["maxReplicas"], later["replicas"]) == (2, 2)


def test_pods_that_never_ran_do_not_hold_the_ceiling_up() -> None:
    unplaced = seen({"digits-r7": 5}, running={"digits-r7": 1})
    (after,) = merge_groups([stored("digits-r7", 5, 5, 5)], [group("digits-r7", 2, 2)], unplaced)
    assert (after["maxReplicas"], after["replicas"]) == (2, 5)


def test_groups_with_more_or_larger_pods_have_grown() -> None:
    before = [stored("same", 3, 1, 4), stored("fewer", 3, 2, 4), stored("max", 3, 1, 4), stored("size"), stored("gone")]
    larger = {**stored("size"), "resources": {"CPU": "2", "memory": "1000"}}
    other = {**stored("same", 3, 1, 4), "template": {}}
    after = [other, stored("fewer", 1, 0, 2), stored("max", 3, 1, 5), larger, stored("new")]
    assert find_grown_groups(before, after) == {"max", "size", "new"}
    assert find_grown_groups([stored("replicas")], [stored("replicas", 2)]) == {"replicas"}
    assert find_grown_groups([stored("fewest", 2, 1, 2)], [stored("fewest", 2, 2, 2)]) == {"fewest"}


def test_a_group_goes_in_steps() -> None:
    before = [stored("digits-r7", 1, scaleStrategy={"workersToDelete": ["digits-r7-9"]})]
    assert merge_groups(before, [], seen({"digits-r7": 1}, deployed=None)) == before
    assert merge_groups(before, [], seen({"digits-r7": 1}, deployed=("digits-r7",))) == before
    (leaving,) = merge_groups(before, [], seen({"digits-r7": 1}))
    assert (leaving["minReplicas"], leaving["replicas"]) == (0, 0)
    assert leaving["scaleStrategy"] == {"workersToDelete": ["digits-r7-9", "digits-r7-0"]}
    assert merge_groups([leaving], [], seen({"digits-r7": 1})) == [leaving]
    assert merge_groups([leaving], [], seen()) == []


def test_a_group_without_pods_goes_a_pass_after_it_was_scaled_to_zero() -> None:
    (empty,) = merge_groups([stored("digits-r7", 1)], [], seen())
    assert (empty["minReplicas"], empty["replicas"]) == (0, 0)
    assert merge_groups([empty], [], seen()) == []


NAMES = [f"digits-r{number}" for number in range(1, 7)]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]], GroupState]:
    present = draw(st.lists(st.sampled_from(NAMES), unique=True))
    wanted = draw(st.lists(st.sampled_from(NAMES), unique=True))
    bounds = st.tuples(st.integers(1, 4), st.integers(0, 4)).map(lambda pair: (pair[0], sum(pair)))
    before = []
    for name in present:
        fewest, most = draw(bounds)
        least = draw(st.sampled_from((0, fewest)))
        before.append(stored(name, draw(st.integers(0, 6)), least, most, scaleStrategy={"workersToDelete": [name]}))
    after = [group(name, *draw(bounds)) for name in wanted]
    pods = draw(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 6)))
    deployed = draw(st.none() | st.frozensets(st.sampled_from(NAMES)))
    named = {group: [f"{group}-{number}" for number in range(count)] for group, count in pods.items()}
    return before, after, GroupState(named, pods, deployed)


@given(worlds())
def test_nothing_is_lost(world: tuple[list[dict[str, Any]], list[dict[str, Any]], GroupState]) -> None:
    before, wanted, there = world
    merged = merge_groups(before, wanted, there)
    by_name = {each["groupName"]: each for each in merged}
    names = [each["groupName"] for each in wanted]
    assert len(by_name) == len(merged)
    assert set(names) <= set(by_name)
    kept = [each["groupName"] for each in before if each["groupName"] in by_name]
    assert [each["groupName"] for each in merged[: len(kept)]] == kept
    for old in before:
        name = old["groupName"]
        pods = len(there.pods.get(name, ()))
        if name not in by_name:
            assert name not in names
            assert pods == 0
            assert (old["replicas"], old["minReplicas"]) == (0, 0)
            assert there.deployed is not None
            assert name not in there.deployed
            continue
        new = by_name[name]
        goes = name not in names and there.deployed is not None and name not in there.deployed
        assert new["scaleStrategy"] == old["scaleStrategy"] or (goes and pods)
        assert set(old["scaleStrategy"]["workersToDelete"]) <= set(new["scaleStrategy"]["workersToDelete"])
        assert new["replicas"] == (0 if goes else old["replicas"])
        if name in names:
            assert new["maxReplicas"] >= min(pods, old["maxReplicas"])
    # A pass over its own result only continues the removal.
    again = merge_groups(merged, wanted, there)
    assert [each for each in again if each["groupName"] in names] == [
        each for each in merged if each["groupName"] in names
    ]
