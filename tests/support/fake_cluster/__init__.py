"""KubeRay, Ray Serve and edges for a cluster without pods: one process gives their answers."""
