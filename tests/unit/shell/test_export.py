"""`sundog experiment export`, from an edge's response to files."""

import builtins
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from doubles.cluster import NAMESPACE, Cluster
from doubles.outcomes import MemoryOutcomes, section
from loopback_server import serve_in_thread
from sundog_edge.feedback import export
from sundog_edge.feedback.export import ExportedExposure, ExportedOutcome
from sundog_operator.adapters.memory_kubernetes.kubeconfig import write_kubeconfig
from sundog_operator.ports import EXPERIMENT, POD, Object, Ref
from sundog_operator.shell.exit_codes import ExitCode

NAME = "wide-or-narrow"
SUCCESS = {"success": [{"name": "conversion", "feedback": "converted"}]}
EXPERIMENT_OBJECT: Object = {
    "apiVersion": EXPERIMENT.api_version,
    "kind": EXPERIMENT.kind,
    "metadata": {"name": NAME, "namespace": NAMESPACE, "uid": "uid-1"},
    "spec": {"modelDeployment": "digits", "arms": [{"name": "wide"}], "metrics": SUCCESS},
}


def pod(address: str, port: int, *, ready: bool = True) -> Object:
    labels = {"app.kubernetes.io/name": "sundog-edge"}
    ports = [{"name": "agent", "containerPort": port}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "sundog-edge-0", "namespace": NAMESPACE, "labels": labels},
        "spec": {"containers": [{"name": "agent", "image": "edge", "ports": ports}]},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


@dataclass
class Edge:
    """An edge's agent on loopback, and an API server with a route to another agent."""

    store: MemoryOutcomes = field(default_factory=MemoryOutcomes)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def app(self) -> web.Application:
        async def experiment(_: web.Request) -> web.Response:
            return web.json_response(EXPERIMENT_OBJECT)

        async def pods(_: web.Request) -> web.Response:
            listed = {"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": [pod("10.0.0.9", 9090)]}
            return web.json_response(listed)

        answer = export.make_export_handler(lambda: self.store, section)
        app, path = web.Application(), "/feedback/{service}/{attempt}/export"
        app.router.add_get(path, answer)
        objects = f"/apis/{EXPERIMENT.api_version}/namespaces/{NAMESPACE}"
        app.router.add_get(f"{objects}/experiments/{NAME}", experiment)
        app.router.add_get(f"/api/v1/namespaces/{NAMESPACE}/pods", pods)
        app.router.add_get(f"/api/v1/namespaces/{NAMESPACE}/pods/sundog-edge-0:9090/proxy{path}", answer)
        return app


@pytest.fixture
def edge() -> Iterator[Edge]:
    made = Edge()
    with serve_in_thread(made.app()) as made.port:
        yield made


def fill(store: MemoryOutcomes, units: int = 3) -> None:
    store.exposed = [ExportedExposure(unit, 1_750_000_000_000_000 + unit, 1, "control") for unit in range(units)]
    store.told = [
        ExportedOutcome(unit, "converted", 1, "control", 1_500_000, 1_750_000_000 + unit, '{"plan":"pro"}' * (unit > 0))
        for unit in range(0, units, 2)
    ]


@pytest.fixture
def exported(on_server: Any, server: Any, edge: Edge, tmp_path: Path) -> Callable[..., Any]:
    """Run the command with an edge pod, and an Experiment with the given metrics."""

    def call(*arguments: str, ready: bool = True, **metrics: Any) -> Any:
        async def make(cluster: Cluster) -> None:
            spec = {**EXPERIMENT_OBJECT["spec"], "metrics": metrics or SUCCESS}
            meta = {"name": NAME, "namespace": NAMESPACE}
            await cluster.kube.apply({**EXPERIMENT_OBJECT, "metadata": meta, "spec": spec})
            await cluster.kube.delete(Ref(POD, NAMESPACE, "sundog-edge-0"))
            await cluster.kube.create(pod("127.0.0.1", edge.port))
            status = pod("127.0.0.1", edge.port, ready=ready)["status"]
            await cluster.set_status(Ref(POD, NAMESPACE, "sundog-edge-0"), status)

        server.do(make)
        return on_server("experiment", "export", NAME, "--to", str(tmp_path / "out"), *arguments)

    return call


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_of_it_is_written_to_three_files(exported: Any, edge: Edge, tmp_path: Path) -> None:
    fill(edge.store)
    done = exported()
    assert (done.code, done.err) == (0, "")
    assert done.out == f"wrote 3 exposures and 2 outcomes to {tmp_path}/out\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "exposures.jsonl",
        "outcomes.jsonl",
        "plan.json",
    ]
    plan = json.loads((tmp_path / "out/plan.json").read_text())
    evaluation = {
        "feature_flag.key": NAME,
        "feature_flag.set.id": f"{NAMESPACE}/digits",
        "feature_flag.provider.name": "sundog",
        "feature_flag.version": f"{plan['experiment']['uid']}/1",
        "feature_flag.context.id": "0000000000000002",
        "feature_flag.result.variant": "control",
        "feature_flag.result.reason": "split",
    }
    assert rows(tmp_path / "out/exposures.jsonl")[2] == {
        "version": 2,
        "unit": "0000000000000002",
        "time": "2025-06-15T15:06:40.000002Z",
        "epoch": 1,
        "arm": "control",
        **evaluation,
    }
    assert rows(tmp_path / "out/outcomes.jsonl")[0]["properties"] == {}
    assert rows(tmp_path / "out/outcomes.jsonl")[1] == {
        "version": 2,
        "unit": "0000000000000002",
        "metric": "converted",
        "value": 1.5,
        "time": "2025-06-15T15:06:42Z",
        "epoch": 1,
        "arm": "control",
        "properties": {"plan": "pro"},
        **evaluation,
    }
    assert (plan["version"], plan["complete"]) == (2, True)
    assert plan["feedback"]["squares"] == 2**70
    assert plan["spec"]["metrics"]["success"][0]["feedback"] == "converted"
    (asked,) = {*edge.store.asked}
    assert asked == f"digits/{plan['experiment']['uid']}"


def test_an_export_replaces_the_one_before(exported: Any, edge: Edge, tmp_path: Path) -> None:
    fill(edge.store, 3)
    exported()
    fill(edge.store, 1)
    exported()
    assert len(rows(tmp_path / "out/exposures.jsonl")) == 1


@pytest.mark.extended
def test_parquet_has_the_same(exported: Any, edge: Edge, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    fill(edge.store, 50_001)
    assert exported("--format", "parquet").code == 0
    exported("--format", "jsonl")
    table = parquet.read_table(tmp_path / "out/exposures.parquet")
    assert table.column_names == [*rows(tmp_path / "out/exposures.jsonl")[0]]
    assert table.schema.metadata == {b"sundog.version": b"2"}
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"
    found = [{**row, "time": row["time"].isoformat().replace("+00:00", "Z")} for row in table.to_pylist()]
    assert found[1:] == rows(tmp_path / "out/exposures.jsonl")[1:]
    outcomes = parquet.read_table(tmp_path / "out/outcomes.parquet")
    assert outcomes.num_rows == 25_001
    assert outcomes["value"].to_pylist()[0] == 1.5


def test_without_pyarrow_parquet_is_refused_with_the_way_to_it(
    exported: Any, edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def lacking(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacking)
    done = exported("--format", "parquet")
    assert (done.code, edge.store.asked) == (ExitCode.REFUSED, [])
    assert "format parquet: pyarrow is not installed. Run pip install 'sundog[parquet]'" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"grows": 1}, "more outcomes arrived meanwhile"),
        ({"events": 5}, "the edge keeps only the newest 2 of 5 outcomes"),
    ],
)
def test_a_part_is_written_and_shown(
    exported: Any, edge: Edge, tmp_path: Path, change: dict[str, int], why: str
) -> None:
    fill(edge.store)
    vars(edge.store).update(change)
    done = exported()
    assert done.code == 0
    assert why in done.err
    assert json.loads((tmp_path / "out/plan.json").read_text())["complete"] is False


@pytest.mark.parametrize(("after", "why"), [(0, "status 503: the store is away"), (1, "broke off")])
def test_a_store_that_goes_away_leaves_no_file(exported: Any, edge: Edge, tmp_path: Path, after: int, why: str) -> None:
    fill(edge.store)
    edge.store.fails_after = after
    done = exported()
    assert done.code == ExitCode.UNREACHABLE
    assert why in done.err
    assert not (tmp_path / "out").exists()


def test_an_experiment_without_outcomes_has_nothing_to_export(exported: Any) -> None:
    done = exported(guardrails=[{"metric": "errorRate"}])
    assert done.code == ExitCode.REFUSED
    assert f"Experiment {NAMESPACE}/{NAME} has no metric of outcomes" in done.err


def test_without_a_ready_edge_it_says_so(exported: Any) -> None:
    done = exported(ready=False)
    assert done.code == ExitCode.UNREACHABLE
    assert f"namespace {NAMESPACE} has no ready edge" in done.err


def test_an_edge_can_be_named(exported: Any, edge: Edge, tmp_path: Path) -> None:
    fill(edge.store)
    assert exported("--url", edge.url, ready=False).code == 0
    assert exported("--url", "http://127.0.0.1:1", ready=False).code == ExitCode.UNREACHABLE
    for url in ("nowhere", "ftp://127.0.0.1:1", "127.0.0.1:1", "http://[::1"):
        done = exported("--url", url, ready=False)
        assert done.code == ExitCode.USAGE
        assert done.err.startswith(f"error: --url {url!r}: expected an address such as http://HOST:PORT")


def test_from_outside_of_a_cluster_it_goes_through_the_api_server(sundog: Any, edge: Edge, tmp_path: Path) -> None:
    fill(edge.store)
    write_kubeconfig(tmp_path / "kubeconfig", edge.url, "let me in", namespace=NAMESPACE)
    place = tmp_path / "out"
    done = sundog("experiment", "export", NAME, "--to", f"file://{place}", "--kubeconfig", str(tmp_path / "kubeconfig"))
    assert (done.code, done.err) == (0, "")
    assert len(rows(place / "exposures.jsonl")) == 3
    assert edge.store.asked == ["digits/uid-1", "digits/uid-1"]


@pytest.mark.parametrize("place", ["ftp://host/x", "s3:///x", "pvc://claim/x", "file://host/x"])
def test_a_place_of_another_kind_is_refused(exported: Any, edge: Edge, place: str) -> None:
    done = exported("--to", place)
    assert done.code == ExitCode.REFUSED
    assert place in done.err or "no bucket name" in done.err


def test_a_directory_that_cannot_be_written_is_named(exported: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    done = exported()
    assert done.code == ExitCode.REFUSED
    assert done.err.startswith(f"error: {tmp_path}/out: cannot be written")
