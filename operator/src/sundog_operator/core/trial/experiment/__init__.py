"""Users' experiments: arms beside control on the traffic of one ModelDeployment, from the queue to the end. Pure."""
