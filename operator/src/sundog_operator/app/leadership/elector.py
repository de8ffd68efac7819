"""Which of several operators acts: the holder of a Lease.

Instants of other machines are never compared: a candidate takes a Lease over when it has itself watched the record stand still for as long
as the record says that it is good. So clocks may differ as they like, only their speeds must not.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.api import format_micro_time
from sundog_operator.errors import DependencyError
from sundog_operator.ports import LEASE, Clock, Kubernetes, Object, Ref

log = logging.getLogger("sundog.elector")

LEASE_S: Final = 15.0
RENEW_DEADLINE_S: Final = 10.0
RETRY_S: Final = 2.0
_ANSWER_S: Final = 5.0
_JITTER: Final = 1.2


class LeadershipLost(DependencyError):
    """The process no longer leads: it must write nothing more, and end."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A record of the Lease, and when this process saw it first."""

    record: tuple[Any, ...]
    at: float


class Elector:
    """One candidate for one Lease.

    The times are those of client-go: a Lease is good for 15 s, is renewed every 2 s, and who could not renew it for 10 s stops leading, 5 s
    before anybody else may begin.
    """

    def __init__(self, kube: Kubernetes, lease: Ref, identity: str, clock: Clock, jitter: Callable[[], float]) -> None:
        """`lease` names the Lease. `jitter` gives numbers in [0, 1)."""
        assert lease.kind == LEASE
        self._kube = kube
        self._lease = lease
        self._identity = identity
        self._clock = clock
        self._jitter = jitter
        self._seen: _Seen | None = None
        self._renewed: float | None = None
        self.holder = ""

    @property
    def leads(self) -> bool:
        """Whether this process may write now."""
        return self._renewed is not None and self._clock.monotonic() - self._renewed < RENEW_DEADLINE_S

    async def acquire(self) -> None:
        """Wait until this process leads."""
        while not await self._try():
            await self._clock.sleep(RETRY_S * (1 + _JITTER * self._jitter()))
        log.info("this process leads", extra={"key": str(self._lease)})

    async def keep(self) -> None:
        """Renew for as long as that works. Raises LeadershipLost."""
        while self.leads:
            await self._clock.sleep(RETRY_S)
            if not await self._try() and self.holder not in {"", self._identity}:
                break
        self._renewed = None
        raise LeadershipLost(f"{self._lease} is no longer held by {self._identity}; it names {self.holder or 'nobody'}")

    async def release(self) -> None:
        """Let another process lead at once. An API server that does not answer costs it the rest of the Lease."""
        if self._renewed is None:
            return
        self._renewed = None
        try:
            stored = await self._kube.get(self._lease)
            if stored is not None and _spec(stored).get("holderIdentity") == self._identity:
                await self._kube.replace(self._record(stored, holder="", lease_s=1))
        except DependencyError as err:
            log.warning("%s is not released, others wait for its end: %s", self._lease, err)

    async def _try(self) -> bool:
        """Take or renew the Lease. False when somebody else has it, or when the API server did not agree in time."""
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(_ANSWER_S):
                if not await self._write():
                    return False
        except (DependencyError, TimeoutError) as err:
            log.warning("%s: %s", self._lease, str(err) or f"no answer in {_ANSWER_S:g} s")
            return False
        # Counted from before the question was asked: whoever watches saw the answer later than that.
        self._renewed = began
        self.holder = self._identity
        return True

    async def _write(self) -> bool:
        stored = await self._kube.get(self._lease)
        if stored is None:
            await self._kube.create(self._record(None, holder=self._identity))
        elif self._is_free(stored):
            await self._kube.replace(self._record(stored, holder=self._identity))
        else:
            return False
        return True

    def _is_free(self, stored: Object) -> bool:
        spec = _spec(stored)
        self.holder = str(spec.get("holderIdentity") or "")
        now = self._clock.monotonic()
        record = (self.holder, spec.get("renewTime"), spec.get("leaseTransitions"), stored["metadata"]["uid"])
        if self._seen is None or self._seen.record != record:
            self._seen = _Seen(record, now)
        if self.holder in {"", self._identity}:
            return True
        return now - self._seen.at >= float(spec.get("leaseDurationSeconds") or LEASE_S)

    def _record(self, stored: Object | None, *, holder: str, lease_s: float = LEASE_S) -> Object:
        before = _spec(stored) if stored is not None else {}
        now = format_micro_time(self._clock.now())
        changes = before.get("holderIdentity") != holder
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": int(lease_s),
            "acquireTime": now if changes else before.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (1 if changes and holder and before else 0),
        }
        metadata = stored["metadata"] if stored else {"namespace": self._lease.namespace, "name": self._lease.name}
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}


def _spec(lease: Object) -> dict[str, Any]:
    return lease.get("spec") or {}
