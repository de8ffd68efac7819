"""The split document: the edge's desired state from the operator, and its application."""
