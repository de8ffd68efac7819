"""The client's address behind a proxy: X-Forwarded-For counts from trusted proxies alone."""

import json

import pytest

pytestmark = pytest.mark.haproxy

PROXIES = "127.0.0.0/8,10.9.0.0/16"
FORWARDED = "x-forwarded-for"


async def restart(edge, *options: str) -> None:
    await edge.stop_haproxy()
    edge.haproxy_options = options
    await edge.start_haproxy()


async def serve_digits(edge, serve, replicas, **changes):
    replica = await replicas("digits-r7")
    serve.targets = {"digits-r7": [replica.address]}
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])], **changes))
    await edge.up("digits", stable=1)
    return replica


@pytest.fixture
async def behind_proxies(edge, serve, replicas):
    """An edge that trusts the test's own address and one more network, and answers each client twice an hour."""
    await restart(edge, "--trusted-proxies", PROXIES)
    return await serve_digits(edge, serve, replicas, rateLimit={"perClient": {"requests": 2, "seconds": 3600}})


async def status(edge, *lines: str) -> int:
    """The status of a request with these lines of the header, on the connection of the others."""
    response = await edge.get("/digits/", headers=[(FORWARDED, line) for line in lines])
    return response.status


def seen_addresses(replica) -> list[list[str]]:
    return [
        [value for name, value in request["headers"].items() if name.lower() == FORWARDED] for request in replica.seen
    ]


async def test_each_client_behind_a_trusted_proxy_has_its_own_rate(edge, behind_proxies):
    assert [await status(edge, "192.0.2.1") for _ in range(3)] == [200, 200, 429]
    # An address is of one request, not of the connection, which is the proxy's own here.
    assert [await status(edge) for _ in range(3)] == [200, 200, 429]
    assert [await status(edge, "192.0.2.2") for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["198.51.100.1, 192.0.2.1"], "192.0.2.1"),
        (["198.51.100.1", "192.0.2.1"], "192.0.2.1"),
        (["198.51.100.1, 192.0.2.1, 10.9.0.1, 10.9.0.2"], "192.0.2.1"),
        (["192.0.2.1:4711"], "192.0.2.1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["10.9.0.1"], "10.9.0.1"),
        # Whatever stands before an entry that is no address may be forged.
        (["192.0.2.1, unknown"], "127.0.0.1"),
        (["192.0.2.1, unknown, 10.9.0.1"], "10.9.0.1"),
        (["192.0.2.1, "], "127.0.0.1"),
        ([], "127.0.0.1"),
    ],
)
async def test_the_client_is_the_last_address_that_no_trusted_proxy_has(edge, behind_proxies, lines, client):
    assert await status(edge, *lines) == 200
    assert seen_addresses(behind_proxies) == [[client]]


@pytest.mark.parametrize("options", [(), ("--trusted-proxies", "10.9.0.0/16")], ids=["by default", "beside proxies"])
async def test_others_cannot_choose_their_address(edge, serve, replicas, options):
    await restart(edge, *options)
    limit = {"perClient": {"requests": 2, "seconds": 3600}}
    replica = await serve_digits(edge, serve, replicas, rateLimit=limit)
    assert [await status(edge, f"192.0.2.{n}, 10.9.0.1") for n in range(3)] == [200, 200, 429]
    assert seen_addresses(replica) == [["127.0.0.1"]] * 2


async def test_networks_of_overrides_are_those_of_clients(edge, serve, replicas):
    await restart(edge, "--trusted-proxies", PROXIES)
    serve.targets = {"digits-r7": [], "digits-r8": []}
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]]), edge.arm("canary", "digits-r8", [])]
    override = {"header": "x-pick", "value": "new", "arm": "canary", "callers": {"networks": ["192.0.2.0/24"]}}
    await edge.apply(edge.service("digits", arms, overrides=[override]))

    async def arm(client: str) -> str:
        response = await edge.get("/digits/", headers={"x-pick": "new", FORWARDED: client})
        return response.headers["x-sundog-arm"]

    assert [await arm(client) for client in ("192.0.2.1", "198.51.100.1", "192.0.2.1, 198.51.100.1")] == [
        "canary",
        "stable",
        "stable",
    ]


async def test_connections_are_limited_except_those_of_trusted_proxies(edge, serve, replicas):
    await restart(edge, "--source-connections", "1", "--trusted-proxies", PROXIES)
    replica = await serve_digits(edge, serve, replicas)
    request = b"GET /digits/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
    async with edge.load(clients=4) as load:
        await load.more(20)
        answer = await edge.raw(request + b"x-forwarded-for: 192.0.2.1\r\n\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["port"] == replica.port
