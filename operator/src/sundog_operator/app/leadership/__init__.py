"""Leader election between several operators."""
