"""`sundog predict`, against an endpoint on loopback."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from doubles.cluster import NAMESPACE
from sundog_operator.ports import MODEL_DEPLOYMENT, Ref
from sundog_operator.shell.exits import Exit


@dataclass
class Endpoint:
    """Doubles the inputs; refuses what is no list; never answers `wait`."""

    url: str = ""
    seen: list[tuple[Any, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.seen.append((body, request.headers.get("x-user-id", "")))
        inputs = body["inputs"]
        headers = {"x-sundog-arm": "canary", "x-sundog-revision": "8"}
        if inputs == "wait":
            await asyncio.sleep(60)
        if not isinstance(inputs, list):
            problem = {"title": "WrongType", "detail": "inputs is a JSON number; expected a list", "status": 400}
            return web.json_response(problem, status=400, headers=headers, content_type="application/problem+json")
        return web.json_response({"outputs": [2 * x for x in inputs]}, headers=headers)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made, loop, stop, ready = Endpoint(), asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/digits", made.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/digits"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield made
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


@pytest.fixture
def digits(on_server: Any, server: Any, manifest: Any, endpoint: Endpoint) -> Any:
    """A ModelDeployment whose status names the endpoint."""
    on_server("apply", "-f", str(manifest()))

    async def publish(cluster: Any) -> None:
        ref = Ref(MODEL_DEPLOYMENT, NAMESPACE, "digits")
        stored = await cluster.kube.get(ref)
        status = {**stored["status"], "url": endpoint.url}
        await cluster.kube.patch_status(ref, status, resource_version=stored["metadata"]["resourceVersion"])

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


def test_json_output_holds_everything(digits: Any) -> None:
    answer = json.loads(digits("predict", "digits", "-d", "[1]", "-o", "json").out)
    assert {key: answer[key] for key in ("prediction", "arm", "revision")} == {
        "prediction": {"outputs": [2]},
        "arm": "canary",
        "revision": "8",
    }
    assert answer["milliseconds"] > 0


def test_what_the_endpoint_refuses_is_one_line(digits: Any, endpoint: Endpoint) -> None:
    done = digits("predict", "digits", "-d", "5")
    assert done.code == Exit.REFUSED
    assert done.err == f"error: {endpoint.url}: status 400: WrongType: inputs is a JSON number; expected a list\n"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["-d", "[1"], Exit.REFUSED, "error: the data is not JSON: "),
        ([], Exit.USAGE, "error: give either --data or -f"),
        (["-d", "1", "-H", "nonsense"], Exit.USAGE, "error: --header 'nonsense' is not NAME:VALUE"),
        (
            ["-d", "1", "--url", "http://127.0.0.1:1/x"],
            Exit.UNREACHABLE,
            "error: http://127.0.0.1:1/x: cannot be reached",
        ),
        (["-d", "1", "--url", "nonsense"], Exit.USAGE, "error: --url 'nonsense' is not an address"),
        (["-d", '"wait"', "--timeout", "0.2"], Exit.TIMEOUT, "no answer within 0.2 s"),
    ],
)
def test_mistakes_have_their_codes(digits: Any, arguments: list[str], code: Exit, told: str) -> None:
    done = digits("predict", "digits", *arguments)
    assert done.code == code
    assert told in done.err
    assert len(done.err.splitlines()) == 1


def test_without_an_endpoint_it_says_where_to_look(on_server: Any, manifest: Any) -> None:
    on_server("apply", "-f", str(manifest()))
    done = on_server("predict", "digits", "-d", "1")
    assert done.code == Exit.REFUSED
    assert done.err == (
        "error: ModelDeployment vision/digits has no endpoint yet: `sundog describe digits` tells why\n"
    )
