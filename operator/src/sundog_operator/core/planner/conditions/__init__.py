"""The conditions of a ModelDeployment: one module for each that takes more than a few lines."""
