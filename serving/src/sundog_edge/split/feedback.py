"""Feedback in the split document: the outcomes that the edge takes, and the sums that it keeps of them."""

from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from sundog_edge.split.fields import DocumentPart, MetricName, check_unique, list_to_tuple

MAX_METRICS = 70
"""35 outcomes of an Experiment, each with a denominator."""

Caps = Annotated[
    tuple[Annotated[int, Field(gt=0, le=10**18)], ...],
    Field(min_length=1, max_length=MAX_METRICS),
    BeforeValidator(list_to_tuple),
]

MIN_WINDOW_S = 60
MAX_OUTCOME_AGE_S = 30 * 86_400
"""An outcome counts until this long after its exposure, so no window ends later. The operator has the same bounds of windows;
`contract/split/test_windows.py` compares them."""

WindowSeconds = Annotated[int, Field(ge=MIN_WINDOW_S, le=MAX_OUTCOME_AGE_S)]
Windows = Annotated[
    tuple[WindowSeconds, ...],
    Field(min_length=1, max_length=MAX_METRICS),
    BeforeValidator(list_to_tuple),
]


def _begins_before_its_end(window: tuple[int, int]) -> tuple[int, int]:
    begin, end = window
    if begin >= end:
        raise ValueError(f"[{begin}, {end}]; expected a window that begins before its end")
    return window


DelayedWindows = Annotated[
    tuple[
        Annotated[
            tuple[WindowSeconds, WindowSeconds], BeforeValidator(list_to_tuple), AfterValidator(_begins_before_its_end)
        ],
        ...,
    ],
    Field(min_length=1, max_length=MAX_METRICS),
    BeforeValidator(list_to_tuple),
]


Pair = Annotated[tuple[MetricName, MetricName], BeforeValidator(list_to_tuple)]


class Feedback(DocumentPart):
    """Outcomes that clients report to the edge: the names of their metrics, and for how many sticky units first exposures are stored.

    `caps` are in millionths. For each the edge keeps further sums of the metric, in which a unit's total counts as the cap at most.
    `windows` are in seconds. For each the edge keeps further sums of the metric, of the events until then after a unit's first exposure.
    `delayedWindows` are pairs of seconds: for each the edge keeps further sums, of the events between these times after the exposure.
    `products` are pairs of metrics, numerator and denominator. For each the edge keeps the sum of the products of units' totals.
    `covariates` are pairs of a metric and the one whose totals from before the first exposure adjust it. They may be the same.
    """

    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1, max_length=MAX_METRICS)]
    maxUnits: Annotated[int, Field(gt=0, le=100_000_000)] = 2_000_000  # noqa: N815 - the document's own name
    caps: Annotated[dict[MetricName, Caps], Field(max_length=MAX_METRICS, default_factory=dict)]
    windows: Annotated[dict[MetricName, Windows], Field(max_length=MAX_METRICS, default_factory=dict)]
    delayedWindows: Annotated[  # noqa: N815 - the document's own name
        dict[MetricName, DelayedWindows], Field(max_length=MAX_METRICS, default_factory=dict)
    ]
    products: Annotated[tuple[Pair, ...], Field(max_length=MAX_METRICS)] = ()
    covariates: Annotated[tuple[Pair, ...], Field(max_length=MAX_METRICS)] = ()

    _lists = field_validator("metrics", "products", "covariates", mode="before")(list_to_tuple)

    @field_validator("metrics")
    @classmethod
    def _are_different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_unique(value, "metric")
        return value

    @model_validator(mode="after")
    def _pairs_have_metrics(self) -> Self:
        check_unique(("*".join(pair) for pair in self.products), "product")
        check_unique(("*".join(pair) for pair in self.covariates), "covariate")
        for metric, covariate in self.covariates:
            if not {metric, covariate} <= {*self.metrics}:
                raise ValueError(f"covariate {covariate} of {metric}; expected two of metrics")
        for numerator, denominator in self.products:
            if numerator == denominator or not {numerator, denominator} <= {*self.metrics}:
                raise ValueError(f"product {numerator}*{denominator}; expected two different ones of metrics")
        return self
