"""A service under load in simulated time, scaled by the controller's own code of Ray Serve.

Ray's `DeploymentAutoscalingState` gets the reports that replicas would send, and decides as in Serve's controller: with its look-back,
its policy, its delays and its factors. Requests, replicas and the edge are simulated: the edge sends each request to the replica with
the fewest, as HAProxy does. A replica runs one request at a time, and takes some time to start. One that leaves finishes its requests.
"""

import heapq
import itertools
import math
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from sundog_operator.api import ModelDeploymentSpec
from sundog_operator.core import revisions
from sundog_operator.core.ray import scaling, serve_config
from sundog_operator.core.revisions import Revision

with warnings.catch_warnings():
    # Ray's own models use deprecated fields of pydantic.
    warnings.simplefilter("ignore")
    from ray.serve import autoscaling_policy
    from ray.serve._private import autoscaling_state, common
    from ray.serve._private.config import DeploymentConfig
    from ray.serve._private.deployment_info import DeploymentInfo
    from ray.serve.config import AutoscalingConfig

TICK_S = 0.5
"""Time between two decisions. Serve's controller decides every 0.1 s; its delays are seconds."""
MAX_ONGOING = 64
_ID = common.DeploymentID(name="Model", app_name="bench-r1")
_EPOCH_S = 1e9

Load = Callable[[float], float]
"""Requests per second at a time in seconds."""


@dataclass(frozen=True)
class Outcome:
    """The result of one run.

    Attributes:
        reversals: changes of direction of the wanted replicas.
        replica_hours: time of all replicas, those that start or drain included.
        waits_s: seconds from arrival to the start of the computation, of each request.
        sizes: (seconds, wanted replicas) at each change.
    """

    hours: float
    reversals: int
    replica_hours: float
    waits_s: Sequence[float]
    sizes: Sequence[tuple[float, int]]

    @property
    def reversals_per_hour(self) -> float:
        return self.reversals / self.hours

    def wait_s(self, share: float) -> float:
        """Return a quantile of the waiting time in seconds."""
        ordered = sorted(self.waits_s)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def product_config(autoscaling: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    """Return the `autoscaling_config` that the product sends for a manifest's `spec.autoscaling`."""
    parsed = ModelDeploymentSpec.from_json({"model": {"uri": "file:///m"}, "autoscaling": dict(autoscaling), **spec})
    content = revisions.content_of(parsed)
    found = scaling.find_scaling(parsed)
    assert found is not None
    scale = serve_config.ReplicaScale(found.min_replicas, found.max_replicas, found)
    revision = Revision(1, revisions.content_hash(content), content)
    [deployment] = serve_config.make_application("default", "bench", revision, parsed, scale)["deployments"]
    return dict(deployment["autoscaling_config"])


@dataclass(eq=False)
class _Replica:
    id: common.ReplicaID
    ready_at: float
    queue: deque[float] = field(default_factory=deque)
    leaves: bool = False
    series: deque[common.TimeStampedValue] = field(default_factory=deque)
    recorded_at: float = -math.inf


class _Clock:
    """Stands in for the module `time` in Serve's code."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return _EPOCH_S + self.now

    def monotonic(self) -> float:
        return self.now


class _Service:
    def __init__(self, config: Mapping[str, Any], start_s: float, service_s: float, clock: _Clock) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._config = AutoscalingConfig(**config)
        self._start_s, self._service_s, self._clock = start_s, service_s, clock
        self._state = autoscaling_state.DeploymentAutoscalingState(_ID)
        info = mock.Mock(spec=DeploymentInfo)
        info.deployment_config = mock.Mock(spec=DeploymentConfig)
        info.deployment_config.autoscaling_config = self._config
        info.deployment_config.gang_scheduling_config = None
        info.target_capacity = info.target_capacity_direction = None
        self.target = self._state.register(info, self._config.min_replicas)
        self._replicas: list[_Replica] = []
        self._at_edge: deque[float] = deque()
        self._ends: list[tuple[float, int, _Replica]] = []
        self._count = 0
        self.replica_s = 0.0
        self.waits_s: list[float] = []
        self.sizes = [(0.0, self.target)]
        self._resize(0.0)
        for each in self._replicas:
            each.ready_at = 0.0

    def arrive(self, at: float) -> None:
        """Take one request at `at`."""
        self._finish_until(at)
        self._at_edge.append(at)
        self._dispatch(at)

    def tick(self, now: float) -> None:
        """Report and decide, as Serve does."""
        self._finish_until(now)
        self._dispatch(now)
        self._clock.now = now
        self.replica_s += TICK_S * len(self._replicas)
        self._replicas = [each for each in self._replicas if each.queue or not each.leaves]
        running = [each for each in self._replicas if not each.leaves and each.ready_at <= now]
        for each in running:
            self._report(each, now)
        self._state.update_running_replica_ids([each.id for each in running])
        wanted = self._state.get_decision_num_replicas(self.target)
        if wanted != self.target:
            self.target = wanted
            self.sizes.append((now, wanted))
            self._resize(now)

    def _report(self, replica: _Replica, now: float) -> None:
        if now - replica.recorded_at < self._config.metrics_interval_s:
            return
        replica.recorded_at, at = now, self._clock.time()
        replica.series.append(common.TimeStampedValue(at, len(replica.queue)))
        while replica.series[0].timestamp < at - self._config.look_back_period_s:
            replica.series.popleft()
        report = common.ReplicaMetricReport(replica.id, {common.RUNNING_REQUESTS_KEY: list(replica.series)}, at)
        self._state.record_request_metrics_for_replica(report)

    def _resize(self, now: float) -> None:
        staying = [each for each in self._replicas if not each.leaves]
        for _ in range(self.target - len(staying)):
            self._count += 1
            self._replicas.append(_Replica(common.ReplicaID(f"{self._count:08d}", _ID), now + self._start_s))
        # Serve stops replicas that do not run yet first.
        for each in sorted(staying, key=lambda one: -one.ready_at)[: max(0, len(staying) - self.target)]:
            each.leaves = True
            self._state.on_replica_stopped(each.id)

    def _dispatch(self, now: float) -> None:
        while self._at_edge:
            running = (each for each in self._replicas if not each.leaves and each.ready_at <= now)
            free = [each for each in running if len(each.queue) < MAX_ONGOING]
            if not free:
                return
            chosen = min(free, key=lambda each: len(each.queue))
            chosen.queue.append(self._at_edge.popleft())
            if len(chosen.queue) == 1:
                self._begin(chosen, now)

    def _begin(self, replica: _Replica, now: float) -> None:
        self.waits_s.append(now - replica.queue[0])
        heapq.heappush(self._ends, (now + self._service_s, id(replica), replica))

    def _finish_until(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            at, _, replica = heapq.heappop(self._ends)
            replica.queue.popleft()
            if replica.queue:
                self._begin(replica, at)
            self._dispatch(at)


@contextmanager
def _serve_clock(clock: _Clock) -> Iterator[None]:
    with mock.patch.object(autoscaling_state, "time", clock), mock.patch.object(autoscaling_policy, "time", clock):
        yield


def simulate(
    config: Mapping[str, Any],
    load: Load,
    peak_rps: float,
    hours: float,
    *,
    service_s: float = 0.1,
    start_s: float = 20.0,
    seed: int = 1,
    warmup_s: float = 600.0,
) -> Outcome:
    """Run a service for some hours, after a warm-up that does not count.

    Args:
        config: the `autoscaling_config` of its Serve deployment.
        load: its load.
        peak_rps: a bound of the load, in requests per second.
        hours: hours that count.
        service_s: seconds of one request's computation.
        start_s: seconds until a new replica answers.
        seed: of the arrivals, which are a Poisson process.
        warmup_s: seconds before, at the load of time 0.
    """
    rng, clock = random.Random(seed), _Clock()
    with _serve_clock(clock):
        service = _Service(config, start_s, service_s, clock)
        end, counted_from = warmup_s + hours * 3600, 0
        at, replica_s_before = rng.expovariate(peak_rps), 0.0
        for step in range(1, math.floor(end / TICK_S) + 1):
            now = step * TICK_S
            while at <= now:
                if rng.random() * peak_rps < load(max(0.0, at - warmup_s)):
                    service.arrive(at)
                at += rng.expovariate(peak_rps)
            service.tick(now)
            if now == warmup_s:
                counted_from, replica_s_before = len(service.waits_s), service.replica_s
    sizes = [(at - warmup_s, size) for at, size in service.sizes]
    return Outcome(
        hours,
        _count_reversals(sizes),
        (service.replica_s - replica_s_before) / 3600,
        service.waits_s[counted_from:],
        sizes,
    )


def _count_reversals(sizes: Sequence[tuple[float, int]]) -> int:
    """Return how often the direction changes after time 0."""
    steps = [(at, after - before) for (_, before), (at, after) in itertools.pairwise(sizes)]
    return sum(at > 0 and (last > 0) != (step > 0) for (_, last), (at, step) in itertools.pairwise(steps))
