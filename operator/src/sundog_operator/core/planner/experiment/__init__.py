"""Users' Experiments in a pass of their ModelDeployment."""
