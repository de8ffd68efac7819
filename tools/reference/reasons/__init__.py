"""Texts about the reasons of conditions and events. Tests compare them with the code that sets the reasons."""

from reference.reasons.advice import ADVICE
from reference.reasons.events import EVENTS
from reference.reasons.experiment import EXPERIMENT_CONDITIONS
from reference.reasons.model_deployment import MODEL_DEPLOYMENT_CONDITIONS
from reference.reasons.pauses import PAUSE_REASONS
from reference.reasons.start_failures import START_FAILURE_REASONS
from reference.reasons.text import Advice, ConditionText, ReasonText

__all__ = [
    "ADVICE",
    "EVENTS",
    "EXPERIMENT_CONDITIONS",
    "MODEL_DEPLOYMENT_CONDITIONS",
    "PAUSE_REASONS",
    "START_FAILURE_REASONS",
    "Advice",
    "ConditionText",
    "ReasonText",
]
