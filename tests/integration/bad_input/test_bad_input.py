"""What bad input gets, as its author sees it, through all real parts; and that it takes nothing from what serves."""

import contextlib
import http.client
import json
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from tritonclient.grpc import service_pb2 as protocol

from invalid_specs import MODEL, REFUSED, REFUSED_EXPERIMENTS
from real_local import GROUP, condition, is_ready, save_network, weight
from waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]


@pytest.fixture(scope="module")
def refusals(bed: Any) -> list[str]:
    """What `sundog apply` says of all these manifests, a line for each, after which nothing has changed."""
    before = names(bed)
    done = bed.up.sundog("apply", "-f", bed.file(*(bed.manifest(name, spec) for name, (spec, _) in REFUSED.items())))
    assert done.returncode == 1
    assert done.stdout == ""
    assert names(bed) == before
    return done.stderr.splitlines()


def names(bed: Any) -> dict[str, int]:
    """The generation of every ModelDeployment."""
    _, found = bed.up.api("GET", f"{GROUP}/modeldeployments")
    return {obj["metadata"]["name"]: obj["metadata"]["generation"] for obj in found["items"]}


@pytest.mark.parametrize("name", REFUSED)
def test_a_manifest_that_breaks_a_rule_is_refused_with_field_value_and_limit(refusals: list[str], name: str) -> None:
    (line,) = [line for line in refusals if f"ModelDeployment default/{name}" in line]
    assert line.endswith(f": {REFUSED[name][1]}")
    assert len(refusals) == len(REFUSED)


def test_an_experiment_that_breaks_a_rule_is_refused_alike(bed: Any) -> None:
    manifests = [
        {
            **bed.manifest(name, {"modelDeployment": "good", "arms": [{"name": "wide"}], **spec}),
            "kind": "Experiment",
        }
        for name, (spec, _) in REFUSED_EXPERIMENTS.items()
    ]
    done = bed.up.sundog("apply", "-f", bed.file(*manifests))
    assert (done.returncode, done.stdout) == (1, "")
    lines = [line.partition("Experiment default/")[2] for line in done.stderr.splitlines()]
    assert lines == [f"{name} is invalid: {message}" for name, (_, message) in REFUSED_EXPERIMENTS.items()]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_gets_the_same_message(bed: Any, tmp_path: Path) -> None:
    spec, message = REFUSED["minimum-above-maximum"]
    done = subprocess.run(
        ["kubectl", f"--kubeconfig={bed.up.state}/kubeconfig", "apply", "-f", "-"],
        input=json.dumps(bed.manifest("bad", spec)),
        env={"HOME": str(tmp_path), "PATH": "/nonexistent"},
        executable=shutil.which("kubectl"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert bed.up.read("bad") == {}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"scheduling": {"nodeSelector": {"a": "b"}}},
            "spec.scheduling.nodeSelector: needs pods, which local mode does not have; leave it out",
        ),
        (
            {"resources": {"gpu": {"count": 1}}},
            "spec.resources.gpu.count: 1 needs pods, which local mode does not have; expected 0",
        ),
        (
            {"model": {"uri": "pvc://models/x"}},
            "spec.model.uri: pvc:// needs pods that mount the claim, which local mode does not have",
        ),
        (
            {"rollout": {"strategy": "blueGreen"}},
            "spec.rollout.strategy: blueGreen is not supported yet; expected canary, shadow or recreate",
        ),
    ],
    ids=["scheduling", "gpu", "scheme", "strategy"],
)
def test_a_field_that_nobody_acts_on_yet_is_named(bed: Any, spec: dict[str, Any], message: str) -> None:
    status, answer = bed.up.api(
        "POST", f"{GROUP}/namespaces/default/modeldeployments", bed.manifest("later", {"model": MODEL, **spec})
    )
    assert status == 201, answer
    try:
        stalled = eventually(lambda: condition(bed.up.read("later"), "Stalled"), "the refusal")
        accepted = condition(bed.up.read("later"), "SpecAccepted")
    finally:
        bed.up.api("DELETE", f"{GROUP}/namespaces/default/modeldeployments/later")
    for found, truth in ((stalled, "True"), (accepted, "False")):
        assert (found["status"], found["reason"]) == (truth, "NotYetSupported")
        assert found["message"].startswith(message)


def test_a_foreign_object_with_a_childs_name_is_left_alone(bed: Any) -> None:
    place, objects = "/api/v1/namespaces/foreign/configmaps", f"{GROUP}/namespaces/foreign/modeldeployments"
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sundog-edge", "namespace": "foreign"}}
    status, stored = bed.up.api("POST", place, {**theirs, "data": {"theirs": "yes"}})
    assert status == 201
    try:
        assert bed.up.api("POST", objects, bed.manifest("mine", bed.spec(), "foreign"))[0] == 201
        stalled = eventually(lambda: condition(bed.up.read("mine", "foreign"), "Stalled"), "the refusal")
        assert stalled["reason"] == "NotOwned"
        assert "ConfigMap sundog-edge" in stalled["message"]
        # Nothing is started for what cannot be served.
        assert bed.up.api("GET", "/apis/ray.io/v1/namespaces/foreign/rayclusters")[1]["items"] == []
        assert bed.up.api("GET", "/apis/apps/v1/namespaces/foreign/deployments")[1]["items"] == []
    finally:
        bed.up.api("DELETE", f"{objects}/mine")
    eventually(lambda: bed.up.read("mine", "foreign") == {}, "the deletion")
    assert bed.up.api("GET", f"{place}/sundog-edge") == (200, stored)


@pytest.mark.parametrize("name", ["gone", "digest", "large", "format", "entry", "load", "warmup", "denied"])
def test_a_model_that_cannot_be_served_says_why(bed: Any, name: str) -> None:
    bad = bed.bad.get(name)
    if bad is None:
        pytest.skip("this user is root, whose right to read everything could not be taken away")

    def failed() -> dict[str, Any] | None:
        found = condition(bed.up.read(name), "RevisionReady")
        return found if found.get("reason") not in (None, "RayUnknown", "Deploying") else None

    ready = eventually(failed, f"the reason of {name}")
    assert (ready["status"], ready["reason"]) == ("False", bad.reason)
    assert ready["message"].startswith("revision 1: ")
    assert bad.message in ready["message"]
    assert "Traceback" not in ready["message"]
    assert len(ready["message"].splitlines()) == 1
    top = condition(bed.up.read(name), "Ready")
    assert (top["status"], top["reason"], top["message"]) == ("False", bad.reason, ready["message"])
    # What is tried again and again would keep both cores from all tests that follow.
    assert bed.up.sundog("delete", name).returncode == 0


def test_the_good_one_among_them_serves(bed: Any) -> None:
    eventually(lambda: is_ready(bed.up.read("good")), "the good one serving")
    status, answer, headers = ask(bed, good(bed))
    assert status == 200
    assert answer["outputs"][0] == pytest.approx(bed.answers[0][0], abs=1e-4)
    assert headers["x-sundog-revision"] == "1"


def test_what_cannot_help_is_not_tried_again_and_what_can_is(bed: Any) -> None:
    bed.apply(*(bed.manifest(name, bed.spec(**bed.bad[name].model)) for name in ("digest", "gone")))
    stalled = eventually(lambda: condition(bed.up.read("digest"), "Stalled"), "the end of the attempts")
    assert stalled["reason"] == "DigestMismatch"

    def retrying() -> bool:
        progressing = condition(bed.up.read("gone"), "Progressing")
        return progressing.get("reason") == "Retrying"

    eventually(retrying, "the next attempt announced")
    assert not condition(bed.up.read("gone"), "Stalled")
    assert bed.up.sundog("delete", "digest", "gone").returncode == 0


def test_a_model_that_appears_later_is_served_by_itself(bed: Any) -> None:
    bed.apply(bed.manifest("gone", bed.spec(**bed.bad["gone"].model)))
    eventually(lambda: condition(bed.up.read("gone"), "RevisionReady").get("reason") == "ModelNotFound", "the failure")
    save_network(bed.models / "late", 5, [])
    eventually(lambda: is_ready(bed.up.read("gone")), "the model that was not there")
    assert bed.up.read("gone")["status"]["stable"]["revision"] == 1
    assert bed.up.sundog("delete", "gone").returncode == 0


# Requests


def address(bed: Any) -> tuple[str, int]:
    parts = urlsplit(bed.up.read("good")["status"]["url"])
    return str(parts.hostname), int(parts.port or 0)


def good(bed: Any) -> bytes:
    return json.dumps({"inputs": [[0.5, -1.0, 2.0, 0.0]]}).encode()


def ask(
    bed: Any, body: Any, path: str = "/good", method: str = "POST", *, cut: bool = False, **headers: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """(status, JSON, headers) of an answer, after which the same connection has answered a good request as well.

    With `cut` the client may get its answer while it is still sending, and then reads on, as most do: no request can follow there.
    """
    connection = http.client.HTTPConnection(*address(bed), timeout=PATIENCE_S)
    with contextlib.closing(connection):
        with contextlib.suppress(BrokenPipeError) if cut else contextlib.nullcontext():
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        answer = json.loads(response.read()), {name.lower(): value for name, value in response.getheaders()}
        if not cut:
            # Where an answer ends its connection, http.client would open another one and say nothing.
            assert connection.sock is not None, answer
            connection.request("POST", "/good", good(bed))
            again = connection.getresponse()
            assert (again.status, bool(again.read())) == (200, True)
    return response.status, *answer


def chunks(size: int) -> Any:
    """A body that http.client sends in chunks, without a Content-Length."""
    return iter([b" " * 65_536] * (size // 65_536))


BODIES: dict[str, tuple[Callable[[], Any], int, str]] = {
    "bad JSON": (lambda: b'{"inputs": [[1, 2,', 400, "the body is not JSON: unexpected end of data"),
    "empty": (lambda: b"", 400, "the body is empty"),
    "wrong shape": (lambda: b'{"inputs": [[1, 2, 3]]}', 400, "input 'x' has the shape [1, 3]; expected [-1, 4]"),
    "deep": (lambda: b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "the body is not JSON: depth limit"),
    "too large": (
        lambda: b" " * (11 << 20),
        413,
        "the body of 11534336 bytes is larger than 10485760 bytes, which is endpoint.maxRequestBytes of its service",
    ),
    "too large in chunks": (lambda: chunks(11 << 20), 413, "the body is larger than 10485760 bytes"),
}
ROW = struct.pack("<4f", 0.5, -1.0, 2.0, 0.0)
NOBODY_HAS = 10**12


def binary(data: bytes = ROW, size: Any = 16, longer: int = 0, **said: Any) -> tuple[bytes, str]:
    """A body with one binary tensor, and what its header says of the length of its JSON, which may be some bytes off."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": size}, **said}
    text = json.dumps({"inputs": [tensor]}).encode()
    return text + data, str(len(text) + longer)


BINARY: dict[str, tuple[tuple[bytes, str], str]] = {
    "no header": ((binary(b"")[0], ""), "input 'x' is binary, and there is no Inference-Header-Content-Length"),
    "header beyond the body": (binary(longer=17), "expected the number of bytes of JSON in a body of"),
    "header too short": (binary(longer=-1), "the body is not JSON"),
    "truncated": (binary(ROW[:8]), "input 'x': binary_data_size is 16; 8 bytes are left"),
    "truncated beyond a buffer": (
        binary((ROW * 50_000)[:-4], 800_000, shape=[50_000, 4]),
        "input 'x': binary_data_size is 800000; 799996 bytes are left",
    ),
    "bytes behind it": (binary(ROW + b"abc"), "the body has 3 bytes after those of the inputs"),
}


def tensor(**said: Any) -> dict[str, Any]:
    """A request of the protocol in JSON, but for what is said of its only tensor."""
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0.5, -1.0, 2.0, 0.0], **said}]}


PROTOCOL: dict[str, tuple[Any, str]] = {
    "wrong shape": (tensor(shape=[2, 2]), "input 'x' has the shape [2, 2]; expected [-1, 4]"),
    "infinite": (tensor(data=[1.0, 2.0, 3.0, 1e39]), "outside of the range of float32"),
    "unknown output": ({**tensor(), "outputs": [{"name": "z"}]}, "the model has no output 'z'"),
    "unknown parameter": ({**tensor(), "parameters": {"sequence_id": 1}}, "sequence_id"),
}


def infer(
    model: str = "good", data: bytes = ROW, datatype: str = "FP32", shape: tuple[int, ...] = (1, 4)
) -> protocol.ModelInferRequest:
    tensor = protocol.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=shape)
    return protocol.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[data])


TOO_LARGE = infer(data=ROW * 700_000, shape=(700_000, 4)).SerializeToString()
CALLS: dict[str, tuple[bytes, str, str, str]] = {
    "wrong shape": (
        infer(data=ROW[:12], shape=(1, 3)).SerializeToString(),
        "good",
        "INVALID_ARGUMENT",
        "WrongShape: input 'x' has the shape [1, 3]; expected [-1, 4]",
    ),
    "no message": (b"\xff\xff", "good", "INVALID_ARGUMENT", "MalformedMessage: the message is not a ModelInferRequest"),
    "too large": (
        TOO_LARGE,
        "good",
        "RESOURCE_EXHAUSTED",
        f"the message of {len(TOO_LARGE)} bytes is larger than 10485760 bytes,"
        " which is endpoint.maxRequestBytes of its service",
    ),
    "unknown model": (
        infer("other").SerializeToString(),
        "good",
        "NOT_FOUND",
        "ModelNotFound: model 'other' does not exist here; expected 'good'",
    ),
    "unknown service": (
        infer().SerializeToString(),
        "nobody",
        "NOT_FOUND",
        "no service has this host or sundog-service: 'ADDRESS', 'nobody'",
    ),
}
"""Message, service, and the status and details that it gets; `ADDRESS` stands for that of the edge."""


PATHS: dict[str, tuple[str, str, int, str]] = {
    "unknown path": ("POST", "/good/v3", 404, "path '/v3' does not exist"),
    "unknown model": ("POST", "/good/v2/models/other/infer", 404, "model 'other' does not exist here; expected 'good'"),
    "unknown version": ("POST", "/good/v2/models/good/versions/8/infer", 404, "model 'good' has no version '8'"),
    "wrong method": ("GET", "/good", 405, "GET is not allowed here; allowed: POST"),
    "another wrong method": ("DELETE", "/good/v2/models/good", 405, "DELETE is not allowed here; allowed: GET, HEAD"),
    "unknown service": ("POST", "/nobody", 404, ", '/nobody'"),
    "no service": ("POST", "/", 404, "no service has this host or path: "),
}
NO_HTTP = {
    "no HTTP": b"HELLO\r\n\r\n",
    "two lengths": b"POST /good HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
    "no length": b"POST /good HTTP/1.1\r\nhost: a\r\ncontent-length: many\r\n\r\nx",
}


def is_problem(status: int, answer: dict[str, Any], headers: dict[str, str], wanted: int, detail: str) -> bool:
    assert status == wanted, answer
    assert headers["content-type"] == "application/problem+json"
    assert answer["status"] == wanted
    assert detail in answer["detail"]
    return True


@pytest.fixture(scope="module")
def serving(bed: Any) -> Any:
    """The same, once the good one serves."""
    eventually(lambda: is_ready(bed.up.read("good")), "the good one serving")
    return bed


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_gets_problem_details_that_name_the_input(serving: Any, name: str) -> None:
    make, status, detail = BODIES[name]
    with counted(serving, "client4xx", "size"):
        assert is_problem(*ask(serving, make(), cut=status == 413), status, detail)
        assert ask(serving, good(serving))[0] == 200


@pytest.mark.parametrize("name", BINARY)
def test_a_bad_binary_tensor_gets_problem_details_that_name_it(serving: Any, name: str) -> None:
    (body, length), detail = BINARY[name]
    headers = {"inference_header_content_length": length} if length else {}
    with counted(serving, "client4xx"):
        assert is_problem(*ask(serving, body, "/good/v2/models/good/infer", **headers), 400, detail)


@pytest.mark.parametrize("name", PROTOCOL)
def test_a_bad_request_of_the_protocol_gets_problem_details_that_name_it(serving: Any, name: str) -> None:
    body, detail = PROTOCOL[name]
    with counted(serving, "client4xx"):
        assert is_problem(*ask(serving, json.dumps(body).encode(), "/good/v2/models/good/infer"), 400, detail)


def test_a_good_binary_tensor_is_answered(serving: Any) -> None:
    body, length = binary()
    status, answer, _ = ask(serving, body, "/good/v2/models/good/infer", inference_header_content_length=length)
    assert status == 200
    assert answer["outputs"][0]["data"] == pytest.approx(serving.answers[0][0], abs=1e-4)


@pytest.fixture(scope="module")
def caller(serving: Any) -> Iterator[Callable[..., Any]]:
    """Calls ModelInfer of a service with a message as it is; the answer, or RpcError. All calls are on one channel."""
    target = ":".join(map(str, address(serving)))
    with grpc.insecure_channel(target, options=[("grpc.enable_retries", 0)]) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def call(message: bytes, service: str = "good") -> Any:
            answer = method(message, timeout=PATIENCE_S, metadata=(("sundog-service", service),))
            return protocol.ModelInferResponse.FromString(answer)

        eventually(lambda: is_answered(call), "gRPC through the edge")
        yield call


def is_answered(call: Callable[..., Any]) -> bool:
    with contextlib.suppress(grpc.RpcError):
        return bool(call(infer().SerializeToString()).raw_output_contents)
    return False


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call_gets_a_status_that_names_the_input(bed: Any, caller: Callable[..., Any], name: str) -> None:
    message, service, status, details = CALLS[name]
    details = details.replace("ADDRESS", ":".join(map(str, address(bed))))
    with counted(bed, "client4xx", "size", "unknown"):
        with pytest.raises(grpc.RpcError) as caught:
            caller(message, service)
        assert (caught.value.code().name, caught.value.details()) == (status, details)
        # It takes nothing from the next one on the same channel, which has one try.
        assert caller(infer().SerializeToString()).model_name == "good"


@pytest.mark.parametrize("name", PATHS)
def test_a_bad_path_or_method_gets_problem_details(serving: Any, name: str) -> None:
    method, path, status, detail = PATHS[name]
    with counted(serving, "client4xx", "unknown"):
        assert is_problem(*ask(serving, good(serving), path, method), status, detail)


def test_a_foreign_host_without_a_path_is_unknown_and_an_own_host_is_enough(bed: Any) -> None:
    with counted(bed, "unknown"):
        assert is_problem(
            *ask(bed, good(bed), "/", Host="nobody.example.com"),
            404,
            "no service has this host or path: 'nobody.example.com', '/'",
        )
    assert ask(bed, good(bed), "/", Host="good.default.svc")[0] == 200


def test_a_compressed_body_that_is_wrong_is_refused(bed: Any) -> None:
    with counted(bed, "client4xx"):
        assert is_problem(*ask(bed, b"\x1f\x8b\x08", content_encoding="gzip"), 400, "ends within its gzip data")
    with counted(bed, "client4xx"):
        assert is_problem(*ask(bed, b"\x1f\x8b\x08", content_encoding="br"), 415, "content encoding 'br'")


TOO_LARGE = {
    "header": (431, b"GET /good HTTP/1.1\r\nhost: a\r\nx-a: " + b"b" * 20_000 + b"\r\n\r\n"),
    "path": (414, b"GET /good/" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n"),
    "headers": (431, b"GET /good HTTP/1.1\r\nhost: a\r\n" + b"".join(b"x-%d: 1\r\n" % i for i in range(200)) + b"\r\n"),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_headers_that_are_too_large_get_problem_details(bed: Any, name: str) -> None:
    status, request = TOO_LARGE[name]
    with counted(bed, "malformed"), socket.create_connection(address(bed), timeout=PATIENCE_S) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_request_is_answered_400(bed: Any, name: str) -> None:
    """The page is HAProxy's own: its parser answers before any configured reply can."""
    with counted(bed, "malformed"), socket.create_connection(address(bed), timeout=PATIENCE_S) as connection:
        connection.sendall(NO_HTTP[name])
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert ask(bed, good(bed))[0] == 200


class counted:  # noqa: N801 it reads as a clause
    """One request more is under one of these kinds at the edge, and none more is an error."""

    def __init__(self, bed: Any, *kinds: str) -> None:
        self._bed, self._kinds = bed, kinds

    def __enter__(self) -> None:
        self._before = self._counts()

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            eventually(lambda: self._more() == 1, f"one more under {' or '.join(self._kinds)}")
            assert self._counts()["errors"] == self._before["errors"]

    def _more(self) -> int:
        now = self._counts()
        return sum(now[kind] - self._before[kind] for kind in self._kinds)

    def _counts(self) -> dict[str, int]:
        evidence = self._bed.up.evidence()
        refused = [
            *(boot["refused"] for boot in evidence["boots"]),
            *evidence["services"]["good"]["refused"],
        ]
        rows = [row["ends"] for row in evidence["counters"] if row["service"] == "good"]
        errors = ("server5xx", "edge5xx", "timeout", "truncated", "invalid", "abortBefore", "abortDuring")
        return {
            **{kind: sum(each.get(kind, 0) for each in refused) for kind in ("unknown", "malformed", "size")},
            **{end: sum(ends[end] for ends in rows) for end in ("client4xx", "throttled")},
            "errors": sum(ends[end] for ends in rows for end in errors),
        }


# What serves


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": {"uri": "file:///models/v1"}}, "spec.baseline"),
        ({"model": MODEL, "rollout": {"strategy": "blueGreen"}}, "spec.rollout.strategy"),
    ],
    ids=["baseline", "strategy"],
)
def test_an_edit_that_nobody_acts_on_yet_leaves_what_serves(bed: Any, change: dict[str, Any], message: str) -> None:
    eventually(lambda: is_ready(bed.up.read("good")), "what serves")
    done = bed.up.sundog("apply", "-f", bed.file(bed.manifest("good", {**bed.spec(), **change})))
    try:
        assert done.returncode == 1
        assert f"ModelDeployment default/good: NotYetSupported: {message}" in done.stderr
        accepted = eventually(lambda: refused(bed), "the refusal")
        assert accepted["reason"] == "NotYetSupported"
        assert accepted["message"].startswith(message)
        obj = bed.up.read("good")
        assert condition(obj, "Stalled")["reason"] == "NotYetSupported"
        assert is_ready(obj)
        assert "candidate" not in obj["status"]
        assert ask(bed, good(bed))[0] == 200
    finally:
        bed.apply(bed.manifest("good", bed.spec()))
    eventually(lambda: condition(bed.up.read("good"), "Promoted").get("status") == "True", "its being mended")
    assert not condition(bed.up.read("good"), "Stalled")


def refused(bed: Any) -> dict[str, Any] | None:
    found = condition(bed.up.read("good"), "SpecAccepted")
    return found if found["status"] == "False" else None


def test_a_second_revision_that_cannot_start_takes_nothing_from_the_first(bed: Any) -> None:
    load = bed.clients()
    load.start(4)
    try:
        bad = bed.bad["load"]
        bed.apply(bed.manifest("good", bed.spec(**bad.model)))
        last = eventually(lambda: given_up(bed), "the end of the attempt")
        obj = bed.up.read("good")
        assert last["outcome"] == "Aborted"
        assert last["reason"] == f"{bad.reason}: {bad.message}"
        assert condition(obj, "RevisionReady")["reason"] == bad.reason
        assert condition(obj, "Stalled")["reason"] == "Aborted"
        assert is_ready(obj)
        assert (obj["status"]["stable"]["revision"], weight(obj)) == (1, 0)
    finally:
        load.stop()
    assert load.wrong == []
    assert set(load.revisions) == {"1"}
    assert load.sent > 100


def given_up(bed: Any) -> dict[str, Any] | None:
    status = bed.up.read("good")["status"]
    return None if "candidate" in status else status.get("lastRollout")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("promote revision=7 id=a", "revision 7 is not the candidate: no rollout is under way"),
        ("abort revision=1 id=b", "revision 1 is not the candidate: no rollout is under way"),
        ("rollback revision=9 id=c", "revision 9 is not in the history; expected one of 1"),
        ("retry revision=1 id=d", "revision 1 is not the revision of the spec"),
        (
            "fly revision=1 id=e",
            "verb: 'fly'; expected one of promote, skip, pause, resume, abort, retry, rollback, stop",
        ),
        ("skip revision=1 id=f", "revision 1 is not the candidate: no rollout is under way"),
        ("promote id=g", "revision: ''; expected a revision number"),
        ("promote revision=one id=h", "revision: 'one'; expected a revision number"),
        ("promote revision=1 id=i force=true", "'force': unknown option; expected revision or full"),
        ("promote revision=1", "id: ''; expected 1 to 64 letters"),
    ],
)
def test_a_command_that_makes_no_sense_is_rejected_and_says_why(bed: Any, text: str, message: str) -> None:
    before = steered(bed)
    done = bed.up.command("good", text)
    assert done["result"] == "Rejected"
    assert done["message"].startswith(message)
    assert steered(bed) == before


def test_an_id_that_was_used_for_another_command_is_rejected_and_the_same_again_does_nothing(bed: Any) -> None:
    before = steered(bed)
    first = bed.up.command("good", "promote revision=7 id=again")
    second = bed.up.command("good", "abort revision=7 id=again")
    assert second["result"] == "Rejected"
    assert second["message"] == "id again: already used for promote revision=7. Use a new id"
    assert first["message"] != second["message"]
    assert steered(bed) == before


def steered(bed: Any) -> dict[str, Any]:
    """What a command could change."""
    status = dict(bed.up.read("good")["status"])
    kept = ("stable", "candidate", "experiment", "lastRollout", "retiring")
    return {name: status.get(name) for name in kept}
