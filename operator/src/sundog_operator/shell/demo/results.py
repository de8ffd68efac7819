"""What the recorded requests say. Pure: samples and phases in, numbers out."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sundog_operator.shell.demo.load import RequestSample

_Z99: Final = 2.576
_PROBLEMS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class WeightPhase:
    """A time in which the configured split did not change.

    Attributes:
        from_s, to_s: seconds since the load began; every edge had the split in force all the time between.
        weights: configured percent of traffic by revision.
    """

    name: str
    from_s: float
    to_s: float
    weights: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class ObservedShare:
    """A revision's share of the requests of one phase, in percent.

    `margin` is how far chance alone moves the observed share from the configured one in 99 of 100 runs: 2.576 standard
    deviations of a binomial proportion.
    """

    revision: int
    configured: float
    observed: float
    margin: float


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """What was observed in a phase."""

    phase: WeightPhase
    requests: int
    shares: tuple[ObservedShare, ...]


@dataclass(frozen=True, slots=True)
class RevisionResult:
    """What one revision answered.

    Attributes:
        accuracy: share of the held-out images that it reads right, each image counting once however often it was sent.
        images: how many different held-out images it answered.
        p50_ms, p99_ms: latency as the client sees it.
    """

    revision: int
    requests: int
    images: int
    accuracy: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class RecentTraffic:
    """The last seconds, for the live view. `rate` is in requests per second; `shares` are fractions by revision."""

    sent: int
    rate: float
    shares: Mapping[int, float]
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Results:
    """All numbers of a run. `problems` are the most frequent ones with how often they occurred."""

    sent: int
    failed: int
    problems: tuple[tuple[str, int], ...]
    revisions: tuple[RevisionResult, ...]
    phases: tuple[PhaseResult, ...]


def summarise(samples: Sequence[RequestSample], phases: Sequence[WeightPhase], labels: Sequence[int]) -> Results:
    """Everything there is to say about the samples. `labels` has the true digit of each held-out image."""
    answered = [sample for sample in samples if not sample.problem]
    by_revision: dict[int, list[RequestSample]] = defaultdict(list)
    for sample in answered:
        by_revision[sample.revision].append(sample)
    problems = Counter(sample.problem for sample in samples if sample.problem)
    return Results(
        sent=len(samples),
        failed=len(samples) - len(answered),
        problems=tuple(problems.most_common(_PROBLEMS_SHOWN)),
        revisions=tuple(_of_revision(number, by_revision[number], labels) for number in sorted(by_revision)),
        phases=tuple(_of_phase(phase, answered) for phase in phases),
    )


def summarise_recent(samples: Sequence[RequestSample], now_s: float, window_s: float = 2.0) -> RecentTraffic:
    """What went on in the last seconds."""
    inside: list[RequestSample] = []
    for sample in reversed(samples):
        # The list is in the order of the answers: a slow request among them was sent earlier than its neighbours.
        if sample.sent_s + sample.latency_s < now_s - window_s:
            break
        inside.append(sample)
    answered = [sample for sample in inside if not sample.problem]
    latencies = [1000 * sample.latency_s for sample in answered]
    counts = Counter(sample.revision for sample in answered)
    return RecentTraffic(
        sent=len(samples),
        rate=len(inside) / window_s,
        shares={revision: count / len(answered) for revision, count in sorted(counts.items())},
        p50_ms=percentile(latencies, 0.50),
        p99_ms=percentile(latencies, 0.99),
    )


def measure_accuracy(samples: Sequence[RequestSample], labels: Sequence[int]) -> tuple[float, int]:
    """(share of images read right, number of different images). An image that was sent more often counts once.

    NaN where there is no image.
    """
    by_image: dict[int, list[bool]] = defaultdict(list)
    for sample in samples:
        by_image[sample.image].append(sample.predicted == labels[sample.image])
    right = sum(sum(answers) / len(answers) for answers in by_image.values())
    return (right / len(by_image) if by_image else math.nan), len(by_image)


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `share` of all values do not exceed. NaN for none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _of_revision(revision: int, samples: Sequence[RequestSample], labels: Sequence[int]) -> RevisionResult:
    reached, images = measure_accuracy(samples, labels)
    latencies = [1000 * sample.latency_s for sample in samples]
    return RevisionResult(
        revision, len(samples), images, reached, percentile(latencies, 0.50), percentile(latencies, 0.99)
    )


def _of_phase(phase: WeightPhase, answered: Sequence[RequestSample]) -> PhaseResult:
    inside = [sample.revision for sample in answered if phase.from_s <= sample.sent_s < phase.to_s]
    counts, total = Counter(inside), len(inside)
    shares = []
    for revision in sorted({*counts, *phase.weights}):
        configured = phase.weights.get(revision, 0) / 100
        spread = math.sqrt(configured * (1 - configured) / total) if total else math.nan
        observed = counts[revision] / total if total else math.nan
        shares.append(ObservedShare(revision, 100 * configured, 100 * observed, 100 * _Z99 * spread))
    return PhaseResult(phase, total, tuple(shares))


def make_results_document(results: Results, models: Mapping[int, str], offline: Mapping[str, float]) -> dict[str, Any]:
    """The numbers as JSON. `models` names the model of each revision, `offline` the accuracy of each model."""
    return {
        "requests": {
            "sent": results.sent,
            "failed": results.failed,
            "problems": [{"problem": problem, "count": count} for problem, count in results.problems],
        },
        "revisions": [_revision(found, models, offline) for found in results.revisions],
        "phases": [
            {
                "name": found.phase.name,
                "fromSeconds": round(found.phase.from_s, 3),
                "toSeconds": round(found.phase.to_s, 3),
                "requests": found.requests,
                "shares": [
                    {
                        "revision": share.revision,
                        "configuredPercent": share.configured,
                        "observedPercent": round(share.observed, 2),
                        "marginPercent": round(share.margin, 2),
                    }
                    for share in found.shares
                ],
            }
            for found in results.phases
        ],
    }


def _revision(found: RevisionResult, models: Mapping[int, str], offline: Mapping[str, float]) -> dict[str, Any]:
    model = models.get(found.revision, "")
    return {
        "revision": found.revision,
        "model": model,
        "requests": found.requests,
        "accuracy": {"endpoint": round(found.accuracy, 4), "offline": offline.get(model), "images": found.images},
        "latencyMilliseconds": {"p50": round(found.p50_ms, 2), "p99": round(found.p99_ms, 2)},
    }
