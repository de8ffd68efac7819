"""The split document: what the operator wants of an edge, and how the edge applies it."""
