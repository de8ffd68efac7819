"""ModelDeployment: one model, its endpoint, and the rollouts of its revisions."""
