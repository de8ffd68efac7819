"""Who may call, and how often: API keys and rates, changed while the edge runs."""

import asyncio

import pytest

pytestmark = pytest.mark.haproxy

ADA, BOB = "ada-key-0123456789", "bob-key-0123456789"


def stable(edge):
    return [edge.arm("stable", "digits-r7", [[0, 10_000]]), edge.arm("canary", "digits-r8", [], revision=8)]


async def current(edge) -> int:
    """The worker that takes new connections: another one after a reload."""
    return next(
        boot["pid"] for boot in (await edge.evidence())["boots"] if not boot["draining"] and not boot["endedAt"]
    )


async def status(edge, **headers: str) -> int:
    return (
        await edge.get("/digits/", headers={name.replace("_", "-"): value for name, value in headers.items()})
    ).status


async def answers(edge, wanted: int, **headers: str) -> None:
    async def as_wanted() -> bool:
        return await status(edge, **headers) == wanted

    await edge.comes_true(as_wanted, f"{wanted} for {headers}")


@pytest.fixture
async def keyed(edge, digits):
    edge.secret("clients", ada=f"{ADA}\n", bob=BOB)
    await edge.apply(edge.service("digits", stable(edge), auth={"apiKeys": "clients"}))
    return digits


REQUESTS = (
    ({}, 401),
    ({"x-api-key": ADA}, 200),
    ({"x-api-key": BOB}, 200),
    ({"authorization": f"Bearer {ADA}"}, 200),
    ({"authorization": f"bearer {ADA}"}, 200),
    ({"x-api-key": ADA.upper()}, 401),
    ({"x-api-key": f"{ADA},{BOB}"}, 401),
    ({"x-api-key": ""}, 401),
    ({"x-api-key": "wrong", "authorization": f"Bearer {ADA}"}, 401),
    ({"authorization": f"Basic {ADA}"}, 401),
    ({"authorization": ADA}, 401),
    ({"x_api_key": ADA}, 401),
)


async def test_only_who_has_a_key_is_let_in_and_no_replica_sees_it(edge, keyed):
    for headers, wanted in REQUESTS:
        response = await edge.get("/digits/", headers=headers)
        assert response.status == wanted, headers
        if wanted == 401:
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["content-type"] == "application/problem+json"
    for seen in keyed["stable"].seen:
        assert not {"x-api-key", "authorization"} & {name.lower() for name in seen["headers"]}
    assert len(keyed["stable"].seen) == 4

    async def counted() -> bool:
        return await edge.refused("digits") == {"auth": 8}

    await edge.comes_true(counted, "eight refused for who they are")


async def test_without_authentication_credentials_are_the_models_business(edge, digits):
    await edge.get("/digits/", headers={"authorization": "Bearer mine", "x-api-key": "mine"})
    seen = {name.lower(): value for name, value in digits["stable"].seen[-1]["headers"].items()}
    assert (seen["authorization"], seen["x-api-key"]) == ("Bearer mine", "mine")


async def test_keys_are_rotated_without_a_reload(edge, keyed):
    pid = await current(edge)
    edge.secret("clients", ada="ada-key-of-the-next-month", bob=BOB)
    await answers(edge, 401, x_api_key=ADA)
    assert await status(edge, x_api_key="ada-key-of-the-next-month") == 200
    assert await status(edge, x_api_key=BOB) == 200
    edge.secret("clients")
    await answers(edge, 401, x_api_key=BOB)

    async def told() -> bool:
        seen = (await edge.evidence())["services"]["digits"]
        return seen["problems"] == ["Secret clients is missing or empty"] and seen["hasCredentials"] is False

    await edge.comes_true(told, "the missing Secret is told")
    assert await current(edge) == pid


async def test_a_broken_key_harms_nobody_else(edge, keyed):
    edge.secret("clients", ada="short", bob=BOB, carl=BOB)

    async def told() -> list[str]:
        return (await edge.evidence())["services"]["digits"]["problems"]

    assert await edge.comes_true(told, "problems") == [
        "Secret clients file ada is not an API key; expected at least 16 printable ASCII characters",
        "Secret clients file carl has the API key of bob",
    ]
    assert await status(edge, x_api_key=BOB) == 200
    assert await status(edge, x_api_key="short") == 401
    assert (await edge.evidence())["services"]["digits"]["hasCredentials"] is True
    for folder in (edge.root / "s").rglob("*"):
        if folder.is_file() and not folder.name.endswith(".json"):
            assert BOB.encode() not in folder.read_bytes()


async def test_keys_survive_a_restart_of_the_agent_and_of_haproxy(edge, keyed):
    await edge.kill_agent()
    await edge.stop_haproxy()
    await edge.start_haproxy()

    async def up() -> bool:
        try:
            return await status(edge, x_api_key=ADA) in {200, 503}
        except OSError:
            return False

    await edge.comes_true(up, "HAProxy knows the key")
    assert await status(edge) == 401
    await edge.start_agent()
    await edge.up("digits", stable=1)
    assert await status(edge, x_api_key=ADA) == 200


async def test_each_service_has_its_own_keys(edge, keyed):
    edge.secret("others", eve="eve-key-0123456789")
    await edge.apply(
        edge.service("digits", stable(edge), auth={"apiKeys": "clients"}),
        edge.service("letters", [], auth={"apiKeys": "others"}),
    )
    assert await status(edge, x_api_key="eve-key-0123456789") == 401
    assert (await edge.get("/letters/", headers={"x-api-key": "eve-key-0123456789"})).status == 503
    assert (await edge.get("/letters/", headers={"x-api-key": ADA})).status == 401


async def test_a_client_that_calls_too_often_is_slowed_and_the_others_are_not(edge, keyed):
    await edge.apply(
        edge.service(
            "digits",
            stable(edge),
            auth={"apiKeys": "clients"},
            rateLimit={"perClient": {"requests": 3, "seconds": 3600}, "total": {"requests": 5, "seconds": 3600}},
        )
    )
    assert [await status(edge, x_api_key=ADA) for _ in range(5)] == [200, 200, 200, 429, 429]
    # What was refused does not count against anybody: two of five are left for all.
    assert [await status(edge, x_api_key=BOB) for _ in range(3)] == [200, 200, 429]
    response = await edge.get("/digits/", headers={"x-api-key": BOB})
    assert response.headers["retry-after"] == "720"
    assert response.headers["content-type"] == "application/problem+json"
    assert await status(edge) == 401

    async def counted() -> bool:
        return await edge.refused("digits") == {"rate": 4, "auth": 1}

    await edge.comes_true(counted, "four for their rate")


async def test_rates_change_and_go_without_a_reload_and_a_source_is_a_client(edge, digits):
    pid = await current(edge)
    for requests, seconds in ((2, 60), (4, 3600)):
        limit = {"perClient": {"requests": requests, "seconds": seconds}}
        await edge.apply(edge.service("digits", stable(edge), rateLimit=limit))
        statuses = [await status(edge) for _ in range(requests + 1)]
        assert statuses == [200] * requests + [429]
    await edge.apply(edge.service("digits", stable(edge)))
    assert {await status(edge) for _ in range(9)} == {200}
    assert await current(edge) == pid


async def test_a_limit_per_second_is_a_limit_per_second(edge, digits):
    await edge.apply(edge.service("digits", stable(edge), rateLimit={"total": {"requests": 5, "seconds": 1}}))
    statuses = await asyncio.gather(*(status(edge) for _ in range(30)))
    assert statuses.count(429) >= 20
    await answers(edge, 200)
