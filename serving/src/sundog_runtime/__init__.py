"""The model server inside each Ray Serve replica."""
