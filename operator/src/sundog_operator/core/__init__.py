"""Decisions. Pure: no I/O, no clock."""
