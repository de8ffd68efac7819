"""The replicas of each application: their discovery, and their servers in HAProxy."""
