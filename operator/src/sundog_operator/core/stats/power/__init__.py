"""How long a test takes: sample sizes by formulas, and whole tests by simulation."""
