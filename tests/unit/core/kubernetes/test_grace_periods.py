"""Each layer outlasts the one within it, for every request timeout."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_operator.core.kubernetes import grace_periods

TIMEOUTS = st.integers(1, 86_399_999).map(lambda milliseconds: timedelta(milliseconds=milliseconds))


def service(timeout: timedelta, wait: timedelta = timedelta(seconds=5)) -> dict[str, object]:
    return {
        "requestTimeoutSeconds": timeout.total_seconds(),
        "queue": {"maxRequests": 1, "timeoutSeconds": wait.total_seconds()},
    }


@given(TIMEOUTS, TIMEOUTS)
def test_no_layer_ends_before_the_one_within_it(timeout: timedelta, wait: timedelta) -> None:
    replica, node = grace_periods.replica_grace_s(timeout), grace_periods.node_grace_s(timeout)
    assert timeout.total_seconds() < replica < node < grace_periods.worker_pod_termination_grace_s(timeout)
    # A request that waited for its replica is at the edge for the sum of both.
    assert (timeout + wait).total_seconds() < grace_periods.edge_drain_s(
        [service(timedelta(seconds=1)), service(timeout, wait)]
    )


@given(TIMEOUTS)
def test_a_pods_grace_tells_what_it_was_for(timeout: timedelta) -> None:
    found = grace_periods.request_timeout_of_grace(grace_periods.worker_pod_termination_grace_s(timeout))
    assert grace_periods.worker_pod_termination_grace_s(found) == grace_periods.worker_pod_termination_grace_s(timeout)


@pytest.mark.parametrize(
    ("seconds", "edge"), [(30, 120), (95, 120), (96, 240), (215, 240), (600, 960), (86_400, 122_880)]
)
def test_an_edges_time_to_drain_doubles_so_that_few_changes_make_its_pods_anew(seconds: int, edge: int) -> None:
    assert grace_periods.edge_drain_s([service(timedelta(seconds=seconds))]) == edge
    assert grace_periods.edge_drain_s([]) == 120


@pytest.mark.parametrize(
    ("cold_start_s", "wait_s", "edge"), [(None, 5, 120), (4, 5, 120), (120, 120, 240), (1200, 1200, 1920)]
)
def test_an_edge_has_time_for_a_request_that_waits_for_the_first_replica(
    cold_start_s: float | None, wait_s: float, edge: int
) -> None:
    entry = service(timedelta(seconds=30)) | ({} if cold_start_s is None else {"coldStartSeconds": cold_start_s})
    assert grace_periods.replica_wait_s(entry) == wait_s
    assert grace_periods.edge_drain_s([service(timedelta(seconds=30)), entry]) == edge
