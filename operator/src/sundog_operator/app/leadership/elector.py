"""Leader election by a Lease.

A candidate never compares times of other machines. It takes a Lease over after it has observed the record unchanged for the record's own
duration. So clocks may show different times, but must run at the same speed.
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
    """The process no longer leads. It must write nothing more, and end."""


@dataclass(frozen=True, slots=True)
class _ObservedRecord:
    """A record of the Lease, and the monotonic time at which this process first observed it."""

    record: tuple[Any, ...]
    at: float


class Elector:
    """One candidate for one Lease.

    The times are those of client-go. A Lease is valid for 15 s and renewed every 2 s. A leader that could not renew it for 10 s stops, 5 s
    before another process may begin.
    """

    def __init__(
        self,
        kube: Kubernetes,
        lease: Ref,
        identity: str,
        clock: Clock,
        jitter: Callable[[], float],
        can_work: Callable[[], bool] = lambda: True,
    ) -> None:
        """Args:
        kube: the API server.
        lease: names the Lease.
        identity: the name of this process.
        clock: the clock.
        jitter: returns numbers in [0, 1).
        can_work: whether this process could use the Lease. One whose event loop stays blocked neither takes nor renews it.
        """
        assert lease.kind == LEASE
        self._kube = kube
        self._lease = lease
        self._identity = identity
        self._clock = clock
        self._jitter = jitter
        self._can_work = can_work
        self._observed: _ObservedRecord | None = None
        self._renewed: float | None = None
        self.holder = ""

    @property
    def leads(self) -> bool:
        """Whether this process may write now."""
        return self._renewed is not None and self._clock.monotonic() - self._renewed < RENEW_DEADLINE_S

    async def acquire(self) -> None:
        """Wait until this process leads."""
        while not await self._try_acquire():
            await self._clock.sleep(RETRY_S * (1 + _JITTER * self._jitter()))
        log.info("leader election won", extra={"key": str(self._lease)})

    async def keep(self) -> None:
        """Renew the Lease until that fails for too long. Raises LeadershipLost."""
        while self.leads:
            await self._clock.sleep(RETRY_S)
            if not await self._try_acquire() and self.holder not in {"", self._identity}:
                break
        self._renewed = None
        raise LeadershipLost(f"{self._lease}: is no longer held by {self._identity}; holder: {self.holder or 'none'}")

    async def release(self) -> None:
        """Release the Lease, so that another process may lead at once. If the API server does not answer, it waits for the Lease's end."""
        if self._renewed is None:
            return
        self._renewed = None
        try:
            stored = await self._kube.get(self._lease)
            if stored is not None and _spec(stored).get("holderIdentity") == self._identity:
                await self._kube.replace(self._make_record(stored, holder="", lease_s=1))
        except DependencyError as err:
            log.warning("%s: could not be released, the next leader waits until it expires: %s", self._lease, err)

    async def _try_acquire(self) -> bool:
        """Take or renew the Lease. Return False when another process has it, or when the API server did not confirm in time."""
        began = self._clock.monotonic()
        if not self._can_work():
            log.warning("%s: not renewed, because the event loop of this process is blocked", self._lease)
            return False
        try:
            async with asyncio.timeout(_ANSWER_S):
                if not await self._write_lease():
                    return False
        except (DependencyError, TimeoutError) as err:
            log.warning("%s: %s", self._lease, str(err) or f"no answer in {_ANSWER_S:g} s")
            return False
        # The time before the request counts, because other candidates observe the renewal later than that.
        self._renewed = began
        self.holder = self._identity
        return True

    async def _write_lease(self) -> bool:
        stored = await self._kube.get(self._lease)
        if stored is None:
            await self._kube.create(self._make_record(None, holder=self._identity))
        elif self._is_free(stored):
            await self._kube.replace(self._make_record(stored, holder=self._identity))
        else:
            return False
        return True

    def _is_free(self, stored: Object) -> bool:
        spec = _spec(stored)
        self.holder = str(spec.get("holderIdentity") or "")
        now = self._clock.monotonic()
        record = (self.holder, spec.get("renewTime"), spec.get("leaseTransitions"), stored["metadata"]["uid"])
        if self._observed is None or self._observed.record != record:
            self._observed = _ObservedRecord(record, now)
        if self.holder in {"", self._identity}:
            return True
        return now - self._observed.at >= float(spec.get("leaseDurationSeconds") or LEASE_S)

    def _make_record(self, stored: Object | None, *, holder: str, lease_s: float = LEASE_S) -> Object:
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
