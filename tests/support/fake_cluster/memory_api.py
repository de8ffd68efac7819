"""The in-memory API server over HTTP, in a thread, for other processes. It can go away and come back."""

import asyncio
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doubles.hooked_kubernetes import HookedKubernetes
from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.memory_kubernetes.http_server import serve_http
from sundog_operator.adapters.memory_kubernetes.kubeconfig import write_kubeconfig
from sundog_operator.shell.local.api_server import crd_schemas, find_admission_violations
from waiting import PATIENCE_S


class MemoryApi:
    """The API server, reached by `kubeconfig`. Use `store` only through `call`, which runs in the server's thread."""

    def __init__(self, folder: Path) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self._token = secrets.token_urlsafe()
        self._port = 0
        self._present = threading.Event()
        self._away = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._wanted = asyncio.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="API server")

    def start(self) -> None:
        self._thread.start()
        self.call(self._set, True)
        assert self._present.wait(PATIENCE_S)

    def stop(self) -> None:
        """Stop the server, even if a test has left it away."""
        self._ended = True
        self.call(self._set, True)
        self._thread.join()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Close the port for the duration of the block."""
        self._present.clear()
        self.call(self._set, False)
        assert self._away.wait(PATIENCE_S)
        try:
            yield
        finally:
            self._away.clear()
            self.call(self._set, True)
            assert self._present.wait(PATIENCE_S)

    def call(self, act, *arguments):  # type: ignore[no-untyped-def]
        """Call a function in the server's thread, and return its result."""

        async def run():  # type: ignore[no-untyped-def]
            return act(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE_S)

    def _set(self, wanted: bool) -> None:
        (self._wanted.set if wanted else self._wanted.clear)()
        self._changed.set()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        clock = SystemClock()
        self.store = HookedKubernetes(clock, schemas=crd_schemas(), admit=find_admission_violations)
        while True:
            await self._wanted.wait()
            if self._ended:
                break
            async with serve_http(self.store, clock, token=self._token, port=self._port) as url:
                self._port = int(url.rpartition(":")[2])
                write_kubeconfig(self.kubeconfig, url, self._token)
                self._present.set()
                while self._wanted.is_set() and not self._ended:
                    self._changed.clear()
                    await self._changed.wait()
            self._away.set()
        self.store.close()

    @property
    def _changed(self) -> asyncio.Event:
        if not hasattr(self, "_change"):
            self._change = asyncio.Event()
        return self._change
