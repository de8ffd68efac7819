"""Problems that a pass reports or fixes: pods, edges and requests."""
