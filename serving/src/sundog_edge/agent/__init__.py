"""The agent: it applies the split document, and reports the counts of the edge."""
