"""A store that lies, breaks off, drips, leads astray or never ends: each has its reason, and nothing of it stays."""

import asyncio
import gc
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from aiohttp import web

from model_stores import Handler, Server, StubbornStore, answer, well_behaved
from sundog_runtime.errors import (
    AccessDenied,
    DigestMismatch,
    LoadFailed,
    ModelNotFound,
    ModelTooLarge,
    NoSpace,
    SourceRefused,
    SourceUnavailable,
    StartError,
)
from sundog_runtime.sources import fetch
from sundog_runtime.sources.open_model import open_model
from waiting import PATIENCE_S

BODY = os.urandom(200_000)
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()
WRONG = "sha256:" + "0" * 64


def status(code: int) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text="<Error>secret</Error>", headers={"Retry-After": "0"})

    return handle


def redirect(to: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": to})

    return handle


async def truncated(request: web.Request) -> web.StreamResponse:
    """Promises more than it sends, every time."""
    response = web.StreamResponse(headers={"Content-Length": str(len(BODY)), "ETag": '"v1"'})
    await response.prepare(request)
    await response.write(BODY[:1000])
    assert request.transport is not None
    request.transport.close()
    return response


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(BODY)), "ETag": '"v1"'})
    await response.prepare(request)
    for byte in range(10_000):
        await response.write(BODY[byte : byte + 1])
        await asyncio.sleep(0.01)
    return response


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def endless(request: web.Request) -> web.StreamResponse:
    """Neither a length nor an end."""
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    while request.transport is not None and not request.transport.is_closing():
        await response.write(BODY)
        # A write to a lost connection does not wait: without a turn of its own the loop never hears of the loss.
        await asyncio.sleep(0)
    return response


async def longer_than_announced(request: web.Request) -> web.StreamResponse:
    """Parts that are longer than what was asked for."""
    if request.headers.get("Range") == "bytes=0-0":
        return answer(request, BODY)
    start = int(request.headers["Range"].removeprefix("bytes=").partition("-")[0])
    headers = {"Content-Range": f"bytes {start}-{start + 9}/{len(BODY)}", "ETag": '"v1"'}
    return web.Response(status=206, body=BODY, headers=headers)


async def wrong_range(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Range") == "bytes=0-0":
        return answer(request, BODY)
    headers = {"Content-Range": f"bytes 7-16/{len(BODY)}", "ETag": '"v1"'}
    return web.Response(status=206, body=BODY[7:17], headers=headers)


def changing() -> Handler:
    """Another object with every answer."""
    count = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal count
        count += 1
        return answer(request, BODY, f'"v{count}"')

    return handle


def ignoring_ranges_later() -> Handler:
    """Answers the probe with a range and all else with everything, as after a change under If-Range."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Range") == "bytes=0-0":
            return answer(request, BODY)
        return web.Response(body=BODY)

    return handle


async def garbage(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"\x00\x01\x02 no HTTP at all\r\n\r\n")
    request.transport.close()
    return web.Response()


@dataclass
class Case:
    """`says` is in the message; `stays` tells whether something may be kept for the next attempt."""

    handler: Callable[[], Handler]
    kind: type[StartError]
    says: str
    digest: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    stays: bool = False


def always(handler: Handler) -> Callable[[], Handler]:
    return lambda: handler


CASES = {
    "403": Case(always(status(403)), AccessDenied, "the store answered 403"),
    "401": Case(always(status(401)), AccessDenied, "the store answered 401"),
    "404": Case(always(status(404)), ModelNotFound, "the store answered 404"),
    "400": Case(always(status(400)), LoadFailed, "the store answered 400"),
    "429": Case(always(status(429)), SourceUnavailable, "the store answered 429"),
    "500": Case(always(status(500)), SourceUnavailable, "the store answered 500"),
    "truncated": Case(always(truncated), SourceUnavailable, "before the end", stays=True),
    "wrong digest": Case(lambda: well_behaved({"m.pt2": BODY}), DigestMismatch, WRONG, WRONG),
    "slow drip": Case(always(drip), SourceUnavailable, "bytes per second", stays=True),
    "silence": Case(always(silent), SourceUnavailable, "silent for too long"),
    "endless": Case(
        always(endless), ModelTooLarge, "SUNDOG_MODEL_MAX_BYTES", environment={"SUNDOG_MODEL_MAX_BYTES": "1000000"}
    ),
    "too large": Case(
        lambda: well_behaved({"m.pt2": BODY}),
        ModelTooLarge,
        "expected at most 1000",
        environment={"SUNDOG_MODEL_MAX_BYTES": "1000"},
    ),
    "longer than announced": Case(always(longer_than_announced), SourceUnavailable, "more bytes than it had announced"),
    "wrong Content-Range": Case(always(wrong_range), SourceUnavailable, "sent 'bytes 7-16/200000'", stays=True),
    "changed between parts": Case(changing, SourceUnavailable, "changed while it was read"),
    "ranges ignored": Case(ignoring_ranges_later, SourceUnavailable, "all of it was sent"),
    "no HTTP": Case(always(garbage), SourceUnavailable, "is not valid HTTP"),
    "metadata": Case(
        always(redirect("https://169.254.169.254/latest/meta-data/iam")), SourceRefused, "another host, 169.254.169.254"
    ),
    "metadata in plain HTTP": Case(always(redirect("http://169.254.169.254/latest")), SourceRefused, "another scheme"),
    "another host": Case(always(redirect("https://example.com/x")), SourceRefused, "another host, example.com"),
    "a local file": Case(always(redirect("file:///etc/passwd")), SourceRefused, "redirected to"),
    "credentials": Case(always(redirect("https://a:secret@localhost/x")), SourceRefused, "with credentials"),
    "round and round": Case(always(redirect("/again")), SourceRefused, "more than 5 redirects"),
    "nowhere": Case(always(redirect("")), SourceRefused, "redirects"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_store(
    name: str, serve: Callable[[Handler], Server], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    for variable, value in case.environment.items():
        monkeypatch.setenv(variable, value)
    usual = fetch.read_limits()
    monkeypatch.setattr(
        fetch,
        "read_limits",
        # Only what drips is to be caught by its rate: a loaded machine is slow to begin.
        lambda: replace(
            usual,
            window_s=0.3 if "drip" in name else PATIENCE_S,
            idle_s=0.2 if name == "silence" else PATIENCE_S,
            bytes_per_second=10_000,
        ),
    )
    server = serve(case.handler())
    with pytest.raises(StartError) as caught:
        open_model(f"https://{server.authority}/m.pt2", case.digest)
    assert isinstance(caught.value, case.kind)
    assert caught.value.reason == case.kind.__name__
    assert case.says in caught.value.message
    assert "secret" not in caught.value.message
    assert not list(cache.glob("models/*/entries/*"))
    if not case.stays:
        assert not list(cache.glob("models/*/partial/*"))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (b"", "silent for too long"),
        (b"\x00\x01\x02 no HTTP at all\r\n\r\n", "is not valid HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nno length\r\n",
            "is not valid HTTP",
        ),
    ],
    ids=["nothing", "no HTTP", "a broken chunk"],
)
def test_a_stubborn_store_is_left_without_its_farewell(
    answers: bytes, message: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = fetch.read_limits()
    monkeypatch.setattr(fetch, "read_limits", lambda: replace(usual, idle_s=PATIENCE_S if answers else 0.2))
    monkeypatch.setenv("SUNDOG_SOURCE_ALLOW_HOSTS", "127.0.0.1")
    with StubbornStore(certificate, answers) as store:
        with pytest.raises(SourceUnavailable, match=message):
            open_model(f"https://{store.authority}/m.pt2", "")
        ended = store.ends(PATIENCE_S)
        assert ended
        assert all(ended)
    # What its loop has not closed warns as it is collected.
    gc.collect()


def test_a_listing_that_drips(serve: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes before the silence is too long."""

    async def handle(request: web.Request) -> web.StreamResponse:
        part = b"HTTP/1.1 200 OK\r\nx-drip: "
        while request.transport is not None and not request.transport.is_closing():
            request.transport.write(part)
            part = b"x"
            await asyncio.sleep(0.01)
        return web.Response()

    usual = fetch.read_limits()
    monkeypatch.setattr(fetch, "read_limits", lambda: replace(usual, listing_s=0.3))
    with pytest.raises(SourceUnavailable, match=r"listing did not arrive within 0\.3 s"):
        open_model(f"https://{serve(handle).authority}/m.pt2", "")


def test_trouble_that_passes_is_waited_out(serve: Callable[[Handler], Server]) -> None:
    seen: dict[str, int] = {}

    async def handle(request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range", "")
        seen[asked] = seen.get(asked, 0) + 1
        if seen[asked] == 1:
            return web.Response(status=500)
        return await truncated(request) if seen[asked] == 2 and not asked else answer(request, BODY)

    server = serve(handle)
    assert open_model(f"https://{server.authority}/m.pt2", SHA).path.read_bytes() == BODY
    assert set(seen.values()) == {2}


def test_a_part_that_breaks_off_goes_on_where_it_broke(serve: Callable[[Handler], Server]) -> None:
    broken: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range", "")
        if broken or asked == "bytes=0-0":
            return answer(request, BODY)
        broken.append(asked)
        start, end = (int(text) for text in asked.removeprefix("bytes=").split("-"))
        headers = {
            "Content-Range": f"bytes {start}-{end}/{len(BODY)}",
            "Content-Length": str(end - start + 1),
            "ETag": '"v1"',
        }
        response = web.StreamResponse(status=206, headers=headers)
        await response.prepare(request)
        await response.write(BODY[start : start + 1000])
        assert request.transport is not None
        request.transport.close()
        return response

    server = serve(handle)
    assert open_model(f"https://{server.authority}/m.pt2", SHA).path.read_bytes() == BODY
    start, end = broken[0].removeprefix("bytes=").split("-")
    assert f"bytes={int(start) + 1000}-{end}" in server.ranges()


@pytest.mark.parametrize(
    ("allowed", "message"),
    [("", "leads to a private address"), ("other.example", "leads to a private address"), ("10.0.0.0/8", "private")],
)
def test_this_machine_is_not_asked_unless_it_is_listed(
    allowed: str, message: str, serve: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(well_behaved({"m.pt2": BODY}))
    monkeypatch.setenv("SUNDOG_SOURCE_ALLOW_HOSTS", allowed)
    for host in ("localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(SourceRefused, match=message):
            open_model(f"https://{host}:{server.port}/m.pt2", "")
    assert not server.requests


def test_a_listed_network_is_allowed(serve: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(well_behaved({"m.pt2": BODY}))
    monkeypatch.setenv("SUNDOG_SOURCE_ALLOW_HOSTS", "127.0.0.0/8,::1/128")
    assert open_model(f"https://{server.authority}/m.pt2", SHA).path.read_bytes() == BODY


def test_proxies_of_the_environment_are_not_used(
    serve: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server = serve(well_behaved({"m.pt2": BODY}))
    assert open_model(f"https://{server.authority}/m.pt2", SHA).path.read_bytes() == BODY


def test_a_certificate_of_nobody_is_refused(
    serve: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(well_behaved({"m.pt2": BODY}))
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(SourceUnavailable, match="TLS certificate"):
        open_model(f"https://{server.authority}/m.pt2", "")


def test_without_an_etag_each_reader_has_a_copy(serve: Callable[[Handler], Server], cache: Path) -> None:
    server = serve(well_behaved({"m.pt2": BODY}, etag=""))
    first, second = (open_model(f"https://{server.authority}/m.pt2", "") for _ in range(2))
    assert first.path != second.path
    assert first.path.read_bytes() == second.path.read_bytes() == BODY


def test_a_changed_object_is_another_entry(serve: Callable[[Handler], Server]) -> None:
    tags = ['"a"']

    async def handle(request: web.Request) -> web.StreamResponse:
        return answer(request, tags[0].encode() * 3, tags[0])

    server = serve(handle)
    old = open_model(f"https://{server.authority}/m.pt2", "")
    assert open_model(f"https://{server.authority}/m.pt2", "").path == old.path
    tags[0] = '"b"'
    new = open_model(f"https://{server.authority}/m.pt2", "")
    assert (old.path.read_bytes(), new.path.read_bytes()) == (b'"a"' * 3, b'"b"' * 3)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_fails_the_model_and_leaves_the_disk_free(
    small_disk: Path, serve: Callable[[Handler], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUNDOG_CACHE_DIR", str(small_disk))
    big = os.urandom(3_000_000)
    store = serve(well_behaved({"m.pt2": big}))
    with pytest.raises(NoSpace, match="expected 3000000 for the model"):
        open_model(f"https://{store.authority}/m.pt2", "")

    async def of_unknown_length(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(big)
        return response

    server = serve(of_unknown_length)
    with pytest.raises(NoSpace, match="No space left on device"):
        open_model(f"https://{server.authority}/m.pt2", "")
    assert not list(small_disk.glob("models/*/partial/*"))
    small = serve(well_behaved({"m.pt2": BODY}))
    assert open_model(f"https://{small.authority}/m.pt2", SHA).path.read_bytes() == BODY


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_read_only_cache_serves_what_it_has_and_says_what_it_cannot(
    small_disk: Path,
    remount: Callable[[str], None],
    release: Callable[[], None],
    serve: Callable[[Handler], Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUNDOG_CACHE_DIR", str(small_disk))
    server = serve(well_behaved({"m.pt2": BODY, "other.pt2": BODY}))
    open_model(f"https://{server.authority}/m.pt2", SHA)
    fetched = len(server.requests)
    release()
    remount("ro")
    assert open_model(f"https://{server.authority}/m.pt2", SHA).path.read_bytes() == BODY
    assert len(server.requests) == fetched
    with pytest.raises(NoSpace, match="Read-only file system"):
        open_model(f"https://{server.authority}/other.pt2", "")
