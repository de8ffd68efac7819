"""Ports, implemented: Kubernetes, Ray Serve, edges, webhooks, and local processes in their place."""
