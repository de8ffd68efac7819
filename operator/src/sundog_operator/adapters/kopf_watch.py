"""The watches, by kopf: it says when something changed, our queue says when to act on it, and kopf writes nothing.

kopf runs in a thread with an event loop of its own. When it ends, it cancels every task that began after it in its loop, and it ends when a
watch meets an answer that it does not know; here that costs a new start of the watches, and the process lives on.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import kopf

from sundog_operator.adapters.kubernetes_connection import Login
from sundog_operator.ports import Kind, Object

log = logging.getLogger("sundog.watch")

Deliver = Callable[[Kind, str | None, Object], None]
"""Takes the kind, the type of change (None: of a list) and the object, in the event loop of the one who asked."""

_RESTART_S: Final = 2.0
_BEAT_S: Final = 1.0
_END_S: Final = 5.0
# kopf says at every start that it leaves the signals to somebody else, as it should.
_NOT_WORTH_TELLING: Final = "OS signals are ignored"


@dataclass(frozen=True, slots=True)
class WatchTarget:
    """A kind to watch, and which of its objects the server should tell of."""

    kind: Kind
    labels: Mapping[str, str] = field(default_factory=dict)
    fields: str = ""


class _Backoffs:
    """kopf gives up with the last of these, so there is none."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1.0, 2.0)
        while True:
            yield 5.0


class _NoDiffs(kopf.DiffBaseStorage):
    """Nobody here compares an object with what was handled last, so nothing of it is copied or stored."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:  # noqa: ARG002 - kopf's signature
        return kopf.BodyEssence({})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002 - kopf's signature
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Never called: only handlers that keep state store it."""


class KopfWatch:
    """Watches of some kinds, in one namespace or several, or all."""

    def __init__(
        self,
        watched: Callable[[], Sequence[WatchTarget]],
        deliver: Deliver,
        login: Callable[[], Awaitable[Login]],
        namespaces: Sequence[str] = (),
        closed: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """`watched` says at each beginning what to watch, `closed` which of the namespaces may not be watched.

        `deliver` is called in the event loop that calls `run`; `login`, `watched` and `closed` in another thread's.
        """
        self._watched = watched
        self._deliver = deliver
        self._login = login
        self._namespaces = namespaces
        self._closed = closed
        self._ending = threading.Event()
        self._round = threading.Event()
        self.thread = threading.Thread(name="watches", daemon=True)
        self.starts = 0
        self.beat = time.monotonic()
        """When the watches' own event loop last turned, by the clock of time.monotonic."""

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        self.thread = threading.Thread(target=self._thread, args=(loop,), name="watches", daemon=True)
        self.thread.start()
        try:
            await asyncio.Event().wait()
        finally:
            self._ending.set()
            self._round.set()

    async def ended(self) -> None:
        """Wait, some seconds at most, until the thread of a `run` that ended has no more to say."""
        if self.thread.is_alive():
            await asyncio.to_thread(self.thread.join, _END_S)

    def namespaces(self) -> Sequence[str]:
        """Those that are watched from the next beginning on; none for all. kopf would complain of each kind of a closed one every 5 s."""
        closed = self._closed()
        return [name for name in self._namespaces if name not in closed] or self._namespaces

    def renew(self) -> None:
        """End the watches and begin them anew: for kinds that are served only now, and for a watch that tells nothing any more."""
        self._round.set()

    def _thread(self, target: asyncio.AbstractEventLoop) -> None:
        asyncio.run(self._rounds(target))

    async def _rounds(self, target: asyncio.AbstractEventLoop) -> None:
        # From before kopf starts, so kopf does not take it for one of its own.
        heart = asyncio.create_task(self._beats())
        while not self._ending.is_set():
            self._round.clear()
            self.starts += 1
            try:
                watched = self._watched()
                await kopf.operator(
                    registry=self._registry(target, watched),
                    settings=make_settings(watched),
                    clusterwide=not self._namespaces,
                    namespaces=self.namespaces(),
                    # Without one kopf asks for the name of the user, and that of a pod is in nobody's list of users.
                    identity=cast("Any", "sundog"),
                    stop_flag=self._round,
                )
            except Exception as err:  # noqa: BLE001 - whatever ends kopf, the watches begin anew
                if not self._ending.is_set():
                    log.warning("the watches ended and begin anew: %s", str(err) or type(err).__name__)
            # Not in another thread: where the process ends meanwhile there are none to be had, which would be its last word.
            if not self._ending.is_set():
                await asyncio.sleep(_RESTART_S)
        heart.cancel()

    async def _beats(self) -> None:
        while True:
            self.beat = time.monotonic()
            await asyncio.sleep(_BEAT_S)

    def _registry(self, target: asyncio.AbstractEventLoop, kinds: Sequence[WatchTarget]) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def login(**_: Any) -> kopf.ConnectionInfo:
            return _connection(await self._login())

        kopf.on.login(id="login", registry=registry)(login)
        for watched in kinds:
            _listen(registry, watched.kind, self._deliver, target)
        return registry


def _listen(registry: kopf.OperatorRegistry, kind: Kind, deliver: Deliver, target: asyncio.AbstractEventLoop) -> None:
    async def changed(event: kopf.RawEvent, **_: Any) -> None:
        obj: Object = dict(cast("Object", event["object"]))
        metadata = dict(obj["metadata"])
        metadata.pop("managedFields", None)
        obj |= {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
        target.call_soon_threadsafe(deliver, kind, event["type"], obj)

    version = kind.api_version.rpartition("/")[2]
    kopf.on.event(kind.group, version, kind.plural, id=f"{kind.plural}-changed", registry=registry)(changed)


def make_settings(watched: Sequence[WatchTarget]) -> kopf.OperatorSettings:
    """Settings under which kopf only watches: no events, no peers, no annotations, no finalizers, and no end because of an error."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = _Backoffs()
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    settings.queueing.idle_timeout = 1.0
    settings.execution.max_workers = 1
    settings.persistence.diffbase_storage = _NoDiffs()
    # Of a name that nobody uses: kopf takes away a finalizer that it thinks is its own.
    settings.persistence.finalizer = "serving.sundog.dev/never-set"
    for each in watched:
        place = (each.kind.group, each.kind.api_version.rpartition("/")[2], each.kind.plural)
        if each.labels:
            settings.watching.label_selectors[place] = ",".join(f"{key}={value}" for key, value in each.labels.items())
        if each.fields:
            settings.watching.field_selectors[place] = each.fields
    return settings


def silence_kopf_loggers() -> None:
    """Let kopf's loggers tell of trouble only."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("kopf._core.reactor.running").addFilter(
        lambda record: not record.getMessage().startswith(_NOT_WORTH_TELLING)
    )


def _connection(login: Login) -> kopf.ConnectionInfo:
    scheme, _, token = (login.authorization or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=login.server,
        insecure=not login.verify,
        ca_path=login.ca_file,
        certificate_path=login.certificate_file,
        private_key_path=login.key_file,
        scheme=scheme or None,
        token=token or None,
    )
