"""Rules that a request passes in HAProxy, one concern a module."""
