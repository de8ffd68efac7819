"""Outcomes that clients report, joined with the exposures that they belong to."""
