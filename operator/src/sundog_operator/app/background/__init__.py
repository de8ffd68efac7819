"""Requests in the background, so that no pass waits for them."""
