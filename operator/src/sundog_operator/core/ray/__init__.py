"""RayClusters, their pods and the documents that Ray Serve is given."""
