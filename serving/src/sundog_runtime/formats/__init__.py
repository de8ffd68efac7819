"""Model formats, one module each."""
