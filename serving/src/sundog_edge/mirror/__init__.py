"""The mirror: a process beside the agent that repeats requests at a candidate and compares the answers."""
