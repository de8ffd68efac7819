"""Statistics of recorded requests."""

import math

import pytest

from sundog_operator.shell.demo import results
from sundog_operator.shell.demo.load import RequestSample
from sundog_operator.shell.demo.results import WeightPhase

LABELS = (4, 2, 7)


def sample(sent_s: float, revision: int = 1, image: int = 0, predicted: int = 4, **more: object) -> RequestSample:
    return RequestSample(sent_s=sent_s, latency_s=0.01, image=image, revision=revision, predicted=predicted, **more)  # type: ignore[arg-type]


def test_an_image_counts_once_for_the_accuracy_however_often_it_was_sent() -> None:
    # Nine predictions of image 0 are right; one of each of images 1 and 2 is wrong.
    samples = [sample(t) for t in range(9)] + [sample(9, image=1, predicted=4), sample(10, image=2, predicted=4)]
    assert results.measure_accuracy(samples, LABELS) == (pytest.approx(1 / 3), 3)


def test_answers_to_one_image_that_differ_count_by_their_share() -> None:
    assert results.measure_accuracy([sample(0, predicted=4), sample(1, predicted=9)], LABELS) == (0.5, 1)


def test_no_image_has_no_accuracy() -> None:
    share, images = results.measure_accuracy([], LABELS)
    assert math.isnan(share)
    assert images == 0


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 15), (0.05, 15), (0.30, 20), (0.40, 20), (0.50, 35), (0.99, 50), (1.0, 50)],
)
def test_percentiles_are_nearest_ranks(share: float, expected: float) -> None:
    assert results.percentile([50, 15, 35, 20, 40], share) == expected


def test_no_values_have_no_percentile() -> None:
    assert math.isnan(results.percentile([], 0.5))


def test_a_phase_counts_what_was_sent_in_it_and_nothing_else() -> None:
    samples = [
        sample(0.99, revision=2),
        *(sample(1.0 + t / 100, revision=1) for t in range(75)),
        *(sample(1.8 + t / 1000, revision=2) for t in range(25)),
        sample(2.0, revision=2),
    ]
    found = results.summarise(samples, [WeightPhase("canary", 1.0, 2.0, {1: 75, 2: 25})], LABELS).phases[0]
    assert found.requests == 100
    assert [(share.revision, share.configured, share.observed) for share in found.shares] == [(1, 75, 75), (2, 25, 25)]
    # 2.576 · sqrt(0.25 · 0.75 / 100)
    assert [share.margin for share in found.shares] == [pytest.approx(11.154, abs=1e-3)] * 2


def test_a_revision_that_was_not_configured_is_shown_with_what_it_got() -> None:
    found = results.summarise([sample(0, revision=3)], [WeightPhase("alone", 0, 1, {1: 100})], LABELS).phases[0]
    assert [(share.revision, share.configured, share.observed) for share in found.shares] == [(1, 100, 0), (3, 0, 100)]


def test_a_failed_request_is_counted_and_named_and_belongs_to_no_revision() -> None:
    samples = [sample(0), sample(1, predicted=-1, problem="HTTP 503: no arm"), sample(2, problem="HTTP 503: no arm")]
    found = results.summarise(samples, [WeightPhase("alone", 0, 9, {1: 100})], LABELS)
    assert (found.sent, found.failed) == (3, 2)
    assert found.problems == (("HTTP 503: no arm", 2),)
    assert [(revision.revision, revision.requests) for revision in found.revisions] == [(1, 1)]
    assert found.phases[0].requests == 1


def test_the_last_seconds_leave_out_what_was_answered_before() -> None:
    old, slow, new = sample(1.0), RequestSample(2.5, 1.5, 0, 1, 4), sample(4.0, revision=2)
    now = results.summarise_recent([old, slow, new], now_s=5.0, window_s=2.0)
    assert (now.sent, now.rate, now.shares) == (3, 1.0, {1: 0.5, 2: 0.5})
    assert now.p99_ms == pytest.approx(1500)


def test_the_last_seconds_can_be_empty() -> None:
    now = results.summarise_recent([], now_s=5.0)
    assert (now.sent, now.rate, now.shares) == (0, 0.0, {})


def test_the_document_sets_measured_beside_expected() -> None:
    found = results.summarise([sample(0), sample(1, revision=2)], [WeightPhase("both", 0, 2, {1: 50, 2: 50})], LABELS)
    document = results.make_results_document(found, {1: "v1", 2: "v2"}, {"v1": 0.9, "v2": 0.98})
    assert document["requests"] == {"sent": 2, "failed": 0, "problems": []}
    first = document["revisions"][0]
    assert (first["revision"], first["model"], first["requests"]) == (1, "v1", 1)
    assert first["accuracy"] == {"endpoint": 1.0, "offline": 0.9, "images": 1}
    assert first["latencyMilliseconds"] == {"p50": 10.0, "p99": 10.0}
    assert [share["configuredPercent"] for share in document["phases"][0]["shares"]] == [50, 50]
