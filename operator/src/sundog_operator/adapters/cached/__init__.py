"""Reads that many passes share: objects from memory instead of the API server, Serve and edges asked once for all."""
