"""Texts, facts and colours that `describe`, `report`, `plan` and `capacity` show."""
