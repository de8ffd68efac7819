"""Outcomes that clients report, joined with their exposures."""
