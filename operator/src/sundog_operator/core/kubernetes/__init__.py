"""Pods, nodes and names of Kubernetes in general."""
