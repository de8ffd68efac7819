"""`sundog predict`, against an endpoint on loopback."""

import asyncio
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from certificates import Certificate, self_signed
from doubles.cluster import NAMESPACE
from loopback_server import serve_in_thread
from sundog_operator.adapters.local.status import pod_status
from sundog_operator.adapters.memory_kubernetes.kubeconfig import write_kubeconfig
from sundog_operator.core.edge import objects
from sundog_operator.ports import MODEL_DEPLOYMENT, Ref, ref_of
from sundog_operator.shell.exit_codes import ExitCode
from sundog_runtime.context import RequestContext
from sundog_runtime.protocol.problem_details import make_problem, render_problem


@dataclass
class Endpoint:
    """An endpoint that doubles the inputs, refuses other types than lists, never responds to `wait`, and streams for `stream`."""

    url: str = ""
    certificate: Certificate | None = None
    seen: list[tuple[Any, str]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append((body, request.headers.get("x-user-id", "")))
        self.keys.append(request.headers.get("x-api-key", ""))
        inputs = body["inputs"]
        headers = {"x-sundog-arm": "canary", "x-sundog-revision": "8"}
        if inputs == "wait":
            await asyncio.sleep(60)
        if isinstance(inputs, str) and inputs in PIECES:
            return await self.in_pieces(request, *PIECES[inputs], cut=inputs == "cut")
        if inputs == "bytes":
            return web.Response(body=b"\x89PNG\0\xff", content_type="image/png", headers=headers)
        if inputs == "raise":
            context = RequestContext({b"x-request-id": b"r-17"})
            raw = render_problem(make_problem(ValueError("no such word"), context), context.request_id)
            return web.Response(body=raw, status=500, content_type="application/problem+json", headers=headers)
        if not isinstance(inputs, list):
            problem = {"title": "WrongType", "detail": "inputs is a JSON number; expected a list", "status": 400}
            return web.json_response(problem, status=400, headers=headers, content_type="application/problem+json")
        return web.json_response({"outputs": [2 * x for x in inputs]}, headers=headers)

    async def stored(self, _: web.Request) -> web.StreamResponse:
        metadata = {"name": "digits", "namespace": NAMESPACE}
        kind = {"apiVersion": MODEL_DEPLOYMENT.api_version, "kind": MODEL_DEPLOYMENT.kind}
        return web.json_response({**kind, "metadata": metadata, "status": {"url": f"http://digits.{NAMESPACE}.svc"}})

    async def in_pieces(self, request: web.Request, content_type: str, *pieces: bytes, cut: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"x-sundog-arm": "stable", "content-type": content_type})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if cut and request.transport is not None:
            request.transport.close()
        return response


OBJECTS = f"/apis/{MODEL_DEPLOYMENT.api_version}/namespaces/{NAMESPACE}"
PIECES = {
    "stream": ("application/x-ndjson", b'{"token":', b'"a"}\n', b'{"token":"b"}'),
    "events": ("text/event-stream", b'data: {"token":"a"}\n\n', b'event: end\ndata: "done"\n\n'),
    "cut": ("application/x-ndjson", b'{"token":"a"}\n'),
}


@pytest.fixture
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Endpoint]:
    made = Endpoint()
    made.certificate = getattr(request, "param", None)
    context = None if made.certificate is None else server_context(made.certificate, tmp_path)
    app = web.Application()
    app.router.add_post("/digits", made.answer)
    # An API server with the object and the proxy to its Service.
    app.router.add_get(f"{OBJECTS}/modeldeployments/digits", made.stored)
    app.router.add_post(f"/api/v1/namespaces/{NAMESPACE}/services/http:digits:http/proxy/digits/", made.answer)
    with serve_in_thread(app, context) as port:
        made.url = f"http{'s' if context else ''}://127.0.0.1:{port}/digits"
        yield made


def server_context(certificate: Certificate, folder: Path) -> ssl.SSLContext:
    (folder / "tls.crt").write_text(certificate.certificate)
    (folder / "tls.key").write_text(certificate.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context


@pytest.fixture
def digits(on_server: Any, server: Any, manifest: Any, endpoint: Endpoint) -> Any:
    """Store a ModelDeployment whose status names the endpoint."""
    on_server("apply", "-f", str(manifest()))

    async def publish(cluster: Any) -> None:
        status = {**await cluster.status(), "url": endpoint.url}
        await cluster.set_status(Ref(MODEL_DEPLOYMENT, NAMESPACE, "digits"), status)

    server.do(publish)
    return on_server


def test_the_prediction_is_on_standard_output_and_who_answered_beside_it(digits: Any, endpoint: Endpoint) -> None:
    done = digits("predict", "digits", "--data", "[1, 2]", "-H", "x-user-id: ada")
    assert (done.code, done.out) == (0, '{"outputs":[2,4]}\n')
    assert done.err.startswith("arm canary, revision 8, ")
    assert endpoint.seen == [({"inputs": [1, 2]}, "ada")]


def test_a_whole_body_is_sent_as_it_is(digits: Any, endpoint: Endpoint, tmp_path: Any) -> None:
    file = tmp_path / "body.json"
    file.write_text('{"inputs": [3]}')
    assert digits("predict", "digits", "-f", str(file)).code == 0
    assert endpoint.seen[0][0] == {"inputs": [3]}


def test_data_may_be_a_file(digits: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text("[4]")
    assert digits("predict", "digits", "-d", f"@{tmp_path / 'body.json'}").out == '{"outputs":[8]}\n'
    missing = digits("predict", "digits", "-d", "@/nowhere.json")
    assert missing.code == ExitCode.USAGE
    assert missing.err.startswith("error: --data @/nowhere.json: No such file or directory")


@pytest.mark.parametrize(
    ("inputs", "shown", "prediction"),
    [
        ("stream", '{"token":"a"}\n{"token":"b"}\n', [{"token": "a"}, {"token": "b"}]),
        ("events", 'data: {"token":"a"}\n\nevent: end\ndata: "done"\n\n', [{"token": "a"}, "done"]),
    ],
)
def test_an_answer_in_pieces(digits: Any, inputs: str, shown: str, prediction: list[Any]) -> None:
    done = digits("predict", "digits", "-d", f'"{inputs}"')
    assert (done.code, done.out) == (0, shown)
    assert done.err.startswith("arm stable, ")
    whole = json.loads(digits("predict", "digits", "-d", f'"{inputs}"', "-o", "json").out)
    assert whole["prediction"] == prediction


TAKEN = ("PortTaken", "port 8080, on which the haproxy of this edge listens, is held by python (pid 7)")


def edge_pod(server: Any, stopped: dict[str, tuple[str, str]]) -> None:
    """Return the edge pod of an instance, with the reasons why its parts do not run."""

    async def publish(cluster: Any) -> None:
        metadata = {"name": "sundog-edge-0", "namespace": NAMESPACE, "labels": objects.EDGE_SELECTOR}
        spec = {"containers": [{"name": "haproxy"}, {"name": "agent"}]}
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        stored = await cluster.kube.get(ref_of(made)) or await cluster.kube.create(made)
        status = pod_status(stored, not stopped, next(iter(stopped.values()), None), datetime.now(UTC), stopped)
        await cluster.kube.patch_status(ref_of(made), status, resource_version=stored["metadata"]["resourceVersion"])

    server.do(publish)


def test_another_listener_than_the_edge_is_not_asked(local: Any, server: Any, digits: Any, endpoint: Endpoint) -> None:
    edge_pod(server, {"haproxy": TAKEN})
    done = local("predict", "digits", "-d", "[1]")
    assert (done.code, done.out) == (ExitCode.UNREACHABLE, "")
    assert done.err == f"error: ModelDeployment vision/digits: its edge does not run: {TAKEN[1]}\n"
    assert endpoint.seen == []
    assert local("predict", "digits", "-d", "[1]", "--url", endpoint.url).code == 0, (
        "who names an address knows who is there"
    )
    edge_pod(server, {})
    assert local("predict", "digits", "-d", "[1]").code == 0


def test_an_edge_without_its_agent_is_asked(local: Any, server: Any, digits: Any, endpoint: Endpoint) -> None:
    edge_pod(server, {"agent": TAKEN})
    assert local("predict", "digits", "-d", "[1]").code == 0


def test_an_answer_that_is_cut_off_is_no_success(digits: Any, endpoint: Endpoint) -> None:
    done = digits("predict", "digits", "-d", '"cut"')
    assert (done.code, done.out) == (ExitCode.REFUSED, '{"token":"a"}\n'), (
        "the endpoint was reached: the prediction failed"
    )
    assert done.err.startswith(f"error: {endpoint.url}: the response is incomplete")


def test_bytes_are_for_files_and_pipes(digits: Any) -> None:
    whole = json.loads(digits("predict", "digits", "-d", '"bytes"', "-o", "json").out)
    assert whole["prediction"] == {"contentType": "image/png", "base64": "iVBORwD/"}


def test_a_key_of_the_environment_is_sent(digits: Any, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    digits("predict", "digits", "-d", "[1]", "--api-key", "one")
    monkeypatch.setenv("SUNDOG_API_KEY", "two")
    digits("predict", "digits", "-d", "[1]")
    assert endpoint.keys == ["one", "two"]


@pytest.mark.parametrize("endpoint", [self_signed("digits.vision.svc")], indirect=True)
def test_a_certificate_is_checked_for_the_name_of_the_service(digits: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    refused = digits("predict", "digits", "-d", "[1]")
    assert refused.code == ExitCode.UNREACHABLE
    assert "its certificate is not trusted (" in refused.err
    assert refused.err.endswith("Give --cacert FILE, or --insecure\n")
    assert digits("predict", "digits", "-d", "[1]", "--insecure").code == 0
    trusted = digits("predict", "digits", "-d", "[1]", "--cacert", str(tmp_path / "tls.crt"))
    assert (trusted.code, trusted.out) == (0, '{"outputs":[2]}\n')


@pytest.mark.parametrize("endpoint", [self_signed("other.vision.svc")], indirect=True)
def test_a_certificate_for_another_name_is_refused(digits: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    done = digits("predict", "digits", "-d", "[1]", "--cacert", str(tmp_path / "tls.crt"))
    assert done.code == ExitCode.UNREACHABLE
    assert "digits.vision.svc" in done.err
    (tmp_path / "junk.pem").write_text("no certificate")
    junk = digits("predict", "digits", "-d", "[1]", "--cacert", str(tmp_path / "junk.pem"))
    assert (junk.code, junk.err) == (
        ExitCode.REFUSED,
        f"error: --cacert {tmp_path}/junk.pem: the file holds no certificates\n",
    )


def test_a_key_that_no_header_can_hold_is_not_shown(digits: Any, endpoint: Endpoint) -> None:
    for key in ("s3cret\r", "s3\ncret", "s3cret\udcff"):
        done = digits("predict", "digits", "-d", "[1]", "--api-key", key)
        assert (done.code, done.out) == (ExitCode.USAGE, "")
        assert done.err.startswith("error: the API key has a character that no header may have, such as a line end")
        assert "cret" not in done.err
    assert endpoint.seen == []


def test_headers_may_hold_tabs_and_other_than_ascii(digits: Any, endpoint: Endpoint) -> None:
    assert digits("predict", "digits", "-d", "[1]", "-H", "x-user-id:\tJürgen\tM ").code == 0
    assert endpoint.seen == [({"inputs": [1]}, "Jürgen\tM")]


def test_json_output_holds_everything(digits: Any) -> None:
    answer = json.loads(digits("predict", "digits", "-d", "[1]", "-o", "json").out)
    assert {key: answer[key] for key in ("prediction", "arm", "revision")} == {
        "prediction": {"outputs": [2]},
        "arm": "canary",
        "revision": "8",
    }
    assert answer["milliseconds"] > 0


def test_from_outside_the_cluster_the_api_server_is_asked(sundog: Any, endpoint: Endpoint, tmp_path: Path) -> None:
    server = endpoint.url.removesuffix("/digits")
    write_kubeconfig(tmp_path / "outside", server, "let me in", namespace=NAMESPACE)
    asked = ("predict", "digits", "--kubeconfig", str(tmp_path / "outside"))
    done = sundog(*asked, "--data", "[1, 2]", "-H", "x-user-id: ada", "--api-key", "a key")
    assert (done.code, done.out) == (0, '{"outputs":[2,4]}\n')
    assert done.err.startswith("arm canary, revision 8, ")
    assert (endpoint.seen, endpoint.keys) == ([({"inputs": [1, 2]}, "ada")], ["a key"])
    refused = sundog(*asked, "--data", '"one"')
    assert (refused.code, "WrongType: inputs is a JSON number" in refused.err) == (ExitCode.REFUSED, True)
    assert sundog(*asked, "--data", '"wait"', "--timeout", "0.2").code == ExitCode.TIMEOUT


def test_what_the_endpoint_refuses_is_one_line(digits: Any, endpoint: Endpoint) -> None:
    done = digits("predict", "digits", "-d", "5")
    assert done.code == ExitCode.REFUSED
    assert done.err == f"error: {endpoint.url}: status 400: WrongType: inputs is a JSON number; expected a list\n"


def test_an_exception_of_the_model_is_named_by_its_request_and_its_log(digits: Any, endpoint: Endpoint) -> None:
    done = digits("predict", "digits", "-d", '"raise"')
    assert done.code == ExitCode.REFUSED
    assert done.err.startswith(f"error: {endpoint.url}: status 500: Internal Server Error: the model raised an error; ")
    assert done.err.endswith(". Request r-17: `sundog logs digits --revision 8` shows the exception\n")
    assert len(done.err.splitlines()) == 1


NO_ADDRESSES = (
    *("nonsense", "", "ftp://x", "localhost:8080", "//x", "http:///x", "http://x:99999", "http://[::1", "http://..."),
    *("http://a b", "http://127.0.0.1:1/\r\nx", "ws://127.0.0.1:1", "http://\udcff"),
)
NO_HEADERS = ("nonsense", "a\r\nb: c", "a b: c")
NO_VALUES = ("a: b\r\nc: d", "a: b\x7f", "a: \udcff")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-d", "[1"], ExitCode.REFUSED, "error: the data is not JSON: "),
        ([], ExitCode.USAGE, "error: give either --data or -f"),
        *(
            (["-d", "1", "-H", each], ExitCode.USAGE, f"error: --header {each!r} is not NAME:VALUE")
            for each in NO_HEADERS
        ),
        *(
            (
                ["-d", "1", "-H", each],
                ExitCode.USAGE,
                f"error: --header {each!r} has a character that no header may have",
            )
            for each in NO_VALUES
        ),
        (
            ["-d", "1", "-H", "Content-Length: abc"],
            ExitCode.USAGE,
            "error: the request cannot be sent: Invalid Content-",
        ),
        *(
            (["-d", "1", "--url", url], ExitCode.UNREACHABLE, f"error: {url}: cannot be reached")
            for url in ("http://127.0.0.1:1/x", "HTTP://[::1]:1/x")
        ),
        *(
            (
                ["-d", "1", "--url", url],
                ExitCode.USAGE,
                f"error: --url {url!r}: expected an address such as http://HOST:PORT",
            )
            for url in NO_ADDRESSES
        ),
        (["-d", '"wait"', "--timeout", "0.2"], ExitCode.TIMEOUT, "no response within 0.2 s"),
    ],
)
def test_mistakes_have_their_codes(digits: Any, arguments: list[str], code: ExitCode, message: str) -> None:
    done = digits("predict", "digits", *arguments)
    assert done.code == code
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_without_an_endpoint_it_says_where_to_look(on_server: Any, manifest: Any) -> None:
    on_server("apply", "-f", str(manifest()))
    done = on_server("predict", "digits", "-d", "1")
    assert done.code == ExitCode.REFUSED
    assert done.err == (
        "error: ModelDeployment vision/digits has no endpoint yet. `sundog describe digits` shows why\n"
    )
