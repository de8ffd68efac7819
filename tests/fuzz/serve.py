"""One replica on a port of its own, without Serve: `python serve.py MODEL_DIRECTORY ENTRYPOINT PORT`."""

import asyncio
import sys

import uvicorn

from sundog_runtime.replica import Replica


async def main(directory: str, entrypoint: str, port: str) -> None:
    model = {"uri": f"file://{directory}", "entrypoint": entrypoint}
    args = {"version": 1, "namespace": "vision", "service": "digits", "revision": 1, "model": model}
    replica = await Replica.start(args)
    await replica.reconfigure(None)
    config = uvicorn.Config(replica.app, host="127.0.0.1", port=int(port), log_level="error", access_log=False)
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
