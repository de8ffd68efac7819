"""Answers in pieces: events and lines, errors in between, disconnects, and other requests meanwhile."""

import asyncio
import json
import threading
from functools import partial
from typing import Any

import orjson
import pytest

from small_models import predictor
from sundog_runtime.context import RequestContext
from sundog_runtime.errors import Problem, WarmupFailed
from sundog_runtime.protocol.messages import DecodedRequest, EncodedResponse

STREAMING = """
import asyncio

class Predictor:
    def load(self, path, config):
        self.log = config["log"]

    def predict(self, batch):
        try:
            for number in batch["items"]:
                if number is None:
                    raise ValueError("none left")
                self.log.append(number)
                yield {"item": number}
        finally:
            self.log.append("closed")
"""

ASYNCHRONOUS = STREAMING.replace("    def predict", "    async def predict").replace(
    "self.log.append(number)", "await asyncio.sleep(0); self.log.append(number)"
)
RETURNED = STREAMING.replace(
    "def predict", "streams = True\n\n    def predict(self, batch): return self.go(batch)\n\n    def go"
)

every_kind = pytest.mark.parametrize("code", [STREAMING, ASYNCHRONOUS, RETURNED], ids=["sync", "async", "returned"])


@pytest.fixture
def log() -> list[Any]:
    return []


@pytest.fixture
def stream(serve_predictor: Any, log: list[Any]) -> Any:
    return partial(serve_predictor, config={"log": log})


class Connection:
    """One request from a server. Tests see every sent message at once, and can delay it."""

    def __init__(self, items: Any, accept: str = "", path: str = "/", timeout: str = "") -> None:
        self.body = orjson.dumps({"inputs": {"items": items}})
        headers = [(b"accept", accept.encode()), (b"x-request-timeout-seconds", timeout.encode())]
        self.scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        self.sent: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)
        self.gone = asyncio.Event()
        self._asked = False

    async def receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.body}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    def run(self, client: Any) -> "asyncio.Task[None]":
        return asyncio.create_task(client.replica.app(self.scope, self.receive, self.sent.put))


async def all_of(connection: Connection, task: "asyncio.Task[None]") -> list[Any]:
    """Return everything that is sent until the application returns."""
    messages = []
    while not (task.done() and connection.sent.empty()):
        following = asyncio.create_task(connection.sent.get())
        await asyncio.wait([following, task], return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            messages.append(following.result())
        elif connection.sent.empty():
            following.cancel()
    await task
    return messages


@pytest.mark.parametrize(
    ("accept", "body"),
    [
        ("text/event-stream", b'data: {"outputs":{"item":1}}\n\ndata: {"outputs":{"item":2}}\n\n'),
        ("", b'{"outputs":{"item":1}}\n{"outputs":{"item":2}}\n'),
    ],
)
async def test_a_client_of_http_1_0_gets_all_pieces_at_once(stream: Any, accept: str, body: bytes) -> None:
    """HTTP/1.0 has no chunks: without a length its clients would take them for content of the answer."""
    connection = Connection([1, 2], accept)
    connection.scope["http_version"] = "1.0"
    start, whole = await all_of(connection, connection.run(await stream(STREAMING)))
    headers = dict(start["headers"])
    assert start["status"] == 200
    assert headers[b"content-type"].decode() == (accept or "application/x-ndjson")
    assert headers[b"content-length"] == b"%d" % len(body)
    assert (whole["body"], whole["more_body"]) == (body, False)


async def test_a_client_of_http_1_0_gets_an_error_as_its_status(stream: Any) -> None:
    connection = Connection([1, None])
    connection.scope["http_version"] = "1.0"
    start, whole = await all_of(connection, connection.run(await stream(STREAMING)))
    assert (start["status"], orjson.loads(whole["body"])["code"]) == (500, "ModelError")


@every_kind
async def test_lines(stream: Any, log: list[Any], code: str) -> None:
    client = await stream(code)
    answer = await client.post("/", json={"inputs": {"items": [1, 2]}})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.text.splitlines()] == [{"outputs": {"item": n}} for n in (1, 2)]
    await client.replica._thread.run(lambda: None)
    assert log == [1, 2, "closed"]


@every_kind
async def test_server_sent_events(stream: Any, code: str) -> None:
    client = await stream(code)
    headers = {"accept": "text/html, text/event-stream"}
    answer = await client.post("/", json={"inputs": {"items": [1, 2]}}, headers=headers)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.text == 'data: {"outputs":{"item":1}}\n\ndata: {"outputs":{"item":2}}\n\n'


@every_kind
async def test_a_stream_is_one_pass_that_waited_once(stream: Any, code: str) -> None:
    client = await stream(code)
    metrics = client.replica.metrics
    assert (sum(metrics.batch_size.counts), sum(metrics.queue_wait.counts)) == (0, 0)
    for items in ([1, 2, 3], ""):
        await client.post("/", json={"inputs": {"items": items}})
    assert metrics.batch_size.total == sum(metrics.pass_time.counts) == sum(metrics.queue_wait.counts) == 2
    assert metrics.pass_time.total > 0


async def test_the_wait_of_a_stream_that_never_began_is_recorded(stream: Any, log: list[Any]) -> None:
    client, release = await stream(STREAMING), threading.Event()
    client.replica._thread.post(release.wait)
    connection = Connection([1], timeout="0.01")
    messages = await all_of(connection, connection.run(client))
    release.set()
    assert b"DeadlineExceeded" in messages[-1]["body"]
    metrics = client.replica.metrics
    assert (log, sum(metrics.queue_wait.counts), sum(metrics.batch_size.counts)) == ([], 1, 0)


@pytest.mark.parametrize("code", [STREAMING, ASYNCHRONOUS], ids=["sync", "async"])
async def test_a_stream_is_warmed_up(stream: Any, log: list[Any], code: str) -> None:
    """Run it to its end, four times, in the loop of the requests, to which its objects belong."""
    example = 'return {"items": [1, 2]}'
    client = await stream(code + f"\n    def example(self):\n        {example}\n")
    assert log == [1, 2, "closed"] * 4
    assert sum(client.replica.metrics.batch_size.counts) == 0


async def test_a_stream_that_fails_when_it_is_warmed_up_fails_the_start(stream: Any) -> None:
    broken = ASYNCHRONOUS + '\n    def example(self):\n        return {"items": [1, None]}\n'
    with pytest.raises(WarmupFailed, match="warm-up request 1 of 4 raised ValueError: none left"):
        await stream(broken)


@every_kind
async def test_a_stream_of_nothing_is_an_answer(stream: Any, code: str) -> None:
    client = await stream(code)
    answer = await client.post("/", json={"inputs": {"items": ""}})
    assert (answer.status_code, answer.text) == (200, "")


@every_kind
async def test_an_error_before_the_first_item_has_a_status(stream: Any, code: str) -> None:
    client = await stream(code)
    answer = await client.post("/", json={"inputs": {"items": [None]}})
    assert (answer.status_code, answer.json()["code"]) == (500, "ModelError")
    assert answer.headers["content-type"] == "application/problem+json"


@every_kind
@pytest.mark.parametrize("accept", ["text/event-stream", "*/*"])
async def test_a_later_error_is_sent_and_the_connection_cut(stream: Any, code: str, accept: str) -> None:
    client = await stream(code)
    connection = Connection([1, None, 2], accept)
    messages = await all_of(connection, connection.run(client))
    assert [message["type"] for message in messages] == ["http.response.start", *["http.response.body"] * 2]
    assert all(message["more_body"] for message in messages[1:]), "an answer that is whole is no broken one"
    text = messages[-1]["body"].decode()
    if accept == "*/*":
        problem = json.loads(text)["error"]
    else:
        assert text.startswith("event: error\ndata: ")
        problem = json.loads(text.removeprefix("event: error\ndata: "))
    assert (problem["status"], problem["code"]) == (500, "ModelError")
    assert client.replica.metrics.answers == {"ModelError": 1}


@every_kind
async def test_an_item_is_computed_when_the_one_before_is_taken(stream: Any, log: list[Any], code: str) -> None:
    client = await stream(code)
    connection = Connection(list(range(10)))
    task = connection.run(client)
    await connection.sent.get()
    while connection.sent.empty():  # noqa: ASYNC110 (it is the loop's turns that are waited for)
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    await client.replica._thread.run(lambda: None)
    assert log[:2] == [0, 1]
    assert len(log) == 2, "the server has not taken the first item, and the third is being computed"
    await all_of(connection, task)
    await client.replica._thread.run(lambda: None)
    assert log == [*range(10), "closed"]


@every_kind
@pytest.mark.parametrize("by", ["disconnect", "cancel"])
async def test_a_client_that_leaves_stops_the_model(stream: Any, log: list[Any], code: str, by: str) -> None:
    client = await stream(code)
    connection = Connection(list(range(1000)))
    task = connection.run(client)
    for _ in range(3):
        await connection.sent.get()
    if by == "disconnect":
        connection.gone.set()
        await all_of(connection, task)
    else:
        task.cancel()
        await asyncio.wait([task])
    await client.replica._thread.run(lambda: None)
    assert log[-1] == "closed"
    assert len(log) < 10
    assert client.replica.metrics.answers == {"ClientGone": 1}


@every_kind
async def test_the_deadline_is_that_of_the_last_item(stream: Any, log: list[Any], code: str) -> None:
    client = await stream(code)
    connection = Connection("x" * 200_000, timeout="0.5")
    messages = await all_of(connection, connection.run(client))
    assert b"DeadlineExceeded" in messages[-1]["body"]
    await client.replica._thread.run(lambda: None)
    assert log[-1] == "closed"


HANGING = """
class Predictor:
    streams = True

    def load(self, path, config):
        self.config = config

    def at(self, place):
        if place == self.config["place"]:
            self.config["began"].set()
            self.config["release"].wait()

    def predict(self, batch):
        self.at("the call")
        return self.items()

    def items(self):
        try:
            self.at("the first item")
            yield 1
            self.at("a later item")
            yield 2
        finally:
            self.at("the end")
"""


@pytest.mark.parametrize("place", ["the call", "the first item", "a later item", "the end"])
@pytest.mark.parametrize(("timeout", "healthy", "unhealthy"), [("1", 60, 61), ("30", 100, 121)])
async def test_a_stream_that_hangs_is_unhealthy_as_any_pass_is(
    serve_predictor: Any, place: str, timeout: str, healthy: int, unhealthy: int
) -> None:
    began, release, now = threading.Event(), threading.Event(), [0.0]
    config = {"place": place, "began": began, "release": release}
    client = await serve_predictor(HANGING, config=config)
    replica = client.replica
    replica._thread._clock = lambda: now[0]
    headers = {"x-sundog-timeout-seconds": timeout}
    asked = asyncio.create_task(client.post("/", json={"inputs": [1]}, headers=headers))
    try:
        await asyncio.to_thread(began.wait)
        now[0] = healthy
        await replica.check_health()
        now[0] = unhealthy
        with pytest.raises(RuntimeError, match=f"busy with one call for {unhealthy} s"):
            await replica.check_health()
    finally:
        release.set()
        await asked
    await replica._thread.run(lambda: None)
    await replica.check_health()


EXITING = predictor(
    """try:
    yield 1
    sys.exit(3)
finally:
    sys.exit(3)""",
    imports="import sys",
)


@pytest.mark.parametrize("code", [EXITING, EXITING.replace("def predict", "async def predict")], ids=["sync", "async"])
async def test_a_stream_that_exits_ends_only_itself(stream: Any, code: str) -> None:
    client = await stream(code)
    for _ in range(2):
        connection = Connection([1])
        messages = await all_of(connection, connection.run(client))
        assert b"ModelError" in messages[-1]["body"]
    left = Connection([1])
    task = left.run(client)
    await left.sent.get()
    task.cancel()
    await asyncio.wait([task])
    assert await client.replica._thread.run(lambda: "alive") == "alive"


CANCELLED = """
import asyncio

class Predictor:
    def load(self, path, config):
        pass

    async def predict(self, batch):
        if batch["items"] == "at once":
            await self.cancelled()
        yield 1
        await self.cancelled()

    async def cancelled(self):
        {}
"""
OWN = {
    "raised": "raise asyncio.CancelledError",
    "of a task that it waits for": "task = asyncio.create_task(asyncio.sleep(60)); task.cancel(); await task",
    "of the task that it runs in": "asyncio.current_task().cancel(); await asyncio.sleep(0)",
}
every_cancellation = pytest.mark.parametrize("own", list(OWN.values()), ids=list(OWN))


@every_cancellation
async def test_a_cancellation_of_the_models_own_has_a_status(stream: Any, own: str) -> None:
    client = await stream(CANCELLED.format(own))
    answer = await client.post("/", json={"inputs": {"items": "at once"}})
    assert (answer.status_code, answer.json()["code"]) == (500, "ModelError")
    assert client.replica.metrics.answers == {"ModelError": 1}


@every_cancellation
async def test_a_later_cancellation_by_the_model_is_sent(stream: Any, own: str) -> None:
    client = await stream(CANCELLED.format(own))
    connection = Connection("later", "text/event-stream")
    messages = await all_of(connection, connection.run(client))
    assert messages[-1]["body"].startswith(b"event: error\ndata: ")
    assert b"ModelError" in messages[-1]["body"]
    assert client.replica.metrics.answers == {"ModelError": 1}


@pytest.mark.parametrize("own", list(OWN.values())[:2], ids=list(OWN)[:2])
async def test_a_stream_s_caller_is_not_cancelled_by_the_model(stream: Any, own: str) -> None:
    client = await stream(CANCELLED.format(own))
    query = DecodedRequest({"items": "later"}, lambda output: EncodedResponse(b"x"))
    answers = client.replica._inference.stream(query, RequestContext())
    await anext(answers)
    with pytest.raises(RuntimeError, match="the model raised CancelledError") as caught:
        await anext(answers)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


async def test_a_cancellation_at_the_end_of_an_abandoned_stream_ends_nothing_else(stream: Any) -> None:
    code = """
import asyncio

class Predictor:
    def load(self, path, config):
        self.log = config["log"]

    async def predict(self, batch):
        beside = asyncio.create_task(asyncio.sleep(60))
        try:
            while True:
                yield 1
        finally:
            self.log.append("closed")
            beside.cancel()
            await beside
"""
    client = await stream(code)
    connection = Connection([1])
    task = connection.run(client)
    for _ in range(2):
        await connection.sent.get()
    connection.gone.set()
    await all_of(connection, task)
    assert client.replica.metrics.answers == {"ClientGone": 1}


async def test_streams_that_share_memory_of_the_model(stream: Any) -> None:
    shares = """for _ in range(20):
    MEMORY[:] = batch["mine"]
    yield MEMORY"""
    code = predictor(shares, imports="import numpy as np\n\nMEMORY = np.zeros(1)")
    client = await stream(code)
    answers = await asyncio.gather(*(client.post("/", json={"inputs": {"mine": mine}}) for mine in range(4)))
    for mine, answer in enumerate(answers):
        assert [json.loads(line)["outputs"] for line in answer.text.splitlines()] == [[mine]] * 20


async def test_other_requests_run_between_two_items(stream: Any, log: list[Any]) -> None:
    client = await stream(STREAMING)
    first, second = Connection([1, 2]), Connection([3, 4])
    tasks = [connection.run(client) for connection in (first, second)]
    for connection in (first, second):
        await connection.sent.get()
        await connection.sent.get()
    assert {1, 3} <= set(log), "the second stream waits for the first to end"
    await asyncio.gather(*map(all_of, (first, second), tasks))


async def test_protocols_without_streams_refuse(stream: Any) -> None:
    client = await stream(STREAMING)
    query = DecodedRequest({"items": [1]}, lambda output: EncodedResponse(b"x", b"application/octet-stream"))
    with pytest.raises(Problem) as caught:
        await client.replica.infer(query, RequestContext())
    assert (caught.value.status, caught.value.code) == (400, "Streaming")
