"""Render `/metrics` in Prometheus' text format, from the same ledger as the evidence. Pure.

Counters add up the rows of all epochs, units, origins and boots, including dropped ones, so they only rise until their series ends (see
`counting.sum_retention`). Probes have a separate counter: alerts and guardrails on the other counters should see the model. Labels are
service, arm, revision, end and fixed words. So their number depends on the split documents of a day, never on clients.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric

from sundog_edge.counting.boots import Boot
from sundog_edge.counting.evidence import AppliedDocument, ServerCounts
from sundog_edge.counting.histogram import EDGES_US
from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.log_lines import SLOW_COLUMNS
from sundog_edge.counting.rows import KINDS, RowCounters, RowKey
from sundog_edge.feedback.intake import FeedbackIntake
from sundog_edge.haproxy.names import HELD_ORIGIN, PROBE_ORIGIN
from sundog_edge.mirror.counts import MirrorCounts

_ARM = ("service", "arm", "revision")
_EDGES = tuple(step for step in range(len(EDGES_US)) if step % 50 in {0, 15, 35})
"""About 1, 2 and 5 of every decade, from the limits of the evidence's histograms."""


class ScaledToZero(NamedTuple):
    """Applications at zero, and cold starts.

    Attributes:
        applications: applications that Serve has scaled to zero.
        phases: count and sum in seconds of cold starts by (application, phase).
        waking_s: seconds since the start of each cold start that runs, by application.
    """

    applications: frozenset[str]
    phases: Mapping[tuple[str, str], tuple[int, float]]
    waking_s: Mapping[str, float] = {}


def coarsen(counts: list[int]) -> list[int]:
    """Return a histogram of the evidence with the limits of the metrics: counts per bucket, the last without an upper limit."""
    starts = (0, *(edge + 1 for edge in _EDGES))
    return [sum(counts[start:end]) for start, end in zip(starts, (*starts[1:], None), strict=True)]


def render_metrics(
    ledger: Ledger,
    in_force: AppliedDocument | None,
    servers: Mapping[str, ServerCounts],
    error: str,
    mirrored: Mapping[str, tuple[int, MirrorCounts]],
    intake: FeedbackIntake | None = None,
    zero: ScaledToZero | None = None,
) -> bytes:
    """Return the page. `mirrored` has the sampled requests and the counts of each service."""
    registry = CollectorRegistry()
    registry.register(_Page(list(metric_families(ledger, in_force, servers, error, mirrored, intake, zero))))
    return generate_latest(registry)


def metric_families(
    ledger: Ledger,
    in_force: AppliedDocument | None,
    servers: Mapping[str, ServerCounts],
    error: str,
    mirrored: Mapping[str, tuple[int, MirrorCounts]],
    intake: FeedbackIntake | None,
    zero: ScaledToZero | None = None,
) -> Iterator[Metric]:
    """Yield every metric of the page."""
    # Arms without a request yet have zeros.
    sums: dict[tuple[str, ...], RowCounters] = {each[:3]: RowCounters() for each in _arms(in_force, servers)}
    yield from _traffic(sorted((sums | dict(_sums(ledger))).items()))
    probes = "Health checks and metadata requests by how they ended."
    yield _count_ends("sundog_edge_probes", probes, _sums(ledger, PROBE_ORIGIN))
    yield from _held(_sums(ledger, HELD_ORIGIN))
    yield from _shadows(mirrored)
    yield from _edge(ledger, in_force, servers, error)
    yield from _cold_starts(in_force, zero or ScaledToZero(frozenset(), {}))
    lookups = ("sundog_edge_ofrep_requests", "Look-ups of units' arms, by status.")
    yield _of_services(*lookups, "status", ledger, lambda boot: boot.ofrep)
    if intake is not None:
        yield from _feedback(ledger, intake)


class _Page:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


_ArmSums = list[tuple[tuple[str, ...], RowCounters]]
"""Sums by service, arm and revision, ascending."""


def _sums(ledger: Ledger, origin: str = "") -> _ArmSums:
    """Return the sums of probes or held requests, by their origin, or of all other requests."""
    sums: dict[tuple[str, ...], RowCounters] = defaultdict(RowCounters)
    for name, row in {PROBE_ORIGIN: ledger.past_probes, HELD_ORIGIN: ledger.past_held}.get(origin, ledger.past).items():
        service, revision, arm = name.split("/")
        sums[service, arm, revision].merge(row)
    for boot in ledger.boots.values():
        for text_key, row in boot.rows.items():
            key = RowKey.of(text_key)
            if (key.origin if key.origin in (PROBE_ORIGIN, HELD_ORIGIN) else "") == origin:
                sums[key.service, key.arm, ledger.revision(key)].merge(row)
    return sorted(sums.items())


def _count(name: str, what: str, sums: _ArmSums, column: str) -> Metric:
    family = CounterMetricFamily(name, what, labels=_ARM)
    for labels, own in sums:
        family.add_metric(labels, getattr(own, column))
    return family


def _count_ends(name: str, what: str, sums: _ArmSums, *, with_zeros: bool = False) -> Metric:
    family = CounterMetricFamily(name, what, labels=(*_ARM, "end"))
    for labels, own in sums:
        for end, count in own.ends.items():
            if count or with_zeros:
                family.add_metric((*labels, end), count)
    return family


def _in_flight(name: str, what: str, sums: _ArmSums) -> Metric:
    family = GaugeMetricFamily(name, what, labels=_ARM)
    for labels, own in sums:
        family.add_metric(labels, own.in_flight)
    return family


def _durations(name: str, what: str, sums: _ArmSums) -> Metric:
    family = HistogramMetricFamily(name, what, labels=_ARM)
    for labels, own in sums:
        family.add_metric(labels, _buckets(own), own.duration_us / 1e6)
    return family


def _traffic(sums: _ArmSums) -> Iterator[Metric]:
    yield _count("sundog_edge_assigned", "Requests for which an arm was chosen.", sums, "assigned")
    # A series that begins with 1 is no increase to Prometheus: it would miss the first failure.
    yield _count_ends("sundog_edge_requests", "Requests by how they ended.", sums, with_zeros=True)
    yield _count("sundog_edge_lost", "Requests whose end is unknown.", sums, "lost")
    yield _in_flight("sundog_edge_in_flight", "Requests that run or wait for a replica now.", sums)
    yield _count("sundog_edge_retries", "Retries at another replica.", sums, "retries")
    yield _count("sundog_edge_rescued", "Requests that succeeded after a retry.", sums, "rescued")
    what = "Requests that got no answer from two replicas, and may have crashed both."
    yield _count("sundog_edge_poison", what, sums, "poison")
    what = "Requests whose client closed before the answer's end, whatever their end."
    yield _count("sundog_edge_client_closed", what, sums, "client_closed")
    yield _count("sundog_edge_slow", "Answers above their arm's first threshold.", sums, SLOW_COLUMNS[0])
    further = CounterMetricFamily(
        "sundog_edge_slow_further", "Answers above a further threshold of their arm.", labels=(*_ARM, "threshold")
    )
    for labels, own in sums:
        for place, name in enumerate(SLOW_COLUMNS[1:], start=2):
            if count := getattr(own, name):
                further.add_metric((*labels, str(place)), count)
    yield further
    what = "Time from the headers and the first 24 kB of the body to the last byte of the answer."
    yield _durations("sundog_edge_request_duration_seconds", what, sums)


def _held(sums: _ArmSums) -> Iterator[Metric]:
    what = "Requests while an arm of their service had no replica, by how they ended."
    yield _count_ends("sundog_edge_held", what, sums)
    yield _in_flight("sundog_edge_held_in_flight", "Such requests that wait or run now.", sums)
    what = "Time from such a request's headers to the last byte of its answer, with its wait for a replica."
    yield _durations("sundog_edge_held_duration_seconds", what, sums)


def _shadows(mirrored: Mapping[str, tuple[int, MirrorCounts]]) -> Iterator[Metric]:
    """Yield the metrics of shadow traffic, which is never in the counters of arms."""
    sampled = CounterMetricFamily("sundog_edge_shadow_sampled", "Requests sampled for a copy.", labels=("service",))
    copies = CounterMetricFamily(
        "sundog_edge_shadow_copies",
        "Sampled requests by outcome: a pair, an error, a timeout, lost, dropped, or the reason why they were skipped.",
        labels=("service", "outcome"),
    )
    pairs = CounterMetricFamily(
        "sundog_edge_shadow_pairs", "Pairs by how they compare.", labels=("service", "comparator", "verdict")
    )
    for service, (drawn, own) in sorted(mirrored.items()):
        sampled.add_metric((service,), drawn)
        for outcome in ("paired", "errors", "timeouts", "lost", "dropped"):
            copies.add_metric((service, outcome), getattr(own, outcome))
        for why, count in sorted(own.skipped.items()):
            copies.add_metric((service, why), count)
        for comparator, counted in sorted(own.verdicts.items()):
            for verdict, count in zip(("agree", "disagree", "incomparable"), counted, strict=True):
                pairs.add_metric((service, comparator, verdict), count)
    yield from (sampled, copies, pairs)


def _buckets(own: RowCounters) -> list[tuple[str, float]]:
    limits = [f"{EDGES_US[edge] / 1e6:g}" for edge in _EDGES] + ["+Inf"]
    counts = map(sum, zip(*(coarsen(own.total[kind]) for kind in KINDS), strict=True))
    return list(zip(limits, itertools.accumulate(counts), strict=True))


def _edge(
    ledger: Ledger, in_force: AppliedDocument | None, servers: Mapping[str, ServerCounts], error: str
) -> Iterator[Metric]:
    refused = ("sundog_edge_refused", "Requests without an arm, by reason.")
    yield _of_services(*refused, "kind", ledger, lambda boot: boot.refused)
    replicas = GaugeMetricFamily(
        "sundog_edge_replicas", "Replicas by health.", labels=("service", "arm", "revision", "state")
    )
    for service_name, arm_name, revision, counts in _arms(in_force, servers):
        for state, number in (("up", counts.up), ("down", counts.down), ("draining", counts.draining)):
            replicas.add_metric((service_name, arm_name, revision, state), number)
    yield replicas
    yield GaugeMetricFamily(
        "sundog_edge_document_generation",
        "Generation of the split document in force.",
        in_force.document.generation if in_force else 0,
    )
    yield GaugeMetricFamily(
        "sundog_edge_document_refused",
        "1 while the newest split document is not in force: refused, not readable, or not applied.",
        int(bool(error)),
    )
    yield from _integrity(ledger)


def _cold_starts(in_force: AppliedDocument | None, zero: ScaledToZero) -> Iterator[Metric]:
    wanted = GaugeMetricFamily(
        "sundog_edge_scaled_to_zero",
        "1 while a service that may scale to zero wants no replica, or its cold start takes no longer than coldStartTimeout.",
        labels=_ARM,
    )
    phases = SummaryMetricFamily(
        "sundog_edge_cold_start_seconds",
        "Durations of cold starts by phase: process, those that the replica reports, answers, and total.",
        labels=(*_ARM, "phase"),
    )
    for service in in_force.document.services if in_force else ():
        if service.coldStartSeconds is None:
            continue
        for arm in service.arms:
            labels = (service.name, arm.name, str(arm.revision))
            is_starting = zero.waking_s.get(arm.application, math.inf) <= service.coldStartSeconds
            wanted.add_metric(labels, int(arm.application in zero.applications or is_starting))
            for (application, phase), (count, seconds) in sorted(zero.phases.items()):
                if application == arm.application:
                    phases.add_metric((*labels, phase), count, seconds)
    yield from (wanted, phases)


def _of_services(
    name: str, what: str, label: str, ledger: Ledger, counts_of: Callable[[Boot], Mapping[str, Mapping[str, int]]]
) -> Metric:
    family = CounterMetricFamily(name, what, labels=("service", label))
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for boot in (*ledger.boots.values(), ledger.gone):
        for service, own in counts_of(boot).items():
            for kind, count in own.items():
                sums[service, kind] += count
    for labels, count in sorted(sums.items()):
        family.add_metric(labels, count)
    return family


def _feedback(ledger: Ledger, intake: FeedbackIntake) -> Iterator[Metric]:
    requests = ("sundog_edge_feedback_requests", "Requests with feedback, by status.")
    yield _of_services(*requests, "status", ledger, lambda boot: boot.feedback)
    items = CounterMetricFamily(
        "sundog_edge_feedback_items",
        "Reported outcomes by result, since the agent's start.",
        labels=("service", "result"),
    )
    for labels, count in sorted(intake.results.items()):
        items.add_metric(labels, count)
    yield items
    yield CounterMetricFamily("sundog_edge_feedback_store_failures", "Failed calls of the store.", intake.failures)
    yield GaugeMetricFamily(
        "sundog_edge_feedback_exposures_waiting",
        "First exposures that wait for the store.",
        sum(len(seen.waiting) for seen in intake.first_seen.values()),
    )


def _arms(
    in_force: AppliedDocument | None, servers: Mapping[str, ServerCounts]
) -> Iterator[tuple[str, str, str, ServerCounts]]:
    for service in in_force.document.services if in_force else ():
        for arm in service.arms:
            yield service.name, arm.name, str(arm.revision), servers.get(arm.application, ServerCounts())


def _integrity(ledger: Ledger) -> Iterator[Metric]:
    boots = list(ledger.boots.values())
    for name, member, what in (
        ("lines", "lines", "Log lines of HAProxy that the agent read."),
        ("unparsable", "unparsable", "Log lines that the agent could not parse."),
        ("dropped", "dropped", "Log lines that HAProxy could not write, shadow copies included."),
        ("gaps", "all_gaps", "Requests without a log line."),
    ):
        yield CounterMetricFamily(
            f"sundog_edge_log_{name}", what, sum(getattr(boot, member) for boot in (*boots, ledger.gone))
        )
    yield GaugeMetricFamily(
        "sundog_edge_workers",
        "HAProxy workers that run; more than one while an earlier one drains.",
        sum(not boot.ended_at for boot in boots),
    )
