"""Test doubles for external systems: fast, deterministic, and held to the real ones by contract tests."""
