"""REST and gRPC of real replicas in real Serve through a real edge, as clients of the protocol see it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from real_edge import Edge, arm, running_edge, service
from waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

APPLICATION = "digits-r8"
ROWS = np.array([[0.5, -1.0, 2.0, 0.25], [1.0, 0.0, -0.5, 3.0]], np.float32)
BY_NAME = {"sundog-service": "digits"}


@pytest.fixture
def edge(ray_serve: Any, model: Path, application: Any) -> Iterator[Edge]:
    """An edge with one healthy replica behind it."""
    ray_serve.put({"applications": [application(APPLICATION, model)]})
    ray_serve.wait_running(APPLICATION)
    with running_edge(ray_serve.dashboard, ray_serve.fallback) as made:
        made.apply([service("digits", [arm("stable", APPLICATION, f"/{APPLICATION}.app", [(0, 10_000)])])])
        yield made
    ray_serve.put({"applications": []})
    eventually(lambda: not ray_serve.get()["applications"], "no applications")


def test_grpc_and_rest_give_the_same_answers_and_are_counted_alike(ray_serve: Any, edge: Edge) -> None:
    address = f"127.0.0.1:{edge.http_port}"
    with tritonclient.http.InferenceServerClient(f"{address}/digits") as client:
        tensor = tritonclient.http.InferInput("x", ROWS.shape, "FP32")
        tensor.set_data_from_numpy(ROWS)
        by_rest = client.infer("digits", [tensor]).as_numpy("outputs")
    with tritonclient.grpc.InferenceServerClient(address) as client:
        eventually(lambda: _ready(client), "gRPC through the edge")
        tensor = tritonclient.grpc.InferInput("x", ROWS.shape, "FP32")
        tensor.set_data_from_numpy(ROWS)
        answer = client.infer("digits", [tensor], headers=BY_NAME)
        before = _ends(edge)
        for name, status in (("other", "NOT_FOUND"), ("digits", "INVALID_ARGUMENT")):
            with pytest.raises(InferenceServerException) as caught:
                client.infer(name, [_of_wrong_shape()], headers=BY_NAME)
            assert status in str(caught.value.status())
    np.testing.assert_allclose(answer.as_numpy("outputs"), by_rest, rtol=1e-5)
    eventually(lambda: _ends(edge)["client4xx"] == before["client4xx"] + 2, "two errors of the client")
    assert _ends(edge)["ok"] >= 2
    assert sum(_ends(edge)[end] for end in ("server5xx", "timeout", "truncated", "invalid")) == 0


def test_the_openapi_document_leads_to_what_it_describes(edge: Edge) -> None:
    where = httpx.URL(f"http://127.0.0.1:{edge.http_port}/digits/openapi.json")
    eventually(lambda: httpx.get(where, timeout=PATIENCE_S).status_code == 200, "the document through the edge")
    document = httpx.get(where, timeout=PATIENCE_S).json()
    (server,) = document["servers"]
    root = str(where.join(server["url"])).rstrip("/")
    bodies = {"/": {"inputs": ROWS.tolist()}, "/v2/models/digits/infer": _row_by_protocol()}
    assert bodies.keys() <= document["paths"].keys()
    for path, body in bodies.items():
        answer = httpx.post(root + path, json=body, timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text


def _row_by_protocol() -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": list(ROWS.shape), "data": ROWS.ravel().tolist()}
    return {"inputs": [tensor]}


def test_what_clients_ask_beside_predictions_are_probes(edge: Edge) -> None:
    address = f"127.0.0.1:{edge.http_port}"
    before = _assigned(edge)
    with tritonclient.http.InferenceServerClient(f"{address}/digits") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.get_server_metadata()["name"] == "sundog"
        assert client.get_model_metadata("digits")["inputs"][0]["name"] == "x"
    eventually(lambda: _assigned(edge) == {**before, "probe": before.get("probe", 0) + 5}, "five probes by REST")
    with tritonclient.grpc.InferenceServerClient(address) as client:
        eventually(lambda: _ready(client), "gRPC through the edge")
        before = _assigned(edge)
        assert client.is_server_live(headers=BY_NAME)
        assert client.is_server_ready(headers=BY_NAME)
        assert client.is_model_ready("digits", headers=BY_NAME)
        assert client.get_server_metadata(headers=BY_NAME).name == "sundog"
        assert client.get_model_metadata("digits", headers=BY_NAME).inputs[0].name == "x"
    eventually(lambda: _assigned(edge) == {**before, "probe": before["probe"] + 5}, "five more by gRPC")


def _ready(client: Any) -> bool:
    try:
        return bool(client.is_server_ready(headers=BY_NAME))
    except InferenceServerException:
        return False


def _of_wrong_shape() -> Any:
    tensor = tritonclient.grpc.InferInput("x", (1, 3), "FP32")
    tensor.set_data_from_numpy(ROWS[:1, :3])
    return tensor


def _ends(edge: Edge) -> dict[str, int]:
    rows = [row["ends"] for row in edge.evidence()["counters"] if row["service"] == "digits"]
    return {name: sum(row[name] for row in rows) for name in rows[0]} if rows else {}


def _assigned(edge: Edge) -> dict[str, int]:
    """Requests by origin."""
    found: dict[str, int] = {}
    for row in edge.evidence()["counters"]:
        found[row["origin"]] = found.get(row["origin"], 0) + row["assigned"]
    return found
