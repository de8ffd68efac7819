"""The way back: which revisions were stable, and which of them may return without steps."""

from hypothesis import given
from hypothesis import strategies as st

from sundog_operator.api import Rollout
from sundog_operator.core.planner import rollback_window

ROWS = [
    ("the first revision", (), None, 1, ()),
    ("another one", (), 1, 2, (1,)),
    ("and another", (2, 1), 3, 4, (3, 2, 1)),
    ("back to the one before", (3, 2, 1), 4, 3, (2, 1)),
    ("back over two", (3, 2, 1), 4, 1, ()),
    ("forward again after that", (2, 1), 3, 4, (3, 2, 1)),
    ("the same one once more", (2, 1), 3, 3, (2, 1)),
]


def test_going_back_forgets_what_came_after() -> None:
    for story, before, left, number, after in ROWS:
        assert rollback_window.record_promotion(before, left, number) == after, story


def test_a_bad_one_is_forgotten_alone() -> None:
    assert rollback_window.forget_revision((3, 2, 1), 2) == (3, 1)
    assert rollback_window.forget_revision((3, 1), 2) == (3, 1)


def test_the_window_counts_the_newest_ones() -> None:
    before = (5, 4, 3, 2)
    assert rollback_window.revisions_in_window(Rollout(), before) == ()
    assert rollback_window.revisions_in_window(Rollout.from_json({"rollbackWindow": {}}), before) == (5, 4, 3)
    for revisions in range(6):
        windowed = Rollout.from_json({"rollbackWindow": {"revisions": revisions}})
        assert rollback_window.revisions_in_window(windowed, before) == before[:revisions]


@given(st.lists(st.integers(1, 40), max_size=60))
def test_what_is_remembered_is_bounded_and_holds_nothing_twice_nor_what_serves(switches: list[int]) -> None:
    before: tuple[int, ...] = ()
    stable: int | None = None
    for number in switches:
        before, stable = rollback_window.record_promotion(before, stable, number), number
        assert len(before) == len(set(before)) <= rollback_window.MAX_STABLE_HISTORY
        assert stable not in before
