"""The MLP as a raw ASGI application, as written by hand without a framework, a check or a log.

`uvicorn measuring.raw_asgi:app` serves it bare; `serve_apps` serves it on Ray Serve.
"""

from typing import Any

import orjson
import torch

from measuring.mlp import network


class Mlp:
    """`{"x": [256 floats]}` → `{"y": [10 floats]}`, on every path. The network is made on first use."""

    def __init__(self) -> None:
        self._network: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        answer = self._predict(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
        return None

    def _predict(self, body: bytes) -> bytes:
        if self._network is None:
            self._network = network()
        with torch.inference_mode():
            return orjson.dumps({"y": self._network(torch.tensor(orjson.loads(body)["x"])).tolist()})


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


app = Mlp()
