"""Watch the API server through kopf. kopf reports changes and writes nothing; the work queue decides when to act.

kopf runs in a thread with its own event loop. It ends on a response that it does not know, and then cancels every
task that started in its loop after it. Then only the watches restart, and the process goes on.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import kopf

from sundog_operator.adapters.cached.projection import project
from sundog_operator.adapters.kubernetes_connection import Login
from sundog_operator.ports import Kind, Object

log = logging.getLogger("sundog.watch")

Deliver = Callable[[Kind, str | None, Object], None]
"""Takes the kind, the type of the change (None for an object in a list) and the object. Called in the event loop of `run`."""

_RESTART_S: Final = 2.0
_HEARTBEAT_S: Final = 1.0
_JOIN_TIMEOUT_S: Final = 5.0
# kopf logs at every start that it does not handle signals, which is intended.
_IGNORED_MESSAGE: Final = "OS signals are ignored"


@dataclass(frozen=True, slots=True)
class WatchTarget:
    """A kind to watch, with label and field selectors for its objects."""

    kind: Kind
    labels: Mapping[str, str] = field(default_factory=dict)
    fields: str = ""


class _Backoffs:
    """Back-offs without an end, because kopf gives up after the last one."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1.0, 2.0)
        while True:
            yield 5.0


class _NoDiffs(kopf.DiffBaseStorage):
    """Stores nothing: Sundog does not compare an object with its last handled state."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:  # noqa: ARG002 - kopf's signature
        return kopf.BodyEssence({})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002 - kopf's signature
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Do nothing: kopf calls it for handlers that keep state, which Sundog does not have."""


class KopfWatch:
    """Watches some kinds in one, several or all namespaces.

    Attributes:
        thread: runs kopf.
        starts: how often the watches have started.
        last_heartbeat_s: when the event loop of the watches last ran, by time.monotonic.
    """

    def __init__(
        self,
        watched: Callable[[], Sequence[WatchTarget]],
        deliver: Deliver,
        login: Callable[[], Awaitable[Login]],
        namespaces: Sequence[str] = (),
        forbidden_namespaces: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """Args:
        watched: returns what to watch. Called in the thread of the watches, at each start.
        deliver: takes each change. Called in the event loop that calls `run`.
        login: returns the login for the API server. Called in the thread of the watches.
        namespaces: the namespaces to watch; empty for all.
        forbidden_namespaces: returns the namespaces that Sundog has no permission to watch. Called in the thread of the watches.
        """
        self._watched = watched
        self._deliver = deliver
        self._login = login
        self._namespaces = namespaces
        self._forbidden_namespaces = forbidden_namespaces
        self._stopping = threading.Event()
        self._restart = threading.Event()
        self.thread = threading.Thread(name="watches", daemon=True)
        self.starts = 0
        self.last_heartbeat_s = time.monotonic()

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        self.thread = threading.Thread(target=self._run_thread, args=(loop,), name="watches", daemon=True)
        self.thread.start()
        try:
            await asyncio.Event().wait()
        finally:
            self._stopping.set()
            self._restart.set()

    async def wait_until_ended(self) -> None:
        """Wait until the thread of a cancelled `run` has ended, but only a few seconds. After that it delivers and logs nothing.

        kopf's requests outlive its end: they retry, and log each attempt, for as long as the process lives.
        """
        if self.thread.is_alive():
            await asyncio.to_thread(self.thread.join, _JOIN_TIMEOUT_S)
        if self.thread.is_alive():
            for handler in logging.getLogger().handlers:
                handler.addFilter(lambda _: threading.current_thread() is not self.thread)

    def namespaces(self) -> Sequence[str]:
        """Return the namespaces to watch from the next start on; empty for all.

        Namespaces without permission are left out, because kopf would log an error for each of their kinds every 5 s. If Sundog has
        permission for none of them, all are returned.
        """
        forbidden = self._forbidden_namespaces()
        return [name for name in self._namespaces if name not in forbidden] or self._namespaces

    def restart(self) -> None:
        """Restart the watches, to include kinds that the server has begun to serve, or to replace stale watches."""
        self._restart.set()

    def _run_thread(self, caller_loop: asyncio.AbstractEventLoop) -> None:
        asyncio.run(self._run_watches(caller_loop))

    async def _run_watches(self, caller_loop: asyncio.AbstractEventLoop) -> None:
        # The heartbeat starts before kopf, because kopf cancels the tasks that start after it.
        heartbeat = asyncio.create_task(self._send_heartbeats())
        while not self._stopping.is_set():
            self._restart.clear()
            self.starts += 1
            try:
                watched = self._watched()
                await kopf.operator(
                    registry=self._registry(caller_loop, watched),
                    settings=make_settings(watched),
                    clusterwide=not self._namespaces,
                    namespaces=self.namespaces(),
                    # Without an identity, kopf looks up the user's name, and the user of a pod may have none.
                    identity=cast("Any", "sundog"),
                    stop_flag=self._restart,
                )
            except Exception as err:  # noqa: BLE001 - the watches restart after any error of kopf
                if not self._stopping.is_set():
                    log.warning("watches ended, restarting: %s", str(err) or type(err).__name__)
            # Sleep in this loop, because a thread for the wait cannot start while the process ends, and would log an error.
            if not self._stopping.is_set():
                await asyncio.sleep(_RESTART_S)
        heartbeat.cancel()

    async def _send_heartbeats(self) -> None:
        while True:
            self.last_heartbeat_s = time.monotonic()
            await asyncio.sleep(_HEARTBEAT_S)

    def _registry(self, caller_loop: asyncio.AbstractEventLoop, kinds: Sequence[WatchTarget]) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def login(**_: Any) -> kopf.ConnectionInfo:
            return _connection(await self._login())

        kopf.on.login(id="login", registry=registry)(login)
        for watched in kinds:
            _register_handler(registry, watched.kind, self._deliver, caller_loop)
        return registry


def _register_handler(
    registry: kopf.OperatorRegistry, kind: Kind, deliver: Deliver, caller_loop: asyncio.AbstractEventLoop
) -> None:
    async def deliver_change(event: kopf.RawEvent, **_: Any) -> None:
        obj: Object = dict(cast("Object", event["object"]))
        metadata = dict(obj["metadata"])
        metadata.pop("managedFields", None)
        obj |= {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
        # Before it waits for the other loop, because there may be many large ones.
        if (kept := project(kind, obj)) is not None:
            caller_loop.call_soon_threadsafe(deliver, kind, event["type"], kept)

    version = kind.api_version.rpartition("/")[2]
    kopf.on.event(kind.group, version, kind.plural, id=f"{kind.plural}-changed", registry=registry)(deliver_change)


def make_settings(watched: Sequence[WatchTarget]) -> kopf.OperatorSettings:
    """Return settings with which kopf only watches: it writes no events, peers, annotations or finalizers, and retries after errors."""
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
    settings.watching.chunk_size = 25
    settings.queueing.idle_timeout = 1.0
    settings.execution.max_workers = 1
    settings.persistence.diffbase_storage = _NoDiffs()
    # kopf removes its finalizer from objects, so this is a name that no object has.
    settings.persistence.finalizer = "serving.sundog.dev/never-set"
    for target in watched:
        resource = (target.kind.group, target.kind.api_version.rpartition("/")[2], target.kind.plural)
        if target.labels:
            settings.watching.label_selectors[resource] = ",".join(
                f"{key}={value}" for key, value in target.labels.items()
            )
        if target.fields:
            settings.watching.field_selectors[resource] = target.fields
    return settings


def silence_kopf_loggers() -> None:
    """Let kopf's loggers report only warnings and errors."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("kopf._core.reactor.running").addFilter(
        lambda record: not record.getMessage().startswith(_IGNORED_MESSAGE)
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
