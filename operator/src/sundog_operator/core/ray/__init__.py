"""RayClusters, their pods and the documents for Ray Serve."""
