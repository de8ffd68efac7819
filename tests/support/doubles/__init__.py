"""Stand-ins for the world: quick, deterministic, and held to the real things by contract tests."""
