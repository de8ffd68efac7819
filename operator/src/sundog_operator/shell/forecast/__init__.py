"""Shared parts of the commands that estimate rollouts and Experiments."""
