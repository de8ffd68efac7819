"""Forecasts of rollouts and Experiments: sample sizes, expected durations, and simulations."""
