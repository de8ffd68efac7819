"""Durations of tests: sample sizes by formula, and whole tests by simulation."""
