"""Reads that reconciles share: objects come from memory, and Serve and edges get one request for all callers."""
