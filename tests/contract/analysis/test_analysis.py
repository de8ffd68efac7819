"""The script that analyses an export comes to the engine's own numbers, digit for digit, from raw rows."""

import json
import math
import random
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

import analysis_script
from sundog_operator.adapters.log_tables import BufferedTable, Format, make_table
from sundog_operator.api import ExperimentStatus, WinRule
from sundog_operator.core.analysis.arm_counts import ArmCounts
from sundog_operator.core.analysis.arm_pair import CollectedCounts
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums, OutcomeSums
from sundog_operator.core.analysis.outcome_status import make_status
from sundog_operator.core.stats import error_shares, outcome_comparison, sample_ratio
from sundog_operator.core.stats.outcome_counts import OutcomeCounts, OutcomeEpoch, OutcomeMetric
from sundog_operator.core.stats.outcome_findings import OutcomeFinding, OutcomeVerdict
from sundog_operator.core.trial.default_plan import StableTraffic
from sundog_operator.core.trial.experiment import evaluate, final_evaluation
from sundog_operator.core.trial.experiment import winner as experiments_winner
from sundog_operator.core.trial.experiment.exposure_log import (
    ExposureRow,
    FlagIdentity,
    LogRow,
    OutcomeRow,
    column_types,
)
from sundog_operator.core.trial.experiment.winner import ArmInput, WinnerDecision, WinnerInputs

CONTRACTS = Path(__file__).parents[3] / "docs" / "reference" / "contracts.md"
PAID = {"status": {"plan": {"comparison": {"outcomes": [{"name": "paid", "feedback": "paid", "type": "mean"}]}}}}
NUMBERS = ("control", "arm", "uplift", "lower", "upper")
METRICS = (
    OutcomeMetric("conversion", "rate", "increase", 0.02),
    OutcomeMetric("complaints", "rate", "decrease"),
    OutcomeMetric("revenue", "mean", "increase", 0.5),
)
RAILS = (
    OutcomeMetric("orders", "rate", "increase", margin=0.5),
    OutcomeMetric("trouble", "rate", "decrease", margin=0.9),
    OutcomeMetric("income", "mean", "increase", margin=0.6),
)
"""Outcomes that are guardrails, by the same feedback as the metrics."""

OF_EDGE = OutcomeMetric("errorRate", "rate", "decrease", counted="events")
RATIO = OutcomeMetric("paid per complaint", "ratio", "increase", 0.5)
SPENT = OutcomeMetric("spent", "mean", "increase", 0.5, adjusted=True)
SPENT_RAIL = OutcomeMetric("kept", "mean", "increase", margin=0.6, adjusted=True)
RATIO_RAIL = OutcomeMetric("kept per complaint", "ratio", "increase", margin=0.6)
FEEDBACK = {
    "conversion": ("converted", None),
    "complaints": ("complained", None),
    "revenue": ("paid", None),
    "orders": ("converted", None),
    "trouble": ("complained", None),
    "income": ("paid", None),
    "paid per complaint": ("paid", "complained"),
    "kept per complaint": ("paid", "complained"),
    "spent": ("paid", "before<"),
    "kept": ("paid", "before<"),
}
"""Feedback of each metric, and that of a denominator or covariate."""
EDGE_GUARDRAILS = 1


def by_units(metrics: Sequence[OutcomeMetric]) -> tuple[OutcomeMetric, ...]:
    """Return metrics as new plans test them."""
    return tuple(replace(each, by_units=each.type == "rate") for each in metrics)


@pytest.fixture(scope="module")
def analysis() -> ModuleType:
    return analysis_script.load()


EXPOSED = 8000
"""Buckets of control and the arms."""

CONSISTENT = ("True", "Consistent", "")

START_S = 1_795_000_000
UNTIL_S = 1000
"""With a window, it has passed for units that were first exposed in so many seconds from the start."""


def moment(after_s: int) -> str:
    return f"{datetime.fromtimestamp(START_S + after_s, UTC):%Y-%m-%dT%H:%M:%S}.000001Z"


class MadeUp:
    """An experiment of made-up users, and the export of it.

    Of the epochs that are `off` the last arm gets half of what its weight says; of those that are `troubled` control was no measure.
    With `edge` the first success metric is of the edge, and has these verdicts by arm; the last arm is the best by it.
    """

    def __init__(
        self,
        seed: int,
        units: int,
        lift: float = 0.0,
        arms: int = 2,
        epochs: int = 2,
        *,
        sticky: bool = True,
        off: Collection[int] = (),
        troubled: Collection[int] = (),
        quality: tuple[str, str, str] = CONSISTENT,
        rails: Sequence[OutcomeMetric] = (),
        cap: float | None = None,
        rule: WinRule = "anyMetric",
        window_s: int | None = None,
        after_s: int = 0,
        metrics: Sequence[OutcomeMetric] = METRICS,
        edge: Sequence[OutcomeVerdict] = (),
    ) -> None:
        self.window_s, self.after_s = window_s, after_s
        self.metrics, self.outcome_rails, self.cap, self.rule = metrics, rails, cap, rule
        self.random = random.Random(seed)
        self.arms = ["control", *(f"arm-{place}" for place in range(1, arms + 1))]
        self.names = ["stable", *self.arms]
        self.buckets = [self._shares() for _ in range(epochs)]
        self.alpha = 0.05
        self.level = self.alpha * error_shares.evidence_share(len(troubled))
        self.lift, self.sticky, self.off, self.troubled, self.quality = lift, sticky, off, troubled, quality
        self.exposures: list[dict[str, Any]] = []
        self.outcomes: list[dict[str, Any]] = []
        self.counting: list[bool] = []
        self.assigned: dict[tuple[int, str], int] = defaultdict(int)
        self.matured: dict[tuple[int, str], int] = defaultdict(int)
        self.rails = dict.fromkeys(self.arms[1:], "Passed")
        self.verdict: dict[str, str] = {}
        self.edge = [
            OutcomeFinding(OF_EDGE, lower=-0.4 - place / 10, upper=-0.2 - place / 10, exposed=900, verdict=verdict)
            for place, verdict in enumerate(edge)
        ]
        for unit in range(units):
            self._live(f"{unit:016x}")
        order = self.random.sample(range(len(self.outcomes)), len(self.outcomes))
        self.outcomes, self.counting = [self.outcomes[n] for n in order], [self.counting[n] for n in order]

    def _shares(self) -> list[int]:
        """Buckets of stable, control and the arms."""
        drawn = [self.random.randint(200, 2000) for _ in self.arms]
        own = [EXPOSED * each // sum(drawn) for each in drawn]
        return [10_000 - sum(own), *own]

    def _live(self, unit: str) -> None:
        epoch = self.random.randrange(len(self.buckets)) + 1
        *others, last = self.buckets[epoch - 1]
        arm = self.random.choices(self.names, [*others, last / 2 if epoch in self.off else last])[0]
        at_s = self.random.randrange(UNTIL_S + 200) if self.window_s else 0
        place = {"epoch": epoch, "arm": arm, "time": moment(at_s)}
        if at_s < UNTIL_S:
            self.matured[epoch, arm] += 1
        self.assigned[epoch, arm] += 1
        if self.sticky:
            self.exposures.append({"unit": unit, **place})
        better = 1 + self.lift * max(0, self.names.index(arm) - 1)
        habit = round(self.random.expovariate(0.1), 6) if any(each.adjusted for each in self.metrics) else 0.0
        if habit > 3:
            self.outcomes.append({"unit": unit, "metric": "before<", "value": habit, **place})
            self.counting.append(True)
        for metric, probability in (("converted", 0.2 * better), ("complained", 0.05), ("paid", 0.3)):
            while self.random.random() < probability:
                probability /= 3
                value = 1.0 if metric != "paid" else round(self.random.expovariate(0.1 / better) - 1 + 2 * habit, 6)
                after_s = self.random.randrange(2 * self.window_s) if self.window_s else 0
                counts = not self.window_s or (at_s < UNTIL_S and self.after_s <= after_s <= self.window_s)
                row = {
                    "unit": unit,
                    "metric": metric,
                    "value": value,
                    **place,
                    "time": moment(at_s + after_s)[:19] + "Z",
                }
                self.outcomes.append(row)
                self.counting.append(counts)

    def status(self) -> dict[str, Any]:
        outcomes = [
            {"name": each.name, "role": role, "feedback": FEEDBACK[each.name][0], "type": each.type, "goal": each.goal}
            | ({"denominator": FEEDBACK[each.name][1]} if each.type == "ratio" else {})
            | ({"covariate": "before"} if each.adjusted else {})
            | ({"minimumEffect": each.minimum_effect} if each.minimum_effect else {})
            | ({"margin": each.margin} if each.margin else {})
            | ({"rateBy": "units"} if each.by_units else {})
            | ({"cap": self.cap} if self.cap and each.type == "mean" else {})
            | ({"window": f"{self.window_s}s"} if self.window_s else {})
            | ({"after": f"{self.after_s}s"} if self.after_s else {})
            for role, metrics in (("success", self.metrics), ("guardrail", self.outcome_rails))
            for each in metrics
        ]
        if self.edge:
            of_edge = {"role": "success", "feedback": "", "type": "rate", "goal": "decrease"}
            outcomes.insert(0, {"name": OF_EDGE.name, "metric": OF_EDGE.name, **of_edge})
        comparison = {
            "arms": [{"name": name, "hash": "0" * 12, "buckets": 100} for name in self.arms],
            "outcomes": outcomes,
            "maxDuration": "14d",
            "maxUnits": 100_000,
        } | ({} if self.rule == "anyMetric" else {"winBy": self.rule})
        unit = {"kind": "header", "name": "x-user-id"} if self.sticky else {"kind": "request"}
        epochs = [
            {"number": number, "buckets": own} | ({"troubled": True} if number in self.troubled else {})
            for number, own in enumerate(self.buckets, 1)
        ]
        rails = [
            {"name": "errorRate", "role": "guardrail", "arm": arm, "verdict": said} for arm, said in self.rails.items()
        ]
        by_edge = [
            make_status(each, "success", arm, each.events, "").to_json()
            for arm, each in zip(self.arms[1:], self.edge, strict=bool(self.edge))
        ]
        truth, reason, message = self.quality
        return {
            "plan": {
                "alpha": self.alpha,
                "unit": unit,
                "comparison": comparison,
                "guardrails": [{"metric": "errorRate", "margin": 0.25}] * EDGE_GUARDRAILS,
            },
            "arms": [{"name": name} for name in self.names],
            "evidenceEpochs": epochs,
            "metrics": [*rails, *by_edge],
            "verdict": self.verdict,
            "conditions": [
                {"type": "Conclusive", "status": "False", "reason": "Undecided", "message": "no arm does harm"},
                {"type": "DataQuality", "status": truth, "reason": reason, "message": message},
            ],
        }

    def plan(self) -> dict[str, Any]:
        return {
            "version": 2,
            "complete": True,
            "assigned": [] if self.sticky else [[*place, count] for place, count in self.assigned.items()],
            "judged": {"until": [[self.window_s, START_S + UNTIL_S]]} if self.window_s else {},
            "status": self.status(),
        }

    def write(self, folder: Path) -> Path:
        for name, made in (("exposures", self.exposures), ("outcomes", self.outcomes)):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
        (folder / "plan.json").write_text(json.dumps(self.plan()))
        return folder

    def epochs(self, metrics: Sequence[OutcomeMetric]) -> list[OutcomeEpoch]:
        """As the operator has them of the edges, which have joined and summed by themselves."""
        values: dict[tuple[str, str], list[int]] = {}
        places: dict[tuple[str, str], tuple[str, int, str]] = {}
        for row, counts in zip(self.outcomes, self.counting, strict=True):
            if not counts:
                continue
            key = row["metric"], row["unit"]
            values.setdefault(key, []).append(round(row["value"] * 1_000_000))
            places[key] = row["metric"], row["epoch"], row["arm"]
        cells: dict[tuple[str, int, str], list[list[int]]] = defaultdict(list)
        for key, place in places.items():
            cells[place].append(values[key])

        def outcomes(metric: str, epoch: int, arm: str) -> OutcomeCounts:
            own = cells[metric, epoch, arm]
            totals = [sum(each) for each in own]
            if metric == "paid" and self.cap:
                totals = [min(total, round(self.cap * 1_000_000)) for total in totals]
            positive, squares = sum(each[0] > 0 for each in own), sum(total**2 for total in totals)
            exposed = self.matured if self.window_s else self.assigned
            return OutcomeCounts(exposed[epoch, arm], len(own), positive, sum(totals), squares)

        def counts(name: str, epoch: int, arm: str) -> OutcomeCounts:
            feedback, denominator = FEEDBACK[name]
            if denominator is None:
                return outcomes(feedback, epoch, arm)
            base = outcomes(denominator, epoch, arm)
            product = sum(
                sum(values[feedback, unit]) * sum(values[denominator, unit])
                for metric, unit in values
                if metric == feedback
                and (denominator, unit) in values
                and places[metric, unit] == (feedback, epoch, arm)
            )
            return OutcomeCounts(*outcomes(feedback, epoch, arm)[:5], base.units, base.total, base.squares, product)

        return [
            OutcomeEpoch(
                own[1:],
                [[counts(metric.name, number, arm) for arm in self.arms] for metric in metrics],
            )
            for number, own in enumerate(self.buckets, 1)
            if number not in self.troubled
        ]

    def sums(self) -> FeedbackSums:
        """As the edges' store has them at the end of the log."""
        metrics = (*self.metrics, *self.outcome_rails)
        outcomes = {
            (FEEDBACK[metric.name][0], number, arm): OutcomeSums(*counts[1:5])
            for number, epoch in enumerate(self.epochs(metrics), 1)
            for metric, row in zip(metrics, epoch.outcomes, strict=True)
            for arm, counts in zip(self.arms, row, strict=True)
        }
        return FeedbackSums("s1", 7, {key: own for key, own in self.assigned.items() if self.sticky}, outcomes)

    def edge_counts(self) -> dict[str, dict[tuple[int, str], ArmCounts]]:
        """As the edges count requests."""
        return {"edge/1": {place: ArmCounts(count) for place, count in self.assigned.items()}}

    def undecided_reason(self) -> str:
        """Why the operator decides nothing by these counts: the split by its own look, or what it was told of beside."""
        exposed = FeedbackSums("s1", 1, self.assigned)
        counted = Counters("uid", feedback=exposed) if self.sticky else Counters("uid", self.edge_counts())
        status = ExperimentStatus.from_json({k: v for k, v in self.status().items() if k != "conditions"})
        seen = CollectedCounts(
            tallies=counted, reports=(), blocks={}, traffic=StableTraffic(), now_s=0.0, timeout_s=30.0
        )
        mismatch = evaluate.evaluate_experiment(status, seen, {}).mismatch
        return self.quality[2] if mismatch is None else mismatch.message

    def seen(self) -> WinnerInputs:
        own = self.railed()
        arms = [
            ArmInput(
                name, {"errorRate": self.rails[name]} | {row[place].metric.name: row[place].verdict for row in own}
            )
            for place, name in enumerate(self.arms[1:])
        ]
        epochs = self.epochs(self.metrics)
        return WinnerInputs(
            (*[OF_EDGE][: len(self.edge)], *self.metrics),
            arms,
            epochs,
            self.level,
            self.undecided_reason(),
            rule=self.rule,
            of_edge={OF_EDGE.name: self.edge} if self.edge else {},
        )

    def railed(self) -> list[list[OutcomeFinding]]:
        """The guardrails, by the engine."""
        tests = EDGE_GUARDRAILS + len(self.outcome_rails)
        epochs = self.epochs(self.outcome_rails)
        return (
            outcome_comparison.evaluate_guardrails(self.outcome_rails, epochs, self.level, harm_tests=tests)
            if epochs
            else []
        )

    def judged(self) -> tuple[list[list[OutcomeFinding]], WinnerDecision]:
        """By the engine."""
        seen = self.seen()
        findings = outcome_comparison.evaluate_outcomes(
            self.metrics, seen.epochs, self.level, tests=len(seen.metrics) * len(seen.arms)
        )
        return findings, experiments_winner.decide_winner(seen)


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


LIVES = [
    MadeUp(1, 4000),
    MadeUp(2, 8000, lift=0.5),
    MadeUp(3, 6000, lift=-0.4, arms=3),
    MadeUp(4, 12_000, lift=0.4, epochs=7),
    MadeUp(5, 6000, lift=0.3, sticky=False),
    MadeUp(6, 40),
    MadeUp(7, 3, arms=1, epochs=1),
    MadeUp(8, 0),
    MadeUp(9, 12_000, epochs=1),
    MadeUp(4, 12_000, lift=0.5, epochs=3, troubled=(2,)),
]

RAILED = {
    "equal arms": MadeUp(11, 12_000, rails=RAILS),
    "a better arm": MadeUp(2, 12_000, lift=0.5, rails=RAILS),
    "a worse arm": MadeUp(3, 12_000, lift=-0.8, arms=3, rails=RAILS),
    "many epochs": MadeUp(4, 12_000, lift=0.4, epochs=7, rails=RAILS),
    "capped totals": MadeUp(2, 12_000, lift=0.5, rails=RAILS, cap=12.345678),
    "a conversion window": MadeUp(2, 12_000, lift=0.5, rails=RAILS, window_s=90),
    "units that came back": MadeUp(2, 12_000, lift=0.5, rails=RAILS, window_s=150, after_s=60),
    "few units": MadeUp(6, 40, rails=RAILS),
    "requests": MadeUp(5, 8000, lift=0.3, sticky=False, rails=RAILS),
    "a better arm by every metric": MadeUp(2, 12_000, lift=0.5, rails=RAILS, rule="everyMetric"),
    "equal arms by every metric": MadeUp(11, 12_000, rails=RAILS, rule="everyMetric"),
    "a better arm without harm": MadeUp(2, 12_000, lift=0.5, rails=RAILS, rule="noHarm"),
    "equal arms without harm": MadeUp(11, 60_000, rails=RAILS, rule="noHarm"),
    "a worse arm without harm": MadeUp(3, 12_000, lift=-0.8, arms=3, rails=RAILS, rule="noHarm"),
}
RATIOS = {
    f"ratios: {name}": MadeUp(seed, metrics=(RATIO,), rails=(RATIO_RAIL,), **fields)
    for name, seed, fields in (
        ("equal arms", 11, {"units": 12_000}),
        ("a better arm", 2, {"units": 12_000, "lift": 0.9, "epochs": 3}),
        ("a worse arm", 3, {"units": 12_000, "lift": -0.8, "arms": 3}),
        ("few units", 6, {"units": 40}),
        ("requests", 5, {"units": 8000, "lift": 0.3, "sticky": False}),
    )
}

UNITS = {
    f"units: {name}": MadeUp(seed, metrics=by_units(METRICS), rails=by_units(RAILS), **fields)
    for name, seed, fields in (
        ("equal arms", 11, {"units": 12_000}),
        ("a better arm", 2, {"units": 12_000, "lift": 0.5, "epochs": 3}),
        ("a worse arm", 3, {"units": 12_000, "lift": -0.8, "arms": 3}),
        ("many epochs", 4, {"units": 12_000, "lift": 0.4, "epochs": 7}),
        ("a conversion window", 2, {"units": 12_000, "lift": 0.5, "window_s": 90}),
        ("few units", 6, {"units": 40}),
        ("no unit", 8, {"units": 0}),
        ("requests", 5, {"units": 8000, "lift": 0.3, "sticky": False}),
    )
}

ADJUSTED = {
    f"covariate: {name}": MadeUp(seed, metrics=(SPENT,), rails=(SPENT_RAIL,), **fields)
    for name, seed, fields in (
        ("equal arms", 11, {"units": 12_000, "epochs": 3}),
        ("a better arm", 2, {"units": 12_000, "lift": 0.9}),
        ("a worse arm", 3, {"units": 12_000, "lift": -0.9, "arms": 3}),
        ("few units", 6, {"units": 40}),
        ("no unit", 8, {"units": 0}),
    )
}

NEITHER, BETTER = OutcomeVerdict.UNDECIDED, OutcomeVerdict.BETTER
BY_EDGE = {
    "edge: the outcomes alone decide": MadeUp(2, 12_000, lift=0.5, edge=(NEITHER, NEITHER)),
    "edge: it alone decides": MadeUp(11, 12_000, edge=(NEITHER, BETTER)),
    "edge: it ranks the winners": MadeUp(2, 12_000, lift=0.5, edge=(BETTER, BETTER)),
    "edge: an arm is worse": MadeUp(2, 12_000, lift=0.5, edge=(NEITHER, OutcomeVerdict.WORSE)),
    "edge: nothing was counted": MadeUp(2, 12_000, lift=0.5, edge=(OutcomeVerdict.NO_DATA,) * 2),
    "edge: by every metric": MadeUp(11, 12_000, edge=(BETTER, BETTER), rule="everyMetric"),
}
SILENT = ("Unknown", "EdgeSilent", "verdicts wait for the counters of edge-1")
OF_SAMPLE = ("False", "SampleRatioMismatch", "arm-1 got 9 of 900 units: sample-ratio mismatch")
BROKEN = {
    "the split of units": MadeUp(2, 8000, lift=0.5, off=(1, 2)),
    "the split of units in one epoch": MadeUp(4, 12_000, lift=0.5, epochs=3, off=(2,)),
    "the split of requests": MadeUp(5, 8000, lift=0.5, sticky=False, off=(1, 2)),
    "the split of requests while control was in trouble": MadeUp(5, 9000, 0.5, sticky=False, off=(1,), troubled=(1,)),
    "an edge": MadeUp(2, 8000, lift=0.5, quality=SILENT),
    "the split of the sample that edges have": MadeUp(2, 8000, lift=0.5, quality=OF_SAMPLE),
}


@pytest.mark.parametrize(
    "life",
    [
        *LIVES,
        *RAILED.values(),
        *RATIOS.values(),
        *ADJUSTED.values(),
        *UNITS.values(),
        *BY_EDGE.values(),
        *BROKEN.values(),
    ],
    ids=[*map(str, range(len(LIVES))), *RAILED, *RATIOS, *ADJUSTED, *UNITS, *BY_EDGE, *BROKEN],
)
def test_all_numbers_are_the_engines(analysis: ModuleType, life: MadeUp, tmp_path: Path) -> None:
    found, decision, winner = analysis.analyse(life.write(tmp_path))
    findings, decided = life.judged()
    for metric, row in zip((*life.metrics, *life.outcome_rails), (*findings, *life.railed()), strict=True):
        for arm, finding in zip(life.arms[1:], row, strict=True):
            own = found[metric.name][arm]
            assert own["verdict"] == finding.verdict, (metric.name, arm)
            assert own["exposed"] == finding.exposed
            if finding.verdict != "NoData":
                assert {name: same(own[name], getattr(finding, name)) for name in NUMBERS} == dict.fromkeys(
                    NUMBERS, True
                )
                evidence = (own["above"], own["below"]) if metric.goal == "increase" else (own["below"], own["above"])
                assert evidence == (finding.better, finding.worse)
    assert (decision, winner) == (decided.decision, decided.winner)


@pytest.mark.parametrize("life", [UNITS["units: a better arm"], UNITS["units: requests"], RAILED["equal arms"]])
def test_the_final_status_has_the_numbers_of_the_final_log(analysis: ModuleType, life: MadeUp, tmp_path: Path) -> None:
    """The last evaluation before the end lacked most outcomes; the log has all, and so has the status after it."""
    stored = {**life.status(), "phase": "Concluded", "epoch": {"number": 9, "since": moment(0), "confirmed": True}}
    stored = {name: value for name, value in stored.items() if name != "conditions"}
    sums = life.sums()
    early = Counters("u", life.edge_counts(), feedback=replace(sums, sequence=1, outcomes={}))
    before = ExperimentStatus.from_json({**stored, "tallies": early.pack()})
    ended = final_evaluation.evaluate_final_log(before, "u", sums.as_json())
    assert final_evaluation.evaluate_final_log(ended, "u", sums.as_json()) == ended
    found, _, _ = analysis.analyse(life.write(tmp_path))
    by_key = {(each.name, each.arm): each for each in ended.metrics}
    for metric in (*life.metrics, *life.outcome_rails):
        for arm in life.arms[1:]:
            own, known = found[metric.name][arm], by_key[metric.name, arm]
            assert known.ratio == (None if math.isnan(own["uplift"]) else 1 + own["uplift"])
            assert known.verdict == own["verdict"]
    assert Counters.unpack(ended.tallies, "u").feedback == sums
    assert (
        final_evaluation.evaluate_final_log(before.model_copy(update={"phase": "Running"}), "u", sums.as_json())
        != ended
    )


def test_the_made_up_experiments_have_different_ends() -> None:
    """So that the one above says something."""
    judged = [life.judged() for life in LIVES]
    decisions = {decided.decision for _, decided in judged}
    verdicts = {finding.verdict for findings, _ in judged for row in findings for finding in row}
    assert decisions >= {"Winner", "Undecided", "NoWinner"}
    assert verdicts >= {"Better", "Worse", "Undecided", "NoData", "NoEffect"}


def test_the_made_up_guardrails_have_different_verdicts() -> None:
    verdicts = {finding.verdict for life in RAILED.values() for row in life.railed() for finding in row}
    assert verdicts >= {"Passed", "Harm", "Undecided"}
    assert RAILED["a better arm"].judged()[1].decision == "Winner"
    assert RAILED["equal arms without harm"].judged()[1].decision == "Winner"
    assert RAILED["a better arm by every metric"].judged()[1].decision == "Undecided"


def test_the_made_up_ratios_have_different_verdicts() -> None:
    judged = [life.judged()[0] + life.railed() for life in RATIOS.values()]
    verdicts = {finding.verdict for findings in judged for row in findings for finding in row}
    assert verdicts >= {"Better", "Worse", "Passed", "Harm", "Undecided"}


def test_the_metrics_of_the_edge_have_a_part_in_different_ends() -> None:
    decisions = [life.judged()[1] for life in BY_EDGE.values()]
    assert [(each.decision, each.winner) for each in decisions] == [
        ("Winner", "arm-2"),
        ("Winner", "arm-2"),
        ("Winner", "arm-2"),
        ("Winner", "arm-1"),
        ("Undecided", ""),
        ("NoWinner", ""),
    ]


def test_a_cap_changes_the_mean(analysis: ModuleType, tmp_path: Path) -> None:
    means = []
    for name, cap in (("whole", None), ("capped", 1.0)):
        (folder := tmp_path / name).mkdir()
        found, *_ = analysis.analyse(MadeUp(2, 4000, cap=cap).write(folder))
        means.append(found["revenue"]["arm-1"]["control"])
    assert 0 < means[1] < means[0] / 2


def test_an_arm_whose_outcome_has_not_passed_does_not_win(analysis: ModuleType, tmp_path: Path) -> None:
    strict = [replace(each, margin=0.01) for each in RAILS]
    life = MadeUp(2, 12_000, lift=0.5, rails=strict)
    assert analysis.analyse(life.write(tmp_path))[1:] == ("Undecided", "")
    assert life.judged()[1].decision == "Undecided"


@pytest.mark.parametrize("verdict", ["Undecided", "Harm"])
def test_an_arm_whose_guardrail_has_not_passed_does_not_win(analysis: ModuleType, verdict: str, tmp_path: Path) -> None:
    life = MadeUp(2, 8000, lift=0.5)
    life.rails = dict.fromkeys(life.rails, verdict)
    _, decision, winner = analysis.analyse(life.write(tmp_path))
    decided = life.judged()[1]
    assert (decision, winner) == (decided.decision, decided.winner)
    assert winner == ""


@pytest.mark.parametrize("life", BROKEN.values(), ids=BROKEN)
def test_what_the_operator_decides_nothing_by_names_no_winner_here(
    analysis: ModuleType, life: MadeUp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = life.seen()
    assert experiments_winner.decide_winner(replace(seen, undecided_reason="")).decision == "Winner"
    reason = experiments_winner.decide_winner(seen).reason
    analysis.show(life.write(tmp_path))
    assert reason == f"nothing is decided: {life.undecided_reason()}"
    assert f"here: Undecided: {reason}" in capsys.readouterr().out.splitlines()


def test_units_of_an_epoch_that_is_no_evidence_are_no_broken_split(analysis: ModuleType, tmp_path: Path) -> None:
    life = MadeUp(4, 12_000, lift=0.5, epochs=3, off=(2,), troubled=(2,))
    assert analysis.analyse(life.write(tmp_path))[1] == life.judged()[1].decision == "Winner"


def test_a_log_without_conditions_is_read(analysis: ModuleType, tmp_path: Path) -> None:
    life = MadeUp(2, 8000, lift=0.5)
    life.write(tmp_path)
    plan = life.plan()
    del plan["status"]["conditions"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert analysis.analyse(tmp_path)[1:] == ("Winner", "arm-2")


def test_what_is_wrong_since_an_arm_has_won_takes_nothing_back(analysis: ModuleType, tmp_path: Path) -> None:
    life = MadeUp(2, 8000, lift=0.5, quality=SILENT)
    life.verdict = {"decision": "Winner", "winner": "arm-2"}
    assert analysis.analyse(life.write(tmp_path))[1:] == ("Winner", "arm-2")


def test_that_nothing_is_evidence_yet_is_no_broken_data(analysis: ModuleType, tmp_path: Path) -> None:
    quality = ("Unknown", "NotEvaluated", "there is no evidence yet")
    life = MadeUp(8, 100, troubled=(1, 2), quality=quality)
    plan, exposures, _ = analysis.read(life.write(tmp_path))
    assert analysis.untrusted(plan, exposures) == ""


@pytest.mark.parametrize("seed", range(20))
def test_the_number_of_the_split_is_the_operators(analysis: ModuleType, seed: int) -> None:
    draw = random.Random(seed)
    arms = range(draw.randint(2, 11))
    shares = [[draw.randint(1, 5000) for _ in arms]]
    shares += [[draw.randint(0, 1) * draw.randint(1, 5000) for _ in arms] for _ in range(draw.randint(0, 39))]
    units = [[draw.randint(0, 10 ** draw.randint(1, 6)) if share else 0 for share in own] for own in shares]
    assert analysis.log_e_of_split(units, shares) == sample_ratio.mismatch_log_e(units, shares) != 0.0


def test_whoever_is_where_nobody_could_fall_is_there_by_no_chance(analysis: ModuleType) -> None:
    assert analysis.log_e_of_split([[5, 5, 1]], [[50, 50, 0]]) == sample_ratio.mismatch_log_e(
        [[5, 5, 1]], [[50, 50, 0]]
    )
    assert analysis.log_e_of_split([[5, 5, 1]], [[50, 50, 0]]) == math.inf


def test_it_needs_nothing_of_sundog() -> None:
    imported = {
        line.split()[1].partition(".")[0]
        for line in analysis_script.SCRIPT.read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    assert imported - sys.stdlib_module_names == {"numpy", "pandas", "scipy"}


def test_parquet_is_read_as_well(analysis: ModuleType, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    life = MadeUp(2, 8000, lift=0.5)
    of_lines = analysis.analyse(life.write(tmp_path))
    for name, made in (("exposures", life.exposures), ("outcomes", life.outcomes)):
        (tmp_path / f"{name}.jsonl").unlink()
        parquet.write_table(pyarrow.Table.from_pylist(made), tmp_path / f"{name}.parquet")
    # Numbers that nobody knows are equal to nothing.
    assert repr(analysis.analyse(tmp_path)) == repr(of_lines)
    assert of_lines[1] == "Winner"


EXAMPLE = analysis_script.SCRIPT.parent / "digits"


def test_the_example_comes_to_its_operators_verdict_and_prints_what_its_page_shows(
    analysis: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    found, decision, winner = analysis.analyse(EXAMPLE)
    status = json.loads((EXAMPLE / "plan.json").read_text())["status"]
    assert (decision, winner) == (status["verdict"]["decision"], status["verdict"]["winner"]) == ("Winner", "conv")
    (stored,) = (each for each in status["metrics"] if each["role"] == "success")
    own = found[stored["name"]][stored["arm"]]
    ratios = [1 + own[name] for name in ("uplift", "lower", "upper")]
    assert ratios == pytest.approx([stored["ratio"], *stored["interval"]], rel=1e-9)
    analysis.show(EXAMPLE)
    assert f"```text\n{capsys.readouterr().out}```" in (EXAMPLE.parent / "README.md").read_text()


FLAG = FlagIdentity("ab", "vision/digits", "uid")
AT = datetime(2026, 11, 20, 9, 30, 0, 1, UTC)
SEEN = [
    ExposureRow("0000000000000012", AT, 1, "control"),
    ExposureRow("00000000000000e5", AT.replace(microsecond=0), 2, "007"),
]
TOLD = [
    OutcomeRow("0000000000000012", "paid", 999_999_999.999_999, AT, 1, "control"),
    OutcomeRow("00000000000000e5", "1", -0.000_001, AT, 2, "007"),
]


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet"])
def test_the_operators_files_are_read_without_loss(
    analysis: ModuleType, tmp_path: Path, form: Format, empty: bool
) -> None:
    for name, row, rows in (("exposures", ExposureRow, SEEN), ("outcomes", OutcomeRow, TOLD)):
        with BufferedTable(make_table(tmp_path / f"{name}.{form}", form, row, FLAG)) as table:
            for each in () if empty else rows:
                table.add(each)
    (tmp_path / "plan.json").write_text('{"version": 2}')
    _, exposures, outcomes = analysis.read(tmp_path)
    assert [*exposures.columns] == ["unit", "epoch", "arm", "time"]
    assert [*outcomes.columns] == ["unit", "epoch", "arm", "time", "metric", "value"]
    seen = [[each.unit, each.epoch, each.arm, each.time] for each in SEEN]
    assert exposures.values.tolist() == ([] if empty else seen)
    told = [[each.unit, each.epoch, each.arm, each.time, each.metric, each.value] for each in TOLD]
    assert outcomes.values.tolist() == ([] if empty else told)


def test_sums_beyond_64_bits_are_exact(analysis: ModuleType) -> None:
    largest = [OutcomeRow("0000000000000012", "paid", 999_999_999.999_999, AT, 1, "control")] * 10_000
    exposures = pd.DataFrame(SEEN)[[*analysis.EXPOSURES]]
    counts = analysis.count(PAID, exposures, pd.DataFrame(largest)[[*analysis.OUTCOMES]])
    total = 999_999_999_999_999 * 10_000
    assert counts["paid", None, None, None, 1, "control"] == [1, 1, 1, total, total**2, 0, 0, 0, 0]


def test_a_version_that_it_does_not_know_is_refused(analysis: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"version": 3}')
    with pytest.raises(SystemExit, match=r"^plan\.json: version 3; expected one of \(1, 2\)"):
        analysis.read(tmp_path)


@pytest.mark.parametrize("row", [ExposureRow, OutcomeRow])
def test_all_columns_are_documented(row: type[LogRow]) -> None:
    documented = re.findall(r"^\| `([a-z_.]+)` \| ([a-z0-9]+) \|", CONTRACTS.read_text(), re.MULTILINE)
    types = {str: "string", float: "double", int: "int64", datetime: "timestamp"}
    assert {*documented} >= {(name, types[kind]) for name, kind in column_types(row).items()}


def test_what_it_prints_names_both_verdicts(
    analysis: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    analysis.show(MadeUp(2, 8000, lift=0.5).write(tmp_path))
    out = capsys.readouterr().out
    assert "conversion of arm-2: Better" in out
    assert "here: Winner arm-2" in out
    assert out.splitlines()[-1] == "operator: Undecided"
