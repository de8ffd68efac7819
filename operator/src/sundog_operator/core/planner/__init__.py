"""The planner: from the observed state of a ModelDeployment to its objects, status and events."""
