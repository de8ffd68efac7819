"""The agent: it follows what an edge is to do, and reports what the edge has counted."""
