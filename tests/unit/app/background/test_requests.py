"""Requests run in the background of the passes that need their answers."""

import asyncio

import pytest

from sundog_operator.app.background.requests import BackgroundRequests
from sundog_operator.core.observed import WebhookResult

OK, BUSY = WebhookResult(200), WebhookResult(503)


class Receiver:
    """Answers when the test sets the answer."""

    def __init__(self) -> None:
        self.posts: list[asyncio.Future[WebhookResult]] = []

    async def post(self) -> WebhookResult:
        self.posts.append(asyncio.get_running_loop().create_future())
        return await self.posts[-1]

    async def answers(self, answer: WebhookResult) -> None:
        self.posts[-1].set_result(answer)
        await turn()


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def ask(
    posts: BackgroundRequests[WebhookResult], receiver: Receiver, now: float, about: str = "a", slot: str = "s"
) -> WebhookResult | None:
    answer = posts.poll(
        slot,
        about,
        receiver.post,
        enough=lambda given: given.confirms,
        again_s=lambda times: 10.0 * times,
        now=now,
    )
    await turn()
    return answer


async def test_who_asks_never_waits_and_gets_the_answer_later() -> None:
    posts, receiver = BackgroundRequests[WebhookResult](), Receiver()
    assert await ask(posts, receiver, 0) is None
    assert await ask(posts, receiver, 100) is None
    assert len(receiver.posts) == 1
    await receiver.answers(OK)
    assert [await ask(posts, receiver, now) for now in (101, 500)] == [OK, OK]
    assert len(receiver.posts) == 1


async def test_what_is_not_enough_is_asked_again_ever_later_and_reported_meanwhile() -> None:
    posts, receiver = BackgroundRequests[WebhookResult](), Receiver()
    await ask(posts, receiver, 0)
    await receiver.answers(BUSY)
    assert await ask(posts, receiver, 9.9) == BUSY
    assert len(receiver.posts) == 1
    assert await ask(posts, receiver, 10) == BUSY
    assert len(receiver.posts) == 2
    await receiver.answers(BUSY)
    await ask(posts, receiver, 29.9)
    assert len(receiver.posts) == 2
    await ask(posts, receiver, 30)
    assert len(receiver.posts) == 3
    await receiver.answers(OK)
    assert await ask(posts, receiver, 31) == OK


async def test_a_post_that_breaks_is_reported_once_and_made_anew() -> None:
    posts, receiver = BackgroundRequests[WebhookResult](), Receiver()
    await ask(posts, receiver, 0)
    receiver.posts[0].set_exception(RuntimeError("a bug"))
    await turn()
    with pytest.raises(RuntimeError, match="a bug"):
        await ask(posts, receiver, 10)
    assert await ask(posts, receiver, 10) is None
    await receiver.answers(OK)
    assert await ask(posts, receiver, 11) == OK


async def test_another_question_is_another_answer() -> None:
    posts, receiver = BackgroundRequests[WebhookResult](), Receiver()
    await ask(posts, receiver, 0)
    first = receiver.posts[0]
    assert await ask(posts, receiver, 1, about="b") is None
    assert first.cancelled()
    await receiver.answers(OK)
    assert await ask(posts, receiver, 2, about="b") == OK
    assert await ask(posts, receiver, 3, about="a") is None


async def test_slots_do_not_wait_for_each_other() -> None:
    posts, one, other = BackgroundRequests[WebhookResult](), Receiver(), Receiver()
    await ask(posts, one, 0)
    await ask(posts, other, 0, slot="t")
    await other.answers(OK)
    assert await ask(posts, other, 0, slot="t") == OK
    assert await ask(posts, one, 0) is None


async def test_what_is_forgotten_is_given_up_and_forgetting_nothing_is_fine() -> None:
    posts, receiver = BackgroundRequests[WebhookResult](), Receiver()
    posts.forget("s")
    await ask(posts, receiver, 0)
    assert len(posts.pending) == 1
    posts.forget("s")
    await turn()
    assert (receiver.posts[0].cancelled(), posts.pending) == (True, [])
