"""From the counters of edges to an evaluation of a rollout."""
