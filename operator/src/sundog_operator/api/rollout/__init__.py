"""How a new revision takes over: `spec.rollout` of a ModelDeployment."""
