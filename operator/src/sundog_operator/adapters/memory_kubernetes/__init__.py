"""A Kubernetes API server in this process, for local mode and tests."""

from sundog_operator.adapters.memory_kubernetes.admission import Admit
from sundog_operator.adapters.memory_kubernetes.history import Expired
from sundog_operator.adapters.memory_kubernetes.journal import StateRefused
from sundog_operator.adapters.memory_kubernetes.memory import FIELD_MANAGER, MemoryKubernetes, Verb

__all__ = [
    "FIELD_MANAGER",
    "Admit",
    "Expired",
    "MemoryKubernetes",
    "StateRefused",
    "Verb",
]
