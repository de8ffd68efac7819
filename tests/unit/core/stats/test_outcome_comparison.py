"""Success metrics: verdicts for any counts, invariances, and sentences."""

import math
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sundog_operator.core.stats import outcome_comparison
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeEpoch, OutcomeMetric, OutcomePairs
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeVerdict

CONVERSION = OutcomeMetric("conversion", minimum_effect=0.02)
REFUNDS = OutcomeMetric("refunds", goal="decrease", minimum_effect=0.1)
REVENUE = OutcomeMetric("revenue", "mean", minimum_effect=0.05)
COST = OutcomeMetric("cost", "mean", "decrease")
METRICS = (CONVERSION, REFUNDS, REVENUE, COST)
UNITS = st.integers(0, 2000)


def of(exposed: int, positive: int, value: int = 1_000_000) -> OutcomeCounts:
    """Return the counts of units that each have one event or none."""
    return OutcomeCounts(exposed, positive, positive if value > 0 else 0, positive * value, positive * value**2)


def found(
    metric: OutcomeMetric, *arms: OutcomeCounts, shares: tuple[float, ...] = (), alpha: float = 0.05
) -> list[OutcomeFinding]:
    return outcome_comparison.evaluate_outcomes(
        [metric], [OutcomeEpoch(shares or (1,) * len(arms), [arms])], alpha, elapsed_s=86_400
    )[0]


@st.composite
def outcomes(draw: st.DrawFn) -> OutcomeCounts:
    exposed = draw(UNITS)
    units = draw(st.integers(0, exposed))
    total = draw(st.integers(-(10**9), 10**9)) if units else 0
    squares = -(-(total**2) // units) + draw(st.integers(0, 10**12)) if units else 0
    return OutcomeCounts(exposed, units, draw(st.integers(0, units)), total, squares)


@st.composite
def experiments(draw: st.DrawFn) -> list[OutcomeEpoch]:
    arms = draw(st.integers(2, 4))
    share = st.sampled_from((0.0, 0.1, 0.5, 1.0, 3.0))
    return [
        OutcomeEpoch(
            [1.0, *(draw(share) for _ in range(arms - 1))],
            [[draw(outcomes()) for _ in range(arms)] for _ in METRICS],
        )
        for _ in range(draw(st.integers(1, 3)))
    ]


def close(one: list[list[OutcomeFinding]], other: list[list[OutcomeFinding]]) -> None:
    for first, second in zip(*map(chain.from_iterable, (one, other)), strict=True):
        assert first.verdict == second.verdict
        for name in ("control", "arm", "uplift", "lower", "upper", "better", "worse"):
            assert getattr(first, name) == pytest.approx(getattr(second, name), rel=1e-6, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("metric", "control", "arm", "verdict"),
    [
        (CONVERSION, of(10_000, 1000), of(10_000, 1300), OutcomeVerdict.BETTER),
        (CONVERSION, of(10_000, 1000), of(10_000, 700), OutcomeVerdict.WORSE),
        (CONVERSION, of(10_000, 1000), of(10_000, 1010), OutcomeVerdict.UNDECIDED),
        (CONVERSION, of(10**7, 10**6), of(10**7, 10**6 + 500), OutcomeVerdict.NO_EFFECT),
        (CONVERSION, of(10**7, 10**6), of(10**7, 10**6 + 15_000), OutcomeVerdict.BETTER),
        (CONVERSION, of(0, 0), of(10, 1), OutcomeVerdict.NO_DATA),
        (CONVERSION, of(10, 1), of(0, 0), OutcomeVerdict.NO_DATA),
        (CONVERSION, of(1000, 0), of(1000, 0), OutcomeVerdict.UNDECIDED),
        (CONVERSION, of(1000, 0), of(1000, 30), OutcomeVerdict.BETTER),
        (CONVERSION, of(1000, 30), of(1000, 0), OutcomeVerdict.WORSE),
        (CONVERSION, of(1000, 1000), of(1000, 1000), OutcomeVerdict.UNDECIDED),
        (CONVERSION, of(10**12, 10**11), of(10**12, 10**11), OutcomeVerdict.NO_EFFECT),
        (REFUNDS, of(10_000, 1000), of(10_000, 700), OutcomeVerdict.BETTER),
        (REFUNDS, of(10_000, 1000), of(10_000, 1300), OutcomeVerdict.WORSE),
        (REFUNDS, of(100_000, 10_000), of(100_000, 10_000), OutcomeVerdict.NO_EFFECT),
        (REVENUE, of(10_000, 1000), of(10_000, 1300), OutcomeVerdict.BETTER),
        (REVENUE, of(10_000, 1000), of(10_000, 700), OutcomeVerdict.WORSE),
        (REVENUE, of(10_000, 1000, -5), of(10_000, 700, -5), OutcomeVerdict.BETTER),
        (REVENUE, of(10_000, 1000, -5), of(10_000, 1300, -5), OutcomeVerdict.WORSE),
        (REVENUE, of(10**6, 10**5), of(10**6, 10**5), OutcomeVerdict.NO_EFFECT),
        (REVENUE, of(100, 20), of(100, 100), OutcomeVerdict.UNDECIDED),
        (REVENUE, of(100, 100), of(100, 100), OutcomeVerdict.UNDECIDED),
        (REVENUE, of(10**12, 10**12, 10**18), of(10**12, 10**11, 10**18), OutcomeVerdict.WORSE),
        (COST, of(10_000, 1000), of(10_000, 700), OutcomeVerdict.BETTER),
        (COST, of(10_000, 1000), of(10_000, 1300), OutcomeVerdict.WORSE),
        (CONVERSION, of(10, 1), OutcomeCounts(5, 6, 6, 6, 6), OutcomeVerdict.INVALID),
        (CONVERSION, of(10, 1), OutcomeCounts(10, 1, 2, 6, 36), OutcomeVerdict.INVALID),
        (CONVERSION, OutcomeCounts(-1, 0, 0, 0, 0), of(10, 1), OutcomeVerdict.INVALID),
        (REVENUE, of(10, 1), OutcomeCounts(10, 2, 2, 10, 3), OutcomeVerdict.INVALID),
        (REVENUE, of(10, 1), OutcomeCounts(10, 2, 2, 10, math.nan), OutcomeVerdict.INVALID),  # type: ignore[arg-type]
    ],
)
def test_verdicts(metric: OutcomeMetric, control: OutcomeCounts, arm: OutcomeCounts, verdict: OutcomeVerdict) -> None:
    (finding,) = found(metric, control, arm)
    assert finding.verdict == verdict
    assert finding.sentence("wide")


def test_a_finding_has_its_numbers() -> None:
    (finding,) = found(CONVERSION, of(10_000, 1000), of(10_000, 1300))
    assert finding.control == 0.1
    assert finding.arm == 0.13
    assert finding.uplift == pytest.approx(0.3)
    assert finding.lower == pytest.approx(0.1, abs=0.001)
    assert finding.improvement == (finding.lower, finding.upper)
    assert finding.better == pytest.approx(15.5, abs=0.2)
    assert finding.exposed == 20_000
    assert math.isnan(finding.needed)
    (mirrored,) = found(replace(CONVERSION, goal="decrease"), of(10_000, 1000), of(10_000, 1300))
    assert (mirrored.better, mirrored.worse) == (finding.worse, finding.better)
    assert mirrored.improvement == (-finding.upper, -finding.lower)


def test_a_finding_shows_the_units_that_are_needed() -> None:
    (finding,) = found(CONVERSION, of(10_000, 1000), of(10_000, 1100))
    times = finding.needed / finding.exposed
    assert finding.eta_s == pytest.approx((times - 1) * 86_400)
    (then,) = found(CONVERSION, *(of(int(10_000 * times * 1.01), int(each * times * 1.01)) for each in (1000, 1100)))
    assert then.verdict == OutcomeVerdict.BETTER
    (unknown,) = outcome_comparison.evaluate_outcomes(
        [CONVERSION], [OutcomeEpoch((1, 1), [[of(10_000, 1000), of(10_000, 1100)]])], 0.05
    )[0]
    assert math.isinf(unknown.eta_s)


def test_alpha_is_shared_among_metrics_and_arms() -> None:
    control, arm = of(1000, 100), of(1000, 155)
    alone = outcome_comparison.evaluate_outcomes([CONVERSION], [OutcomeEpoch((1, 1), [[control, arm]])], 0.05)[0][0]
    both = outcome_comparison.evaluate_outcomes(
        [CONVERSION] * 2, [OutcomeEpoch((1, 1, 1), [[control, arm, control]] * 2)], 0.05
    )[0][0]
    as_many = outcome_comparison.evaluate_outcomes(
        [CONVERSION], [OutcomeEpoch((1, 1), [[control, arm]])], 0.05, tests=4
    )[0][0]
    assert (alone.verdict, both.verdict) == (OutcomeVerdict.BETTER, OutcomeVerdict.UNDECIDED)
    assert both.lower == as_many.lower < alone.lower
    assert both.better == alone.better


def test_each_epoch_has_its_own_shares() -> None:
    """The base rate falls while weights change; all events pooled would show three times the rate."""
    epochs = [
        OutcomeEpoch((1, 9), [[of(1000, 200), of(9000, 1800)]]),
        OutcomeEpoch((9, 1), [[of(9000, 180), of(1000, 20)]]),
    ]
    (finding,) = outcome_comparison.evaluate_outcomes([CONVERSION], epochs, 0.05)[0]
    assert finding.uplift == pytest.approx(0)
    assert finding.arm > 3 * finding.control / 3.3 > finding.control * 0.9
    assert finding.verdict == OutcomeVerdict.UNDECIDED


def test_effects_that_differ_by_epoch_win_nothing() -> None:
    epochs = [OutcomeEpoch((1, 1), [[of(10_000, a), of(10_000, b)]]) for a, b in ((1000, 1600), (1000, 900))]
    (finding,) = outcome_comparison.evaluate_outcomes([CONVERSION], epochs, 0.05)[0]
    assert finding.better > math.log(20)
    assert finding.verdict == OutcomeVerdict.HETEROGENEOUS


def test_a_dropped_arm_keeps_its_finding() -> None:
    before = OutcomeEpoch((1, 1, 1), [[of(5000, 500), of(5000, 650), of(5000, 300)]])
    after = OutcomeEpoch((1, 1, 0), [[of(5000, 500), of(5000, 650), of(0, 0)]])
    stays, out = outcome_comparison.evaluate_outcomes([CONVERSION], [before, after], 0.05)[0]
    assert stays.verdict == OutcomeVerdict.BETTER
    assert stays.exposed == 20_000
    assert out == outcome_comparison.evaluate_outcomes([CONVERSION], [before], 0.05)[0][1]


def test_an_arm_with_invalid_counts_affects_no_other() -> None:
    good, bad = found(CONVERSION, of(10_000, 1000), of(10_000, 1300), OutcomeCounts(1, 2, 3, 4, 5))
    assert (good.verdict, bad.verdict) == (OutcomeVerdict.BETTER, OutcomeVerdict.INVALID)


@given(experiments())
def test_any_counts_have_verdicts(epochs: list[OutcomeEpoch]) -> None:
    for row in outcome_comparison.evaluate_outcomes(METRICS, epochs, 0.05, elapsed_s=60):
        for finding in row:
            assert finding.sentence("wide")
            assert not finding.lower > finding.upper
            if finding.verdict == OutcomeVerdict.BETTER:
                assert finding.better >= math.log(20) > finding.worse
            if finding.verdict == OutcomeVerdict.UNDECIDED:
                assert finding.needed >= finding.exposed


@given(experiments(), st.randoms())
def test_the_order_of_epochs_and_arms_does_not_matter(epochs: list[OutcomeEpoch], random: object) -> None:
    findings = outcome_comparison.evaluate_outcomes(METRICS, epochs, 0.05)
    shuffled = list(epochs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    close(outcome_comparison.evaluate_outcomes(METRICS, shuffled, 0.05), findings)
    turned = [
        OutcomeEpoch(
            [each.shares[0], *reversed(each.shares[1:])], [[row[0], *reversed(row[1:])] for row in each.outcomes]
        )
        for each in epochs
    ]
    close(outcome_comparison.evaluate_outcomes(METRICS, turned, 0.05), [row[::-1] for row in findings])


@given(st.lists(st.tuples(st.integers(400, 2000), st.floats(0.1, 0.4), st.floats(0.1, 0.4)), min_size=1, max_size=3))
def test_more_successes_are_more_evidence(epochs: list[tuple[int, float, float]]) -> None:
    def findings_with(more: int) -> list[OutcomeFinding]:
        rows = [(of(n, int(n * a)), of(n, int(n * b) + more)) for n, a, b in epochs]
        return [
            outcome_comparison.evaluate_outcomes([each], [OutcomeEpoch((1, 1), [row]) for row in rows], 0.05)[0][0]
            for each in (CONVERSION, REVENUE)
        ]

    for fewer, more in zip(findings_with(0), findings_with(5), strict=True):
        assert more.better > fewer.better
        assert more.worse < fewer.worse


@pytest.mark.parametrize(
    ("metric", "control", "arm", "sentence"),
    [
        (CONVERSION, of(0, 0), of(0, 0), "conversion of wide: nothing was counted yet"),
        (
            CONVERSION,
            of(10_000, 1000),
            of(10_000, 1300),
            "conversion of wide is 30 % above control's (+10 % to +53.8 % at every evaluation): better",
        ),
        (
            REFUNDS,
            of(10_000, 1000),
            of(10_000, 700),
            "refunds of wide is 30 % below control's (-41.1 % to -17 % at every evaluation): better",
        ),
        (
            CONVERSION,
            of(10_000, 1000),
            of(10_000, 1100),
            "conversion of wide is 10 % above control's (-3.93 % to +26 % at every evaluation):"
            " needs about 19515 more units, in about 23 hours",
        ),
        (CONVERSION, of(100, 0), of(100, 0), "conversion of wide is 0, control's 0: no number of units will decide"),
        (CONVERSION, of(100, 0), of(100, 40), "conversion of wide is 0.4, and control has none: better"),
        (
            CONVERSION,
            of(10**7, 10**6),
            of(10**7, 10**6 + 500),
            "conversion of wide is 0.05 % above control's (-0.406 % to +0.508 % at every evaluation): less than the minimum effect of 2 %",
        ),
    ],
)
def test_sentences(metric: OutcomeMetric, control: OutcomeCounts, arm: OutcomeCounts, sentence: str) -> None:
    assert found(metric, control, arm)[0].sentence("wide") == sentence


def test_secondary_metrics_are_found_together() -> None:
    metrics = [OutcomeMetric(f"m{number}") for number in range(10)]
    rows = [[of(10_000, 1000), of(10_000, 1000 + 60 * number)] for number in range(10)]
    findings = outcome_comparison.evaluate_outcomes(metrics, [OutcomeEpoch((1, 1), rows)], 0.05)
    assert outcome_comparison.find_discoveries(findings, 0.05) == [(number, 0) for number in range(3, 10)]
    assert outcome_comparison.find_discoveries([], 0.05) == []
    # A held finding is still one of ten tests, and helps no other one.
    held = [[each.hold("unequal load")] if number > 3 else [each] for number, (each,) in enumerate(findings)]
    assert outcome_comparison.find_discoveries(held, 0.05) == []


@pytest.mark.parametrize("differing", [0, 1])
def test_few_of_the_discoveries_are_false(differing: int) -> None:
    """Four rates of five arms, which share control; in one arm all differ, or none does."""
    runs, metrics, arms, units, alpha = 1000, 4, 5, 5000, 0.05
    draw, chances = np.random.default_rng(5), np.full(arms, 0.1)
    chances[:differing] = 0.14
    control = np.broadcast_to(draw.binomial(units, 0.1, (runs, metrics, 1)), (runs, metrics, arms))
    events = draw.binomial(units, chances, (runs, metrics, arms))
    known = outcome_comparison.compare_pairs(
        CONVERSION, OutcomePairs(rates(units, control), rates(units, events), np.array(0.5)), 3.0
    )
    false_shares, missed = [], 0
    for better, worse in zip(known.better, known.worse, strict=True):
        rows = [
            [OutcomeFinding(CONVERSION, better=up, worse=down) for up, down in zip(*row, strict=True)]
            for row in zip(better, worse, strict=True)
        ]
        discoveries = outcome_comparison.find_discoveries(rows, alpha)
        false_shares.append(sum(arm >= differing for _, arm in discoveries) / max(1, len(discoveries)))
        missed += metrics * differing - sum(arm < differing for _, arm in discoveries)
    assert np.mean(false_shares) <= alpha
    assert missed <= 0.1 * runs * metrics


def rates(units: int, events: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fields of `OutcomeCounts` of units with one event or none, shape (5, ..., 1)."""
    return np.stack([np.full(events.shape, units), *[events] * 4])[..., None]


@pytest.mark.parametrize(("goal", "verdict"), [("decrease", OutcomeVerdict.BETTER), ("increase", OutcomeVerdict.WORSE)])
def test_a_one_sided_verdict_may_precede_the_two_sided_interval(goal, verdict) -> None:
    finding = found(OutcomeMetric("mistakes", goal=goal), of(500, 19), of(500, 3))[0]
    assert finding.verdict == verdict
    assert finding.lower < 0 < finding.upper < 0.02
    later = found(OutcomeMetric("mistakes", goal=goal), of(500, 20), of(500, 3))[0]
    assert (later.verdict, later.upper < 0) == (verdict, True)
