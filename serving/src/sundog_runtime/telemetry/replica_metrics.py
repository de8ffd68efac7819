"""Counters of one replica, kept in the process. `ray_metrics` exports them.

All methods are called on the event loop. Counting a request must cost almost nothing, so there are only additions.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_SIZE_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)

END_OK = "ok"
END_CLIENT_GONE = "ClientGone"
END_OTHER = "Other"

_MAX_CODES = 100


@dataclass(slots=True)
class Histogram:
    """Counts of values up to each edge and above the previous one; the last count is of values above all edges."""

    edges: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.edges) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """Use of a replica's accelerators, added up over its devices.

    Attributes:
        allocated_bytes: memory of this replica's tensors.
        reserved_bytes: memory that torch holds for this replica, its cache included.
        used_bytes: memory that all processes on the devices use.
        total_bytes: memory of the devices.
        busy: share of the time in which the devices compute for any process, 0 to 1; None if unknown.
    """

    allocated_bytes: int
    reserved_bytes: int
    used_bytes: int
    total_bytes: int
    busy: float | None = None


class ReplicaMetrics:
    """Counts since the start of the replica. Times are in seconds."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        """Requests by result: `ok`, the code of a problem, or `ClientGone`."""
        self.fast_path_answers = 0
        """Requests among them that the fast path answered."""
        self.latency = Histogram(LATENCY_BUCKETS_S)
        """Time from the first byte that the application sees to the last that it sends."""
        self.queue_wait = Histogram(LATENCY_BUCKETS_S)
        self.pass_time = Histogram(LATENCY_BUCKETS_S)
        self.batch_size = Histogram(BATCH_SIZE_BUCKETS)
        """Requests per pass of the model."""
        self.startup: dict[str, float] = {}
        """Seconds of each phase of the start."""
        self.read_device: Callable[[], DeviceUse | None] = lambda: None
        """Reads the use of the accelerators, on any thread; None if the replica has none that can be read."""

    def record_answer(self, end: str, seconds: float) -> None:
        """Record the end of one request."""
        # A predictor may raise problems with codes of its own: the number of time series must stay bounded.
        if end not in self.answers and len(self.answers) >= _MAX_CODES:
            end = END_OTHER
        self.answers[end] += 1
        self.latency.observe(seconds)

    def record_pass(self, requests: int, seconds: float) -> None:
        """Record one call of the model for this many requests."""
        self.batch_size.observe(requests)
        self.pass_time.observe(seconds)

    def record_wait(self, seconds: float) -> None:
        """Record one request's time in the queue. Requests that were answered at once are not included."""
        self.queue_wait.observe(max(0.0, seconds))
