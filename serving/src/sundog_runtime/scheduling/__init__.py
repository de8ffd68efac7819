"""When and where the model runs, and for which requests together."""
