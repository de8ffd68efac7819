"""Pods and resources that the ResourceQuotas of a namespace leave for more worker pods."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sundog_operator.core.kubernetes import pod_requests
from sundog_operator.core.kubernetes.pod_requests import CPU, MEMORY, PODS, Amounts
from sundog_operator.core.text import format_count

Json = Mapping[str, Any]

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    CPU: ("requests.cpu", "cpu"),
    # The memory limit of a worker pod equals its request.
    MEMORY: ("requests.memory", "memory", "limits.memory"),
    PODS: ("pods", "count/pods"),
}
"""Keys of a quota by resource. Devices have `requests.` and their name, claimed ones their DeviceClass and `_CLAIMED`."""

_CLAIMED: Final = ".deviceclass.resource.k8s.io/devices"
"""What the quota's key for claimed devices has after the name of their DeviceClass."""

_FOREIGN_SCOPES: Final = frozenset({"BestEffort", "Terminating", "CrossNamespacePodAffinity"})
"""Scopes of quotas that count no worker pod: it requests memory, and has neither a deadline nor such an affinity."""


@dataclass(frozen=True, slots=True)
class QuotaLimit:
    """One key of one quota.

    Attributes:
        quota: name of the ResourceQuota.
        resource: the resource that a pod requests.
        key: the quota's key for it.
        left: amount that the quota leaves.
        per_pod: amount that one worker pod takes.
    """

    quota: str
    resource: str
    key: str
    left: int
    per_pod: int


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """One key of one quota, as `sundog capacity` shows it."""

    namespace: str
    quota: str
    key: str
    resource: str
    hard: int
    used: int


def find_use(quotas: Iterable[Json]) -> Iterator[QuotaUse]:
    """Yield the keys of quotas that limit worker pods, with their amounts."""
    for quota in quotas:
        meta, status = quota["metadata"], quota.get("status") or {}
        hard, used = status.get("hard") or {}, status.get("used") or {}
        for key in hard:
            if (resource := _find_resource(key)) is not None:
                total, taken = (pod_requests.parse_amount(resource, each.get(key, 0)) for each in (hard, used))
                yield QuotaUse(meta.get("namespace", ""), meta["name"], key, resource, total, taken)


def _find_resource(key: str) -> str | None:
    """Return the resource of a quota's key; None if the key limits no worker pods."""
    device = key.removeprefix("requests.")
    if device != key and pod_requests.is_device(device):
        return device
    if key.endswith(_CLAIMED):
        return key.removesuffix(_CLAIMED)
    return next((resource for resource, keys in _KEYS.items() if key in keys), None)


def find_limits(quotas: Iterable[Json], requests: Amounts, priority_class: str = "") -> tuple[QuotaLimit, ...]:
    """Return the limits that the quotas set for pods with these requests."""
    return tuple(limit for quota in quotas if _counts(quota, priority_class) for limit in _limits_of(quota, requests))


def add_freed(limits: Iterable[QuotaLimit], freed: Amounts) -> tuple[QuotaLimit, ...]:
    """Return the limits once pods with these requests have ended."""
    return tuple(replace(each, left=each.left + freed.get(each.resource, 0)) for each in limits)


def find_exceeded(limits: Iterable[QuotaLimit], pods: int) -> QuotaLimit | None:
    """Return the first limit that so many more pods exceed; None if none does. Zero pods exceed none, also of a lowered quota."""
    return next((each for each in limits if pods > 0 and pods * each.per_pod > each.left), None)


def add_up(parts: Iterable[tuple[Iterable[QuotaLimit], int]]) -> tuple[QuotaLimit, ...]:
    """Return the limits for pods of several kinds as for one pod that takes what all of them do.

    `parts` are the limits of each kind, all of one namespace, and the number of its pods.
    """
    taken: Counter[QuotaLimit] = Counter()
    for limits, pods in parts:
        for each in limits:
            taken[replace(each, per_pod=0)] += pods * each.per_pod
    return tuple(replace(limit, per_pod=amount) for limit, amount in taken.items() if amount)


def describe_exceeded(limit: QuotaLimit, needed: int, pods: int) -> str:
    """Return a limit of CPU, memory or devices, or of pods, that so many pods exceed because of the amount that they need together."""
    total, left = (pod_requests.format_amount(limit.resource, amount) for amount in (needed, max(limit.left, 0)))
    where = f"{limit.key} of ResourceQuota {limit.quota}" if limit.quota else "the namespace's quota"
    by = "" if limit.resource == PODS else f" by {format_count(pods, 'more pod')}"
    return f"{total} needed{by}, {left} left by {where}"


def _limits_of(quota: Json, requests: Amounts) -> Iterator[QuotaLimit]:
    status = quota.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    for resource, per_pod in requests.items():
        for key in _KEYS.get(resource) or [_device_key(resource)]:
            if key in hard:
                total, taken = (pod_requests.parse_amount(resource, each.get(key, 0)) for each in (hard, used))
                name = str((quota.get("metadata") or {}).get("name", ""))
                yield QuotaLimit(name, resource, key, total - taken, per_pod)


def _device_key(resource: str) -> str:
    return f"requests.{resource}" if pod_requests.is_device(resource) else resource + _CLAIMED


def _counts(quota: Json, priority_class: str) -> bool:
    """Whether a quota counts worker pods with this priority class."""
    spec = quota.get("spec") or {}
    if _FOREIGN_SCOPES & set(spec.get("scopes") or ()):
        return False
    selected = (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    return all(_matches_scope(each, priority_class) for each in selected)


def _matches_scope(expression: Json, priority_class: str) -> bool:
    name, operator = expression.get("scopeName"), expression.get("operator")
    if name in _FOREIGN_SCOPES:
        return False
    if name != "PriorityClass":
        return True
    values = expression.get("values") or ()
    match operator:
        case "In":
            return priority_class in values
        case "NotIn":
            return priority_class not in values
        case "DoesNotExist":
            return not priority_class
        case _:
            return bool(priority_class)
