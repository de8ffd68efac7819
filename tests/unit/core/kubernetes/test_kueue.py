"""Pods that wait in a queue of Kueue."""

from typing import Any

import pytest

from sundog_operator.core.kubernetes import kueue

GATED = {"schedulingGates": [{"name": "example.com/other"}, {"name": kueue.ADMISSION_GATE}]}
NO_QUOTA = (
    "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor l4, 1 more needed"
)


def pod(name: str, spec: dict[str, Any], **meta: Any) -> dict[str, Any]:
    labels = {kueue.QUEUE_LABEL: "team-a", kueue.MANAGED_LABEL: "true"}
    return {"metadata": {"name": name, "labels": labels, **meta}, "spec": spec}


def workload(*conditions: tuple[str, str, str]) -> dict[str, Any]:
    found = [{"type": type_, "status": status, "message": message} for type_, status, message in conditions]
    return {"status": {"conditions": found}}


def test_the_first_gated_pod_waits_unless_it_terminates() -> None:
    first = pod("b", GATED)
    others = [
        pod("a", {}),
        pod("a", {"schedulingGates": [{"name": "example.com/other"}]}),
        pod("a", GATED, deletionTimestamp="now"),
    ]
    assert kueue.find_waiting_pod([pod("c", GATED), first, *others]) == first
    assert kueue.find_waiting_pod(others) is None


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([workload(("QuotaReserved", "False", f"{NO_QUOTA}\nmore"))], NO_QUOTA),
        ([workload(("QuotaReserved", "True", "reserved"), ("Admitted", "False", "waits for checks"))], "waits for checks"),
        ([workload(("QuotaReserved", "True", "reserved"))], ""),
        ([workload(("QuotaReserved", "False", ""))], ""),
        ([{}], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_the_message_is_that_of_kueue(found: list[dict[str, Any]], message: str) -> None:
    assert kueue.find_pending_message(found) == message


def test_a_wait_names_pod_queue_and_reason() -> None:
    wait = "pod w waits in LocalQueue team-a of Kueue"
    assert kueue.describe_wait(pod("w", GATED), NO_QUOTA) == ("NotAdmitted", f"{wait}: {NO_QUOTA}")
    assert kueue.describe_wait(pod("w", GATED), "") == ("NotAdmitted", wait)


def test_a_pod_that_kueue_does_not_see_says_what_to_do() -> None:
    ignored = pod("w", GATED)
    del ignored["metadata"]["labels"][kueue.MANAGED_LABEL]
    reason, message = kueue.describe_wait(ignored, "")
    assert reason == "NotAdmitted"
    assert message == (
        "pod w waits in LocalQueue team-a of Kueue, which has not taken it up; expected the label kueue.x-k8s.io/managed."
        " Enable Kueue's integration pod for this namespace, or leave out spec.scheduling.queue"
    )
