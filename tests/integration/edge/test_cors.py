"""Browsers: preflights, and what pages of other origins may read, answers and refusals alike."""

import asyncio

import pytest

from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

APP = "https://app.example.com"
KEY = "ada-key-0123456789"
CORS = {
    "allowedOrigins": [APP, "http://localhost:3000"],
    "allowedHeaders": ["x-tenant"],
    "exposedHeaders": ["x-model"],
    "maxAgeSeconds": 90,
}


def arms(edge):
    return [edge.arm("stable", "digits-r7", [[0, 10_000]]), edge.arm("canary", "digits-r8", [], revision=8)]


def access(response) -> dict[str, str]:
    """The header fields of the CORS protocol, without their common beginning."""
    beginning = "access-control-"
    fields = {name.lower(): value for name, value in response.headers.items()}
    return {name.removeprefix(beginning): value for name, value in fields.items() if name.startswith(beginning)}


async def ask(edge, method: str, path: str = "/digits/", **options):
    async with edge.session.request(method, edge.url + path, **options) as response:
        await response.read()
        return response


async def preflight(edge, origin: str = APP):
    headers = {"origin": origin, "access-control-request-method": "POST"}
    return await ask(edge, "OPTIONS", headers={**headers, "access-control-request-headers": "content-type"})


@pytest.fixture
async def browsed(edge, digits):
    edge.secret("clients", ada=KEY)
    await edge.apply(edge.service("digits", arms(edge), cors=CORS, auth={"apiKeys": "clients"}, maxRequestBytes=1000))
    return digits


async def test_a_preflight_needs_no_key_reaches_no_replica_and_is_not_counted(edge, browsed):
    for origin in CORS["allowedOrigins"]:
        response = await preflight(edge, origin)
        assert (response.status, response.headers["content-length"]) == (200, "0")
        assert access(response) == {
            "allow-origin": origin,
            "allow-methods": "GET, HEAD, POST",
            "allow-headers": "authorization,content-type,if-none-match,inference-header-content-length,"
            "x-api-key,x-request-id,x-tenant,x-user-id",
            "max-age": "90",
        }
        assert response.headers["vary"] == "origin"
    refused = await preflight(edge, "https://evil.example.com")
    assert (refused.status, access(refused), refused.headers["vary"]) == (403, {}, "origin")
    problem = await refused.json()
    assert problem["code"] == "OriginNotAllowed"
    assert "https://evil.example.com" in problem["detail"]
    # A request that is counted comes after all of those that must not be.
    assert (await ask(edge, "POST", headers={"origin": APP, "x-api-key": KEY}, data=b"{}")).status == 200
    assert edge.ends(await edge.settled(1)) == {"ok": 1}
    assert [one["method"] for one in browsed["stable"].seen] == ["POST"]
    assert await edge.refused("digits") == {}


async def test_a_page_reads_answers_and_the_edges_own_refusals(edge, browsed):
    shown = {
        "allow-origin": APP,
        "expose-headers": "etag,inference-header-content-length,retry-after,x-model,x-request-id,"
        "x-sundog-arm,x-sundog-exposure,x-sundog-revision",
    }
    for headers, body, wanted in (
        ({"x-api-key": KEY}, b"{}", 200),
        ({}, b"{}", 401),
        ({"x-api-key": KEY}, b" " * 1001, 413),
    ):
        response = await ask(edge, "POST", headers={"origin": APP, **headers}, data=body)
        assert (response.status, access(response)) == (wanted, shown)
        assert response.headers["vary"] == "origin"
    response = await ask(edge, "PROPFIND", headers={"origin": APP, "x-api-key": KEY})
    assert (response.status, access(response)) == (405, shown)
    waits = b"POST /digits/ HTTP/1.1\r\nhost: a\r\norigin: %s\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n"
    answer = await edge.raw(waits % APP.encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"access-control-allow-origin: https://app.example.com\r\n" in answer
    browsed["stable"].always = {"status": "500"}
    response = await ask(edge, "POST", headers={"origin": APP, "x-api-key": KEY}, data=b"{}")
    assert (response.status, access(response)) == (500, shown)


async def test_a_page_reads_that_it_comes_too_often_and_that_nobody_is_there(edge, digits):
    limit = {"total": {"requests": 1, "seconds": 3600}}
    await edge.apply(
        edge.service("digits", arms(edge), cors=CORS, rateLimit=limit), edge.service("none", [], cors=CORS)
    )
    # A preflight takes nothing from a rate.
    found = [(await preflight(edge)).status, *[(await ask(edge, "POST", headers={"origin": APP})).status for _ in "12"]]
    assert found == [200, 200, 429]
    for path, wanted in (("/digits/", 429), ("/none/", 503)):
        response = await ask(edge, "POST", path, headers={"origin": APP})
        assert (response.status, access(response)["allow-origin"]) == (wanted, APP)
        assert response.headers["retry-after"]
    # Of a service that is not there nobody says which pages may call it.
    assert access(await ask(edge, "POST", "/other/", headers={"origin": APP})) == {}


async def test_a_page_that_may_not_call_reads_nothing(edge, browsed):
    for origin in (
        "https://evil.example.com",
        f"{APP}.evil.example.com",
        f"{APP}:8443",
        "http://app.example.com",
        "null",
        "*",
    ):
        response = await ask(edge, "POST", headers={"origin": origin, "x-api-key": KEY}, data=b"{}")
        assert (response.status, access(response)) == (200, {}), origin
        assert response.headers["vary"] == "origin"
    response = await ask(edge, "POST", headers={"x-api-key": KEY}, data=b"{}")
    assert (response.status, access(response), response.headers["vary"]) == (200, {}, "origin")


async def test_a_service_that_does_not_ask_has_none_of_it(edge, digits):
    with_cors = edge.service("letters", [], cors=CORS)
    await edge.apply(edge.service("digits", arms(edge)), with_cors)
    response = await preflight(edge)
    assert (response.status, access(response)) == (200, {})
    assert "vary" not in response.headers
    # As before, it is the replica's to answer.
    assert [one["method"] for one in digits["stable"].seen] == ["OPTIONS"]


async def test_every_origin_and_credentials(edge, digits):
    await edge.apply(edge.service("digits", arms(edge), cors={"allowedOrigins": ["*"]}))
    for origin in (APP, "null", "capacitor://localhost"):
        assert access(await preflight(edge, origin))["allow-origin"] == "*"
        assert access(await ask(edge, "POST", headers={"origin": origin}))["allow-origin"] == "*"
    await edge.apply(edge.service("digits", arms(edge), cors={**CORS, "allowCredentials": True}))
    for response in (await preflight(edge), await ask(edge, "POST", headers={"origin": APP})):
        assert access(response)["allow-credentials"] == "true"
        assert access(response)["allow-origin"] == APP
    assert access(await ask(edge, "POST", headers={"origin": "https://evil.example.com"})) == {}


async def test_a_stream_is_a_stream_to_a_page(edge, browsed):
    headers = {"origin": APP, "x-api-key": KEY}
    async with edge.session.get(f"{edge.url}/digits/?events=3", headers=headers) as response:
        assert access(response)["allow-origin"] == APP
        for number in range(3):
            event = await asyncio.wait_for(response.content.readuntil(b"\n\n"), PATIENCE_S)
            assert event == f"data: {number}\n\n".encode()
            browsed["stable"].go_on.release()
        assert await response.content.read() == b""


async def test_what_changes_holds_without_another_reload(edge, browsed):
    before = {boot["pid"] for boot in (await edge.evidence())["boots"]}
    await edge.apply(edge.service("digits", arms(edge), cors={"allowedOrigins": ["https://new.example.com"]}))
    assert access(await preflight(edge)) == {}
    assert access(await preflight(edge, "https://new.example.com"))["allow-origin"] == "https://new.example.com"
    await edge.apply(edge.service("digits", arms(edge)))
    assert access(await ask(edge, "POST", headers={"origin": "https://new.example.com"})) == {}
    assert {boot["pid"] for boot in (await edge.evidence())["boots"]} == before
