"""How long a request may be at the edges."""

from typing import Any

import pytest

from sundog_operator.core.planner.trial_status import request_deadline_s


@pytest.mark.parametrize(
    ("split", "seconds"),
    [
        (None, 30.0),
        ({"requestTimeoutSeconds": 10.0}, 10.0),
        ({"requestTimeoutSeconds": 10.0, "queue": {"timeoutSeconds": 5.0}}, 15.0),
        ({"requestTimeoutSeconds": 10.0, "queue": {"timeoutSeconds": 5.0}, "coldStartSeconds": 120.0}, 130.0),
        ({"requestTimeoutSeconds": 10.0, "queue": {"timeoutSeconds": 5.0}, "coldStartSeconds": 2.0}, 15.0),
    ],
)
def test_a_request_may_wait_for_the_first_replica_too(split: dict[str, Any] | None, seconds: float) -> None:
    assert request_deadline_s(split) == seconds
