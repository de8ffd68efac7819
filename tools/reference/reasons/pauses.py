"""Reasons for which a rollout or an Experiment is paused (`status.paused.reason`)."""

from typing import Final

from reference.reasons.text import ReasonText

_ROLLOUT: Final = "rollout"
_EXPERIMENT: Final = "Experiment"
_BOTH: Final = "rollout or Experiment"

PAUSE_REASONS: Final = (
    ReasonText(_ROLLOUT, "Manual", "A command paused it."),
    ReasonText(_ROLLOUT, "WaitsForPromote", "The gate of a step waits for a user. Notifications have this reason."),
    ReasonText(
        _ROLLOUT,
        "Inconclusive",
        "`maxDuration` of a step is over, and a guardrail has neither passed nor shown harm, or Prometheus has no number.",
    ),
    ReasonText(_ROLLOUT, "NoData", "An arm has no requests, or the canary answered no copy of a shadow step."),
    ReasonText(
        _ROLLOUT, "SampleRatio", "Requests do not reach the arms by weight. If that lasts for 5 minutes, it ends."
    ),
    ReasonText(
        _ROLLOUT,
        "ProgressDeadlineExceeded",
        "The candidate is not ready within `spec.rollout.progressDeadline`, and `progressDeadlineAction` is `pause`."
        " Still retrying.",
    ),
    ReasonText(_BOTH, "ControlUnhealthy", "Stable and an arm are above `max`. It continues after 5 healthy minutes."),
    ReasonText(
        _BOTH, "ControlDegraded", "Stable is much worse than before the start. It continues after 5 healthy minutes."
    ),
    ReasonText(_EXPERIMENT, "Won", "An arm won, and `spec.onWin` is `pause`. Nothing changes until you end it."),
)
"""`truth` is what is paused."""
