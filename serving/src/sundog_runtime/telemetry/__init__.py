"""Logs and metrics of a replica."""
