"""The split document: what the operator wants of an edge, and how it is put in force."""
