"""The scheduler's message about a pod without a node, in words."""

import pytest

from sundog_operator.core.kubernetes import scheduler_message


@pytest.mark.parametrize(
    ("message", "explained"),
    [
        (
            "0/5 nodes are available: 3 Insufficient nvidia.com/gpu, 2 node(s) didn't match Pod's node affinity/selector."
            " preemption: 0/5 nodes are available: 2 Preemption is not helpful for scheduling, 3 No preemption victims found"
            " for incoming pod.",
            "0 of 5 nodes: 3 without enough free nvidia.com/gpu, 2 without the labels that the pod needs",
        ),
        (
            "0/3 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 Too many pods, 2 node(s) had untolerated"
            " taint {sku: gpu}. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
            "0 of 3 nodes: 1 without enough free cpu, 1 without enough free memory, 1 with as many pods as they may have,"
            " 2 with the taint sku=gpu, which the pod does not tolerate",
        ),
        (
            "0/2 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: }, 1 node(s) had untolerated taint(s).",
            "0 of 2 nodes: 1 with the taint nvidia.com/gpu, which the pod does not tolerate, 1 with a taint that the pod does"
            " not tolerate",
        ),
        (
            "0/4 nodes are available: 1 node(s) had volume node affinity conflict, 3 node(s) were unschedulable.",
            "0 of 4 nodes: 1 in another zone than a volume of the pod, 3 cordoned",
        ),
        (
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found.",
            "0 of 1 nodes: a PersistentVolumeClaim of the pod is not bound",
        ),
        ("0/1 nodes are available: 1 cannot allocate all claims.", "0 of 1 nodes: 1 cannot allocate all claims"),
        ("0/1 nodes are available: .", "0/1 nodes are available: ."),
        ("no nodes available to schedule pods", "no nodes available to schedule pods"),
        ('persistentvolumeclaim "models" not found', 'persistentvolumeclaim "models" not found'),
        ("", ""),
    ],
)
def test_each_constraint_has_words_and_a_number_of_nodes(message: str, explained: str) -> None:
    assert scheduler_message.explain(message) == explained


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ("0/2 nodes are available: 2 Insufficient cpu.", "Free some, add nodes, or ask for less"),
        ("0/1 nodes are available: 1 cannot allocate all claims.", "Free some, add nodes, or ask for less"),
        ('persistentvolumeclaim "models" not found', "Check the claim and its StorageClass"),
        (
            "0/2 nodes are available: 2 node(s) were unschedulable.",
            "Add a node that fits, or change what the pod needs",
        ),
    ],
)
def test_each_constraint_has_a_fix(message: str, fix: str) -> None:
    assert scheduler_message.find_fix(message) == fix
