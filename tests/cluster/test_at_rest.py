"""Nothing to do, nothing written: idle ModelDeployments, the operator as a process, and the API server's own account of its requests.

`make bench` looks for five minutes, with the intervals as they are shipped.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from charting import service_account
from charting.lifecycle import MDEP, TEAM, Life, beginning, model_deployment
from measuring import fleet
from real_kubernetes import audit
from real_kubernetes.cluster import Cluster
from sundog_operator.adapters.cached.kubernetes import OPTIONAL, SCOPES

COUNT = 50
RESYNC_S = 10
ROUNDS = 2
PASSES = "controller_runtime_reconcile_total"


@pytest.fixture
def life(api_server: Cluster, tmp_path: Path) -> Iterator[Life]:
    if api_server.instance is None:
        pytest.skip("only the API server of these tests writes down what accounts do")
    with beginning(api_server, tmp_path, "--resync-seconds", str(RESYNC_S)) as begun:
        yield begun


def test_idle_model_deployments_are_written_to_by_nobody(life: Life, api_server: Cluster) -> None:
    kubectl, asked = api_server.kubectl, Asked(api_server)
    kubectl.apply(*(model_deployment(1, f"idle-{index}") for index in range(COUNT)))
    life.until(lambda: all(map(fleet.is_ready, kubectl.get("-n", TEAM, MDEP)["items"])), "all of them Ready")
    rounds(life, asked, 2)
    before = asked.writes()
    rounds(life, asked, ROUNDS)
    assert asked.writes() - before == Counter()


class Asked:
    """What the operator's account asked for, by the audit log."""

    def __init__(self, api_server: Cluster) -> None:
        assert api_server.instance is not None
        self._log = audit.log(api_server.instance)

    def all(self) -> Counter[str]:
        return Counter(str(use.right) for use in audit.requests(self._log, service_account.ACCOUNT))

    def writes(self) -> Counter[str]:
        return fleet.writes(self.all())

    def lists(self) -> int:
        """How often each kind that is kept in memory was listed, at the least."""
        found = self.all()
        kinds = SCOPES.keys() - OPTIONAL
        return min(found[f"list {kind.plural}.{kind.group}".rstrip(".")] for kind in kinds)


def rounds(life: Life, asked: Asked, count: int) -> None:
    """Until so many of every interval are over: looks at all that rests, and lists of each kind."""
    operator = life.operator
    looks, lists = operator.metric(PASSES, controller="resting") + count, asked.lists() + count
    life.until(lambda: operator.metric(PASSES, controller="resting") >= looks, f"{count} looks at all that rests")
    life.until(lambda: asked.lists() >= lists, f"{count} lists of everything")
