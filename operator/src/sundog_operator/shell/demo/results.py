"""Statistics of the recorded requests. Pure functions of samples and phases."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.shell.demo.load import RequestSample

_Z99: Final = 2.576
_MAX_PROBLEMS: Final = 5


@dataclass(frozen=True, slots=True)
class WeightPhase:
    """A time with a constant split.

    Attributes:
        from_s, to_s: seconds since the load began; every edge used the split all the time between.
        weights: configured percent of traffic by revision.
    """

    name: str
    from_s: float
    to_s: float
    weights: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class ObservedShare:
    """A revision's share of the requests of one phase, in percent.

    `margin` is the largest deviation by chance in 99 of 100 runs: 2.576 standard deviations of a binomial proportion.
    """

    revision: int
    configured: float
    observed: float
    margin: float


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """Observed requests and shares of a phase."""

    phase: WeightPhase
    requests: int
    shares: tuple[ObservedShare, ...]


@dataclass(frozen=True, slots=True)
class RevisionResult:
    """Responses of one revision.

    Attributes:
        accuracy: share of correct predictions; each held-out image counts once, however often it was sent.
        images: number of different held-out images with a response.
        p50_ms, p99_ms: latency at the client.
    """

    revision: int
    requests: int
    images: int
    accuracy: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class RecentTraffic:
    """Traffic of the last seconds. `rate` is in requests per second; `shares` are fractions by revision."""

    sent: int
    rate: float
    shares: Mapping[int, float]
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Results:
    """All numbers of a run. `problems` are the most frequent ones with their counts."""

    sent: int
    failed: int
    problems: tuple[tuple[str, int], ...]
    revisions: tuple[RevisionResult, ...]
    phases: tuple[PhaseResult, ...]


def summarise(samples: Sequence[RequestSample], phases: Sequence[WeightPhase], labels: Sequence[int]) -> Results:
    """Return all statistics of the samples. `labels` has the true digit of each held-out image."""
    succeeded = [sample for sample in samples if not sample.problem]
    by_revision: dict[int, list[RequestSample]] = defaultdict(list)
    for sample in succeeded:
        by_revision[sample.revision].append(sample)
    problems = Counter(sample.problem for sample in samples if sample.problem)
    return Results(
        sent=len(samples),
        failed=len(samples) - len(succeeded),
        problems=tuple(problems.most_common(_MAX_PROBLEMS)),
        revisions=tuple(_summarise_revision(number, by_revision[number], labels) for number in sorted(by_revision)),
        phases=tuple(_summarise_phase(phase, succeeded) for phase in phases),
    )


def summarise_recent(samples: Sequence[RequestSample], now_s: float, window_s: float = 2.0) -> RecentTraffic:
    """Return the traffic of the last `window_s` seconds."""
    recent: list[RequestSample] = []
    for sample in reversed(samples):
        # The list is in the order of the responses, not of the requests.
        if sample.sent_s + sample.latency_s < now_s - window_s:
            break
        recent.append(sample)
    succeeded = [sample for sample in recent if not sample.problem]
    latencies = [1000 * sample.latency_s for sample in succeeded]
    counts = Counter(sample.revision for sample in succeeded)
    return RecentTraffic(
        sent=len(samples),
        rate=len(recent) / window_s,
        shares={revision: count / len(succeeded) for revision, count in sorted(counts.items())},
        p50_ms=percentile(latencies, 0.50),
        p99_ms=percentile(latencies, 0.99),
    )


def measure_accuracy(samples: Sequence[RequestSample], labels: Sequence[int]) -> tuple[float, int]:
    """Return (accuracy, number of different images). Each image counts once. The accuracy is NaN without images."""
    by_image: dict[int, list[bool]] = defaultdict(list)
    for sample in samples:
        by_image[sample.image].append(sample.predicted == labels[sample.image])
    correct = sum(sum(predictions) / len(predictions) for predictions in by_image.values())
    return (correct / len(by_image) if by_image else math.nan), len(by_image)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the smallest value that at least `share` of all values do not exceed. NaN for none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _summarise_revision(revision: int, samples: Sequence[RequestSample], labels: Sequence[int]) -> RevisionResult:
    accuracy, images = measure_accuracy(samples, labels)
    latencies = [1000 * sample.latency_s for sample in samples]
    return RevisionResult(
        revision, len(samples), images, accuracy, percentile(latencies, 0.50), percentile(latencies, 0.99)
    )


def _summarise_phase(phase: WeightPhase, samples: Sequence[RequestSample]) -> PhaseResult:
    revisions = [sample.revision for sample in samples if phase.from_s <= sample.sent_s < phase.to_s]
    counts, total = Counter(revisions), len(revisions)
    shares = []
    for revision in sorted({*counts, *phase.weights}):
        configured = phase.weights.get(revision, 0) / 100
        deviation = math.sqrt(configured * (1 - configured) / total) if total else math.nan
        observed = counts[revision] / total if total else math.nan
        shares.append(ObservedShare(revision, 100 * configured, 100 * observed, 100 * _Z99 * deviation))
    return PhaseResult(phase, total, tuple(shares))


def make_results_document(results: Results, models: Mapping[int, str], offline: Mapping[str, float]) -> dict[str, Any]:
    """Return the numbers as JSON. `models` names the model of each revision, `offline` the accuracy of each model."""
    return {
        "requests": {
            "sent": results.sent,
            "failed": results.failed,
            "problems": [{"problem": problem, "count": count} for problem, count in results.problems],
        },
        "revisions": [_revision_document(each, models, offline) for each in results.revisions],
        "phases": [
            {
                "name": each.phase.name,
                "fromSeconds": round(each.phase.from_s, 3),
                "toSeconds": round(each.phase.to_s, 3),
                "requests": each.requests,
                "shares": [
                    {
                        "revision": share.revision,
                        "configuredPercent": share.configured,
                        "observedPercent": round(share.observed, 2),
                        "marginPercent": round(share.margin, 2),
                    }
                    for share in each.shares
                ],
            }
            for each in results.phases
        ],
    }


def _revision_document(
    result: RevisionResult, models: Mapping[int, str], offline: Mapping[str, float]
) -> dict[str, Any]:
    model = models.get(result.revision, "")
    return {
        "revision": result.revision,
        "model": model,
        "requests": result.requests,
        "accuracy": {"endpoint": round(result.accuracy, 4), "offline": offline.get(model), "images": result.images},
        "latencyMilliseconds": {"p50": round(result.p50_ms, 2), "p99": round(result.p99_ms, 2)},
    }
