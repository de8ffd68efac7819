"""What `describe`, `report`, `plan` and `capacity` show of an object, computed once for text, JSON and HTML."""
