"""gRPC through the edge: the same services, splits and counts, with a server of the protocol's own stubs behind it."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Self

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.grpc import service_pb2 as protocol
from tritonclient.grpc import service_pb2_grpc as service

from sundog_edge.haproxy.rules.memory_limits import MAX_STREAMS
from sundog_runtime.protocol.grpc_service import METHODS, add_to_server
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

AUTHORITY = "digits.vision.svc"
DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
"""Types of HTTP/2's frames."""

END_STREAM, END_HEADERS = 1, 4
"""Flags of them."""

DROPS = 400


class Model:
    """A server as Serve makes one: it sets a status and answers with an empty message.

    It answers as the request's id asks.
    """

    def __init__(self, application: str) -> None:
        self.application = application
        self.seen: list[dict[str, str]] = []
        self.remaining: list[float] = []
        self.port = 0
        self.server = grpc.aio.server()
        add_to_server(self, self.server)

    async def start(self) -> "Model":
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return self

    def __getattr__(self, method: str):
        if method not in METHODS:
            raise AttributeError(method)
        return self._other

    async def _other(self, body, context):
        return b""

    async def ModelInfer(self, body, context):
        request = protocol.ModelInferRequest.FromString(body)
        self.seen.append({str(key): str(value) for key, value in context.invocation_metadata()})
        self.remaining.append(context.time_remaining())
        kind, _, value = request.id.partition("=")
        if kind == "status":
            context.set_code(getattr(grpc.StatusCode, value))
            context.set_details("as asked")
            return b""
        if kind == "sleep":
            await asyncio.sleep(float(value))
        if kind == "invalid":
            await context.send_initial_metadata((("x-sundog-outcome", "invalid"),))
        answer = protocol.ModelInferResponse(model_name=self.application, id=request.id)
        output = answer.outputs.add(name="y", datatype="FP32", shape=[1, 2])
        output.contents.fp32_contents.extend([1.0, 2.0])
        return answer.SerializeToString()


class Proxy(Model):
    """Serve's own proxy for gRPC: it holds calls until their application has a replica."""

    def __init__(self, application: str) -> None:
        super().__init__(application)
        self.woken = asyncio.Event()

    async def ModelInfer(self, body, context):
        self.seen.append({})
        await asyncio.wait_for(self.woken.wait(), PATIENCE_S)
        return await super().ModelInfer(body, context)


REPLICA_PROCESS = """
import asyncio
import sys

import grpc
from aiohttp import web
from tritonclient.grpc import service_pb2 as protocol
from tritonclient.grpc import service_pb2_grpc as service

application = sys.argv[1]


class Model(service.GRPCInferenceServiceServicer):
    async def ModelInfer(self, request, context):
        if request.id == "hold":
            print("held", flush=True)
            await asyncio.Event().wait()
        return protocol.ModelInferResponse(model_name=application, id=request.id)


async def routes(_):
    return web.json_response({f"/{application}.app": f"{application}.app"})


async def main():
    server = grpc.aio.server()
    service.add_GRPCInferenceServiceServicer_to_server(Model(), server)
    calls = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    app = web.Application()
    app.router.add_get("/-/routes", routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], calls, flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
"""
"""A replica with both ports. It holds calls of id `hold` for good, and says so."""


@pytest.fixture
def model_process(python_process) -> Callable:
    """Starts a replica as a process of its own, to be killed; gives it, its HTTP address and its gRPC port."""

    async def start(application: str) -> tuple[asyncio.subprocess.Process, str, int]:
        process = await python_process(REPLICA_PROCESS, application, stdout=asyncio.subprocess.PIPE)
        http, calls = (await process.stdout.readline()).split()
        return process, f"127.0.0.1:{int(http)}", int(calls)

    return start


@pytest.fixture
async def models() -> AsyncIterator[Callable]:
    started: list[Model] = []

    async def start(application: str) -> Model:
        started.append(await Model(application).start())
        return started[-1]

    yield start
    for model in started:
        await model.server.stop(None)


@pytest.fixture
async def called(edge, serve, replicas, models):
    """Service `digits` with two arms, each a replica with an HTTP and a gRPC port; all traffic on stable."""
    found: dict[str, Model] = {}
    for name, application in (("stable", "digits-r7"), ("canary", "digits-r8")):
        replica = await replicas(application)
        found[name] = await models(application)
        serve.targets[application] = [replica.address]
        serve.grpc[application] = {replica.address: found[name].port}
    await edge.apply(split(edge))
    await edge.up("digits", stable=1, canary=1)
    async with channel(edge) as opened:

        async def reached() -> bool:
            try:
                await call(opened)
            except grpc.aio.AioRpcError:
                return False
            return True

        await edge.comes_true(reached, "the first call")
    for model in found.values():
        model.seen.clear()
        model.remaining.clear()
    return found


def split(edge, canary: int = 0, **changes):
    arms = [
        edge.arm("stable", "digits-r7", [[canary, 10_000]]),
        edge.arm("canary", "digits-r8", [[0, canary]] if canary else [], revision=8),
    ]
    return edge.service("digits", arms, **changes)


def channel(edge, authority: str = AUTHORITY) -> grpc.aio.Channel:
    options = [("grpc.default_authority", authority), ("grpc.enable_retries", 0)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{edge.http_port}", options=options)


async def call(opened: grpc.aio.Channel, kind: str = "", timeout: float = PATIENCE_S, **metadata: str | bytes):
    pairs = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
    request = protocol.ModelInferRequest(model_name="digits", id=kind)
    return await service.GRPCInferenceServiceStub(opened).ModelInfer(request, metadata=pairs, timeout=timeout)


async def code(opened: grpc.aio.Channel, kind: str = "", timeout: float = PATIENCE_S, **metadata: str) -> str:
    try:
        await call(opened, kind, timeout, **metadata)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_a_client_of_the_protocol_is_served_and_the_edge_names_the_application(edge, called):
    client = triton.InferenceServerClient(
        f"127.0.0.1:{edge.http_port}", channel_args=[("grpc.default_authority", AUTHORITY)]
    )
    given = triton.InferInput("x", [1, 2], "FP32")
    given.set_data_from_numpy(np.array([[1, 2]], np.float32))
    answer = await client.infer("digits", [given], headers={"application": "forged", "x-sundog-arm": "canary"})
    assert answer.get_response().model_name == "digits-r7"
    await client.close()
    seen = called["stable"].seen[-1]
    assert seen["application"] == "digits-r7"
    assert "x-sundog-arm" not in seen
    assert called["canary"].seen == []


async def test_a_service_is_found_by_authority_or_by_metadata(edge, called):
    async with channel(edge, "elsewhere.example") as opened:
        assert await code(opened) == "NOT_FOUND"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(opened, sundog_service='no"thing%41')
        wanted = "no service has this host or sundog-service: 'elsewhere.example', 'no\"thing%41'"
        assert (caught.value.code().name, caught.value.details()) == ("NOT_FOUND", wanted)
        assert (await call(opened, sundog_service="digits")).model_name == "digits-r7"
    assert "sundog-service" not in called["stable"].seen[-1]


async def test_a_unit_has_the_same_arm_by_grpc_and_by_http(edge, called):
    await edge.apply(split(edge, canary=5000))
    async with channel(edge) as opened:
        for number in range(20):
            user = f"u{number}"
            by_http = (await edge.get("/digits/", headers={"x-user-id": user})).headers["x-sundog-arm"]
            by_grpc = (await call(opened, x_user_id=user)).model_name
            assert by_grpc == {"stable": "digits-r7", "canary": "digits-r8"}[by_http]


async def test_a_channel_may_have_more_calls_under_way_than_a_connection_has_streams(edge, called):
    async with channel(edge) as opened:
        found = await asyncio.gather(*(code(opened, "sleep=0.2") for _ in range(3 * MAX_STREAMS)))
    assert Counter(found) == {"OK": 3 * MAX_STREAMS}


class Calls:
    """Closed-loop callers on one channel. Every call is counted by its status."""

    def __init__(self, edge, opened: grpc.aio.Channel, callers: int = 4) -> None:
        self.ended: Counter[str] = Counter()
        self._edge, self._opened, self._callers = edge, opened, callers
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._caller()) for _ in range(self._callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def one(self, kind: str = "") -> str:
        found = await code(self._opened, kind)
        self.ended[found] += 1
        return found

    async def more(self, count: int) -> None:
        """Wait until so many more calls have ended."""
        target = self.ended.total() + count

        async def reached() -> bool:
            return self.ended.total() >= target

        await self._edge.comes_true(reached, f"{count} more calls")

    async def _caller(self) -> None:
        while not self._stop:
            await self.one()


ENDS = (
    ("", "OK", "ok"),
    ("status=INVALID_ARGUMENT", "INVALID_ARGUMENT", "client4xx"),
    ("status=NOT_FOUND", "NOT_FOUND", "client4xx"),
    ("status=RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", "throttled"),
    ("status=INTERNAL", "INTERNAL", "server5xx"),
    ("status=UNKNOWN", "UNKNOWN", "server5xx"),
    ("status=UNAVAILABLE", "UNAVAILABLE", "server5xx"),
    ("status=DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "timeout"),
    ("invalid", "OK", "invalid"),
    ("sleep=60", "DEADLINE_EXCEEDED", "timeout"),
)


async def test_every_end_of_a_call_counts_as_what_it_is(edge, called):
    await edge.apply(split(edge, requestTimeoutSeconds=0.5, attempt="ends"))
    async with channel(edge) as opened:
        for kind, wanted, _ in ENDS:
            assert await code(opened, kind) == wanted, kind

    async def counted() -> bool:
        seen = {name: count for row in await rows(edge, "ends") for name, count in row["ends"].items() if count}
        wanted: dict[str, int] = {}
        for _, _, end in ENDS:
            wanted[end] = wanted.get(end, 0) + 1
        return seen == wanted

    await edge.comes_true(counted, "the ends of calls")


async def test_a_method_that_no_replica_has_is_refused_while_its_client_sends_on(edge, called):
    async with channel(edge) as opened:
        stub = service.GRPCInferenceServiceStub(opened)
        stream = stub.ModelStreamInfer(timeout=PATIENCE_S)
        with contextlib.suppress(grpc.aio.AioRpcError):  # the answer may be there before the message is gone
            await stream.write(protocol.ModelInferRequest(model_name="digits"))
        assert await stream.code() == grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelStatistics(protocol.ModelStatisticsRequest(), timeout=PATIENCE_S)
        assert (caught.value.code().name, caught.value.details()) == ("UNIMPLEMENTED", "this method is not supported")
        assert await code(opened) == "OK"
    assert [*map(len, (called["stable"].seen, called["canary"].seen))] == [1, 0]


async def test_calls_that_ask_nothing_of_the_model_are_probes(edge, called):
    await edge.apply(split(edge, attempt="probes"))
    async with channel(edge) as opened:
        stub = service.GRPCInferenceServiceStub(opened)
        asked = (
            (stub.ServerLive, protocol.ServerLiveRequest()),
            (stub.ServerReady, protocol.ServerReadyRequest()),
            (stub.ServerMetadata, protocol.ServerMetadataRequest()),
            (stub.ModelReady, protocol.ModelReadyRequest(name="digits")),
            (stub.ModelMetadata, protocol.ModelMetadataRequest(name="digits")),
            (opened.unary_unary("/grpc.health.v1.Health/Check"), b""),
        )
        for _ in range(8):
            for method, request in asked:
                await method(request, timeout=PATIENCE_S)
        await call(opened)

    async def counted() -> bool:
        found = {row["origin"]: (row["assigned"], row["ends"]["ok"]) for row in await rows(edge, "probes")}
        return found == {"assigned": (1, 1), "probe": (48, 48)}

    await edge.comes_true(counted, "48 probes and one prediction")


@pytest.fixture
async def proxy(edge, serve, replicas) -> AsyncIterator[Proxy]:
    """Serve's own proxy, while service `digits` is at zero and has never had a replica in the life of this edge."""
    await replicas("digits-r7", int(serve.fallback.rpartition(":")[2]))
    found = await Proxy("digits-r7").start()
    serve.targets, serve.fallback_for, serve.at_zero = {"digits-r7": []}, {"digits-r7"}, {"digits-r7"}
    serve.grpc, serve.grpc_port = {"digits-r7": {}}, found.port
    yield found
    await found.server.stop(None)


async def at_zero(edge, proxy: Proxy, cold_s: float, **changes) -> None:
    """Apply the service, and wait until a call reaches Serve's proxy and is held there. That call is given up."""
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]])]
    await edge.apply(edge.service("digits", arms, coldStartSeconds=cold_s, attempt="zero", **changes))
    async with channel(edge) as opened:

        async def known() -> bool:
            return "slot0-grpc" in (edge.root / "s" / "maps" / "cold.map").read_text()

        async def reached() -> bool:
            await code(opened, timeout=0.2)
            return bool(proxy.seen)

        await edge.comes_true(known, "the slot's calls held")
        await edge.comes_true(reached, "a call at Serve's proxy")
        await edge.comes_true(lambda: none_in_flight(edge), "that call given up")


async def none_in_flight(edge) -> bool:
    return not any(row["inFlight"] for row in await rows(edge, "zero"))


async def test_calls_at_zero_start_a_replica_and_are_answered_by_it(edge, serve, replicas, models, proxy):
    await at_zero(edge, proxy, 3 * PATIENCE_S)
    before = len(proxy.seen)
    # Beyond a buffer, a message that waits holds up its connection.
    async with channel(edge) as opened, channel(edge) as other:
        calls = [asyncio.create_task(call(opened, "x", 3 * PATIENCE_S)) for _ in range(19)]
        calls.append(asyncio.create_task(call(other, "x" * 40_000, 3 * PATIENCE_S)))

        async def all_held() -> bool:
            assert not any(each.done() for each in calls)
            return sum(row["inFlight"] for row in await rows(edge, "zero")) == 20

        await edge.comes_true(all_held, "20 calls held")
        assert len(proxy.seen) == before + 1, "one call is enough to make Serve start a replica"
        replica, model = await replicas("digits-r7"), await models("digits-r7")
        serve.at_zero, serve.fallback_for = set(), set()
        serve.targets, serve.grpc = {"digits-r7": [replica.address]}, {"digits-r7": {replica.address: model.port}}

        async def queue_answered() -> bool:
            return len(model.seen) == 19

        await edge.comes_true(queue_answered, "the calls in HAProxy's queue answered by the replica")
        proxy.woken.set()
        assert [len(answer.id) for answer in await asyncio.gather(*calls)] == [*[1] * 19, 40_000]
        await edge.up("digits", stable=1)

        async def assigned() -> bool:
            return await code(opened) == "OK" and any(row["origin"] == "assigned" for row in await rows(edge, "zero"))

        await edge.comes_true(assigned, "a call that was not held")
    held = sum(row["ends"]["ok"] for row in await rows(edge, "zero") if row["origin"] == "held")
    evidence = [row["ends"] for row in await rows(edge, "zero") if row["origin"] == "assigned"]
    assert held >= 20
    assert [{end for end, count in ends.items() if count} for ends in evidence] == [{"ok"}]


async def test_health_checks_at_zero_are_answered_and_start_no_replica(edge, proxy):
    await at_zero(edge, proxy, 3 * PATIENCE_S)
    before = len(proxy.seen)
    async with channel(edge) as opened:
        stub, check = service.GRPCInferenceServiceStub(opened), opened.unary_unary("/grpc.health.v1.Health/Check")
        assert (await stub.ServerLive(protocol.ServerLiveRequest(), timeout=PATIENCE_S)).live
        assert (await stub.ServerReady(protocol.ServerReadyRequest(), timeout=PATIENCE_S)).ready
        assert (await stub.ModelReady(protocol.ModelReadyRequest(name="digits"), timeout=PATIENCE_S)).ready
        for name in (b"", b"digits", b"inference.GRPCInferenceService"):
            named = b"\n" + bytes([len(name)]) + name
            assert await check(named, timeout=PATIENCE_S) == b"\x08\x01"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelReady(protocol.ModelReadyRequest(name="letters"), timeout=PATIENCE_S)
        assert caught.value.code().name == "NOT_FOUND"
    assert len(proxy.seen) == before

    async def counted() -> bool:
        ends = [row["ends"] for row in await rows(edge, "zero") if row["origin"] == "probe"]
        return [(each["ok"], each["client4xx"]) for each in ends] == [(6, 1)]

    await edge.comes_true(counted, "seven probes")


async def test_calls_at_zero_without_a_replica_in_time_are_unavailable_and_may_be_retried(edge, proxy):
    await at_zero(edge, proxy, 3 * PATIENCE_S)
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]])]
    await edge.apply(edge.service("digits", arms, coldStartSeconds=0.5, requestTimeoutSeconds=0.5, attempt="late"))

    async def refused(opened) -> tuple[str, str, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(opened)
        pause = dict(caught.value.trailing_metadata()).get("grpc-retry-pushback-ms", "")
        return caught.value.code().name, caught.value.details(), pause

    async with channel(edge) as opened:
        found = {*await asyncio.gather(*(refused(opened) for _ in range(5)))}
    # The first one waited at Serve's proxy, the others in HAProxy's queue.
    assert {each[0] for each in found} == {"UNAVAILABLE"}
    assert {each[2] for each in found} == {"1000"}
    assert {row["origin"] for row in await rows(edge, "late")} == {"held"}


async def rows(edge, attempt: str) -> list[dict]:
    return [row for row in (await edge.evidence())["counters"] if row["attempt"] == attempt]


async def test_the_deadline_is_the_clients_or_the_services_whichever_is_earlier(edge, called):
    await edge.apply(split(edge, requestTimeoutSeconds=2000.0))
    async with channel(edge) as opened:
        await call(opened, timeout=3600.0)
        await call(opened, timeout=1000.0)
        request = protocol.ModelInferRequest(model_name="digits")
        await service.GRPCInferenceServiceStub(opened).ModelInfer(request)
    capped, own, none = called["stable"].remaining
    # Hundreds of seconds apart: what a call takes changes none of it.
    assert 1100 < capped <= 2000
    assert own < 1100
    assert 1100 < none <= 2000


async def test_the_edges_own_answers_are_statuses_that_clients_understand(edge, called, serve):
    edge.secret("clients", ada="ada-key-0123456789")
    limit = {"perClient": {"requests": 1, "seconds": 3600}}
    await edge.apply(split(edge, auth={"apiKeys": "clients"}, rateLimit=limit))
    async with channel(edge) as opened:
        assert await code(opened) == "UNAUTHENTICATED"

        async def let_in() -> bool:
            return await code(opened, x_api_key="ada-key-0123456789") in {"OK", "RESOURCE_EXHAUSTED"}

        await edge.comes_true(let_in, "the key is known")
        assert await code(opened, x_api_key="ada-key-0123456789") == "RESOURCE_EXHAUSTED"
        await edge.apply(split(edge, maxRequestBytes=10))
        assert await code(opened, "x" * 100) == "RESOURCE_EXHAUSTED"
        await edge.apply(edge.service("digits", []))
        assert await code(opened) == "UNAVAILABLE"


@pytest.mark.parametrize("size", [2000, 40_000], ids=["within a buffer", "beyond one"])
async def test_a_message_is_refused_by_the_length_in_front_of_it_before_a_replica_has_it(edge, called, size):
    length = protocol.ModelInferRequest(model_name="digits", id="x" * size).ByteSize()
    async with channel(edge) as opened:
        await edge.apply(split(edge, maxRequestBytes=length))
        assert (await call(opened, "x" * size)).id == "x" * size
        await edge.apply(split(edge, maxRequestBytes=length - 1))
        called["stable"].seen.clear()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(opened, "x" * size)
        wanted = (
            f"the message of {length} bytes is larger than {length - 1} bytes,"
            " which is endpoint.maxRequestBytes of its service"
        )
        assert (caught.value.code().name, caught.value.details()) == ("RESOURCE_EXHAUSTED", wanted)
        assert called["stable"].seen == []
        # It takes nothing from the next one on the same channel.
        assert await code(opened) == "OK"

    async def counted() -> bool:
        return await edge.refused("digits") == {"size": 1}

    await edge.comes_true(counted, "one refused for its size")


async def test_a_compressed_message_is_refused_before_anybody_unpacks_it(edge, called):
    async with channel(edge) as opened:
        stub = service.GRPCInferenceServiceStub(opened)
        request = protocol.ModelInferRequest(model_name="digits", id="x" * 2000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(request, timeout=PATIENCE_S, compression=grpc.Compression.Gzip)
        wanted = "a compressed message is not supported; send it as it is"
        assert (caught.value.code().name, caught.value.details()) == ("UNIMPLEMENTED", wanted)
        assert called["stable"].seen == []
        assert await code(opened) == "OK"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header that is added to no table."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


VALID_CALL = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/inference.GRPCInferenceService/ModelInfer",
    ":authority": AUTHORITY,
    "content-type": "application/grpc",
    "te": "trailers",
}


def opening(headers: dict[str, str]) -> bytes:
    """A connection's beginning, with the headers of a call. One that is empty is left out."""
    block = b"".join(literal(name.encode(), value.encode()) for name, value in headers.items() if value)
    return b"".join(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            frame(SETTINGS, 0, 0, b""),
            frame(HEADERS, END_HEADERS, 1, block),
        )
    )


def data_frames(data: bytes, *, last: bool) -> bytes:
    pieces = [data[start : start + 10_000] for start in range(0, len(data), 10_000)] or [b""]
    frames = [frame(DATA, 0, 1, piece) for piece in pieces[:-1]]
    return b"".join((*frames, frame(DATA, END_STREAM if last else 0, 1, pieces[-1])))


def message(kind: str = "") -> bytes:
    content = protocol.ModelInferRequest(model_name="digits", id=kind).SerializeToString()
    return b"\0" + len(content).to_bytes(4, "big") + content


async def headers_of(edge, headers: dict[str, str], data: bytes) -> bytes:
    """The header blocks that answer a call by a client that has no library of gRPC and waits until its stream ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.http_port)
    writer.write(opening(VALID_CALL | headers) + data_frames(data, last=True))
    block, ended = b"", False
    async with asyncio.timeout(PATIENCE_S):
        while not ended:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            assert head[3] in {DATA, HEADERS} or head[5:] == bytes(4) or head[3] == WINDOW_UPDATE, (
                "the stream was reset"
            )
            block += payload if head[3] == HEADERS else b""
            ended = head[3] in {DATA, HEADERS} and bool(head[4] & END_STREAM)
    writer.close()
    return block


async def status_of(edge, headers: dict[str, str], data: bytes) -> int | None:
    """The grpc-status of such a call; None without one."""
    found = re.search(rb"grpc-status[\x01\x02](\d+)", await headers_of(edge, headers, data))
    return int(found[1]) if found else None


@pytest.mark.parametrize(
    ("headers", "data"),
    [({"grpc-encoding": "bogus"}, b"\0\0\0\0\0"), ({"grpc-encoding": "gzip"}, b"\1\0\0\0\1x")],
    ids=["unknown", "compressed"],
)
async def test_a_refused_encoding_names_those_that_are_accepted(edge, called, headers, data):
    block = await headers_of(edge, headers, data)
    assert b"grpc-accept-encoding\x08identity" in block
    assert b"grpc-status\x0212" in block
    assert called["stable"].seen == []


INVALID, UNSUPPORTED = 3, 12
"""As grpc-status: what the client did wrong, and what is not done."""

NO_CALLS = (
    ({":method": "GET"}, message(), UNSUPPORTED),
    ({":method": "PUT"}, message(), UNSUPPORTED),
    ({"te": ""}, message(), INVALID),
    ({"grpc-encoding": "bogus"}, message(), UNSUPPORTED),
    ({"grpc-encoding": "Identity"}, message(), UNSUPPORTED),
    ({"x-some-bin": "!"}, message(), INVALID),
    ({"x-some-bin": "YWJjY"}, message(), INVALID),
    ({"x-some-bin": "YWJj\t!"}, message(), INVALID),
    ({"x-some-bin": "YR"}, message(), INVALID),
    ({"x-first-bin": "YWJj", "x-some-bin": "YWJj,YWJj"}, message(), INVALID),
    ({}, b"", INVALID),
    ({}, b"\0\0\0", INVALID),
    ({}, message()[:-1], INVALID),
    ({"content-length": str(len(message("x" * 40_000)) - 1)}, message("x" * 40_000)[:-1], INVALID),
)
"""Headers, body and grpc-status."""

CALLS = (
    ({}, message()),
    ({}, message("x" * 40_000)),
    ({"content-length": str(len(message()))}, message()),
    ({"grpc-encoding": "identity", "grpc-accept-encoding": "bogus, gzip"}, message()),
    ({"grpc-encoding": "gzip"}, message()),
    ({"x-a-bin": "YWJj", "x-b-bin": "YWI=", "x-c-bin": "YWI", "x-d-bin": "YQ", "x-e": "no-bin: !"}, message()),
    ({"x-a-bin": "YWJj" * 30}, message()),
    ({"grpc-previous-rpc-attempts": "x", "grpc-retry-pushback-ms": "x", "grpc-status": "x"}, message()),
    ({"grpc-internal-encoding-request": "x", "lb-cost-bin": "YWJj"}, message()),
)


async def test_what_is_no_call_is_refused_and_no_arm_is_blamed(edge, called):
    await edge.apply(split(edge, attempt="calls", requestTimeoutSeconds=2.0))
    for headers, data, status in NO_CALLS:
        assert await status_of(edge, headers, data) == status, (headers, data[:20])
    assert called["stable"].seen == []
    for headers, data in CALLS:
        assert await status_of(edge, headers, data) == 0, (headers, data[:20])

    async def counted() -> bool:
        ends = [(row["assigned"], row["ends"]["ok"]) for row in await rows(edge, "calls")]
        return ends == [(len(CALLS), len(CALLS))] and await edge.refused("digits") == {"malformed": len(NO_CALLS)}

    await edge.comes_true(counted, "calls served, and the others refused")


DEADLINE_EXCEEDED = 4

DEADLINES = (
    ("1n", "sleep=60", "abortBefore"),
    ("50m", "sleep=60", "abortBefore"),
    ("300000u", "sleep=60", "abortBefore"),
    ("1H", "sleep=60", "timeout"),
    ("1000m", "status=DEADLINE_EXCEEDED", "timeout"),
)
"""What a client asks for, what the model does, and how it ends where the service gives 2 s."""


async def test_a_clients_own_deadline_is_no_timeout_of_the_arm(edge, called):
    await edge.apply(split(edge, attempt="own", requestTimeoutSeconds=2.0))
    for asked, kind, _ in DEADLINES:
        assert await status_of(edge, {"grpc-timeout": asked}, message(kind)) == DEADLINE_EXCEEDED, (asked, kind)

    async def counted() -> bool:
        seen = {name: count for row in await rows(edge, "own") for name, count in row["ends"].items() if count}
        return seen == Counter(end for *_, end in DEADLINES)

    await edge.comes_true(counted, "the ends by deadlines")


async def test_binary_metadata_reaches_the_model_as_it_was(edge, called):
    async with channel(edge) as opened:
        for size in (1, 2, 3, 200, 5000):
            await call(opened, x_some_bin=bytes(range(256)) * 20 if size == 5000 else b"\xff" * size)
    assert len(called["stable"].seen) == 5
    assert called["stable"].seen[2]["x-some-bin"] == str(b"\xff" * 3)


async def test_a_message_that_comes_drop_by_drop_has_the_calls_time(edge, called):
    await edge.apply(
        split(
            edge,
            attempt="slow",
            requestTimeoutSeconds=0.5,
            maxOngoingRequests=1,
            queue={"maxRequests": 10, "timeoutSeconds": 60.0},
        )
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.http_port)
    writer.write(opening(VALID_CALL) + data_frames(b"\0" + (90_000).to_bytes(4, "big") + b" " * 40_000, last=False))

    async def answered() -> None:
        """Beside the answer the edge says with each drop that there is room for more."""
        answer = b""
        while b"grpc-status\x014" not in answer:
            answer += await reader.readexactly(1)

    async def drops() -> int:
        answering = asyncio.create_task(answered())
        for drop in range(DROPS):
            if (await asyncio.wait({answering}, timeout=0.05))[0]:
                await answering
                return drop
            writer.write(frame(DATA, 0, 1, b" "))
        answering.cancel()
        return DROPS

    dripping = asyncio.create_task(drops())

    async def under_way() -> bool:
        return sum(row["inFlight"] for row in await rows(edge, "slow")) == 1

    await edge.comes_true(under_way, "the slow call at the replica")
    async with channel(edge) as opened:
        assert await code(opened, timeout=PATIENCE_S) == "OK", "its place was not free"
    assert await dripping < DROPS, "it was not answered DEADLINE_EXCEEDED"
    writer.close()


async def test_a_killed_replica_costs_no_call_not_even_those_it_had(edge, called, serve, model_process):
    """Both of its ports go at once, with a call in flight that has no answer yet: another replica answers that."""
    victim, http, port = await model_process("digits-r7")
    serve.targets["digits-r7"].append(http)
    serve.grpc["digits-r7"][http] = port
    await edge.apply(split(edge, attempt="killed"))
    await edge.up("digits", stable=2)
    async with channel(edge) as opened, Calls(edge, opened) as load:
        said = asyncio.create_task(victim.stdout.readline())

        async def held() -> asyncio.Task | None:
            # The other replica answers such a call at once.
            asked = asyncio.create_task(load.one("hold"))
            await asyncio.wait({asked, said}, return_when=asyncio.FIRST_COMPLETED)
            return None if asked.done() else asked

        asked = await edge.comes_true(held, "a call in flight at the victim")
        await load.more(50)
        victim.kill()
        await victim.wait()
        await load.more(50)
        await edge.up("digits", stable=1)
        await load.more(50)
        assert await asked == "OK"
    assert load.ended == {"OK": load.ended.total()}

    async def counted() -> bool:
        return sum(row["ends"]["ok"] for row in await rows(edge, "killed")) == load.ended.total()

    await edge.comes_true(counted, "every call counted as a good one")
    assert sum(row["retries"]["rescued"] for row in await rows(edge, "killed")) >= 1


async def test_a_replica_without_its_http_port_gets_no_call(edge, called, serve, replicas, models):
    """The gRPC port has no check of its own: its replica is down once the HTTP port is."""
    second = await replicas("digits-r7")
    model = await models("digits-r7")
    serve.targets["digits-r7"].append(second.address)
    serve.grpc["digits-r7"][second.address] = model.port
    await edge.up("digits", stable=2)
    async with channel(edge) as opened:

        async def both() -> bool:
            await call(opened)
            return bool(model.seen)

        await edge.comes_true(both, "calls to the second replica")
        await second.stop()
        await edge.up("digits", stable=1)
        await asyncio.gather(*(call(opened) for _ in range(5)))

        async def gone() -> bool:
            before = len(model.seen)
            await asyncio.gather(*(call(opened) for _ in range(6)))
            return len(model.seen) == before

        await edge.comes_true(gone, "no call to the second replica")


async def test_a_reload_and_a_restart_keep_the_grpc_ports(edge, called):
    async with channel(edge) as opened:
        await edge.apply(split(edge, unit={"kind": "header", "name": "x-new"}))
        assert await code(opened) == "OK"
    await edge.kill_agent()
    await edge.stop_haproxy()
    await edge.start_haproxy()

    async def back() -> bool:
        async with channel(edge) as opened:
            return await code(opened) == "OK"

    await edge.comes_true(back, "gRPC without an agent")


async def test_a_channel_that_idles_across_a_reload_reaches_what_is_newer_than_it(
    edge, serve, called, replicas, models
):
    replica, newest = await replicas("digits-r9"), await models("digits-r9")
    async with channel(edge) as opened:
        await call(opened)
        serve.targets["digits-r9"] = [replica.address]
        serve.grpc["digits-r9"] = {replica.address: newest.port}
        unit = {"kind": "header", "name": "x-new"}
        arms = [edge.arm("stable", "digits-r9", [[0, 10_000]], revision=9), edge.arm("old", "digits-r7", [])]
        await edge.apply(edge.service("digits", arms, unit=unit))
        await edge.up("digits", stable=1)
        async with channel(edge) as other:
            await edge.comes_true(lambda: answered(other), "a call at the new revision")
        newest.seen.clear()
        assert (await call(opened, x_new="u1")).model_name == "digits-r9"
        assert [seen["x-new"] for seen in newest.seen] == ["u1"]


async def answered(opened: grpc.aio.Channel) -> bool:
    return await code(opened) == "OK"
