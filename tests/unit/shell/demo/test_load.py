"""The clients against a server that misbehaves on purpose."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import orjson
import pytest
from aiohttp import web

from fake_ray_head import end
from sundog_operator.shell.demo.load import LoadGenerator, RequestSample
from waiting import PATIENCE_S

BODIES = tuple(orjson.dumps({"inputs": [[[digit] * 8] * 8]}) for digit in range(10))
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Answer], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    runners = []

    async def start(answer: Answer) -> str:
        app = web.Application()
        app.router.add_post("/digits", answer)
        runner = web.AppRunner(app, shutdown_timeout=1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/digits"

    yield start
    for runner in runners:
        await end(runner)


async def echo(request: web.Request) -> web.Response:
    """Return the value of the image's first pixel as the digit."""
    digit = orjson.loads(await request.read())["inputs"][0][0][0]
    scores = [float(number == digit) for number in range(10)]
    return web.json_response({"outputs": [scores]}, headers={"x-sundog-revision": "7"})


async def samples(url: str, at_least: int, **options: int) -> list[RequestSample]:
    load = LoadGenerator(url, BODIES, pause_s=0.0, **options)  # type: ignore[arg-type]
    async with load.running(), asyncio.timeout(PATIENCE_S):
        while True:
            if len(load.samples) >= at_least:
                break
            await asyncio.sleep(0.01)
    return load.samples


async def test_every_answer_is_recorded_with_its_image_digit_and_revision(serve: Serve) -> None:
    found = await samples(await serve(echo), at_least=100)
    assert all((sample.predicted, sample.revision, sample.problem) == (sample.image, 7, "") for sample in found)
    assert {sample.image for sample in found} == set(range(10))
    assert all(sample.latency_s > 0 for sample in found)


async def test_each_client_has_one_request_at_a_time(serve: Serve) -> None:
    inside, most, all_inside = 0, 0, asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 3:
            all_inside.set()
        # The first three responses wait for each other, so the order does not depend on the machine's speed.
        await all_inside.wait()
        await asyncio.sleep(0.001)
        inside -= 1
        return await echo(request)

    await samples(await serve(answer), at_least=50, clients=3)
    assert most == 3


async def test_the_end_waits_for_the_answers_that_are_due(serve: Serve) -> None:
    released, waiting = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        waiting.set()
        await released.wait()
        return await echo(request)

    load = LoadGenerator(await serve(answer), BODIES, clients=1)
    async with load.running():
        await asyncio.wait_for(waiting.wait(), PATIENCE_S)
        asyncio.get_running_loop().call_later(0.05, released.set)
    assert [sample.problem for sample in load.samples] == [""]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (web.Response(status=503, text="not ready"), "HTTP 503: not ready"),
        (web.json_response({"outputs": [[1.0]]}), "the response has no x-sundog-revision"),
        (web.Response(text="hello", headers={"x-sundog-revision": "1"}), "the response has no scores: hello"),
        (
            web.json_response({"outputs": []}, headers={"x-sundog-revision": "1"}),
            'the response has no scores: {"outputs": []}',
        ),
    ],
)
async def test_an_answer_that_is_none_is_a_problem(serve: Serve, answer: web.Response, problem: str) -> None:
    async def give(_request: web.Request) -> web.Response:
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)

    found = await samples(await serve(give), at_least=1, clients=1)
    assert {(sample.problem, sample.predicted) for sample in found} == {(problem, -1)}


async def test_a_connection_that_is_cut_is_a_problem_and_is_not_tried_again(serve: Serve) -> None:
    calls = 0

    async def cut(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    found = await samples(await serve(cut), at_least=3, clients=1)
    assert len(found) == calls
    assert all(sample.problem.startswith("no response: ") for sample in found)
