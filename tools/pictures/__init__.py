"""Pictures of the documentation, drawn from recorded runs and from the tables of the benchmarks."""
