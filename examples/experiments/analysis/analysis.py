"""Compute the verdict of an experiment from its export alone.

`sundog experiment export NAME --to DIR` writes exposures.jsonl, outcomes.jsonl and plan.json. `spec.exposureLog` writes the same files in
Parquet, or compressed. This script counts the raw rows, evaluates them by the formulas below, and gets the operator's verdict, to the last
digit. If the operator decides nothing, the script prints the reason. It needs numpy, pandas and scipy, pyarrow for Parquet, and no part of
Sundog. Run it (`python analysis.py DIR`), or cell by cell in an editor that supports `# %%`.
"""

# %% Read the files
import json
import math
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import betaln, expit, gammaln, log_ndtr, xlog1py, xlogy

VERSIONS = (1, 2)
UNIT, ARM, METRIC = "unit", "arm", "metric"
EXPOSURES = {UNIT: str, "epoch": "int64", ARM: str, "time": "datetime64[us, UTC]"}
OUTCOMES = {**EXPOSURES, METRIC: str, "value": float}
SECOND = pd.Timedelta(seconds=1)


def table(folder, name, types):
    """Return the table of a file with columns of these types, in the order of its rows."""
    file = next(path for form in ("jsonl", "jsonl.gz", "parquet") if (path := Path(folder) / f"{name}.{form}").exists())
    if file.suffix == ".parquet":
        rows = pd.read_parquet(file, columns=[*types])
    else:
        # Without these options pandas would take hashes for numbers, and round values.
        rows = pd.read_json(file, lines=True, dtype=False, precise_float=True)
    return rows.reindex(columns=[*types]).astype(types)


def read(folder):
    """Return (plan, exposures, outcomes). `exposures` has one row for each exposed unit; it is empty if each request is a unit."""
    plan = json.loads((Path(folder) / "plan.json").read_text(encoding="utf-8"))
    if plan["version"] not in VERSIONS:
        raise SystemExit(
            f"plan.json: version {plan['version']}; expected one of {VERSIONS}. Use the script of its release."
        )
    return plan, table(folder, "exposures", EXPOSURES), table(folder, "outcomes", OUTCOMES)


# %% Count
# A unit counts once, in the epoch and arm of its first exposure. Values are kept in millionths and as Python's integers, so that sums are
# exact whole numbers of any size. With a cap, a unit's total above it counts as the cap. With a conversion window, only outcomes within it
# count, and only units that were first exposed before the time up to which the operator knew all windows to have passed. With `after` the
# window begins so long after the exposure: a unit came back if it has an outcome from then on.


def exposed_of(plan, exposures):
    """Return the exposed units by (epoch, arm), or the requests if each request is a unit."""
    exposed = defaultdict(int, exposures.groupby(["epoch", ARM]).size().astype(object).to_dict())
    for epoch, arm, requests in plan.get("assigned", ()):
        exposed[epoch, arm] += requests
    return exposed


def count(plan, exposures, outcomes):
    """Return nine counts by (feedback, cap, window, other feedback, epoch, arm); what a metric does not have is None.

    These are: units exposed, units with an outcome, units with a first outcome above 0, Σ of units' totals, and Σ of their squares. A ratio
    and a mean with a covariate also have: units with the other value, Σ of their totals of it, Σ of the squares of these, and Σ of the
    products of units' two totals.
    """
    counts, counted = defaultdict(lambda: [0] * 9), [each for each in outcomes_of(plan) if not is_of_edge(each)]
    for window in {window_of(each) for each in counted}:
        matured, within = (exposures, outcomes) if window is None else within_window(plan, exposures, outcomes, window)
        exposed, units = exposed_of(plan, matured), per_unit(matured, within)
        for kind in {kind_of(each) for each in counted if window_of(each) == window}:
            for place, number in exposed.items():
                counts[*kind, *place][0] = number
            for place, first, sums in sums_of(kind, units):
                counts[*kind, *place][first : first + len(sums)] = map(int, sums)
    return counts


def sums_of(kind, units):
    """Yield (epoch and arm, place of the first of them in the counts, sums) of all that a metric needs."""
    feedback, cap, _, other = kind
    own, base = (units[units.index.get_level_values(METRIC) == each] for each in (feedback, other))
    for place, *sums in per_cell(own, cap).itertuples():
        yield place, 1, sums
    for place, number, _, *sums in per_cell(base, None).itertuples():
        yield place, 5, (number, *sums)
    for place, product in products(own, base).items():
        yield place, 8, (product,)


def kind_of(metric):
    """Return what is counted for a metric: feedback, cap, window, and the other feedback.

    That is the denominator of a ratio. For a covariate it has a `<` at its end: outcomes from before the unit's first exposure.
    """
    covariate = f"{metric['covariate']}<" if "covariate" in metric else None
    return metric["feedback"], cap_of(metric), window_of(metric), metric.get("denominator", covariate)


def window_of(metric):
    """Return when the conversion window begins and ends, in seconds after the exposure; None for none."""
    return (seconds_of(metric.get("after", "")), seconds_of(metric["window"])) if "window" in metric else None


def seconds_of(duration):
    parts = re.findall(r"(\d+)([dhms])", duration)
    return sum(int(number) * {"d": 86_400, "h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


def within_window(plan, exposures, outcomes, window):
    """Return the units whose window has passed, and their outcomes within it."""
    begin, end = window
    until = pd.Timestamp(dict(plan["judged"].get("until", ())).get(end, 0), unit="s", tz="UTC")
    matured = exposures[exposures["time"] < until]
    exposed = outcomes[UNIT].map(matured.set_index(UNIT)["time"].dt.floor("s"))
    return matured, outcomes[outcomes["time"].between(exposed + begin * SECOND, exposed + end * SECOND)]


def cap_of(metric):
    """Return the cap of units' totals in millionths; None for none."""
    return None if "cap" not in metric else max(1, round(metric["cap"] * 1_000_000))


def per_unit(exposures, outcomes):
    """Return total and first value of each unit with an outcome, in millionths, by (metric, epoch, arm, unit)."""
    joined = outcomes.merge(exposures, on=UNIT, how="left", suffixes=("", " of the unit"))
    # Where each request is a unit, no exposure is stored, and the outcome has the place of its request.
    for column in ("epoch", ARM):
        joined[column] = joined[f"{column} of the unit"].fillna(joined[column]).astype(EXPOSURES[column])
    joined["millionths"] = pd.Series([round(value * 1_000_000) for value in joined["value"]], dtype=object)
    grouped = joined.groupby([METRIC, "epoch", ARM, UNIT], sort=False)["millionths"]
    return pd.DataFrame({"total": grouped.sum(), "first": grouped.first()}, dtype=object)


def per_cell(units, cap):
    """Return the four counts of units with an outcome, by (epoch, arm)."""
    totals = units["total"] if cap is None else units["total"].map(lambda total: min(total, cap))
    units = units.assign(units=1, positive=units["first"] > 0, total=totals, squares=totals**2)
    return units.groupby(["epoch", ARM])[["units", "positive", "total", "squares"]].sum()


def products(units, others):
    """Return Σ of the products of units' two totals, by (epoch, arm)."""
    own, other = (each["total"].droplevel(METRIC) for each in (units, others))
    both = own.index.intersection(other.index)
    return (own[both] * other[both]).groupby(["epoch", ARM]).sum()


def outcomes_of(plan):
    """Return the outcome metrics of the frozen plan, success metrics first."""
    return plan["status"]["plan"]["comparison"].get("outcomes", [])


def is_of_edge(metric):
    """Report whether the edge measures a metric, so that no row has it."""
    return "metric" in metric


def arms_of(plan):
    """Return the names of the arms, control first."""
    return [arm["name"] for arm in plan["status"]["plan"]["comparison"]["arms"]]


def all_of(plan):
    """Return the names of the arms and of stable, which is outside of the experiment."""
    return [arm["name"] for arm in plan["status"]["arms"]]


def epochs_of(plan, arms, *, troubled=False):
    """Yield the epochs that are evidence, each with the buckets of these arms.

    A warm-up is no evidence. Epochs in which control was unhealthy are left out too, unless `troubled`.
    """
    names = all_of(plan)
    for epoch in plan["status"].get("evidenceEpochs", ()):
        if len(epoch.get("buckets", ())) == len(names) and (troubled or not epoch.get("troubled")):
            buckets = dict(zip(names, epoch["buckets"], strict=True))
            yield epoch["number"], [buckets.get(arm, 0) for arm in arms]


# %% A rate of earlier releases: the share of exposed units whose first outcome was above 0, by events alone
# Plans of earlier releases have no `rateBy`. If both rates were equal, a unit with an event would belong to the arm with probability π,
# the arm's share of the assignments to both. So over epochs with x events of the arm and c of control, the likelihood ratio of "r times
# control's rate" to "the same rate" is
#   exp( Σx·log r − Σ(x + c)·log(1 + π(r − 1)) ).
# E is its mean over a fixed mixture of ratios r: ratios above 1 for "higher", their inverses for "lower". By Ville's inequality E reaches
# 1/α with a probability of at most α, however often one looks.
#
# A guardrail is tested against the ratio at its margin, such as 0.97. If that were the true ratio, π would be π·0.97/(1 − π + π·0.97). The
# rest is the same, with ratios relative to 0.97.

STEPS = 96
NEAREST, FARTHEST = 1 / 40, 5.0
WIDE, SHARE_OF_WIDE, SHARE_OF_NONE = 1.0, 0.2, 0.1


def mixture(scale):
    """Return log ratios above 0 and their log weights: four fifths half-normal with deviation `scale`, one fifth with deviation 1."""
    ratios = np.geomspace(min(scale, WIDE) * NEAREST, FARTHEST, STEPS)
    near, wide = (np.exp(-((ratios / width) ** 2) / 2) / width for width in (scale, WIDE))
    weights = ratios * ((1 - SHARE_OF_WIDE) * near + SHARE_OF_WIDE * wide)
    return ratios, np.log(weights / weights.sum())


def log_likelihood(control, arm, share, log_ratios):
    """Return the log likelihood ratio against equal rates, for the ratios in the last axis."""
    cost = np.log1p(share[..., None] * np.expm1(log_ratios)[..., None, :])
    events = control + arm
    return arm.sum(-1)[..., None] * log_ratios - (events[..., None, :] @ cost)[..., 0, :]


def log_sum(logs):
    """Return log Σ exp of the last axis."""
    most = logs.max(-1)
    return most + np.log(np.exp(logs - most[..., None]).sum(-1))


def rate(control, arm, assigned, exposed, effect, bar, tested=1.0):
    """Return estimates, interval and log E of a rate.

    Arguments have shape (arms, epochs). `assigned` is the arm's share of the assignments to it and control, `effect` the relative effect
    that the mixture is tuned for, and `tested` the tested ratio.
    """
    share = assigned if tested == 1 else expit(np.log(np.asarray(tested, float))[..., None] + logit(assigned))
    ratios, log_weights = mixture(2.0 * effect)
    above, below = (log_likelihood(control, arm, share, sign * ratios) for sign in (1, -1))
    side = np.broadcast_to(log_weights + math.log((1 - SHARE_OF_NONE) / 2), above.shape)
    none = np.zeros((*above.shape[:-1], 1))
    two_sided = log_sum(
        np.concatenate([side, side, none + math.log(SHARE_OF_NONE)], -1) + np.concatenate([above, below, none], -1)
    )
    lower, upper = interval(two_sided, control, arm, share, bar)
    ratio = most_likely(control, arm, share)
    with np.errstate(all="ignore"):
        at_best = np.clip(np.nan_to_num(np.log(ratio), nan=0.0), -50.0, 50.0)
        return {
            "control": control.sum(-1) / exposed[0],
            "arm": arm.sum(-1) / exposed[1],
            "uplift": ratio * tested - 1,
            "lower": lower * tested - 1,
            "upper": upper * tested - 1,
            "above": log_sum(log_weights + above),
            "below": log_sum(log_weights + below),
            # True if separate ratios per epoch are so much likelier that no single ratio fits all epochs.
            "differs": epoch_by_epoch(control, arm, assigned, tested)
            - log_likelihood(control, arm, share, at_best[..., None])[..., 0]
            >= bar,
        }


def epoch_by_epoch(control, arm, share, tested):
    """Return log E against the tested ratio with one ratio per epoch, by Beta mixtures of precision 2 and 50, half each."""
    null = expit(np.log(np.asarray(tested, float))[..., None] + logit(share))
    k = np.asarray((2.0, 50.0), float).reshape(-1, *(1,) * np.broadcast(control, arm, null).ndim)
    a, b = k * share, k * (1 - share)
    each = betaln(a + arm, b + control) - betaln(a, b) - (xlogy(arm, null) + xlog1py(control, -null))
    return np.logaddexp.reduce(each.sum(-1), axis=0) - math.log(2)


# The interval contains the ratios against which the two-sided log E stays below the bar. Between ratios, log E differs only by the
# likelihood of the events, which is concave in the log ratio. Newton's steps find both crossings.

FAR, ROUNDS, CLOSE = 35.0, 80, 1e-9


def logit(share):
    return np.log(share) - np.log1p(-share)


def unlikeliness(control, arm, odds):
    return ((control + arm) * np.logaddexp(0.0, odds) - arm * odds).sum(-1)


def maximum_likelihood(control, arm, share):
    """Return the log ratio of maximum likelihood, and the curvature there."""
    events, offset = control + arm, logit(share)
    centre = np.log((arm.sum(-1) + 0.5) / ((control * np.exp(offset)).sum(-1) + 0.5))
    for _ in range(ROUNDS):
        own = expit(centre[..., None] + offset)
        curvature = (events * own * (1 - own)).sum(-1)
        step = np.clip(((events * own).sum(-1) - arm.sum(-1)) / curvature, -2.0, 2.0)
        centre = np.clip(centre - step, -FAR, FAR)
        if not np.any(np.abs(step) > 1e-3):
            break
    return centre, curvature


def most_likely(control, arm, share):
    """Return the ratio of maximum likelihood over all epochs."""
    with np.errstate(all="ignore"):
        centre, _ = maximum_likelihood(control, arm, share)
    ratio = np.where(arm.sum(-1) == 0, 0.0, np.where(control.sum(-1) == 0, np.inf, np.exp(centre)))
    return np.where(control.sum(-1) + arm.sum(-1) == 0, np.nan, ratio)


def interval(against_equal, control, arm, share, bar):
    with np.errstate(all="ignore"):
        offset, events = logit(share), control + arm
        rise = against_equal - unlikeliness(control, arm, offset) - bar
        centre, curvature = maximum_likelihood(control, arm, share)
        least = rise + unlikeliness(control, arm, centre[..., None] + offset)
        one_sided = (control.sum(-1) == 0) | (arm.sum(-1) == 0)
        reach = np.where(one_sided, FAR, np.sqrt(-2 * least / curvature))
        centre = np.where(one_sided, 0.0, centre)
        ends = np.stack([centre - reach, centre + reach])
        step = np.full(np.shape(ends), np.inf)
        for _ in range(ROUNDS):
            odds = ends[..., None] + offset
            step = (rise + unlikeliness(control, arm, odds)) / (events * expit(odds) - arm).sum(-1)
            ends = ends - step
            if not np.any(np.abs(step) > CLOSE):
                break
        lower, upper = np.exp(np.where(np.abs(step) <= CLOSE, ends, np.nan))
    return np.where(arm.sum(-1) == 0, 0.0, lower), np.where(control.sum(-1) == 0, np.inf, upper)


# %% A rate: the share of exposed units whose first outcome was above 0, by the known numbers of units
# An epoch has c of n units of control with an event, and x of m of the arm. The likelihood of "the arm's rate is r times control's" is
#   p^c (1 − p)^(n − c) (r·p)^x (1 − r·p)^(m − x), with the base rate p that makes it highest: the smaller root of
#   r(n + m)p² − (n + x + r(m + c))p + c + x = 0.
# The log likelihoods add up over the epochs in which both arms have 30 units. E is the mean over the mixture of ratios above, each relative
# to the tested ratio. The interval has the ratios against which the two-sided log E stays below the bar; the log likelihood is concave in
# log r, so Newton's steps find both ends.

HALVINGS, LEAST_UNITS = 64, 30


class Units:
    """Units with an event and without one, of control and of the arm; each of shape (arms, epochs)."""

    def __init__(self, control, arm):
        exposed, events = ([np.asarray(each[place], float) for each in (control, arm)] for place in (0, 2))
        counts = np.minimum(*exposed) >= LEAST_UNITS
        self.control, self.arm = (np.where(counts, own, 0.0) for own in events)
        self.rest, self.arm_rest = (np.where(counts, n - own, 0.0) for n, own in zip(exposed, events, strict=True))

    def rates(self, ratio):
        """Return both arms' likeliest rates, given ratios of shape (..., ratios, 1)."""
        control, arm = self.control[..., None, :], self.arm[..., None, :]
        units, others = control + self.rest[..., None, :], arm + self.arm_rest[..., None, :]
        events, linear = control + arm, units + arm + ratio * (others + control)
        root = np.sqrt(np.maximum(linear**2 - 4 * ratio * (units + others) * events, 0.0))
        rate = np.where(events > 0, 2 * events / (linear + root), 0.0)
        return rate, np.minimum(ratio * rate, 1.0)

    def likelihood(self, log_ratios):
        """Return the highest log likelihood at log ratios of shape (..., ratios), by epoch: (..., ratios, epochs)."""
        with np.errstate(all="ignore"):
            rate, other = self.rates(np.exp(log_ratios)[..., None])
            of_control = xlogy(self.control[..., None, :], rate) + xlog1py(self.rest[..., None, :], -rate)
            return of_control + (xlogy(self.arm[..., None, :], other) + xlog1py(self.arm_rest[..., None, :], -other))

    def slope(self, log_ratios):
        """Return the derivative of the log likelihood over all epochs by the log ratio."""
        ratio = np.exp(log_ratios)[..., None]
        (rate, other), rest, arm_rest = self.rates(ratio), self.rest[..., None, :], self.arm_rest[..., None, :]
        by_arm = self.arm[..., None, :] - np.where(arm_rest > 0, arm_rest * other / (1 - other), 0.0)
        by_control = np.where(rest > 0, rest * rate / (1 - rate), 0.0) - self.control[..., None, :]
        events = self.control + self.arm
        at_most = ratio * events[..., None, :] >= (events + self.rest)[..., None, :]
        return np.where((arm_rest == 0) & at_most, by_control, by_arm).sum(-1)

    def best(self):
        """Return the likeliest log ratio, by bisection."""
        lower, upper = (np.full((*self.control.sum(-1).shape, 1), end) for end in (-FAR, FAR))
        with np.errstate(all="ignore"):
            for _ in range(HALVINGS):
                middle = (lower + upper) / 2
                rises = self.slope(middle) > 0
                lower, upper = np.where(rises, middle, lower), np.where(rises, upper, middle)
        return middle

    def ends(self, least):
        """Return the log ratios on both sides at which the log likelihood is `least`."""
        ends = np.broadcast_to(np.array([-FAR, FAR]), (*least.shape, 2))
        with np.errstate(all="ignore"):
            for _ in range(ROUNDS):
                step = (self.likelihood(ends).sum(-1) - least[..., None]) / self.slope(ends)
                ends = np.clip(ends - step, -FAR, FAR)
                if not np.any(np.abs(step) > CLOSE):
                    break
            return np.moveaxis(np.where(np.abs(step) <= CLOSE, ends, np.nan), -1, 0)


def rate_by_units(control, arm, exposed, effect, bar, tested=1.0):
    """Return estimates, interval and log E of a rate; `control` and `arm` are the nine counts, each of shape (arms, epochs)."""
    units, (ratios, log_weights) = Units(control, arm), mixture(2.0 * effect)
    null = math.log(tested)
    at_null = units.likelihood(np.full(1, null))
    above, below = ((units.likelihood(sign * ratios + null) - at_null).sum(-1) for sign in (1, -1))
    side = log_weights + math.log((1 - SHARE_OF_NONE) / 2)
    both_weights = np.array([*side, *side, math.log(SHARE_OF_NONE)])
    both = np.concatenate([above, below, np.zeros((*above.shape[:-1], 1))], -1)
    lower, upper = np.exp(units.ends(log_sum(both_weights + both) - bar + at_null.sum(-1)[..., 0]))
    x, c = units.arm.sum(-1), units.control.sum(-1)
    best = units.best()
    each = units.likelihood(np.array([*ratios, *-ratios, 0.0]) + null) - at_null
    apart = log_sum(both_weights + np.swapaxes(each, -1, -2)).sum(-1)
    with np.errstate(all="ignore"):
        ratio = np.where(x == 0, 0.0, np.where(c == 0, np.inf, np.exp(best[..., 0])))
        return {
            "control": np.asarray(control[2].sum(-1), float) / np.asarray(exposed[0], float),
            "arm": np.asarray(arm[2].sum(-1), float) / np.asarray(exposed[1], float),
            "uplift": np.where(c + x == 0, np.nan, ratio) - 1,
            "lower": np.where(x == 0, 0.0, lower) - 1,
            "upper": np.where(c == 0, np.inf, upper) - 1,
            "above": log_sum(log_weights + above),
            "below": log_sum(log_weights + below),
            # True if separate ratios per epoch are so much likelier that no single ratio fits all epochs.
            "differs": (apart - (units.likelihood(best) - at_null).sum(-1)[..., 0] >= bar) & (control.shape[-1] > 1),
        }


# %% A mean: the sum of a unit's values (0 without an outcome), averaged over exposed units
# An epoch has the weight h = n_A·n_B/(n_A + n_B), once both arms have 30 units with an outcome. The test compares the arms' averages
# Σh·ȳ/Σh; its information time is Σh. It is asymptotic: log E is that of a normal mixture, one-sided for "higher" and "lower", and
# two-sided for the interval of the ratio (Fieller). An arm's variance is at least the variance of both arms together. A guardrail is tested
# against the ratio at its margin, which needs an average of control above 0.
#
# A covariate x is the unit's total of a feedback from before its first exposure. The averages are then ȳ − θ(x̄ − x̄ of both arms), with the
# slope θ of y by x within arms and epochs. Their variances are those of y − θx, which are smaller.
#
# A ratio is the sum of all units' values by the sum of their denominators. Units are the observations, so the test uses a unit's linearised
# value (s − R·n) / n̄, of which the mean is 0 and the variance is that of the ratio (the delta method). R is Σh·s̄ / Σh·n̄ over the epochs.
# The rest is the test of a mean.

BURN_IN = 30


def mean(control, arm, exposed, effect, bar, tested=1.0, is_guardrail=False):
    """Return estimates, interval and log E of a mean.

    `control` and `arm` are the nine counts, each of shape (arms, epochs).
    """
    h = weights(control, arm, np.minimum(*(np.asarray(each[1], float) for each in (control, arm))))
    together = variance([x + y for x, y in zip(control, arm, strict=True)])
    averages = [average(own) for own in (control, arm)]
    variances = [np.maximum(variance(own), together) for own in (control, arm)]
    with np.errstate(all="ignore"):
        values = [
            np.asarray(own[3].sum(-1), float) / np.asarray(number * 1_000_000, float)
            for own, number in zip((control, arm), exposed, strict=True)
        ]
    counts = [np.asarray(own[0], float) for own in (control, arm)]
    return contrast(h, averages, sum_variances(h, counts, variances), values, effect, bar, tested, is_guardrail)


def ratio_of_sums(control, arm, effect, bar, tested=1.0, is_guardrail=False):
    """Return estimates, interval and log E of a ratio of sums; arguments as of `mean`."""
    fewest = np.minimum(*(np.asarray(np.minimum(each[1], each[5]), float) for each in (control, arm)))
    h = weights(control, arm, fewest)
    bases = [(h * average(own, 6)).sum(-1, keepdims=True) for own in (control, arm)]
    h = np.where(np.minimum(*bases) > 0, h, 0.0)
    _, together = linearised([x + y for x, y in zip(control, arm, strict=True)], h)
    ratios, variances = zip(*(linearised(own, h) for own in (control, arm)), strict=True)
    with np.errstate(all="ignore"):
        variances = [np.maximum(own, together) for own in variances]
        values = [np.asarray(own[3].sum(-1), float) / np.asarray(own[6].sum(-1), float) for own in (control, arm)]
    counts = [np.asarray(own[0], float) for own in (control, arm)]
    return contrast(h, ratios, sum_variances(h, counts, variances), values, effect, bar, tested, is_guardrail)


def adjusted_mean(control, arm, exposed, effect, bar, tested=1.0, is_guardrail=False):
    """Return estimates, interval and log E of a mean with a covariate; arguments as of `mean`."""
    h = weights(control, arm, np.minimum(*(np.asarray(each[1], float) for each in (control, arm))))
    counts = [np.asarray(own[0], float) for own in (control, arm)]
    with np.errstate(all="ignore"):
        theta = slope(h, control, arm)
        share = counts[0] / (counts[0] + counts[1])
        apart = average(control, 6) - average(arm, 6)
        averages = average(control) - theta * (1 - share) * apart, average(arm) + theta * share * apart
        spread = variance(control, 6, 7) / counts[0] + variance(arm, 6, 7) / counts[1]
        both = theta * covariance(control) / counts[0], theta * covariance(arm) / counts[1]
        common = share * both[0] + (1 - share) * both[1] - theta**2 * share * (1 - share) * spread
        together = residual([x + y for x, y in zip(control, arm, strict=True)], theta)
        variances = [
            variance(own) / n
            + part**2 * theta**2 * spread
            - 2 * part * one
            + np.maximum(together - residual(own, theta), 0.0) / n
            for own, n, part, one in ((control, counts[0], 1 - share, both[0]), (arm, counts[1], share, both[1]))
        ]
        v_a, v_b, common = (np.where(h > 0, h**2 * each, 0.0).sum(-1) for each in (*variances, common))
        values = [
            np.asarray(own[3].sum(-1), float) / np.asarray(number * 1_000_000, float)
            for own, number in zip((control, arm), exposed, strict=True)
        ]
    return contrast(h, averages, (v_a, v_b, common), values, effect, bar, tested, is_guardrail)


def slope(h, *arms):
    """Return the slope of y by the covariate within arms and epochs; 0 without a covariate."""
    freedom = [np.where(h > 0, np.asarray(own[0], float) - 1, 0.0) for own in arms]
    both = sum((free * covariance(own)).sum(-1, keepdims=True) for free, own in zip(freedom, arms, strict=True))
    squares = sum((free * variance(own, 6, 7)).sum(-1, keepdims=True) for free, own in zip(freedom, arms, strict=True))
    return np.where(squares > 0, both / squares, 0.0)


def covariance(own):
    both = own[0] * own[8] - own[3] * own[6]
    return np.asarray(both / (np.maximum(own[0], 1) * np.maximum(own[0] - 1, 1)), float)


def residual(own, theta):
    """Return the variance of y less theta times the other value."""
    return np.maximum(variance(own) - 2 * theta * covariance(own) + theta**2 * variance(own, 6, 7), 0.0)


def linearised(own, h):
    """Return the ratio of sums, and the variance of a unit's linearised value by epoch."""
    with np.errstate(all="ignore"):
        base = (h * average(own, 6)).sum(-1, keepdims=True)
        ratio = (h * average(own)).sum(-1, keepdims=True) / base
        base = base / h.sum(-1, keepdims=True)
        return ratio, residual(own, ratio) / base**2


def weights(control, arm, fewest):
    """Return the weight of each epoch; 0 before its burn-in."""
    n_a, n_b = (np.asarray(each[0], float) for each in (control, arm))
    with np.errstate(all="ignore"):
        return np.where(fewest >= BURN_IN, n_a * n_b / (n_a + n_b), 0.0)


def sum_variances(h, counts, variances):
    """Return the variances of both sums over epochs, given units and the variances of a unit; they are not correlated."""
    with np.errstate(all="ignore"):
        return *(np.where(h > 0, h**2 * own / n, 0.0).sum(-1) for own, n in zip(variances, counts, strict=True)), 0.0


def contrast(h, averages, variances, values, effect, bar, tested, is_guardrail):
    """Return estimates, interval and log E of two averages by epoch, given the variances of their sums and the covariance."""
    with np.errstate(all="ignore"):
        a, b = (np.where(h > 0, h * own, 0.0).sum(-1) for own in averages)
    v_a, v_b, common = variances
    time = h.sum(-1)
    deviation = 2.0 * effect / 3.0
    spread = time * deviation**2
    with np.errstate(all="ignore"):
        error = np.sqrt(v_b - 2 * tested * common + tested**2 * v_a)
        sigma = np.where(error > 0, (b - tested * a) / error, np.nan)
        kept = spread / (1 + spread)
        above, below = (
            math.log(2) - 0.5 * np.log1p(spread) + kept * sigma**2 / 2 + log_ndtr(sign * sigma * np.sqrt(kept))
            for sign in (1, -1)
        )
        reach = (1 + 1 / spread) * (np.log1p(spread) + 2 * bar)
        square, both, rest = a**2 - reach * v_a, a * b - reach * common, b**2 - reach * v_b
        root = np.sqrt(np.maximum(both**2 - square * rest, 0.0))
        known = (square > 0) & (a > 0) & (v_a + v_b > 0)
        testable = (a > 0) | (not is_guardrail)
        return {
            "control": values[0],
            "arm": values[1],
            "uplift": np.where(a > 0, b / a - 1, np.nan),
            "lower": np.where(known, (both - root) / square, np.nan) - 1,
            "upper": np.where(known, (both + root) / square, np.nan) - 1,
            "above": np.where(testable & ~np.isnan(above), above, -np.inf),
            "below": np.where(testable & ~np.isnan(below), below, -np.inf),
            "differs": np.zeros(time.shape, bool),
        }


def average(own, total=3):
    """Return the mean of a unit, given the place of Σ of units' totals in its counts."""
    return np.asarray(own[total] / np.maximum(own[0], 1), float)


def variance(own, total=3, squares=4):
    """Return the variance of a unit, given the places of Σ of units' totals and of their squares."""
    spread = own[0] * own[squares] - own[total] * own[total]
    return np.asarray(spread / (np.maximum(own[0], 1) * np.maximum(own[0] - 1, 1)), float)


# %% Evaluate each metric of each arm
# Each direction is tested at α divided by the number of tests (metrics times arms). All guardrails have to pass, so only arms share the α
# of passing. Arms and all guardrails, also those of the edge, share that of harm; an arm's first blocks have `earlyHarm` of it. Sets of
# evidence share α too, because an epoch may be removed after tests have used it: the first set has nine tenths, the k-th later one
# 0.1 · 6/(π²k²).

USUAL_EFFECT = 0.05


def evaluate(plan, counts, role="success"):
    """Return estimates and verdict by metric and arm."""
    metrics = [each for each in outcomes_of(plan) if each["role"] == role]
    arms = arms_of(plan)
    epochs, bars = list(epochs_of(plan, arms)), bars_of(plan, role, len(metrics), len(arms) - 1)
    return {
        metric["name"]: dict(zip(arms[1:], _evaluate(metric, arms, epochs, counts, *bars), strict=True))
        for metric in metrics
        if not is_of_edge(metric)
    }


def bars_of(plan, role, metrics, arms):
    """Return the log E at which a metric is better, or has passed, and at which it is worse, or does harm."""
    alpha = plan["status"]["plan"]["alpha"] * evidence_share(plan["status"].get("evidenceEpochs", ()))
    if role != "guardrail":
        return (math.log(1 / (alpha / max(1, metrics * arms))),) * 2
    level = alpha / max(1, arms)
    tests = (len(plan["status"]["plan"].get("guardrails", ())) + metrics) / (
        1 - plan["status"]["plan"].get("earlyHarm", 0.0)
    )
    return math.log(1 / level), math.log(1 / (level / max(1, tests)))


def evidence_share(epochs):
    """Return the share of alpha for the present epochs: tests have used others that were removed, or in which control was unhealthy."""
    removed = sum(epoch.get("troubled", False) for epoch in epochs) + (epochs[-1].get("restarts", 0) if epochs else 0)
    return 0.1 * 6 / (math.pi * removed) ** 2 if removed else 0.9


def tested_ratio(metric):
    """Return the ratio to control that a metric is tested against: 1, or the one at a guardrail's margin."""
    if "margin" not in metric:
        return 1.0
    return max(1 - metric["margin"] if metric.get("goal", "increase") == "increase" else 1 + metric["margin"], 1e-6)


def _evaluate(metric, arms, epochs, counts, bar, worse_bar):
    if not epochs:
        return [{"verdict": "NoData", "exposed": 0} for _ in arms[1:]]
    counted_rows = [[counts[*kind_of(metric), number, arm] for arm in arms] for number, _ in epochs]
    valid = np.array([all(is_valid(row[place]) for row in counted_rows) for place in range(len(arms))])
    sane = valid[1:] & valid[0]
    shares = np.array([buckets for _, buckets in epochs], float).T
    counted = (shares[1:] > 0) & (shares[0] > 0) & sane[:, None]
    with np.errstate(all="ignore"):
        share = np.where(counted, shares[1:] / (shares[1:] + shares[0]), 0.5)
    columns = np.array(counted_rows, object).transpose(2, 1, 0)
    control, arm = np.where(counted, columns[:, :1], 0), np.where(counted, columns[:, 1:], 0)
    exposed = control[0].sum(-1), arm[0].sum(-1)
    effect, tested = metric.get("margin") or metric.get("minimumEffect") or USUAL_EFFECT, tested_ratio(metric)
    if metric.get("rateBy") == "units":
        known = rate_by_units(control, arm, exposed, effect, bar, tested)
    elif metric.get("type", "rate") == "rate":
        events = (np.asarray(each[2], float) for each in (control, arm))
        known = rate(*events, share, [np.asarray(each, float) for each in exposed], effect, bar, tested)
    elif metric["type"] == "mean":
        mean_of = adjusted_mean if "covariate" in metric else mean
        known = mean_of(control, arm, exposed, effect, bar, tested, "margin" in metric)
    else:
        known = ratio_of_sums(control, arm, effect, bar, tested, "margin" in metric)
    found = []
    for place in range(len(arms) - 1):
        own = {name: float(values[place]) for name, values in known.items()}
        own["exposed"], fewest = exposed[0][place] + exposed[1][place], min(exposed[0][place], exposed[1][place])
        own["verdict"] = verdict(metric, own, bar, worse_bar) if fewest else "NoData"
        found.append(own if sane[place] else {"verdict": "Invalid", "exposed": 0})
    return found


def is_valid(own):
    exposed, units, positive, total, squares, base_units, base_total, base_squares, product = own
    return (
        exposed >= units >= positive >= 0
        and units * squares >= total**2
        and exposed >= base_units >= 0
        and base_units * base_squares >= base_total**2
        and squares * base_squares >= product**2
    )


def improvement(metric, own):
    """Return the interval in the direction of the goal."""
    lower, upper = own["lower"], own["upper"]
    return (lower, upper) if metric.get("goal", "increase") == "increase" else (-upper, -lower)


def verdict(metric, own, bar, worse_bar):
    increase, is_guardrail = metric.get("goal", "increase") == "increase", "margin" in metric
    better, worse = (own["above"], own["below"]) if increase else (own["below"], own["above"])
    if worse >= worse_bar:
        return "Harm" if is_guardrail else "Worse"
    if own["differs"]:
        return "Heterogeneous"
    if better >= bar:
        return "Passed" if is_guardrail else "Better"
    worth = metric.get("minimumEffect") or math.nan
    return "NoEffect" if improvement(metric, own)[1] < worth else "Undecided"


# %% Check the split
# The operator decides nothing while units do not fall to the arms and stable according to the weights. Each unit counts once, where it was
# first exposed, by the buckets of that epoch. E is a product over epochs: how many times likelier the counts are under a Dirichlet mixture
# around the weights than under the weights. By chance it reaches 1000 in at most one of 1000 experiments, however often one looks. If each
# request is a unit, the test counts requests, also in epochs in which control was unhealthy.

CONCENTRATION, OFF = 1000.0, math.log(1000)


def log_e_of_split(fell, buckets):
    """Return log E against a split by the weights; arguments have shape (epochs, arms). Infinite if an arm without weight has units."""
    log_e = 0.0
    for counts, shares in zip(fell, buckets, strict=True):
        if any(number and not share for number, share in zip(counts, shares, strict=True)):
            return math.inf
        there = np.array(shares, float) > 0
        if there.sum() > 1:
            units, share = np.array(counts, float)[there], np.array(shares, float)[there]
            share = share / share.sum()
            prior = CONCENTRATION * share
            together = gammaln(prior.sum()) - gammaln(prior.sum() + units.sum())
            log_e += float(together + (gammaln(prior + units) - gammaln(prior) - xlogy(units, share)).sum())
    return log_e


def split_is_off(plan, exposures):
    """Return the sample-ratio mismatch in the operator's words; empty if there is none."""
    names, exposed, by_request = all_of(plan), exposed_of(plan, exposures), bool(plan.get("assigned"))
    epochs = list(epochs_of(plan, names, troubled=by_request))
    fell, buckets = [[exposed[number, name] for name in names] for number, _ in epochs], [own for _, own in epochs]
    if log_e_of_split(fell, buckets) < OFF:
        return ""
    got, total = [sum(column) for column in zip(*fell, strict=True)], sum(map(sum, fell))
    expected = [
        sum(sum(row) * own[place] / sum(own) for row, own in zip(fell, buckets, strict=True))
        for place in range(len(names))
    ]
    if by_request:
        parts = (
            f"{name} got {own} ({meant:.0f} expected)" for name, own, meant in zip(names, got, expected, strict=True)
        )
        return f"of {total} requests, {', '.join(parts)}: sample-ratio mismatch"
    worst = max(range(len(names)), key=lambda place: abs(got[place] - expected[place]) / (expected[place] + 1) ** 0.5)
    return f"{names[worst]} got {got[worst]} of {total} units, expected {expected[worst]:.0f}: sample-ratio mismatch"


# The rows do not show everything that the operator waits for, so the script reads the rest from the status: an edge that does not report
# its counts, trouble of control, outcomes that no edge knows, and a mismatch in the sample that edges keep from the warm-up on. If the
# operator has reached a verdict, none of this was wrong at that time.

NOT_EVALUATED = ("NotEvaluated", "Pending")


def operator_problem(plan):
    """Return why the operator does not trust the counts; empty if nothing is wrong."""
    status = plan["status"]
    if status.get("verdict", {}).get("decision") in ("Winner", "NoWinner"):
        return ""
    quality = next((each for each in status.get("conditions", ()) if each["type"] == "DataQuality"), {"status": "True"})
    return "" if quality["status"] == "True" or quality["reason"] in NOT_EVALUATED else quality["message"]


def untrusted(plan, exposures):
    """Return why these counts decide nothing; empty if they may decide."""
    return split_is_off(plan, exposures) or operator_problem(plan)


# %% Decide
# An arm wins if one success metric is better, none is worse, all have data, and every guardrail has passed. By the rule everyMetric all
# have to be better, and by noHarm none. What the edge measures is in no row: the script reads the verdicts of such success metrics and
# guardrails from the status.


def read_edge_metrics(plan):
    """Return the operator's verdict and interval of the success metrics of the edge, by metric and arm."""
    found = {each["name"]: {} for each in outcomes_of(plan) if each["role"] == "success" and is_of_edge(each)}
    for each in plan["status"].get("metrics", ()):
        if each["role"] == "success" and each["name"] in found:
            # An interval with one end is open above; without any it is not known.
            lower, upper = [*each.get("interval", ()), math.inf][:2] if each.get("interval") else (math.nan, math.nan)
            found[each["name"]][each["arm"]] = {"verdict": each["verdict"], "lower": lower - 1, "upper": upper - 1}
    return found


def decide(plan, found, why_not=""):
    """Return (decision, winner). A non-empty `why_not` is the reason to decide nothing."""
    if why_not:
        return "Undecided", ""
    metrics = [each for each in outcomes_of(plan) if each["role"] == "success"]
    standing = {
        arm: stand(
            plan,
            arm,
            [found[each["name"]][arm]["verdict"] for each in metrics],
            {
                each["name"]: found[each["name"]][arm]["verdict"]
                for each in outcomes_of(plan)
                if each["role"] == "guardrail"
            },
        )
        for arm in arms_of(plan)[1:]
    }
    won = [arm for arm, where in standing.items() if where == "Won"]
    if won:
        known = {each["name"]: [found[each["name"]][arm]["verdict"] for arm in won] for each in metrics}
        best = next((each for each in metrics if "Better" in known[each["name"]]), metrics[0])
        better = [arm for arm in won if found[best["name"]][arm]["verdict"] == "Better"] or won
        return "Winner", max(better, key=lambda arm: least(best, found[best["name"]][arm]))
    if all(where in ("Out", "Hopeless") for where in standing.values()):
        return "NoWinner", ""
    return "Undecided", ""


def least(metric, own):
    lower = improvement(metric, own)[0]
    return -math.inf if math.isnan(lower) else lower


def stand(plan, arm, verdicts, outcome_rails):
    status = plan["status"]
    rails = [
        each["verdict"]
        for each in status.get("metrics", ())
        if each.get("arm") == arm and each.get("role") == "guardrail" and each["name"] not in outcome_rails
    ]
    rails += outcome_rails.values()
    dropped = next((each.get("dropped") for each in status["arms"] if each["name"] == arm), None)
    if dropped or "Harm" in rails or "Worse" in verdicts:
        return "Out"
    rule = status["plan"]["comparison"].get("winBy")
    if rule == "noHarm":
        return "Won" if rails and {*rails} == {"Passed"} else "Open"
    if rule == "everyMetric" and {*verdicts} != {"Better"}:
        return "Hopeless" if "NoEffect" in verdicts else "Open"
    if "Better" in verdicts:
        waits = {"NoData", "Invalid"} & {*verdicts} or any(each != "Passed" for each in rails)
        return "Held" if waits else "Won"
    return "Hopeless" if verdicts and {*verdicts} == {"NoEffect"} else "Open"


# %% Show the verdict beside the operator's


def evaluate_all(plan, counts):
    """Return estimates and verdict of all metrics that decide, by metric and arm."""
    return evaluate(plan, counts) | evaluate(plan, counts, "guardrail") | read_edge_metrics(plan)


def analyse(folder):
    """Return (found, decision, winner) of an export."""
    plan, exposures, outcomes = read(folder)
    found = evaluate_all(plan, count(plan, exposures, outcomes))
    return found, *decide(plan, found, untrusted(plan, exposures))


def show(folder):
    """Print the results of an export, and the operator's verdict."""
    plan, exposures, outcomes = read(folder)
    found, why_not = evaluate_all(plan, count(plan, exposures, outcomes)), untrusted(plan, exposures)
    if not plan["complete"]:
        print("The rows are not everything that was counted: numbers may differ from the operator's.")
    of_edge = read_edge_metrics(plan)
    for metric, arms in found.items():
        source = " (from the status)" if metric in of_edge else ""
        for arm, own in arms.items():
            numbers = " ".join(f"{name}={value:.6g}" for name, value in own.items() if isinstance(value, float))
            print(f"{metric} of {arm}: {own['verdict']} {numbers}{source}")
    stored = plan["status"].get("verdict", {})
    print_verdict("here", *decide(plan, found, why_not), why_not and f"nothing is decided: {why_not}")
    print_verdict("operator", stored.get("decision", "Undecided"), stored.get("winner", ""), stored.get("reason", ""))


def print_verdict(whose, decision, winner, reason):
    verdict = f"{whose}: {decision} {winner}".rstrip()
    print(f"{verdict}: {reason}" if reason else verdict)


# %%
if __name__ == "__main__":
    show(sys.argv[1] if len(sys.argv) > 1 else ".")
