"""Preview what an apply of a manifest would change."""
