"""Keys: what is reconciled next, and what need not be."""
