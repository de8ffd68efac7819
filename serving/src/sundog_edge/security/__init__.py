"""Certificates, API keys and the Secrets that they come from."""
