"""Requests that schemathesis makes from a deployment's own OpenAPI document, good and bad ones, against a running replica."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import sampled_from
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from ports import free_port
from real_local import save_network
from waiting import PATIENCE_S, eventually, patience

EXAMPLES = int(os.environ.get("SUNDOG_FUZZ_RUNS", "1000")) // 40
"""Requests for each operation and model."""

GROWTH_BYTES = 200 << 20
"""More than caches and arenas of an allocator take in the first requests."""

LARGE_BYTES = 1 << 20
LARGE_GROWTH_BYTES = 20 << 20
"""Of forty large bodies, once as many have been there before: half of what a leak of each would take."""

ECHO = """
class Echo:
    def load(self, path, config):
        pass

    def predict(self, batch):
        return batch
"""
STREAM = """
class Stream:
    def load(self, path, config):
        pass

    def predict(self, batch):
        yield batch
        yield batch
"""
DECLARED = """
inputs: [{name: x, dtype: float32, shape: [-1, 4]}]
outputs: [{name: y, dtype: float32, shape: [-1, 2]}]
"""


@dataclass(frozen=True)
class Server:
    url: str
    process: psutil.Process


@pytest.fixture(scope="module", params=["declared", "undeclared", "streaming"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A network with a description, and predictors that declare nothing and give back what they get, one of them twice."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "declared":
        save_network(folder / "model", 1, [])
        (folder / "model" / "model.yaml").write_text(DECLARED)
    else:
        (folder / "model").mkdir()
        (folder / "model" / "net.py").write_text(ECHO + STREAM)
    entrypoint = {"declared": "net:Net", "undeclared": "net:Echo", "streaming": "net:Stream"}[request.param]
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("serve.py")), str(folder / "model"), entrypoint, str(port)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command) as process:
        try:
            eventually(lambda: _answers(url, process), "the replica")
            yield Server(url, psutil.Process(process.pid))
        finally:
            process.terminate()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the replica did not start"
    try:
        return httpx.get(f"{url}/v2/health/ready", timeout=PATIENCE_S).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.timeout(patience(900))
def test_no_request_gets_a_500_or_what_the_document_does_not_say(server: Server) -> None:
    schema = _schema(server)
    before = server.process.memory_info().rss
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 10
    for operation in operations:

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(
            case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
            accept=sampled_from(["*/*", "text/event-stream"]),
        )
        def attempt(case: schemathesis.Case, accept: str) -> None:
            response = case.call(base_url=server.url, headers={"accept": accept}, timeout=PATIENCE_S)
            if response.status_code == 500:
                # Sums of numbers near the largest are infinite in the model, which is no fault of the server.
                is_overflow = response.json()["code"] == "OutputNotFinite" and _has_huge_number(response.request.body)
                assert is_overflow, response.text
                return
            # That as many values are sent as a shape counts is a rule that a schema cannot say.
            case.validate_response(response, excluded_checks=[positive_data_acceptance])

        attempt()
    assert httpx.get(f"{server.url}/v2/health/ready", timeout=PATIENCE_S).status_code == 200
    assert server.process.memory_info().rss - before < GROWTH_BYTES


def _has_huge_number(body: bytes | str | None) -> bool:
    """Whether a request's JSON text has a number that some additions may bring beyond float32's largest one, 3.4e38."""
    text = body.encode() if isinstance(body, str) else body or b""
    return any(abs(float(number)) > 1e30 for number in re.findall(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", text))


@pytest.mark.extended
def test_large_bodies_leave_nothing_behind(server: Server) -> None:
    """Good and bad ones: of the right shape or nearly, no JSON, and not what it begins like."""
    row = b"[1.5,2.5,3.5,4.5]"
    rows = b",".join([row] * (LARGE_BYTES // (len(row) + 1)))
    bodies = (
        b'{"inputs":[' + rows + b"]}",
        b'{"inputs":[' + rows + b",[1]]}",
        b" " * LARGE_BYTES,
        b'{"inputs":[' + rows,
    )
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:

        def resident() -> int:
            statuses = {client.post("/", content=body).status_code for _ in range(10) for body in bodies}
            assert statuses <= {200, 400}
            assert 400 in statuses
            return server.process.memory_info().rss

        before = resident()
        grown = resident() - before
        assert grown < LARGE_GROWTH_BYTES, f"{grown >> 20} MiB"


def _schema(server: Server) -> schemathesis.schemas.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")
