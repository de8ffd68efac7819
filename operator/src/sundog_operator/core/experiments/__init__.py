"""Experiments of users: arms beside control on the traffic of one ModelDeployment, from the queue to their end. Pure."""
