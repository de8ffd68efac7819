"""Analysis: from the counters of edges to the evaluation of a rollout."""
