"""Certificates and API keys of services, and the Secrets with them."""
