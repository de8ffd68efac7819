"""The history of stable revisions, and the rollback window."""

from hypothesis import given
from hypothesis import strategies as st

from sundog_operator.api import Rollout
from sundog_operator.core.planner.rollout import rollback_window

ROWS = [
    ("the first revision", (), None, 1, ()),
    ("another revision", (), 1, 2, (1,)),
    ("and another", (2, 1), 3, 4, (3, 2, 1)),
    ("back to the one before", (3, 2, 1), 4, 3, (2, 1)),
    ("back over two", (3, 2, 1), 4, 1, ()),
    ("forward again after that", (2, 1), 3, 4, (3, 2, 1)),
    ("the same one once more", (2, 1), 3, 3, (2, 1)),
]


def test_a_rollback_forgets_the_revisions_after_its_target() -> None:
    for story, before, previous, number, after in ROWS:
        assert rollback_window.record_promotion(before, previous, number) == after, story


def test_a_forgotten_revision_leaves_the_others() -> None:
    assert rollback_window.forget_revision((3, 2, 1), 2) == (3, 1)
    assert rollback_window.forget_revision((3, 1), 2) == (3, 1)


def test_the_window_has_the_newest_revisions() -> None:
    before = (5, 4, 3, 2)
    assert rollback_window.revisions_in_window(Rollout(), before) == ()
    assert rollback_window.revisions_in_window(Rollout.from_json({"rollbackWindow": {}}), before) == (5, 4, 3)
    for revisions in range(6):
        windowed = Rollout.from_json({"rollbackWindow": {"revisions": revisions}})
        assert rollback_window.revisions_in_window(windowed, before) == before[:revisions]


@given(st.lists(st.integers(1, 40), max_size=60))
def test_the_history_is_bounded_without_duplicates_or_the_stable_revision(switches: list[int]) -> None:
    before: tuple[int, ...] = ()
    stable: int | None = None
    for number in switches:
        before, stable = rollback_window.record_promotion(before, stable, number), number
        assert len(before) == len(set(before)) <= rollback_window.MAX_STABLE_HISTORY
        assert stable not in before
