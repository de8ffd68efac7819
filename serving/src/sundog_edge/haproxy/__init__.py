"""HAProxy's configuration and maps, rendered."""
