"""The traffic split, the objects of a namespace's edge, and the counts in edge reports."""
