"""Clusters of the tests' own, by `real_kubernetes`."""

from real_kubernetes.fixtures import api_server, cluster

__all__ = ["api_server", "cluster"]
