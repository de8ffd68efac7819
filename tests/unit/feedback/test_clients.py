"""The feedback clients: events that they send and retry, and that callers are never delayed."""

import asyncio
import json
import logging
import os
import select
import signal
import threading
import warnings
from collections.abc import Awaitable, Callable

import httpx
import pytest

from sundog_edge.feedback.events import parse_items
from sundog_feedback import AsyncFeedback, Counts, Feedback
from sundog_feedback import outbox as outboxes
from sundog_feedback.outbox import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, Outbox
from sundog_feedback.retry import DeliveryFailed, RetryableDeliveryError, parse_response
from waiting import PATIENCE_S

URL = "http://digits.test"


@pytest.mark.parametrize("client", [Feedback, AsyncFeedback])
def test_unknown_options_are_refused(client: type[Feedback] | type[AsyncFeedback]) -> None:
    with pytest.raises(TypeError, match="linger"):
        client(URL, linger=1)


class Server:
    """Answers by a script, then accepts everything. Keeps the events."""

    def __init__(self, *script: httpx.Response | Exception) -> None:
        self.script = [*script]
        self.bodies: list[list[dict[str, object]]] = []
        self.headers: list[httpx.Headers] = []
        self.urls: list[str] = []
        self.taken: list[dict[str, object]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        items = json.loads(request.content)
        self.bodies.append(items)
        self.headers.append(request.headers)
        self.urls.append(str(request.url))
        if self.script:
            step = self.script.pop(0)
            if isinstance(step, Exception):
                raise step
            return step
        self.taken += items
        return httpx.Response(200, json={"accepted": len(items), "duplicate": 0, "problems": []})


Report = Callable[..., Awaitable[Counts]]


@pytest.fixture(params=["threaded", "asynchronous"])
def report(request: pytest.FixtureRequest) -> Report:
    """Send events to a server with one of the clients, close it, and return its counts."""

    async def threaded(server: Server, *events: dict[str, object], **options: object) -> Counts:
        def run() -> Counts:
            with Feedback(URL, transport=httpx.MockTransport(server), **options) as feedback:
                for event in events:
                    feedback.send(**event)
            return feedback.counts

        return await asyncio.to_thread(run)

    async def asynchronous(server: Server, *events: dict[str, object], **options: object) -> Counts:
        async with AsyncFeedback(URL, transport=httpx.MockTransport(server), **options) as feedback:
            for event in events:
                feedback.send(**event)
        return feedback.counts

    return {"threaded": threaded, "asynchronous": asynchronous}[request.param]


def event(number: int = 0, **members: object) -> dict[str, object]:
    return {"exposure": f"e{number}", "metric": "m", **members}


async def test_events_are_sent_together_with_all_their_members(report: Report) -> None:
    server = Server()
    members = {"event_id": "order-7", "time": "2026-01-31T12:00:00Z", "value": 2.5, "properties": {"plan": "pro"}}
    counts = await report(
        server, event(1, properties={}), {"unit": "ada", "metric": "n", **members}, headers={"x-api-key": "k"}
    )
    assert counts == Counts(accepted=2)
    assert server.bodies == [
        [
            {"exposure": "e1", "metric": "m", "value": 1},
            {
                "unit": "ada",
                "metric": "n",
                "value": 2.5,
                "id": "order-7",
                "time": "2026-01-31T12:00:00Z",
                "properties": {"plan": "pro"},
            },
        ]
    ]
    assert server.urls == ["http://digits.test/-/feedback"]
    assert (server.headers[0]["x-api-key"], server.headers[0]["content-type"]) == ("k", "application/json")


async def test_requests_to_an_absent_or_busy_edge_are_retried(report: Report) -> None:
    server = Server(
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("late"),
        httpx.Response(503, headers={"retry-after": "0"}, text="away"),
        httpx.Response(429),
        httpx.Response(502),
    )
    assert await report(server, event()) == Counts(accepted=1)
    assert len(server.bodies) == 6
    assert server.taken == [{"exposure": "e0", "metric": "m", "value": 1}]


async def test_permanently_refused_events_are_dropped_and_logged_once(report: Report, caplog) -> None:
    for status in (400, 401, 403, 404, 413, 301):
        caplog.clear()
        server = Server(*(httpx.Response(status) for _ in range(2)))
        assert await report(server, event(), linger_s=0.0) == Counts(dropped=1)
        assert len(server.bodies) == 1
        assert len([record for record in caplog.records if record.name == "sundog_feedback"]) == 1
        assert f"answered {status}" in caplog.text


async def test_retries_end_after_a_while(report: Report) -> None:
    server = Server(*(httpx.ConnectError("refused") for _ in range(1000)))
    assert await report(server, event(), give_up_s=0.2) == Counts(dropped=1)


async def test_single_refusals_are_counted(report: Report, caplog) -> None:
    problem = {"item": 1, "result": "invalid", "field": "metric", "found": "'m'", "expected": "one of n"}
    answer = {"accepted": 1, "duplicate": 1, "invalid": 1, "problems": [problem]}
    counts = await report(Server(httpx.Response(207, json=answer)), *map(event, range(3)))
    assert counts == Counts(accepted=1, duplicate=1, refused=1)
    assert "'field': 'metric'" in caplog.text


async def test_unknown_events_are_sent_once_more(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "REPEAT_AFTER_S", 0.01)
    problems = [{"item": 0, "result": "invalid"}, {"item": 2, "result": "unknown"}, {"item": 3, "result": "unknown"}]
    first = {"accepted": 1, "duplicate": 0, "invalid": 1, "unknown": 2, "problems": problems}
    again = {"accepted": 1, "duplicate": 0, "unknown": 1, "problems": [{"item": 1, "result": "unknown"}]}
    server = Server(httpx.Response(207, json=first), httpx.Response(207, json=again))
    assert await report(server, *map(event, range(4))) == Counts(accepted=2, refused=2)
    assert [[each["exposure"] for each in body] for body in server.bodies] == [["e0", "e1", "e2", "e3"], ["e2", "e3"]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no",
        b"[]",
        b"7",
        b'{"accepted": null}',
        b'{"accepted": "no"}',
        b'{"accepted": true}',
        b'{"problems": {"a": 1}}',
    ],
)
async def test_an_answer_of_another_server_is_not_a_success(report: Report, body: bytes) -> None:
    counts = await report(Server(httpx.Response(200, content=body)), event())
    assert (counts.accepted, counts.refused + counts.dropped) == (0, 1)


async def test_a_client_survives_an_invalid_answer(report: Report) -> None:
    server = Server(httpx.Response(200, content=b'{"accepted": [1], "problems": 7}'))
    counts = await report(server, *map(event, range(1500)), linger_s=60.0)
    assert counts == Counts(accepted=500, refused=1000)


async def test_many_events_are_sent_in_several_requests(report: Report) -> None:
    server = Server()
    assert await report(server, *map(event, range(2500)), linger_s=60.0) == Counts(accepted=2500)
    assert max(len(body) for body in server.bodies) <= MAX_BATCH_EVENTS
    assert [each["exposure"] for each in server.taken] == [f"e{number}" for number in range(2500)]


async def test_events_that_cannot_be_sent_raise_nothing(report: Report) -> None:
    server = Server()
    nothing = {"exposure": None, "metric": "m"}
    counts = await report(server, nothing, event(value=float("nan")), event(value=object()), event(1))
    assert counts == Counts(accepted=1, dropped=3)


@pytest.mark.parametrize(
    "poison",
    [
        {"event_id": "\ud800"},
        {"exposure": "\udfff"},
        {"value": 10**400},
        {"exposure": None, "unit": 10**400},
        {"properties": {"a": 10**400}},
        {"properties": {"a": [10**400]}},
        {"properties": "text"},
    ],
    ids=["half a character", "the other half", "value", "unit", "property", "nested property", "no properties"],
)
async def test_an_unreadable_event_does_not_affect_others(report: Report, poison: dict[str, object]) -> None:
    server = Server()
    counts = await report(server, event(1), event(**poison), event(2, event_id="h\u00e9"), linger_s=60.0)
    assert counts == Counts(accepted=2, dropped=1)
    assert len(parse_items(json.dumps(server.bodies[0], ensure_ascii=False).encode())) == 2


async def test_events_nested_deeper_than_json_allows_are_dropped(report: Report) -> None:
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    assert await report(Server(), event(value=deep)) == Counts(dropped=1)


def test_in_a_forked_process_a_client_drops_events_without_blocking() -> None:
    with Feedback(URL, transport=httpx.MockTransport(Server()), linger_s=60.0) as feedback:
        feedback.send(**event(1))
        reading, writing = os.pipe()
        # Another thread may hold the lock at the moment of a fork; the child then never sees it released.
        held, done = threading.Event(), threading.Event()
        holder = threading.Thread(target=_hold, args=(feedback, held, done))
        holder.start()
        assert held.wait(PATIENCE_S)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            members = (feedback.send(**event(2)), feedback.flush(0), feedback.counts.dropped)
            feedback.close()
            os.write(writing, repr(members).encode())
            os._exit(0)
        done.set()
        holder.join()
        os.close(writing)
        try:
            assert select.select([reading], [], [], PATIENCE_S)[0], "the child waits for ever"
            assert os.read(reading, 100) == b"(False, False, 1)"
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
    assert feedback.counts == Counts(accepted=1)


def _hold(feedback: Feedback, held: threading.Event, done: threading.Event) -> None:
    with feedback._changed:
        held.set()
        done.wait(PATIENCE_S)


async def test_a_client_without_its_task_drops_events() -> None:
    feedback = await AsyncFeedback(URL, transport=httpx.MockTransport(Server())).__aenter__()
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "sundog-feedback"]
    task.cancel()
    await asyncio.wait([task])
    assert feedback.send(**event()) is False
    await feedback.close()
    assert feedback.counts == Counts(dropped=1)


async def test_a_closed_client_drops_events(report: Report) -> None:
    feedback = Feedback(URL, transport=httpx.MockTransport(Server()))
    await asyncio.to_thread(feedback.close)
    assert feedback.send(**event()) is False
    never = AsyncFeedback(URL)
    assert never.send(**event()) is False
    await never.close()
    assert feedback.counts == never.counts == Counts(dropped=1)


def test_a_full_outbox_drops_the_newest_and_counts() -> None:
    outbox = Outbox(capacity=3)
    assert [outbox.put(event(number)) for number in range(5)] == [True, True, True, False, False]
    assert [each["exposure"] for each in json.loads(outbox.take(0))] == ["e0", "e1", "e2"]
    assert outbox.put(event()) is False, "what is under way takes room, too"
    outbox.settle({"accepted": 3}, 0)
    assert outbox.put(event()) is True
    assert outbox.counts == Counts(accepted=3, dropped=3)


def test_a_batch_is_not_larger_than_an_edge_accepts() -> None:
    outbox = Outbox()
    for number in range(500):
        outbox.put({"unit": f"{number}-{'x' * 4000}", "metric": "m"})
    sizes, items = [], 0
    while body := outbox.take(0):
        sizes.append(len(body))
        items += len(json.loads(body))
        outbox.settle({"accepted": 1}, 0)
    assert (max(sizes) <= MAX_BATCH_BYTES + 2, items) == (True, 500)
    assert outbox.counts == Counts(accepted=len(sizes), refused=500 - len(sizes))


def test_send_never_waits_and_close_waits_up_to_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, entered, answered = threading.Event(), threading.Event(), threading.Event()

    def server(request: httpx.Request) -> httpx.Response:
        entered.set()
        hangs.wait(PATIENCE_S)
        answered.set()
        return httpx.Response(503)

    feedback = Feedback(URL, transport=httpx.MockTransport(server), capacity=10, linger_s=0.0)
    feedback.send(**event())
    assert entered.wait(PATIENCE_S)
    taken = [feedback.send(**event(number)) for number in range(100)]
    assert taken.count(True) == 9
    assert feedback.flush(0.01) is False
    joins: list[float] = []
    monkeypatch.setattr(feedback._thread, "join", joins.append)
    feedback.close(0.01)
    assert joins == [0], "the flush has used the time"
    assert not answered.is_set(), "it waited for the server"
    assert feedback.counts == Counts(dropped=101)
    assert not feedback._http.is_closed, "a request uses it"
    hangs.set()
    threading.Thread.join(feedback._thread, PATIENCE_S)
    assert feedback._http.is_closed


def test_an_answer_is_parsed_by_its_status() -> None:
    with pytest.raises(RetryableDeliveryError) as raised:
        parse_response(httpx.Response(503, headers={"retry-after": "3"}))
    assert raised.value.retry_after_s == 3
    for text, wanted in (("3600", 10), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("", 0)):
        with pytest.raises(RetryableDeliveryError) as raised:
            parse_response(httpx.Response(429, headers={"retry-after": text}))
        assert raised.value.retry_after_s == wanted
    with pytest.raises(DeliveryFailed, match="answered 401 Unauthorized"):
        parse_response(httpx.Response(401))


def test_an_invalid_url_raises_at_once() -> None:
    with pytest.raises(httpx.InvalidURL):
        Feedback("http://a:b:c")
    assert logging.getLogger("sundog_feedback").level == logging.NOTSET
