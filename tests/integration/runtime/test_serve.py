"""The model server in real Ray Serve: what the edge and the operator see of it."""

import asyncio
import contextlib
import json
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.torch
import tritonclient.grpc
import tritonclient.http
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("empty_serve")]

ROW = [0.5, -1.0, 2.0, 0.25]


def running(ray: Any, application: dict[str, Any]) -> None:
    """Serve this application alone, and wait until it runs."""
    ray.put({"applications": [application]})
    ray.wait_running(application["name"])


def replica_of(ray: Any, name: str) -> str:
    """The one replica's `host:port`."""
    [address] = eventually(lambda: ray.replicas(name), f"a replica of {name}")
    return str(address)


def log_of(ray: Any, name: str) -> str:
    """The log of the application's newest replica."""
    logs = (ray.directory / "session_latest" / "logs" / "serve").glob(f"replica_{name}_*.log")
    return max(logs, key=lambda path: path.stat().st_mtime_ns).read_text()


def failure(ray: Any, name: str) -> tuple[str, list[str]]:
    """The application's own message and the `sundog:` lines of its deployment, once Serve has given up."""
    eventually(lambda: ray.application(name).get("status") == "DEPLOY_FAILED", f"{name} DEPLOY_FAILED")
    state = ray.application(name)
    text = "\n".join([state["message"], *(each["message"] for each in state["deployments"].values())])
    return state["message"], [line for line in text.splitlines() if line.startswith("sundog: ")]


def test_a_replica_answers_below_its_prefix(ray_serve: Any, model: Path, application: Any) -> None:
    running(ray_serve, application("digits-r8", model))
    replica = replica_of(ray_serve, "digits-r8")
    for address in (replica, ray_serve.fallback):
        with httpx.Client(base_url=f"http://{address}", timeout=PATIENCE_S) as client:
            assert client.get("/-/routes").json() == {"/digits-r8.app": "digits-r8"}
            assert client.get("/-/healthz").text == "success"
            for path in ("/digits-r8.app", "/digits-r8.app/"):
                answer = client.post(path, json={"inputs": [ROW]})
                assert answer.status_code == 200, answer.text
                assert [len(row) for row in answer.json()["outputs"]] == [3]
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": ROW}
            by_protocol = client.post("/digits-r8.app/v2/models/digits/infer", json={"inputs": [tensor]})
            assert by_protocol.json()["outputs"][0]["data"] == answer.json()["outputs"][0]
            assert client.get("/digits-r8.app/v2/health/ready").json() == {"ready": True}
            assert client.get("/digits-r8.appx").status_code == 404
            wrong = client.post("/digits-r8.app", json={"inputs": [[1]]}, headers={"x-request-id": "find-me"})
            assert wrong.status_code == 400
            assert wrong.headers["content-type"] == "application/problem+json"
            assert wrong.json()["requestId"] == "find-me"
            assert wrong.headers["x-request-id"] == "find-me"
    log = log_of(ray_serve, "digits-r8")
    assert f"format auto: found model.safetensors, which is safetensors in {model}" in log
    assert "warm-up: 4 requests in" in log


SPEAKING = """
import logging
import sys

print("printed at import")
logging.getLogger("net").info("logged at import")
silent = Net.forward


def forward(self, x):
    print("printed in a request")
    sys.stderr.write("written in a request\\n")
    logging.getLogger("net").info("logged in a request")
    return silent(self, x)


Net.forward = forward
"""


def test_a_replica_reports_itself(ray_serve: Any, model: Path, application: Any) -> None:
    """Phases of the start, JSON lines, what its model prints and logs, and counts at the port that Prometheus scrapes."""
    with (model / "net.py").open("a") as code:
        code.write(SPEAKING)
    running(ray_serve, application("digits-r8", model))
    url = f"http://{replica_of(ray_serve, 'digits-r8')}/digits-r8.app"
    phases = httpx.get(f"{url}/-/startup", timeout=PATIENCE_S).json()["phases"]
    assert list(phases) == ["download", "load", "warmup"]
    for number in range(3):
        asked = httpx.post(url, json={"inputs": [ROW]}, headers={"x-request-id": f"asked-{number}"}, timeout=PATIENCE_S)
        assert asked.status_code == 200
    lines = [json.loads(line) for line in log_of(ray_serve, "digits-r8").splitlines() if line.startswith("{")]
    said = [(line["logger"], line["message"]) for line in lines if "logger" in line]
    assert said[:2] == [("stdout", "printed at import"), ("net", "logged at import")]
    # Lines are in the file before the answer is sent, and nothing is logged of a request itself.
    assert [(line["logger"], line["message"]) for line in lines if line.get("request_id") == "asked-2"] == [
        ("stdout", "printed in a request"),
        ("stderr", "written in a request"),
        ("net", "logged in a request"),
    ]
    [started] = [line for line in lines if line["message"].startswith("started: ")]
    assert (started["service"], started["revision"], started["level"]) == ("digits", 8, "info")

    def exported() -> dict[tuple[str, str], float]:
        text = httpx.get(f"http://{ray_serve.metrics}/metrics", timeout=PATIENCE_S).text
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = sample.labels
                if sample.name.startswith("ray_sundog_runtime_") and labels.get("service") == "digits":
                    assert labels["revision"] == "8"
                    more = labels.get("end") or labels.get("le") or labels.get("phase") or ""
                    found[sample.name.removeprefix("ray_sundog_runtime_"), more] = sample.value
        return found

    def all_there() -> bool:
        found = exported()
        return found.get(("requests_total", "ok"), 0) >= 3 and ("startup_seconds", "load") in found

    eventually(all_there, "exported metrics")
    found = exported()
    # Three predictions; what asks about the server, such as /-/startup, is none.
    assert found["request_seconds_count_total", ""] == found["request_seconds_bucket_total", "+Inf"] == 3
    assert found["startup_seconds", "load"] == pytest.approx(phases["load"], abs=0.001)


def samples_of(ray: Any) -> dict[tuple[str, str], float]:
    """What Ray exports, by name and application or service: the sums over all other labels."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(httpx.get(f"http://{ray.metrics}/metrics", timeout=PATIENCE_S).text):
        for sample in family.samples:
            of = sample.labels.get("application") or sample.labels.get("service") or ""
            key = (sample.name.removeprefix("ray_"), of)
            found[key] = found.get(key, 0) + sample.value
    return found


def test_small_requests_are_answered_at_once_and_serve_counts_them(
    ray_serve: Any, model: Path, application: Any
) -> None:
    """The way into Serve's server still fits the Serve that is installed; what is malformed there harms nobody."""
    running(ray_serve, application("digits-r8", model))
    replica = replica_of(ray_serve, "digits-r8")
    host, port = replica.split(":")
    asked = 0
    with httpx.Client(base_url=f"http://{replica}", timeout=PATIENCE_S) as client:

        def some_at_once() -> bool:
            """Whether the model was quick for 20 requests; a machine with other work makes it slow now and then."""
            nonlocal asked
            for _ in range(30):
                answer = client.post("/digits-r8.app", json={"inputs": [ROW]}, headers={"x-request-id": f"n-{asked}"})
                assert (answer.status_code, answer.headers["x-request-id"]) == (200, f"n-{asked}")
                asked += 1
                with socket.create_connection((host, int(port))) as other:
                    other.sendall(b"POST /digits-r8.app HTTP/1.1\r\ncontent-length: x\r\n\r\n")
                    assert other.makefile("rb").readline() == b"HTTP/1.1 400 Bad Request\r\n"
            return samples_of(ray_serve).get(("sundog_runtime_requests_at_once_total", "digits"), 0) >= 20

        eventually(some_at_once, "20 requests answered at once")
    assert "fast path enabled" in log_of(ray_serve, "digits-r8")

    def counted() -> bool:
        found = samples_of(ray_serve)
        names = ("serve_num_http_requests_total", "serve_http_request_latency_ms_count")
        return all(found.get((name, "digits-r8"), 0) >= asked for name in names)

    eventually(counted, f"{asked} requests counted by Serve")


LATE_IF_LARGE = """
import pathlib, time, torch

HERE = pathlib.Path(__file__).parent

class Net(torch.nn.Module):
    def forward(self, x):
        if len(x) > 4096:
            (HERE / "large").touch()
            while not (HERE / "gate").exists():
                time.sleep(0.01)
        return x[:1].sum(1)
"""


async def test_serves_limit_holds_for_requests_that_could_be_answered_at_once(
    ray_serve: Any, tmp_path: Path, application: Any
) -> None:
    """While the only slot is taken, a small request waits in Serve's queue; Serve drains before it ends the replica."""
    (tmp_path / "net.py").write_text(LATE_IF_LARGE)
    (tmp_path / "model.yaml").write_text("inputs:\n- {name: x, dtype: float32, shape: [-1, 4]}\n")
    safetensors.torch.save_file({}, tmp_path / "model.safetensors")
    document = application("late-r1", tmp_path)
    document["deployments"][0]["max_ongoing_requests"] = 1
    running(ray_serve, document)
    replica = replica_of(ray_serve, "late-r1")
    async with httpx.AsyncClient(base_url=f"http://{replica}", timeout=PATIENCE_S) as client:
        for _ in range(40):
            assert (await client.post("/late-r1.app", json={"inputs": [ROW]})).json() == {"outputs": [1.75]}
        large = asyncio.create_task(client.post("/late-r1.app", json={"inputs": [ROW] * 20_000}))
        await asyncio.to_thread(eventually, (tmp_path / "large").exists, "the large request at work")
        small = asyncio.create_task(client.post("/late-r1.app", json={"inputs": [ROW]}))
        for _ in range(20):
            assert (await client.get("/-/healthz")).text == "success"
        assert not large.done()
        assert not small.done()
        await asyncio.to_thread(
            eventually,
            lambda: samples_of(ray_serve).get(("serve_replica_processing_queries", "late-r1")) == 1,
            "one request at work",
        )
        ray_serve.put({"applications": []})
        await asyncio.to_thread(
            eventually,
            lambda: httpx.get(f"http://{replica}/-/healthz", timeout=PATIENCE_S).status_code == 503,
            "a replica that drains",
        )
        (tmp_path / "gate").touch()
        assert (await large).json() == (await small).json() == {"outputs": [1.75]}


STREAMING = """
class Predictor:
    def load(self, path, config):
        self.closed = path / "closed"

    def predict(self, batch):
        try:
            for number in range(int(batch[0])):
                yield number
            if batch[0] == 2:
                raise ValueError("no more")
        finally:
            self.closed.touch()
"""


def test_streams_through_serve(ray_serve: Any, tmp_path: Path, application: Any) -> None:
    (tmp_path / "predictor.py").write_text(STREAMING)
    running(ray_serve, application("stream-r1", tmp_path, "predictor:Predictor"))
    with httpx.Client(
        base_url=f"http://{replica_of(ray_serve, 'stream-r1')}/stream-r1.app", timeout=PATIENCE_S
    ) as client:
        whole = client.post("", json={"inputs": [3]}, headers={"accept": "text/event-stream"})
        assert whole.text == "".join(f'data: {{"outputs":{number}}}\n\n' for number in range(3))
        with client.stream("POST", "", json={"inputs": [2]}) as answer:
            following = answer.iter_lines()
            lines = [json.loads(next(following)) for _ in range(3)]
            with pytest.raises(httpx.RemoteProtocolError):
                next(following)
        assert [line.get("outputs") for line in lines] == [0, 1, None]
        assert lines[2]["error"]["code"] == "ModelError"
        (tmp_path / "closed").unlink()
        with client.stream("POST", "", json={"inputs": [10**9]}) as answer:
            assert next(answer.iter_lines()) == '{"outputs":0}'
            assert not (tmp_path / "closed").exists()
        eventually((tmp_path / "closed").exists, "the generator of a client that left to be closed")


def by_edge(seconds: float) -> dict[str, str]:
    """What an edge sets of a request with so much time."""
    return {"x-sundog-timeout-seconds": str(seconds), "x-request-disconnect-disabled": "?1"}


@pytest.mark.parametrize("headers", [{}, by_edge(60)], ids=["past the edge", "by an edge"])
def test_a_body_over_the_limit_gets_its_answer_and_the_connection_lives(
    ray_serve: Any, model: Path, application: Any, headers: dict[str, str]
) -> None:
    limited = application("digits-r8", model, user_config={"maxRequestBytes": 1000})
    running(ray_serve, limited)
    replica = replica_of(ray_serve, "digits-r8")

    def pieces() -> Iterator[bytes]:
        yield from (b" " * 65_536 for _ in range(100))

    with httpx.Client(base_url=f"http://{replica}", headers=headers, timeout=PATIENCE_S) as client:
        for body in (b" " * 6_553_600, pieces()):
            answer = client.post("/digits-r8.app", content=body)
            assert (answer.status_code, answer.json()["code"]) == (413, "BodyTooLarge")
            assert "connection" not in answer.headers
            assert client.post("/digits-r8.app", json={"inputs": [ROW]}).status_code == 200


@pytest.mark.parametrize(("path", "status"), [("", 408), ("/nothing", 404)], ids=["late", "answered"])
def test_a_body_that_comes_drop_by_drop_ends_with_its_request_s_time(
    ray_serve: Any, model: Path, application: Any, path: str, status: int
) -> None:
    running(ray_serve, application("digits-r8", model))
    host, port = replica_of(ray_serve, "digits-r8").split(":")
    lines = [f"POST /digits-r8.app{path} HTTP/1.1", "host: a", "content-length: 90000"]
    lines += [f"{name}: {value}" for name, value in by_edge(1).items()]
    answer = b""
    # A reset is an end, too.
    with (
        socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + b" " * 20_000)
        for _ in range(400):
            if select.select([connection], [], [], 0.05)[0]:
                if not (piece := connection.recv(65_536)):
                    break
                answer += piece
            connection.sendall(b" ")
        else:
            pytest.fail(f"the connection is open after {answer!r}")
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer


def test_a_failed_start_says_why(ray_serve: Any, model: Path, application: Any) -> None:
    expected = {
        "lost-r1": "sundog: ModelNotFound: /nothing/here: No such file or directory",
        "false-r1": f"sundog: DigestMismatch: {model} has the digest sha256:",
        "nut-r1": "sundog: EntrypointMissing: entrypoint 'net:Nut': module 'net' has no attribute 'Nut'",
    }
    ray_serve.put(
        {
            "applications": [
                application("lost-r1", Path("/nothing/here")),
                application("false-r1", model, digest="sha256:" + "0" * 64),
                application("nut-r1", model, "net:Nut"),
            ]
        }
    )
    for name, line in expected.items():
        _, lines = failure(ray_serve, name)
        assert len(lines) == 1, lines
        assert lines[0].startswith(line)


def test_arguments_of_another_version_fail_the_build(ray_serve: Any, model: Path, application: Any) -> None:
    document = application("digits-r9", model)
    document["args"]["version"] = 2
    ray_serve.put({"applications": [document]})
    message, lines = failure(ray_serve, "digits-r9")
    assert lines == ["sundog: LoadFailed: args.version: 2; expected 1"]
    assert lines[0] in message


def test_a_bad_revision_leaves_the_good_one_alone(ray_serve: Any, model: Path, application: Any) -> None:
    good = application("digits-r8", model)
    running(ray_serve, good)
    replica = replica_of(ray_serve, "digits-r8")
    ray_serve.put({"applications": [good, application("digits-r9", Path("/nothing/here"))]})
    failure(ray_serve, "digits-r9")
    assert replica_of(ray_serve, "digits-r8") == replica
    assert httpx.post(f"http://{replica}/digits-r8.app", json={"inputs": [ROW]}, timeout=PATIENCE_S).status_code == 200


SETTABLE = """
class Predictor:
    def load(self, path, config):
        self.answer = None

    def predict(self, batch):
        return self.answer

    def configure(self, user_config):
        self.answer = user_config["answer"]
"""


async def ask_until(client: httpx.AsyncClient, url: str, wanted: Any, answers: list[Any]) -> None:
    """One closed-loop client: asks, checks every answer, until it got the wanted one."""
    while True:
        answer = await client.post(url, json={"inputs": [1]})
        assert answer.status_code == 200, answer.text
        answers.append(answer.json()["outputs"])
        if answers[-1] == wanted:
            return


async def test_user_config_changes_in_place_without_losing_a_request(
    ray_serve: Any, tmp_path: Path, application: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "predictor.py").write_text(SETTABLE)

    def document(answer: str) -> dict[str, Any]:
        return application("set-r1", tmp_path, "predictor:Predictor", {"userConfig": {"answer": answer}})

    running(ray_serve, document("old"))
    before = ray_serve.application("set-r1")["deployments"]["Model"]["replicas"]
    url = f"http://{replica_of(ray_serve, 'set-r1')}/set-r1.app"
    answers: list[list[Any]] = [[] for _ in range(8)]
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client, asyncio.timeout(PATIENCE_S):
        loops = [asyncio.create_task(ask_until(client, url, "new", each)) for each in answers]
        await asyncio.to_thread(eventually, lambda: all(answers), "an answer to each client")
        await asyncio.to_thread(ray_serve.put, {"applications": [document("new")]})
        await asyncio.gather(*loops)
    for each in answers:
        assert each == ["old"] * (len(each) - 1) + ["new"]
    ray_serve.wait_running("set-r1")
    after = ray_serve.application("set-r1")["deployments"]["Model"]["replicas"]
    assert [each["replica_id"] for each in after] == [each["replica_id"] for each in before]

    wrong = document("new")
    wrong["deployments"][0]["user_config"] = {"maxRequestBytes": -1}
    ray_serve.put({"applications": [wrong]})
    eventually(lambda: "user_config rejected" in log_of(ray_serve, "set-r1"), "the log line")
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        assert (await client.post(url, json={"inputs": [1]})).json() == {"outputs": "new"}


BUSY = """
import pathlib, time

class Predictor:
    def load(self, path, config):
        self.gate = path / "gate"

    def predict(self, batch):
        with open(self.gate.with_name("seen"), "a") as seen:
            seen.write(f"{batch}\\n")
        while not self.gate.exists():
            time.sleep(0.01)
        return "done"
"""


async def test_health_checks_are_answered_while_the_model_is_busy(
    ray_serve: Any, tmp_path: Path, application: Any
) -> None:
    (tmp_path / "predictor.py").write_text(BUSY)
    running(ray_serve, application("busy-r1", tmp_path, "predictor:Predictor"))
    replica = replica_of(ray_serve, "busy-r1")
    async with httpx.AsyncClient(base_url=f"http://{replica}", timeout=PATIENCE_S) as client:
        waiting = [asyncio.create_task(client.post("/busy-r1.app", json={"inputs": [1]})) for _ in range(4)]
        for _ in range(20):
            assert (await client.get("/-/routes")).json() == {"/busy-r1.app": "busy-r1"}
            assert (await client.get("/busy-r1.app/v2/health/live")).status_code == 200
        assert not any(task.done() for task in waiting)
        abandoned = asyncio.create_task(client.post("/busy-r1.app", json={"inputs": [1]}))
        await asyncio.sleep(0)
        abandoned.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await abandoned
        late = await client.post("/busy-r1.app", json={"inputs": [1]}, headers={"x-request-timeout-seconds": "0.5"})
        assert (late.status_code, late.json()["code"]) == (504, "DeadlineExceeded")
        (tmp_path / "gate").touch()
        for answer in await asyncio.gather(*waiting):
            assert answer.json() == {"outputs": "done"}


async def test_what_an_edge_sent_for_a_client_that_left_is_never_computed(
    ray_serve: Any, tmp_path: Path, application: Any
) -> None:
    """Serve does not look whether clients are gone: the model server does, before their turn comes."""
    (tmp_path / "predictor.py").write_text(BUSY)
    running(ray_serve, application("busy-r1", tmp_path, "predictor:Predictor"))
    host, port = replica_of(ray_serve, "busy-r1").split(":")
    (seen := tmp_path / "seen").unlink(missing_ok=True)
    path, headers = "/busy-r1.app", by_edge(60)
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=PATIENCE_S) as client:
        first = asyncio.create_task(client.post(path, json={"inputs": [1]}, headers=headers))
        await asyncio.to_thread(eventually, seen.exists, "the model at work")
        for number in (71, 72, 73):
            request = client.build_request("POST", path, json={"inputs": [number]}, headers=headers)
            leave(host, int(port), request)
        # Whoever answers this has turned to what those who left sent before.
        for _ in range(20):
            assert (await client.get(f"{path}/v2/health/live")).status_code == 200
        stays = asyncio.create_task(client.post(path, json={"inputs": [9]}, headers=headers))
        for _ in range(20):
            assert (await client.get(f"{path}/v2/health/live")).status_code == 200
        (tmp_path / "gate").touch()
        assert [answer.status_code for answer in await asyncio.gather(first, stays)] == [200, 200]
    computed = seen.read_text()
    assert "9" in computed
    assert "7" not in computed


def leave(host: str, port: int, request: httpx.Request) -> None:
    """Send a whole request and close the connection."""
    head = f"{request.method} {request.url.raw_path.decode()} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection((host, port)) as connection:
        connection.sendall(head.encode() + b"\r\n" + request.content)


def test_clients_of_the_protocol_through_serve(ray_serve: Any, model: Path, application: Any) -> None:
    """REST with binary tensors, and gRPC, on a replica's own ports and through Serve's proxies."""
    running(ray_serve, application("digits-r8", model))
    [rpc] = eventually(lambda: ray_serve.replicas("digits-r8", "gRPC"), "a gRPC port")
    rows = np.array([ROW, ROW], np.float32)
    found = []
    for address in (replica_of(ray_serve, "digits-r8"), ray_serve.fallback):
        with tritonclient.http.InferenceServerClient(f"{address}/digits-r8.app") as client:
            tensor = tritonclient.http.InferInput("x", rows.shape, "FP32")
            tensor.set_data_from_numpy(rows)
            found.append(client.infer("digits", [tensor]).as_numpy("outputs"))
            assert client.get_model_metadata("digits")["inputs"] == [
                {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
            ]
    proxy = f"127.0.0.1:{ray_serve.grpc_options['port']}"
    ours = {"application": "digits-r8", "request_id": "find-me"}
    for address, headers in ((rpc, {}), (rpc, ours), (proxy, ours)):
        with tritonclient.grpc.InferenceServerClient(address) as client:
            tensor = tritonclient.grpc.InferInput("x", rows.shape, "FP32")
            tensor.set_data_from_numpy(rows)
            found.append(client.infer("digits", [tensor], headers=headers).as_numpy("outputs"))
            assert client.is_server_ready(headers=headers)
            for name, status in (("other", "NOT_FOUND"), ("digits", "INVALID_ARGUMENT")):
                with pytest.raises(InferenceServerException) as caught:
                    client.infer(name, [tensor, tensor], headers=headers)
                assert caught.value.status() == f"StatusCode.{status}"
    for each in found:
        np.testing.assert_array_equal(each, found[0])
    with tritonclient.grpc.InferenceServerClient(rpc) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.is_server_live(headers={"application": "digits-r7"})
        assert caught.value.status() == "StatusCode.NOT_FOUND"
    log = log_of(ray_serve, "digits-r8")
    assert "Traceback" not in log
