"""ModelDeployment: one model, its endpoint, and how its next revision takes over."""
