"""The report of a rollout or an experiment, as Markdown or HTML."""
