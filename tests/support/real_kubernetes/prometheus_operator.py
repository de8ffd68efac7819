"""The CRDs of the Prometheus Operator, for the objects that the chart renders."""

import yaml

from real_kubernetes.binaries import module_directory
from real_kubernetes.kubectl import Object

MODULE = "github.com/prometheus-operator/prometheus-operator"
CRDS = ("servicemonitors", "podmonitors", "prometheusrules")


def crds() -> list[Object]:
    """From its module. Raises ClusterError."""
    folder = module_directory("prometheus-operator", MODULE) / "example" / "prometheus-operator-crd"
    return [yaml.safe_load((folder / f"monitoring.coreos.com_{name}.yaml").read_text()) for name in CRDS]
