"""Keep the objects of a cluster in memory current, and notify the controller of changes."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final

from sundog_operator.adapters.cached.kubernetes import OPTIONAL, SCOPES, CachedKubernetes
from sundog_operator.adapters.cached.projection import FIXED_NAMES, project
from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.kopf_watch import KopfWatch, WatchTarget
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.metrics import OperatorMetrics
from sundog_operator.adapters.stale_watches import StaleWatchDetector
from sundog_operator.api.installation import Installation
from sundog_operator.api.quantities import parse_bytes
from sundog_operator.app.controller import Controller
from sundog_operator.errors import DependencyError, NotServed
from sundog_operator.ports import SECRET, Kind, Object, Ref
from sundog_operator.shell.exit_codes import one_line

log = logging.getLogger("sundog.operator")

OPTIONAL_KIND_CHECK_S: Final = 20.0
"""Seconds between two checks whether the API server serves an optional kind by now."""
_RETRY_S: Final = 2.0
# No endpoint can name Secrets of these types, which are the largest and most numerous ones of a large cluster.
_SECRETS: Final = (
    "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockerconfigjson"
)


class ObjectWatcher:
    """Keep objects in memory current, by kopf's watches and by periodic lists."""

    def __init__(
        self, client: KubernetesClient, installation: Installation, metrics: OperatorMetrics, resync_s: float
    ) -> None:
        """`resync_s`: seconds between two lists of all objects."""
        self._metrics = metrics
        self._resync_s = resync_s
        self._waking: set[asyncio.Task[None]] = set()
        self._absent: set[Kind] = set()
        self._forbidden_namespaces: frozenset[str] = frozenset()
        self._controller: Controller | None = None
        self.stale_watches = StaleWatchDetector()
        namespaces = tuple(installation.watch_namespaces)
        self.kube = CachedKubernetes(
            client,
            self._on_change,
            SystemClock(),
            namespaces,
            on_write=self._on_write,
            keep=project,
            namespace_bytes=parse_bytes(installation.max_namespace_memory),
        )
        self._secrets = installation.watch_secrets
        self.kopf = KopfWatch(
            self.watched, self._on_watch_event, client.login, namespaces, lambda: self.kube.forbidden_namespaces
        )

    def watched(self) -> list[WatchTarget]:
        """Return the kinds for kopf to watch. Optional kinds that are not served are left out, because kopf warns of them."""
        watched = [
            WatchTarget(kind, labels, f"metadata.name={FIXED_NAMES[kind]}" if kind in FIXED_NAMES else "")
            for kind, labels in SCOPES.items()
            if not self.kube.lacks(kind)
        ]
        return [*watched, WatchTarget(SECRET, fields=_SECRETS)] if self._secrets else watched

    def set_controller(self, controller: Controller) -> None:
        """Notify this controller of changes from now on."""
        self._controller = controller

    async def run(self) -> None:
        """Watch and list until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resync())
            await self._try_list(OPTIONAL)
            group.create_task(self.kopf.run())
            while True:
                await asyncio.sleep(OPTIONAL_KIND_CHECK_S)
                await self._try_list(filter(self.kube.lacks, OPTIONAL))

    async def _try_list(self, kinds: Iterable[Kind]) -> None:
        for kind in kinds:
            with contextlib.suppress(DependencyError):
                await self._list(kind)

    async def list_all(self) -> None:
        """List every kind once. Raises DependencyError."""
        await asyncio.gather(*(self._list(kind) for kind in SCOPES))
        forbidden = self.kube.forbidden_namespaces
        if forbidden - self._forbidden_namespaces:
            namespaces = ", ".join(sorted(forbidden - self._forbidden_namespaces))
            log.warning("no permission to read namespace %s, or it was deleted; still watching the others", namespaces)
        if forbidden != self._forbidden_namespaces:
            self._forbidden_namespaces = forbidden
            self.kopf.restart()

    async def list_until_complete(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """List every kind, again after a growing delay while that fails. Decisions need the last leader's writes."""
        for delay_s in self._retry_delays():
            try:
                await self.list_all()
            except DependencyError as err:
                message = "leading, but reconciling nothing until every kind can be listed; retry in %g s: %s"
                log.warning(message, delay_s, one_line(err), extra={"reason": type(err).__name__})
                await sleep(delay_s)
            else:
                break

    def _retry_delays(self) -> Iterator[float]:
        delay_s = min(_RETRY_S, self._resync_s)
        while True:
            yield delay_s
            delay_s = min(2 * delay_s, self._resync_s)

    async def _resync(self) -> None:
        delays = self._retry_delays()
        while True:
            # A required kind that is not served yet may be installed at any moment.
            retry_s = _RETRY_S
            try:
                await self.list_all()
            except DependencyError as err:
                log.warning("listing objects failed: %s", one_line(err), extra={"reason": type(err).__name__})
                retry_s = next(delays)
            await asyncio.sleep(self._resync_s if self.kube.ready else retry_s)

    async def _list(self, kind: Kind) -> None:
        first, lacked = not self.kube.synced(kind), self.kube.lacks(kind)
        try:
            missed = await self.kube.resync(kind)
        except NotServed as err:
            if kind not in self._absent:
                level = logging.INFO if kind in OPTIONAL else logging.WARNING
                log.log(
                    level,
                    "API server does not serve %s of %s; is it installed? %s",
                    kind.plural,
                    kind.api_version,
                    one_line(err),
                )
            self._absent.add(kind)
            return
        except DependencyError:
            self._absent.add(kind)
            raise
        if lacked or kind in self._absent:
            # kopf reads the list of kinds once. It may lack a kind that could not be listed then.
            self._absent.discard(kind)
            self.kopf.restart()
        elif not first:
            self._metrics.missed(kind.kind, missed)
            if self.stale_watches.record_list(kind, missed):
                log.warning("watch of %s delivered no changes; restarting the watches", kind.plural)
                self.kopf.restart()

    def _on_watch_event(self, kind: Kind, change: str | None, obj: Object) -> None:
        if change is not None:
            self.stale_watches.record_change(kind)
        if kind != SECRET:
            self.kube.feed(change, obj)
        elif change is not None and self._controller is not None:
            meta = obj["metadata"]
            self.kube.forget_secret(Ref(SECRET, meta["namespace"], meta["name"]))
            task = asyncio.ensure_future(self._enqueue_users(self._controller, meta["namespace"], meta["name"]))
            self._waking.add(task)
            task.add_done_callback(self._waking.discard)

    async def _enqueue_users(self, controller: Controller, namespace: str, secret: str) -> None:
        try:
            await controller.enqueue_secret_users(namespace, secret)
        except DependencyError as err:
            log.warning("users of Secret %s/%s cannot be requeued: %s", namespace, secret, one_line(err))

    def _on_change(self, obj: Object) -> None:
        if self._controller is not None:
            self._controller.wake(obj)

    def _on_write(self, obj: Object) -> None:
        if self._controller is not None:
            self._controller.handle_own_write(obj)
