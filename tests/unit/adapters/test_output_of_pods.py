"""The output of a command in a container, through an API server's WebSocket."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import BasicAuth, web
from aiohttp.test_utils import TestServer

from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.memory_kubernetes.kubeconfig import write_kubeconfig
from sundog_operator.errors import DependencyError, Forbidden
from sundog_operator.ports import POD, Ref

W1 = Ref(POD, "vision", "w1")
ENDED = b'\x03{"status": "Success"}'
FAILED = b'\x03{"status": "Failure", "message": "command terminated with exit code 1"}'


@asynccontextmanager
async def client(folder: Path, messages: Sequence[bytes], seen: list[web.Request]) -> AsyncIterator[KubernetesClient]:
    async def run(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        if not messages:
            raise web.HTTPForbidden
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        for message in messages:
            await socket.send_bytes(message)
        await socket.close()
        return socket

    app = web.Application()
    app.router.add_get("/api/v1/namespaces/vision/pods/w1/exec", run)
    async with TestServer(app) as server:
        write_kubeconfig(folder / "kubeconfig", str(server.make_url("")), "let me in", namespace="vision")
        kube = await KubernetesClient.connect(folder / "kubeconfig")
        try:
            yield kube
        finally:
            await kube.close()


async def test_the_standard_output_comes_in_pieces(tmp_path: Path) -> None:
    seen: list[web.Request] = []
    async with client(tmp_path, (b"\x01one\n", b"\x02not this", b"\x01two\n", ENDED), seen) as kube:
        assert [part async for part in kube.output_of(W1, "ray-worker", ("sh", "-c", "x y"))] == [b"one\n", b"two\n"]
    (request,) = seen
    assert request.query.getall("command") == ["sh", "-c", "x y"]
    assert (request.query["container"], request.query["stdout"]) == ("ray-worker", "true")
    assert BasicAuth.decode(request.headers["Authorization"]).password == "let me in"


@pytest.mark.parametrize(
    ("messages", "error", "message"),
    [
        ((), Forbidden, "Pod vision/w1: container c: the API server refuses to run a command (403)"),
        ((FAILED,), DependencyError, "Pod vision/w1: container c: command terminated with exit code 1"),
    ],
)
async def test_a_failed_command_raises(
    tmp_path: Path, messages: Sequence[bytes], error: type[Exception], message: str
) -> None:
    async with client(tmp_path, messages, []) as kube:
        with pytest.raises(error) as raised:
            _ = [part async for part in kube.output_of(W1, "c", ("true",))]
    assert str(raised.value) == message
