"""Queue, batches, deadlines, disconnects, and errors that reach only their own request."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from sundog_runtime.context import RequestContext, current, joined, parameters_of
from sundog_runtime.errors import ClientGoneError, Problem
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.scheduling.execution_mode import LONG_SECONDS
from sundog_runtime.scheduling.model_thread import STUCK_AFTER_SECONDS, ModelThread
from sundog_runtime.scheduling.scheduler import STUCK_DEADLINE_FACTOR, Scheduler
from sundog_runtime.signature import Signature
from sundog_runtime.telemetry.replica_metrics import ReplicaMetrics
from sundog_runtime.tensors import TensorSpec
from waiting import PATIENCE_S

SOON_S = 0.5
"""A deadline that passes while a test waits for it, long after the request has reached its place."""

DECLARED = Signature((TensorSpec("x", "float32", (-1, 2)),))


class Gate:
    """A model whose first pass waits until it may go on. Records its inputs."""

    def __init__(self, answer: Callable[[Any], Any] = lambda batch: batch * 2) -> None:
        self.began, self.go, self.calls = threading.Event(), threading.Event(), list[Any]()
        self.contexts: list[tuple[RequestContext, ...]] = []
        self._answer = answer

    def __call__(self, batch: Any) -> Any:
        self.calls.append(batch)
        self.contexts.append(joined())
        self.began.set()
        assert self.go.wait(PATIENCE_S)
        return self._answer(batch)


def rows(*numbers: float) -> Any:
    return np.array([[number, 0] for number in numbers], dtype="float32")


def loaded(predict: Callable[[Any], Any], platform: str = "python", **change: Any) -> LoadedModel:
    return LoadedModel(platform, "a test", predict, **{"signature": DECLARED, "is_batchable": True, **change})


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Scheduler]]:
    threads = []

    def make(model: LoadedModel, **change: Any) -> Scheduler:
        threads.append(ModelThread())
        return Scheduler(model, threads[-1], ReplicaMetrics(), **{"max_rows": 4, **change})

    yield make
    for thread in threads:
        thread.close()


async def waiting(scheduler: Scheduler, count: int) -> None:
    while len(scheduler._batches) != count:  # noqa: ASYNC110 (it is the loop's turns that are waited for)
        await asyncio.sleep(0)


async def behind(scheduler: Scheduler, gate: Gate, *batches: Any, **context: Any) -> list["asyncio.Task[Any]"]:
    """Start a request that occupies the model, and others that wait behind it."""
    tasks = [asyncio.create_task(scheduler.infer(rows(0), RequestContext()))]
    await asyncio.to_thread(gate.began.wait)
    for count, batch in enumerate(batches, 1):
        tasks.append(asyncio.create_task(scheduler.infer(batch, RequestContext(**context))))
        await waiting(scheduler, count)
    return tasks


async def test_waiting_requests_are_batched_and_get_their_own_rows(make: Callable[..., Scheduler]) -> None:
    gate = Gate()
    scheduler = make(loaded(gate))
    tasks = await behind(scheduler, gate, rows(1), rows(2, 3), rows(4), rows(5))
    gate.go.set()
    answers = await asyncio.gather(*tasks)
    assert [answer[:, 0].tolist() for answer in answers] == [[0], [2], [4, 6], [8], [10]]
    assert [len(call) for call in gate.calls] == [1, 4, 1]
    assert [len(contexts) for contexts in gate.contexts] == [1, 3, 1]
    assert scheduler._metrics.batch_size.counts[:3] == [2, 0, 1]
    assert sum(scheduler._metrics.queue_wait.counts) == 5


@pytest.mark.parametrize("max_rows", [1, 2, 8])
async def test_every_request_gets_its_own_answer_once(make: Callable[..., Scheduler], max_rows: int) -> None:
    scheduler = make(loaded(lambda batch: batch + 1), max_rows=max_rows, max_delay_s=0.001)

    async def client(number: int) -> None:
        for turn in range(20):
            mine = rows(*(number * 1000 + turn * 10 + row for row in range(1 + (number + turn) % 3)))
            assert (await scheduler.infer(mine, RequestContext()) == mine + 1).all()

    await asyncio.gather(*map(client, range(12)))
    assert len(scheduler._batches) == 0


def not_thirteen(batch: Any) -> Any:
    if 13 in batch:
        raise ValueError("unlucky")
    return batch * 2


def unusable_at_thirteen(batch: Any) -> Any:
    return (batch * 2).astype("complex64") if 13 in batch else batch * 2


def exit_at_thirteen(batch: Any) -> Any:
    if 13 in batch:
        raise SystemExit(3)
    return batch * 2


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (not_thirteen, ValueError, "unlucky"),
        (unusable_at_thirteen, Problem, "complex64"),
        (exit_at_thirteen, RuntimeError, "the model raised SystemExit"),
    ],
)
async def test_an_error_reaches_only_its_own_request(
    make: Callable[..., Scheduler], answer: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    gate = Gate(answer)
    scheduler = make(loaded(gate))
    tasks = await behind(scheduler, gate, rows(1), rows(13), rows(2))
    gate.go.set()
    first, one, guilty, two = await asyncio.gather(*tasks, return_exceptions=True)
    assert [first[0, 0], one[0, 0], two[0, 0]] == [0, 2, 4]
    assert isinstance(guilty, error)
    assert message in str(guilty)
    assert scheduler.is_batching


async def test_a_model_that_changes_its_input_changes_no_other_request(make: Callable[..., Scheduler]) -> None:
    def spoil(batch: Any) -> Any:
        batch += 1
        if len(batch) > 1:
            raise ValueError("only one")
        return batch

    gate = Gate(spoil)
    tasks = await behind(make(loaded(gate)), gate, rows(1), rows(2))
    gate.go.set()
    assert [answer[0, 0] for answer in await asyncio.gather(*tasks)] == [1, 2, 3]


async def test_outputs_that_are_not_rows_end_the_batching(
    make: Callable[..., Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(lambda batch: {"sum": float(batch.sum())})
    scheduler = make(loaded(gate))
    tasks = await behind(scheduler, gate, rows(1), rows(2))
    gate.go.set()
    assert await asyncio.gather(*tasks) == [{"sum": 0}, {"sum": 1}, {"sum": 2}]
    assert not scheduler.is_batching
    assert "requests are not batched: the model cannot take several at once: its outputs" in caplog.text
    gate.go.clear(), gate.began.clear(), gate.calls.clear()
    tasks = await behind(scheduler, gate, rows(1), rows(2))
    gate.go.set()
    await asyncio.gather(*tasks)
    assert [len(call) for call in gate.calls] == [1, 1, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"signature": Signature()},
        {"signature": Signature((TensorSpec("x", "float32", (1, 2)),))},
        {"signature": Signature((TensorSpec("x", "string", (-1,)),))},
        {"signature": Signature((TensorSpec("x", "bytes", (-1,)),))},
        {"is_streaming": True},
    ],
)
async def test_models_whose_requests_are_never_batched(make: Callable[..., Scheduler], change: Any) -> None:
    gate = Gate()
    scheduler = make(loaded(gate, **change))
    tasks = await behind(scheduler, gate, rows(1), rows(2))
    gate.go.set()
    await asyncio.gather(*tasks)
    assert [len(call) for call in gate.calls] == [1, 1, 1]


async def test_requests_with_equal_parameters_are_batched(make: Callable[..., Scheduler]) -> None:
    gate = Gate()
    scheduler = make(loaded(gate))
    tasks = await behind(scheduler, gate)
    for count, given in enumerate(({"scale": 2}, {"scale": 2}, {"scale": 3}, {}, {}, {"scale": 2}), 1):
        context = RequestContext(parameters=parameters_of(given, {})) if given else RequestContext()
        tasks.append(asyncio.create_task(scheduler.infer(rows(count), context)))
        await waiting(scheduler, count)
    gate.go.set()
    await asyncio.gather(*tasks)
    assert [call[:, 0].tolist() for call in gate.calls] == [[0], [1, 2, 6], [3], [4, 5]]


async def test_a_request_past_its_deadline_is_not_computed(make: Callable[..., Scheduler]) -> None:
    gate = Gate()
    scheduler = make(loaded(gate))
    tasks = await behind(scheduler, gate, rows(13), deadline=time.monotonic() + SOON_S)
    with pytest.raises(Problem) as caught:
        await tasks[1]
    assert (caught.value.status, caught.value.code) == (504, "DeadlineExceeded")
    assert len(scheduler._batches) == 0
    with pytest.raises(Problem):
        await scheduler.infer(rows(14), RequestContext(deadline=time.monotonic()))
    assert sum(scheduler._metrics.queue_wait.counts) == 1
    gate.go.set()
    await tasks[0]
    assert sum(scheduler._metrics.queue_wait.counts) == 2
    assert scheduler._metrics.queue_wait.total > 0
    assert (await scheduler.infer(rows(1), RequestContext()))[0, 0] == 2
    assert not any({13, 14} & set(call[:, 0]) for call in gate.calls)


async def test_a_late_request_is_not_computed_by_an_idle_model(make: Callable[..., Scheduler]) -> None:
    calls: list[Any] = []
    scheduler = make(loaded(calls.append, "pytorch"))
    quick(scheduler)
    with pytest.raises(Problem, match="deadline passed"):
        await scheduler.infer(rows(1), RequestContext(deadline=time.monotonic()))
    assert calls == []


async def test_an_abandoned_request_is_skipped_when_a_batch_is_retried_one_by_one(
    make: Callable[..., Scheduler],
) -> None:
    began, go = threading.Event(), threading.Event()

    def fail(batch: Any) -> Any:
        if batch[0, 0] == 13:
            began.set()
            assert go.wait(PATIENCE_S)
        raise ValueError("never")

    gate = Gate(fail)
    tasks = await behind(make(loaded(gate)), gate, rows(1), rows(13), rows(2))
    gate.go.set()
    await asyncio.to_thread(began.wait)
    tasks[3].cancel()
    await asyncio.wait([tasks[3]])
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [call[:, 0].tolist() for call in gate.calls] == [[0], [1, 13, 2], [1], [13]]


async def test_a_pass_that_outlasts_the_deadline_has_no_answer(make: Callable[..., Scheduler]) -> None:
    gate = Gate()
    scheduler = make(loaded(gate))
    task = asyncio.create_task(scheduler.infer(rows(1), RequestContext(deadline=time.monotonic() + SOON_S)))
    await asyncio.to_thread(gate.began.wait)
    with pytest.raises(Problem, match="deadline passed"):
        await task
    gate.go.set()
    assert (await scheduler.infer(rows(2), RequestContext()))[0, 0] == 4


async def test_a_cancelled_request_leaves_the_queue(make: Callable[..., Scheduler]) -> None:
    gate = Gate()
    scheduler = make(loaded(gate))
    tasks = await behind(scheduler, gate, rows(1), rows(13), rows(2))
    tasks[2].cancel()
    await asyncio.wait([tasks[2]])
    assert len(scheduler._batches) == 2
    gate.go.set()
    assert [(await tasks[index])[0, 0] for index in (0, 1, 3)] == [0, 2, 4]
    assert [call[:, 0].tolist() for call in gate.calls] == [[0], [1, 2]]


async def test_a_request_leaves_the_queue_when_its_client_goes_away(make: Callable[..., Scheduler]) -> None:
    gate, gone = Gate(), asyncio.Event()

    async def until_gone() -> None:
        await gone.wait()

    scheduler = make(loaded(gate))
    tasks = await behind(scheduler, gate, rows(1))
    asked = asyncio.Event()

    async def ask() -> None:
        asked.set()
        await scheduler.infer(rows(13), RequestContext(until_gone=until_gone))

    left = asyncio.create_task(ask())
    await asked.wait()
    gone.set()
    with pytest.raises(ClientGoneError):
        await left
    gate.go.set()
    assert [(await task)[0, 0] for task in tasks] == [0, 2]
    assert 13 not in [row for call in gate.calls for row in call[:, 0]]


async def test_the_queue_is_bounded(make: Callable[..., Scheduler]) -> None:
    gate = Gate()
    scheduler = make(loaded(gate), max_waiting=2)
    tasks = await behind(scheduler, gate, rows(1), rows(2))
    with pytest.raises(Problem) as caught:
        await scheduler.infer(rows(3), RequestContext())
    assert (caught.value.status, caught.value.code, caught.value.headers) == (
        503,
        "Overloaded",
        ((b"retry-after", b"1"),),
    )
    gate.go.set()
    await asyncio.gather(*tasks)


async def test_a_pass_is_stuck_when_no_client_can_still_wait(make: Callable[..., Scheduler]) -> None:
    gate, now = Gate(), [1000.0]
    scheduler = make(loaded(gate), clock=lambda: now[0])
    scheduler._thread._clock = lambda: now[0]
    for deadline, limit_s in (
        (now[0] + 1, 60.0),
        (now[0] + 30, 30 * STUCK_DEADLINE_FACTOR),
        (float("inf"), STUCK_AFTER_SECONDS),
    ):
        gate.began.clear(), gate.go.clear()
        now[0] = 1000.0
        task = asyncio.create_task(scheduler.infer(rows(1), RequestContext(deadline=deadline)))
        await asyncio.to_thread(gate.began.wait)
        now[0] += limit_s
        assert not scheduler.is_stuck
        now[0] += 1
        assert scheduler.is_stuck
        gate.go.set()
        await asyncio.gather(task, return_exceptions=True)
        await scheduler._thread.run(lambda: None)
        assert not scheduler.is_stuck


def quick(scheduler: Scheduler) -> None:
    assert scheduler._durations is not None
    scheduler._durations._on_probation = 0


async def test_a_model_that_reuses_its_output_memory(make: Callable[..., Scheduler]) -> None:
    memory = np.zeros((1, 2), "float32")

    def predict(batch: Any) -> Any:
        memory[:] = batch
        return {"x": memory, "list": [memory[0]]}

    scheduler = make(loaded(predict), max_rows=1)
    answers = await asyncio.gather(*(scheduler.infer(rows(number), RequestContext()) for number in range(100)))
    assert [answer["x"][0, 0] for answer in answers] == list(range(100))
    assert [answer["list"][0][0] for answer in answers] == list(range(100))


async def test_a_large_input_never_runs_on_the_event_loop(make: Callable[..., Scheduler]) -> None:
    here: list[bool] = []

    def predict(batch: Any) -> Any:
        here.append(threading.current_thread() is threading.main_thread())
        return batch

    for declared in ("x", "y"):
        scheduler = make(loaded(predict, "pytorch"), max_rows=4)
        quick(scheduler)
        large = np.zeros((100_000, 2), "float32")
        await scheduler.infer(large if declared == "x" else {"x": large}, RequestContext())
        await scheduler.infer(rows(1), RequestContext())
        scheduler.begin_arrival()
        await scheduler.infer(large, RequestContext())
        scheduler.end_arrival()
    assert here == [False, True, False] * 2


async def test_a_model_that_may_have_to_compile_never_runs_on_the_event_loop(make: Callable[..., Scheduler]) -> None:
    assert make(loaded(not_thirteen, "pytorch", needs_model_thread=True))._durations is None


async def test_on_the_event_loop_arriving_requests_are_batched(make: Callable[..., Scheduler]) -> None:
    calls: list[Any] = []

    def predict(batch: Any) -> Any:
        calls.append((len(batch), threading.current_thread() is threading.main_thread()))
        return batch * 2

    scheduler = make(loaded(predict, "pytorch"), max_rows=8, max_delay_s=60.0)
    scheduler._batches.pass_seconds = 60.0
    quick(scheduler)

    async def ask(number: int) -> Any:
        scheduler.begin_arrival()
        await asyncio.sleep(0)
        scheduler.end_arrival()
        return (await scheduler.infer(rows(number), RequestContext()))[0, 0]

    assert await ask(1) == 2
    assert await asyncio.gather(*map(ask, range(5))) == [0, 2, 4, 6, 8]
    assert calls == [(1, True), (5, True)]


async def test_a_request_held_on_the_event_loop_waits_up_to_the_delay(make: Callable[..., Scheduler]) -> None:
    scheduler = make(loaded(lambda batch: batch * 2, "pytorch"), max_delay_s=0.001)
    scheduler._batches.pass_seconds = 0.001
    quick(scheduler)
    scheduler.begin_arrival()
    assert (await scheduler.infer(rows(1), RequestContext()))[0, 0] == 2
    scheduler.end_arrival()


async def test_a_held_request_moves_to_the_thread_when_the_model_turns_slow(make: Callable[..., Scheduler]) -> None:
    gate = Gate()
    gate.go.set()
    scheduler = make(loaded(gate, "pytorch"), max_delay_s=60.0)
    scheduler._batches.pass_seconds = 60.0
    quick(scheduler)
    scheduler.begin_arrival()
    task = asyncio.create_task(scheduler.infer(rows(1), RequestContext()))
    await waiting(scheduler, 1)
    assert not gate.calls
    assert scheduler._durations is not None
    scheduler._durations.observe(LONG_SECONDS * 2)
    scheduler.end_arrival()
    assert (await task)[0, 0] == 2
    await scheduler._thread.run(lambda: None)
    assert not scheduler._stepping


async def test_the_model_can_read_its_current_requests(make: Callable[..., Scheduler]) -> None:
    seen: list[Any] = []
    scheduler = make(loaded(lambda batch: (seen.append(current()), batch)[1]))
    context = RequestContext({b"x-request-id": b"find-me"})
    await scheduler.infer(rows(1), context)
    assert seen == [context]
    assert seen[0].request_id == "find-me"
    assert current() is None
