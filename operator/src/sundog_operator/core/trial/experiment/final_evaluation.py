"""The last evaluation of an ended experiment, from the sums of its final exposure log.

Edges take outcomes until they have the split of the end, so the last evaluation before it lacks some that were accepted. The log has them,
and its sums give the same metrics however often an interrupted write is repeated. The decision stays: it was made by the data of its time.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sundog_operator.api import ExperimentStatus
from sundog_operator.core.analysis import feedback
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums
from sundog_operator.core.edge.reported_counts import PARSE_ERRORS
from sundog_operator.core.trial.experiment import outcome_evaluation, state
from sundog_operator.core.trial.phases import is_over


def evaluate_final_log(status: ExperimentStatus, attempt: str, section: Mapping[str, Any]) -> ExperimentStatus:
    """Return the status with the metrics of the log's sums; unchanged while the experiment runs, or where the sums are not usable.

    Args:
        status: the stored status.
        attempt: the experiment's uid.
        section: the sums of the edge's export, as in an edge's report.
    """
    if not (is_over(status) and state.has_begun(status) and status.evidence_epochs):
        return status
    selection = outcome_evaluation.make_feedback_selection("", attempt, status)
    counted = Counters.unpack(status.tallies, attempt)
    if selection is None:
        return status
    try:
        sums = feedback.parse_section(section, selection)
    except PARSE_ERRORS:
        return status
    if not _continues(counted.feedback, sums):
        return status
    counted = replace(counted, feedback=sums)
    found = {
        (each.arm, each.role, each.name): each for each in outcome_evaluation.evaluate_feedback_metrics(status, counted)
    }
    known = (found.pop((each.arm, each.role, each.name), each) for each in status.metrics)
    metrics = (*tuple(known), *found.values())
    return status.model_copy(update={"metrics": metrics, "tallies": counted.pack()})


def _continues(before: FeedbackSums, sums: FeedbackSums) -> bool:
    """Whether the sums are of the same store as the last evaluation's, and no older."""
    return not before.sequence or (sums.store == before.store and sums.sequence >= before.sequence)
