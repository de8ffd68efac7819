"""Shared parts of the benchmarks: a load generator, interleaved rounds, records, and the systems under test."""
