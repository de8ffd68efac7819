"""Rollouts: the frozen plan of an attempt, and the state machine that runs it."""
