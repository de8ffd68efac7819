"""The life of a trial: a rollout, or an experiment of a user. Pure."""
