"""Answers by gzip: JSON of a service that offers it, for clients that ask, and nothing else."""

import asyncio
import gzip
import json

import pytest

from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

BODY = json.dumps({"outputs": [0.25] * 1500}).encode()
SHADOW = {"arm": "canary", "percent": 100, "comparator": {"kind": "exact"}}


def service(edge, **changes):
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]]), edge.arm("canary", "digits-r8", [], revision=8)]
    return edge.service("digits", arms, **changes)


async def curl(edge, *options: str, path: str = "/digits/?echo=") -> tuple[dict[str, str], bytes]:
    """The header fields and the body of an answer as they came."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-D", "-", "-H", "content-type: application/json", *options, edge.url + path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(BODY)
    head, _, body = out.partition(b"\r\n\r\n")
    lines = (line.partition(": ") for line in head.decode().split("\r\n")[1:])
    return {name.lower(): value for name, _, value in lines}, body


POST = ("--data-binary", "@-", "-H", "expect:")
GZIP = ("-H", "accept-encoding: gzip, deflate, br")


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
async def test_json_is_compressed_for_who_asks(edge, digits, version):
    await edge.apply(service(edge, compression="gzip"))
    headers, body = await curl(edge, version, *POST, *GZIP)
    assert (headers["content-encoding"], headers["vary"].lower()) == ("gzip", "accept-encoding")
    assert gzip.decompress(body) == BODY
    assert len(body) < len(BODY) // 10
    for asks in ((), ("-H", "accept-encoding: identity"), ("-H", "accept-encoding: gzip;q=0")):
        headers, body = await curl(edge, version, *POST, *asks)
        assert "content-encoding" not in headers, asks
        assert (headers["vary"], int(headers["content-length"]), body) == ("accept-encoding", len(BODY), BODY)
    assert edge.ends(await edge.settled(4)) == {"ok": 4}


async def test_nothing_else_is_compressed(edge, digits):
    await edge.apply(service(edge, compression="gzip"))
    for options, path in (
        (("--http1.0", *POST), "/digits/?echo="),
        (("-I",), "/digits/"),
        ((), "/digits/?large=5000"),
        ((), "/digits/?status=400"),
        ((), "/digits/?status=500"),
        ((), "/none/"),
    ):
        headers, _ = await curl(edge, *options, *GZIP, path=path)
        assert "content-encoding" not in headers, (options, path)
    async with edge.session.get(f"{edge.url}/digits/?events=2", headers={"accept-encoding": "gzip"}) as response:
        assert "content-encoding" not in response.headers
        for number in range(2):
            event = await asyncio.wait_for(response.content.readuntil(b"\n\n"), PATIENCE_S)
            assert event == f"data: {number}\n\n".encode()
            digits["stable"].go_on.release()


async def test_a_service_that_does_not_offer_it_sends_answers_as_they_are(edge, digits):
    await edge.apply(service(edge), edge.service("letters", [], compression="gzip"))
    headers, body = await curl(edge, *POST, *GZIP)
    assert (headers.get("content-encoding"), headers.get("vary"), body) == (None, None, BODY)


async def test_a_shadow_compares_what_the_replicas_gave(edge, digits):
    await edge.apply(service(edge, compression="gzip", shadow=SHADOW))

    async def mirroring() -> bool:
        told = (await edge.evidence())["services"].get("digits", {}).get("shadow") or {}
        return bool(told.get("mirroring"))

    await edge.comes_true(mirroring, "a mirror runs")
    headers, body = await curl(edge, *POST, *GZIP, path="/digits/v2/infer?echo=")
    assert (headers["content-encoding"], gzip.decompress(body)) == ("gzip", BODY)

    async def compared() -> bool:
        return [row["verdicts"]["exact"] for row in (await edge.evidence())["shadows"] if row["paired"]] == [[1, 0, 0]]

    await edge.comes_true(compared, "a pair that agrees")
