"""Ports that write only while this process leads. Two operators may overlap for a moment, but only one of them may write."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

from sundog_operator.app.leadership.elector import LeadershipLost
from sundog_operator.core.observed import ServeState
from sundog_operator.ports import Kind, Kubernetes, Object, Ref, Serve, WatchEvent, ref_of

T = TypeVar("T")


class FencedKubernetes:
    """`ports.Kubernetes` around another one. A write raises LeadershipLost unless this process leads."""

    def __init__(self, kube: Kubernetes, leads: Callable[[], bool]) -> None:
        self._kube = kube
        self._leads = leads

    async def get(self, ref: Ref) -> Object | None:
        """See the port."""
        return await self._kube.get(ref)

    async def labels(self, ref: Ref) -> Mapping[str, str] | None:
        """See the port."""
        return await self._kube.labels(ref)

    async def view(self, ref: Ref, of: Callable[[Object], T]) -> T | None:
        """See the port."""
        return await self._kube.view(ref, of)

    async def views(
        self, kind: Kind, namespace: str | None, of: Callable[[Object], T], labels: Mapping[str, str] | None = None
    ) -> Sequence[T]:
        """See the port."""
        return await self._kube.views(kind, namespace, of, labels)

    def version(self, namespace: str) -> int | None:
        """See the port."""
        return self._kube.version(namespace)

    async def scan(self, kind: Kind, of: Callable[[Object], T]) -> Sequence[T]:
        """See the port."""
        return await self._kube.scan(kind, of)

    async def create(self, obj: Object) -> Object:
        """See the port."""
        self._require_leadership(ref_of(obj))
        return await self._kube.create(obj)

    async def apply(self, obj: Object) -> Object:
        """See the port."""
        self._require_leadership(ref_of(obj))
        return await self._kube.apply(obj)

    async def replace(self, obj: Object) -> Object:
        """See the port."""
        self._require_leadership(ref_of(obj))
        return await self._kube.replace(obj)

    async def patch_status(self, ref: Ref, status: Mapping[str, Any], *, resource_version: str) -> Object:
        """See the port."""
        self._require_leadership(ref)
        return await self._kube.patch_status(ref, status, resource_version=resource_version)

    async def annotate(self, ref: Ref, annotations: Mapping[str, str | None]) -> Object:
        """See the port."""
        self._require_leadership(ref)
        return await self._kube.annotate(ref, annotations)

    async def delete(self, ref: Ref, *, uid: str | None = None) -> None:
        """See the port."""
        self._require_leadership(ref)
        await self._kube.delete(ref, uid=uid)

    def watch(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[WatchEvent]:
        """See the port."""
        return self._kube.watch(kind, namespace)

    def _require_leadership(self, what: object) -> None:
        if not self._leads():
            raise LeadershipLost(f"{what}: not written, because this process is not the leader")

    # Last in the class, because its name hides the builtin from here on.
    async def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """See the port."""
        return await self._kube.list(kind, namespace, labels)


class FencedServe:
    """`ports.Serve` around another one. A write raises LeadershipLost unless this process leads."""

    def __init__(self, serve: Serve, leads: Callable[[], bool]) -> None:
        self._serve = serve
        self._leads = leads

    async def read(self, dashboard: str, namespace: str) -> ServeState:
        """See the port."""
        return await self._serve.read(dashboard, namespace)

    async def put(self, dashboard: str, namespace: str, document: Mapping[str, Any]) -> None:
        """See the port."""
        if not self._leads():
            raise LeadershipLost(f"{dashboard}: not written, because this process is not the leader")
        await self._serve.put(dashboard, namespace, document)
