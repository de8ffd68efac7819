"""What the benchmarks share: a load generator, interleaved rounds, records, and the things that are measured."""
