"""Decides one pass: from what was observed of a ModelDeployment to the objects, status and events that are wanted."""
