"""The report of a rollout or an Experiment, for a terminal, as JSON or as HTML."""
