"""`spec.rollout` of a ModelDeployment: how a new revision replaces the stable one."""
