"""Experiment: two or more models side by side on the traffic of one ModelDeployment."""
