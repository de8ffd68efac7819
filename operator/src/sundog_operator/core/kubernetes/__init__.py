"""Pods, nodes and names in Kubernetes."""
