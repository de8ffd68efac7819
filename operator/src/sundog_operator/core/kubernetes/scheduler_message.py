"""Explain in one line why the scheduler found no node for a pod: which constraint, on how many nodes."""

import re
from collections.abc import Sequence
from typing import Final

_HEAD: Final = re.compile(r"^(?P<fit>\d+)/(?P<all>\d+) nodes are available:\s*(?P<rest>.*)$")
_COUNTED: Final = re.compile(r"^(?P<nodes>\d+) (?P<why>.+)$")
_NEXT: Final = re.compile(r",\s+(?=\d+ )")
_TAIL: Final = re.compile(r"\.?\s*(preemption:|no new claims to deallocate|still not schedulable).*$")
_TAINT: Final = re.compile(r"node\(s\) had untolerated taint(?:\(s\))?(?: \{(?P<key>[^:}]*):\s*(?P<value>[^}]*)\})?")
_INSUFFICIENT: Final = re.compile(r"Insufficient (?P<resource>\S+)")

_REASONS: Final[Sequence[tuple[str, str]]] = (
    ("node(s) didn't match Pod's node affinity/selector", "without the labels that the pod needs"),
    ("node(s) were unschedulable", "cordoned"),
    ("node(s) were not ready", "not ready"),
    ("Too many pods", "with as many pods as they may have"),
    ("node(s) had volume node affinity conflict", "in another zone than a volume of the pod"),
    ("node(s) had no available volume zone", "in another zone than a volume of the pod"),
    ("node(s) didn't find available persistent volumes to bind", "without a volume for a claim of the pod"),
    ("node(s) exceed max volume count", "with as many volumes as they may have"),
    ("node(s) didn't match pod anti-affinity rules", "excluded by anti-affinity between pods"),
    ("node(s) didn't match pod affinity rules", "excluded by affinity between pods"),
    ("node(s) didn't match pod topology spread constraints", "excluded by topology spread constraints"),
    ("node(s) didn't have free ports for the requested pod ports", "without a free port of the pod"),
)
"""The scheduler's phrases, and words for them after a number of nodes. Other phrases stay as they are."""

_UNBOUND: Final = "pod has unbound immediate PersistentVolumeClaims"

NODES_FIX: Final = "Free some, add nodes, or ask for less"
_FIXES: Final[Sequence[tuple[str, str]]] = (
    ("Insufficient ", NODES_FIX),
    ("Too many pods", "Remove pods, or add nodes"),
    (_UNBOUND, "Check the claim and its StorageClass"),
    ("persistentvolumeclaim ", "Check the claim and its StorageClass"),
    ("cannot allocate all claims", NODES_FIX),
)
"""The scheduler's phrases, and what to do about them, the most useful first."""


def explain(message: str) -> str:
    """Return the message of an unschedulable pod in words; as it is if it has another shape.

    `0/5 nodes are available: 3 Insufficient nvidia.com/gpu, 2 node(s) were unschedulable.` becomes
    `0 of 5 nodes: 3 without enough free nvidia.com/gpu, 2 cordoned`.
    """
    head = _HEAD.match(message.strip())
    if head is None:
        return message
    rest = _TAIL.sub("", head["rest"]).strip().rstrip(".")
    if not rest:
        return message
    causes = ", ".join(_explain_cause(each) for each in _NEXT.split(rest))
    return f"{head['fit']} of {head['all']} nodes: {causes}"


def find_fix(message: str) -> str:
    """Return what to do about the message of an unschedulable pod."""
    return next(
        (fix for phrase, fix in _FIXES if phrase in message), "Add a node that fits, or change what the pod needs"
    )


def _explain_cause(cause: str) -> str:
    counted = _COUNTED.match(cause)
    if counted is None:
        return "a PersistentVolumeClaim of the pod is not bound" if cause.startswith(_UNBOUND) else cause
    return f"{counted['nodes']} {_explain_reason(counted['why'])}"


def _explain_reason(why: str) -> str:
    if (lacking := _INSUFFICIENT.match(why)) is not None:
        return f"without enough free {lacking['resource']}"
    if (taint := _TAINT.match(why)) is not None:
        value = f"={taint['value']}" if taint["value"] else ""
        return (
            f"with the taint {taint['key']}{value}, which the pod does not tolerate"
            if taint["key"]
            else ("with a taint that the pod does not tolerate")
        )
    return next((words for phrase, words in _REASONS if why.startswith(phrase)), why)
