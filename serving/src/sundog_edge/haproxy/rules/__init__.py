"""HAProxy's rules for requests, one concern per module."""
