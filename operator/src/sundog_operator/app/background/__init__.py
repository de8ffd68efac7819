"""Work beside the passes, which none of them waits for."""
