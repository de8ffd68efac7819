"""KubeRay, Ray Serve and edges for a cluster on which no pod runs: what they would say, said by one process."""
