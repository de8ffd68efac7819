"""Rollouts in a pass of their ModelDeployment: a candidate, its deadlines, evidence and end."""
