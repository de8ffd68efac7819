"""The ConfigMap and the Secret of an edge, read from the Kubernetes API."""
