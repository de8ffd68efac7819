"""Problems that a pass reports or acts on: pods, edges and requests."""
