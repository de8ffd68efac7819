"""An API server that breaks watches, forgets, refuses, or is away: the process lives on and finds out what it missed."""

from typing import Any

from fake_cluster.operator_process import wait_until
from sundog_operator.errors import DependencyError, Forbidden


def test_watches_that_break_and_histories_that_are_forgotten(memory_api: Any) -> None:
    api, server = memory_api, memory_api.memory
    with api.operator("a") as operator:
        wait_until(operator.leads, "an operator that leads", alive=operator)
        for replicas in (1, 2, 3):
            server.call(lambda: server.store.drop_watches())
            server.call(lambda: server.store.compact())
            api.apply(replicas)
            wait_until(api.reconciled, "a reconciled ModelDeployment", alive=operator)
        assert operator.get("/healthz")[0] == 200


def test_an_api_server_that_refuses_everything_for_a_while(memory_api: Any) -> None:
    api, server = memory_api, memory_api.memory
    with api.operator("a") as operator:
        wait_until(operator.leads, "an operator that leads", alive=operator)

        def refuse(verb: str, ref: Any) -> Exception | None:
            # All but the Lease, which would end the lead.
            return DependencyError("overloaded") if ref.kind.kind != "Lease" and refusing else None

        refusing = True
        server.call(setattr, server.store, "faults", refuse)
        server.call(lambda: server.store.drop_watches())
        wait_until(
            lambda: (
                operator.metric("rest_client_requests_total", code="503") > 0
                or any("503" in line["message"] or "overloaded" in line["message"] for line in operator.lines())
            ),
            "a request that was refused",
            alive=operator,
        )
        refusing = False
        api.apply(1)
        wait_until(api.reconciled, "a reconciled ModelDeployment", alive=operator)
        assert operator.get("/healthz")[0] == 200


def test_a_namespace_that_went_with_its_roles_holds_up_no_other(memory_api: Any) -> None:
    api, server = memory_api, memory_api.memory
    refused: set[str] = set()

    def refuse(_: str, ref: Any) -> Exception | None:
        if ref.namespace == "gone":
            refused.add(ref.kind.plural)
        return Forbidden("no role") if ref.namespace == "gone" else None

    server.call(setattr, server.store, "faults", refuse)
    with api.operator("a", beside=("gone",)) as operator:
        wait_until(operator.leads, "an operator that leads", alive=operator)
        api.apply(1)
        wait_until(api.reconciled, "a reconciled ModelDeployment", alive=operator)
        assert operator.get("/readyz")[0] == 200
        assert operator.get("/healthz")[0] == 200
        assert "modeldeployments" in refused


def test_away_for_longer_than_a_lease(api: Any) -> None:
    """Who led stops writing and ends, for the kubelet to start again; who followed lives, and leads afterwards."""
    with api.operator("a") as first:
        wait_until(first.leads, "an operator that leads", alive=first)
        with api.operator("b") as second:
            wait_until(lambda: second.get("/readyz")[0] == 200, "a follower that is ready", alive=second)
            with api.away():
                wait_until(lambda: first.process.poll() is not None, "the end of the one that led")
                assert first.process.returncode == 4
                assert second.get("/healthz")[0] == 200, "liveness is not about the API server"
            wait_until(second.leads, "the follower that leads", alive=second)
            api.apply(1)
            wait_until(api.reconciled, "a reconciled ModelDeployment", alive=second)


def test_started_before_the_api_server(memory_api: Any) -> None:
    api = memory_api
    with api.memory.away(), api.operator("a") as operator:
        assert operator.get("/healthz")[0] == 200
        assert operator.get("/readyz")[0] == 503
        assert operator.process.poll() is None
    with api.operator("b") as operator:
        wait_until(operator.leads, "an operator that leads", alive=operator)
