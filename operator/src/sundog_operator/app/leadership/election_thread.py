"""Run the election in a thread, so that a blocked event loop does not lose the Lease."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future

from sundog_operator.app.leadership.elector import Elector

MakeElector = Callable[[], contextlib.AbstractAsyncContextManager[Elector]]


class ElectionThread:
    """An `Elector` in a thread with an event loop of its own, where also its connections are.

    Writes are fenced by `leads`, which any thread may read. A thread that fails ends the leadership.
    """

    def __init__(self, make: MakeElector) -> None:
        """`make` is entered in the thread, and left when the election ends."""
        self._make = make
        self._elector: Elector | None = None
        self._acquired: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._stopping = threading.Event()
        self._wake: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run_thread, name="election", daemon=True)

    @property
    def leads(self) -> bool:
        """Whether this process may write now."""
        return self._elector is not None and self._elector.leads and not self._ended.done()

    async def acquire(self) -> None:
        """Start the thread, and wait until this process leads. Raises the error of a thread that fails before."""
        self._thread.start()
        await asyncio.shield(asyncio.wrap_future(self._acquired))

    async def keep(self) -> None:
        """Wait until the leadership is lost. Raises LeadershipLost, or the error of a thread that failed."""
        await asyncio.shield(asyncio.wrap_future(self._ended))

    async def release(self) -> None:
        """End the thread, which releases the Lease."""
        self._stopping.set()
        self._wake()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run_thread(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as err:  # noqa: BLE001 - the caller of `acquire` or `keep` gets it
            if not self._acquired.done():
                self._acquired.set_exception(err)
            self._ended.set_exception(err)
        else:
            self._ended.set_result(None)

    async def _run(self) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stopping.set)

        self._wake = wake
        if self._stopping.is_set():
            return
        async with self._make() as elector:
            self._elector = elector
            election = asyncio.ensure_future(self._elect(elector))
            waiting = asyncio.ensure_future(stopping.wait())
            try:
                await asyncio.wait((election, waiting), return_when=asyncio.FIRST_COMPLETED)
                if election.done():
                    election.result()
            finally:
                election.cancel()
                waiting.cancel()
                await asyncio.gather(election, waiting, return_exceptions=True)
                # Another process can lead at once.
                await elector.release()

    async def _elect(self, elector: Elector) -> None:
        await elector.acquire()
        self._acquired.set_result(None)
        await elector.keep()
