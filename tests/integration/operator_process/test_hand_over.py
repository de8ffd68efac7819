"""Two operators: one acts, and when it ends, however it ends, the other does."""

import logging
import signal
import time
from typing import Any

from fake_cluster.operator_process import OperatorProcess, wait_until
from sundog_operator.ports import CONFIG_MAP, CONTROLLER_REVISION, MODEL_DEPLOYMENT
from waiting import PATIENCE_S

log = logging.getLogger(__name__)


def leads(operator: OperatorProcess) -> float:
    return wait_until(operator.leads, "an operator that leads", alive=operator)


def ready(operator: OperatorProcess) -> None:
    wait_until(lambda: operator.get("/readyz")[0] == 200, "an operator that is ready", alive=operator)


def test_one_acts_and_the_other_is_ready_to(api: Any) -> None:
    with api.operator("a") as first:
        leads(first)
        with api.operator("b") as second:
            ready(second)
            api.apply(1)
            wait_until(api.reconciled, "a reconciled ModelDeployment", alive=first)
            assert not second.leads()
            assert second.get("/healthz")[0] == 200
            assert second.metric("rest_client_requests_total", method="PATCH") == 0, "who follows writes nothing"
            assert second.metric("rest_client_requests_total", method="POST") == 0
            wait_until(
                lambda: second.metric("sundog_cached_objects", kind="ModelDeployment") == 1,
                "a warm memory",
                alive=second,
            )


def test_killed_at_once(api: Any) -> None:
    """The Lease runs out: 15 s after the last renewal, and the next try comes within 4.4 s."""
    with api.operator("a") as first, api.operator("b") as second:
        wait_until(lambda: first.leads() or second.leads(), "an operator that leads")
        leader, follower = (first, second) if first.leads() else (second, first)
        api.apply(1)
        wait_until(api.reconciled, "a reconciled ModelDeployment", alive=leader)
        leader.end(signal.SIGKILL)
        killed = time.monotonic()
        leads(follower)
        log.info("hand-over after SIGKILL: %.1f s", time.monotonic() - killed)
        api.apply(2)
        wait_until(api.reconciled, "a ModelDeployment reconciled by the other", alive=follower)
        assert api.holder() in {"a", "b"}


def test_asked_to_end(api: Any) -> None:
    with api.operator("a") as first:
        leads(first)
        with api.operator("b") as second:
            ready(second)
            asked = time.monotonic()
            assert first.end(signal.SIGTERM) == 0
            leads(second)
            log.info("hand-over after SIGTERM: %.1f s", time.monotonic() - asked)
            api.apply(1)
            wait_until(api.reconciled, "a ModelDeployment reconciled by the other", alive=second)
            assert api.holder() == "b"
            messages = [line["message"] for line in first.lines()]
            assert messages[-1] == "stopped as requested"


def test_asked_to_end_it_gives_the_lease_back(api: Any) -> None:
    """With nobody there who would take it: an operator that did not would leave its name in it."""
    with api.operator("a") as operator:
        leads(operator)
        assert api.holder() == "a"
        assert operator.end(signal.SIGTERM) == 0
    left = api.record()
    assert (left["holderIdentity"], left["leaseDurationSeconds"]) == ("", 1)


def test_operators_of_two_leases_in_one_namespace_both_act(memory_api: Any) -> None:
    """As two releases of the chart do, whose ModelDeployments are in different namespaces."""
    with memory_api.operator("a") as first, memory_api.operator("b", lease="blue-operator") as second:
        leads(first)
        leads(second)
        assert memory_api.holder() == "a"


def test_what_only_kopf_would_write_is_nowhere(api: Any) -> None:
    with api.operator("a") as operator:
        leads(operator)
        api.apply(1)
        wait_until(api.reconciled, "a reconciled ModelDeployment", alive=operator)

        async def stored(client: Any) -> list[Any]:
            kinds = (MODEL_DEPLOYMENT, CONTROLLER_REVISION, CONFIG_MAP)
            return [obj for kind in kinds for obj in await client.list(kind, api.namespace)]

        for obj in api.ask(stored):
            meta = obj["metadata"]
            assert not [key for key in meta.get("annotations") or {} if "kopf" in key or "zalando" in key]
            assert not meta.get("finalizers")
        deployment = api.deployment()
        assert deployment["metadata"].get("annotations") in (None, {})
        assert deployment["metadata"]["generation"] == 1


def test_another_in_the_lease_ends_the_process(api: Any) -> None:
    """As after a pause of the machine: somebody else leads meanwhile."""
    with api.operator("a") as operator:
        leads(operator)
        operator.process.send_signal(signal.SIGSTOP)
        try:
            with api.operator("b") as second:
                leads(second)
                operator.process.send_signal(signal.SIGCONT)
                assert operator.process.wait(PATIENCE_S) == 4
                assert second.leads()
                *_, last = operator.lines()
                assert last.get("reason") == "LeadershipLost", last
                assert "no longer held by a" in last["message"]
        finally:
            operator.process.send_signal(signal.SIGCONT)
